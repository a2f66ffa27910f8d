"""Collateral from the files that a command names: one bundle, or a folder of a service's answers.

collateral = read_collateral(Path("collateral.json"))
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from verifier.collateral import Collateral
from verifier.errors import placed
from verifier.files import FileUnreadable, parse_file, read_file
from verifier.responses import MAX_ANSWER, MAX_FILES, read_folder


def read_collateral(path: Path) -> Collateral:
    """A bundle file, or a folder of a service's answers as `verifier.responses` names them.

    Raises:
        FileUnreadable: Missing, not permitted, too large or too many.
        CollateralFormatError, CertChainError, RevocationError: Neither of the two.
    """
    if not path.is_dir():
        return parse_file(path, Collateral.parse)
    try:
        names = [file.name for file in islice(path.iterdir(), MAX_FILES + 1)]
    except OSError as error:
        raise FileUnreadable(
            str(path), expected="a readable folder", found=error.strerror or type(error).__name__
        ) from error
    if len(names) > MAX_FILES:
        raise FileUnreadable(str(path), expected=f"at most {MAX_FILES} answers", found="more files")
    with placed(str(path)):
        return read_folder({name: read_file(path / name, cap=MAX_ANSWER) for name in names})
