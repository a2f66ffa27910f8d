"""Which files a folder, or a name with `*` in it, stands for.

parquet_files(Path("visits"))          # sorted by name
matching(Path("visits-*.csv"))
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

from provider.errors import SourceError, SourceUnreadable
from verifier.text import cause

MOST_FILES = 500  # of one dataset; all of them are open at once


class SourceFolderMixed(SourceError):
    """A folder has more than Parquet files, so some rows may be missed."""

    code = "source-folder-mixed"
    default_fix = (
        "move everything else out of the folder, or list the files in a source table: "
        'path = ["a.parquet", "b.parquet"]; columns in folder names are not read'
    )


def parquet_files(folder: Path) -> list[Path]:
    """Sorted by name: check, release and a later attempt read the rows in one order.

    Names that begin with a dot or an underscore are skipped: writers use them internally.

    Raises:
        SourceFolderMixed: Anything else is there, a folder too.
        SourceUnreadable: It cannot be listed, or holds no file or too many.
    """
    try:
        found = sorted(p for p in folder.iterdir() if p.name[0] not in "._")
    except OSError as error:
        raise SourceUnreadable(
            str(folder), expected="a folder that can be listed", found=cause(error)
        ) from error
    for path in found:
        if path.suffix.lower() != ".parquet" or not path.is_file():
            raise SourceFolderMixed(
                str(folder), expected="only Parquet files", found=ascii(path.name)[:80]
            )
    if not 1 <= len(found) <= MOST_FILES:
        raise SourceUnreadable(
            str(folder), expected=f"1 to {MOST_FILES} Parquet files", found=str(len(found))
        )
    return found


def matching(pattern: Path) -> list[Path]:
    """Raises: SourceUnreadable."""
    # A bracket is part of a name.
    found = sorted(map(Path, glob(str(pattern).replace("[", "[[]"))))
    if not 1 <= len(found) <= MOST_FILES:
        raise SourceUnreadable(
            str(pattern), expected=f"1 to {MOST_FILES} files that match", found=str(len(found))
        )
    return found
