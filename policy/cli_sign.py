"""`ratls policy sign` and `accept`: the two commands that need a person's consent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import AgreementFile, Json, PartyDir, PassphraseFile, StateDir, Yes, own_party
from verifier.errors import ConfigError, Exit
from verifier.text import digest_text

if TYPE_CHECKING:
    from policy.document import Policy
    from policy.party import LocalParty
    from policy.signing import KeyChange
    from policy.state import StudyState
    from verifier.shell import Shell


def sign(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A policy.toml, or an agreement to add to.")
    ],
    party: PartyDir,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Sign a policy: its agreement file is made beside it, or extended in place.

    Asks at the terminal. Without one, the digest of the policy that you read must be named with
    --yes; `ratls policy lint` prints it.

    Example: ratls policy sign policy.toml --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import require_not_expired
        from policy.agreement_file import agreement_to_sign, sign_file
        from policy.machines import require_machines_file
        from policy.show import agreement_facts, signatures_text
        from policy.signing import key_changes, require_listed

        local = own_party(party, passphrase_file)
        store = _state(state)
        path, agreement = agreement_to_sign(file, store)
        require_listed(agreement.policy, local)
        require_not_expired(agreement.policy, now())
        require_machines_file(agreement.policy, path.parent)
        store.standing().require_trusted(agreement.policy)
        before = store.predecessor_of(agreement)
        changes = key_changes(agreement.policy, before)
        shell.warn_simulation(agreement.policy.platform.simulated)
        _show(shell, agreement.policy, before, changes)
        _require_consent("sign", agreement.policy, local, yes)
        signed = sign_file(path, agreement, local)
        shell.answer(
            agreement_facts(signed)
            | {"agreement": str(path), "party": local.party_id, "keys": _json(changes)},
            f"{path}: signed by {local.party_id}; {signatures_text(signed)}",
        )


def accept(
    file: AgreementFile,
    party: PartyDir,
    state: StateDir = None,
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Take a complete agreement into force for this party. This alone creates its state folder.

    Asks at the terminal. Without one, the digest of the policy that you read must be named with
    --yes; `ratls policy status` prints it.

    Example: ratls policy accept study.agreement.json --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_agreement
        from policy.machines import require_machines_file
        from policy.party import LocalParty
        from policy.show import agreement_facts
        from policy.signing import key_changes, require_own_signature
        from policy.statement import instant_text

        local, store = LocalParty.load(party), _state(state)
        agreement = read_agreement(file)
        require_own_signature(agreement.require_complete(), local)
        machines = require_machines_file(agreement.policy, file.parent)
        # The party's own file may be lost or damaged: this command mends it.
        before = store.accepted_in(agreement) or store.predecessor_of(agreement)
        changes = key_changes(agreement.policy, before)
        shell.warn_simulation(agreement.policy.platform.simulated)
        _show(shell, agreement.policy, before, changes)
        _require_consent("take into force", agreement.policy, local, yes)
        at = now()
        complete = store.accept(agreement, local, at, machines)
        begins = complete.policy.not_before
        from_when = "" if begins <= at else f" from {instant_text(begins)}"
        shell.answer(
            agreement_facts(agreement) | {"party": local.party_id, "keys": _json(changes)},
            f"{complete.policy.study} version {complete.policy.version}: "
            f"in force for {local.party_id}{from_when}",
        )


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Agreements on the same policy.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="File with all signatures; one that is there is united too."
        ),
    ],
    json: Json = False,
) -> None:
    """Unite what several parties signed at the same time, each in a copy of its own.

    Every signature of every file is checked first. Nothing is added to a policy: files on another
    policy are refused, and so is a file in the place of the output that is about another one.

    Example: ratls policy merge alice.agreement.json bob.agreement.json -o study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import merge_files
        from policy.show import agreement_facts, signatures_text

        merged = merge_files(files, output)
        shell.warn_simulation(merged.policy.platform.simulated)
        shell.answer(
            agreement_facts(merged) | {"agreement": str(output)},
            f"{output}: {signatures_text(merged)}",
        )


def _state(folder: Path | None) -> StudyState:
    from policy.state import StudyState
    from verifier.user_folder import user_folder

    return StudyState(user_folder("state") if folder is None else folder)


def _json(changes: tuple[KeyChange, ...]) -> list[dict[str, str]]:
    return [
        {"party": c.party_id, "purpose": c.purpose, "sha256": c.fingerprint, "status": c.status}
        for c in changes
    ]


def _show(
    shell: Shell, policy: Policy, before: Policy | None, changes: tuple[KeyChange, ...]
) -> None:
    """What is consented to, on stderr: the keys, and then, beside the question, the sentences of a
    first version, or what a later one changes."""
    from policy.cli_read import wrapped
    from policy.show import keys_table

    if shell.json_output:
        return
    if differing := [change for change in changes if change.status != "unchanged"]:
        shell.err.print(keys_table(differing))
    if unchanged := len(changes) - len(differing):
        shell.say(f"{unchanged} keys are unchanged")
    if before is None:
        from policy.sentences import markdown, sections

        text = markdown(sections(policy))
    else:
        from policy import difference

        text = difference.markdown(before, policy, difference.differences(before, policy))
    shell.err.print(f"\n{wrapped(shell.err, text)}\n", markup=False)


class ConsentMissing(ConfigError):
    """Consent was neither typed at a terminal nor given with the digest of this policy."""

    code = "consent-missing"
    exit_status = Exit.USAGE
    default_fix = (
        "read the policy (`ratls policy show FILE`), then answer at a terminal or add "
        "--yes with its digest, sha256:…"
    )


def _require_consent(act: str, policy: Policy, party: LocalParty, yes: str | None) -> None:
    """A yes typed at the terminal, or the digest of this policy with `--yes`.

    Raises: ConsentMissing.
    """
    digest = digest_text(policy.digest)
    thing = f"{act} {policy.study} version {policy.version}, {digest}, as {party.party_id}"
    require_yes(thing, digest, yes)


def require_yes(thing: str, digest: str, yes: str | None) -> None:
    """A yes typed at the terminal, or this digest with `--yes`. Raises: ConsentMissing."""
    if yes is None and can_ask():
        try:
            yes = digest if typer.confirm(f"{thing}?", err=True) else None
        except typer.Abort:
            yes = None
        if yes is None:
            typer.echo("declined, nothing written", err=True)
            raise typer.Exit(2)
    if yes != digest:
        raise ConsentMissing(thing, expected=f"a typed yes, or --yes {digest}", found=yes or "none")


def can_ask() -> bool:
    """Are standard input and standard error a terminal, so that a person can answer?"""
    return sys.stdin.isatty() and sys.stderr.isatty()
