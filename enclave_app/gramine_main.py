"""The production entry point: `python -I -B -m enclave_app.gramine_main`, inside Gramine on SGX.

It has no options, and its environment decides nothing: the manifest fixes both, because what the
host can choose is not measured (docs/gramine.md 1). Quotes come from the processor, or nothing is
served. The one root that a policy may name is Intel's, also if a simulation is installed. The
agreement cannot be measured, because it names the measurement: it comes from the one file that the
host may change, and only its signatures are trusted; its digest then stands in all evidence. No
command line library is imported: what is imported here is measured.
"""

# ruff: noqa: E402 - imports after the look at our names
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ratls.names import ENCLAVE, end_where_foreign

# Before anything else of ours is loaded: what has its place in this image would run.
end_where_foreign(ENCLAVE)

from enclave_app.serving import serve
from ratls.gramine import GramineAttester
from verifier.errors import ConfigError, Exit, RatlsError, SystemRefused
from verifier.output import Lines, prepare_streams
from verifier.text import printable

if TYPE_CHECKING:
    from ratls.attester import Attester

# The manifest lists this file, alone, under sgx.allowed_files.
AGREEMENT = Path("/etc/ratls/agreement.json")
# Every interface: the host arranges the address outside, which proves nothing.
LISTEN = "0.0.0.0:7443"
ROOTS = frozenset({"intel"})


class ArgumentsUnexpected(ConfigError):
    """The production entry point was given arguments, and takes none."""

    code = "arguments-unexpected"
    exit_status = Exit.USAGE
    default_fix = "start it without arguments; `ratls enclave serve` has options"
    says = "this entry point takes no arguments, and was given {found}"


def attester() -> Attester:
    """That of this enclave, which has the room that its limits promise."""
    found = GramineAttester()
    from enclave_app.limits import Limits
    from enclave_app.room import require_memory, require_threads

    require_memory(Limits())
    require_threads()
    return found


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status of a refusal."""
    prepare_streams()
    try:
        if arguments:
            raise ArgumentsUnexpected("arguments", expected="none", found=str(len(arguments)))
        serve(
            agreement=AGREEMENT,
            listen=LISTEN,
            attester=attester,
            roots=ROOTS,
            ready=lambda fields: Lines(sys.stdout).put(lambda lost: f"ready {fields['ready']}"),
        )
    except RatlsError as refusal:
        return _refused(refusal)
    except (OSError, MemoryError) as error:
        return _refused(SystemRefused.of(error))
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


def _refused(refusal: RatlsError) -> int:
    """One line on stderr for the refusal, one for what to do; its exit status."""
    said = printable(f"{refusal.exit_status.word} [{refusal.code}] {refusal}")
    Lines(sys.stderr).put(lambda lost: f"{said}\n  to do: {refusal.fix}")
    return int(refusal.exit_status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
