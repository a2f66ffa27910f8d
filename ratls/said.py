"""What one command says when several things are wrong: all, and the gravest at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.errors import RatlsError
    from verifier.shell import Shell


class Said:
    """What was refused while all else was looked at, too."""

    def __init__(self) -> None:
        self.refusals: list[RatlsError] = []
        self.build: str | None = None

    def refusal(self) -> Any:
        from verifier.errors import RatlsError

        @contextmanager
        def kept() -> Any:
            try:
                yield
            except RatlsError as refusal:
                self.refusals.append(refusal)

        return kept()

    def end(self, shell: Shell, facts: dict[str, Any], lines: list[str]) -> None:
        """Answer, then end with the gravest refusal."""
        from verifier.errors import Exit

        worst = Exit.worst(refusal.exit_status for refusal in self.refusals)
        first = next((r for r in self.refusals if r.exit_status is worst), None)
        facts |= {
            "errors": [refusal.as_json() for refusal in self.refusals],
            "error": first.as_json() if first else None,
        }
        shell.answer(facts, "\n".join(lines))
        if not shell.json_output:
            for refusal in self.refusals:
                if refusal is not first:
                    shell.show_refusal(refusal)
        shell.end_with(first)
