"""Console script `ratls`: looks whether our packages are ours, and only then loads them.

`ratls doctor` also starts where another package has the name of one that it does without: it says
whose that is.
"""

from __future__ import annotations

import sys

from ratls.names import CODE, COMMANDS, UNUSABLE, foreign

_NEEDED_BY_DOCTOR = {"ratls", "verifier"}


def main() -> None:
    """Run the command, or refuse (3) before anything of a foreign package runs."""
    found = foreign(COMMANDS)
    doctor = sys.argv[1:2] == ["doctor"] and not {one.name for one in found} & _NEEDED_BY_DOCTOR
    if found and not doctor:
        from ratls.owners import refusal

        sentence, fix = refusal(found)
        sys.stderr.write(f"unusable [{CODE}] {sentence}\n  to do: {fix}\n")
        sys.exit(UNUSABLE)
    from ratls.cli import main as run

    run()
