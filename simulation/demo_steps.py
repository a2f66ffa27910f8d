"""What several demonstrations type alike: who signs and accepts, and a party's own options."""

from __future__ import annotations

from collections.abc import Sequence

from simulation.stage import Stage

AGREEMENT = "policy.agreement.json"


def as_party(who: str) -> tuple[str, ...]:
    """Keys and passphrase."""
    return ("--party", f"{who}/keys", "--passphrase-file", f"{who}/passphrase")


def with_state(who: str) -> tuple[str, ...]:
    """State folder; each command that believes a simulated root says so."""
    return ("--state", f"{who}/state", "--allow-simulation")


def agree(stage: Stage, parties: Sequence[str]) -> None:
    """Lint `policy.toml`; all sign it, then all accept it."""
    linted = stage.run(parties[0], "policy", "lint", "policy.toml")
    yes = ("--yes", linted.splitlines()[0].split()[-1])  # the digest of what they read
    for who in parties:
        stage.run(who, "policy", "sign", "policy.toml", *as_party(who), *yes, quiet=True)
    accepting = [
        stage.type(
            who, "policy", "accept", AGREEMENT, "--party", f"{who}/keys", "--state",
            f"{who}/state", *yes,
        )
        for who in parties
    ]  # fmt: skip
    for typed in accepting:
        stage.show(typed, quiet=True)
