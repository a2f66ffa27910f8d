"""The production entry point: `python -I -B -m enclave_app.gramine_main`, inside Gramine on SGX.

It has no options, and its environment decides nothing: the manifest fixes both, for what the host
could choose would be code (docs/gramine.md 1). Quotes come from the processor, or nothing is
served; the one root that a policy may name is Intel's, whatever else is installed. The agreement
cannot be measured, because it names the measurement: it comes from the one file that the host may
change, and is believed by its signatures alone; its digest then stands in all evidence.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from enclave_app.serving import serve
from ratls.gramine import GramineAttester
from verifier.errors import ConfigError, Exit
from verifier.shell import refusals_as_exit_status

# The manifest lists this file, alone, under sgx.allowed_files.
AGREEMENT = Path("/etc/ratls/agreement.json")
# Every interface: which address the outside sees is the host's to arrange, and proves nothing.
LISTEN = "0.0.0.0:7443"
ROOTS = frozenset({"intel"})


class ArgumentsUnexpected(ConfigError):
    """The production entry point was given arguments, and takes none."""

    code = "arguments-unexpected"
    exit_status = Exit.USAGE
    default_fix = "start it bare: a measured manifest fixes how; `ratls enclave serve` has options"


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status."""
    try:
        with refusals_as_exit_status() as shell:
            if arguments:
                raise ArgumentsUnexpected("arguments", expected="none", found=str(len(arguments)))
            serve(shell, agreement=AGREEMENT, listen=LISTEN, attester=GramineAttester, roots=ROOTS)
    except typer.Exit as end:
        return end.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
