"""What the commands of `ratls verify` share: the reader's agreement, and the last answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy.options import known_state
from ratls.cli_verify_quote import doubt_of

if TYPE_CHECKING:
    from policy.agreement import CompleteAgreement
    from policy.document import Policy
    from verifier.anchors import TrustAnchors
    from verifier.appraisal import Appraisal
    from verifier.errors import RatlsError
    from verifier.shell import Shell


@dataclass(frozen=True, slots=True)
class Reader:
    """An agreement that was named, and what its reader knows to compare it with."""

    agreement: Path | None
    party: Path | None
    digest: str | None
    state: Path | None

    def policy(
        self, shell: Shell, version: Callable[[CompleteAgreement], Policy]
    ) -> tuple[Policy, RatlsError | None]:
        """The policy of one version of it, and the doubt to end with, if any.

        Raises: as `open_agreement` and `OpenedAgreement.compare`.
        """
        from policy.agreement_file import open_agreement

        assert self.agreement is not None  # asked for where no other format was named
        known = known_state(self.state)
        brought = open_agreement(self.agreement, party=self.party, digest=self.digest, state=known)
        agreed = brought.ready(version(brought.agreed))
        return agreed, doubt_of(shell, brought, agreed)


def end_with_answer(
    shell: Shell,
    facts: dict[str, Any],
    text: str,
    appraisal: Appraisal,
    roots: TrustAnchors,
    refusal: RatlsError | None,
) -> None:
    """Show the checks and the answer; then end with `refusal`, where there is one."""
    facts |= {
        "verdict": "undecided" if refusal else "accepted",
        "mode": roots.mode.value,
        "error": refusal.as_json() if refusal else None,
    }
    if not shell.json_output:
        shell.show_appraisal(appraisal)
    shell.answer(facts, f"{text}; mode={roots.mode}")
    shell.end_with(refusal)
