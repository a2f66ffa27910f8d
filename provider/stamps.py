"""A check of a source that still holds, so that a release of it reads it once.

    with spec.open(dataset) as source:
        checked = check_source(source, Stamps(state), dataset)  # reads all rows, keeps a stamp
        Stamps(state).find(source, dataset)     # None: never checked, or something is another

The stamp of a dataset names files, rules and program; a change of any of them makes it worthless.
It saves a release from looking at values again, and no more than that: the release compares the
digest of what it sends with the stamp's before it commits, and the enclave checks every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from policy.document import digest_text
from policy.values import Digest
from provider.sources.base import RowsSeen
from verifier.errors import RatlsError
from verifier.files import own_folder, read_file, write_atomically

if TYPE_CHECKING:
    from pyarrow import RecordBatch

    from policy.sections import Dataset
    from provider.sources import Source

_FOLDER = "checks"
_MOST = 1 << 20  # bytes of a stamp: 500 files


@dataclass(frozen=True, slots=True)
class Checked:
    """What a complete check of a source found."""

    rows: int
    batches: int
    bytes: int  #   of all messages
    digest: Digest  # `RowsSeen.digest`
    stamped: bool  # a release of the same source need not check it again


class Stamps:
    """The stamps of one state folder: one for each dataset, that of its last check."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def find(self, source: Source, dataset: Dataset) -> Checked | None:
        """The last check of exactly this source under exactly these rules; None without one."""
        subject = _subject(source, dataset)
        try:
            kept = json.loads(read_file(self._path(dataset), cap=_MOST)) if subject else {}
            if kept["of"] != subject:
                return None
            rows, batches, size = (int(kept[name]) for name in ("rows", "batches", "bytes"))
            return Checked(rows, batches, size, Digest(bytes.fromhex(kept["digest"])), True)
        except (RatlsError, ValueError, TypeError, KeyError):
            return None  # then everything is checked as it leaves

    def keep(self, source: Source, dataset: Dataset, seen: RowsSeen) -> bool:
        """Keep a stamp; False where a later look could not tell whether the source changed.

        Raises: FileNotWritten.
        """
        subject = _subject(source, dataset)
        if subject is None:
            return False
        stamp = {
            "of": subject,
            "rows": seen.rows,
            "batches": seen.batches,
            "bytes": seen.bytes,
            "digest": seen.digest().hex(),
        }
        with own_folder(self._state, _FOLDER):
            write_atomically(self._path(dataset), json.dumps(stamp, indent=1).encode(), mode=0o600)
        return True

    def forget(self, dataset: Dataset) -> None:
        """The source refused, or was another: nothing that was seen earlier holds any more."""
        with suppress(OSError):  # what cannot be removed names an older state, or is refused again
            self._path(dataset).unlink()

    def _path(self, dataset: Dataset) -> Path:
        return self._state / _FOLDER / f"{dataset.id}.json"


def _subject(source: Source, dataset: Dataset) -> object:
    """What was checked, by what rules, by what program; None where a change may go unseen."""
    files = source.identity()
    if files is None:
        return None
    rules = json.dumps(
        [
            dataset.subject,
            dataset.max_rows,
            *((name, repr(column)) for name, column in dataset.columns.items()),
        ]
    )
    return {
        "dataset": dataset.id,
        "rules": digest_text(Digest(hashlib.sha256(rules.encode()).digest())),
        "by": _programs(),
        "files": [asdict(file) for file in files],
    }


@cache  # what is installed is looked up on disk
def _programs() -> list[str]:
    """Another Arrow may write the same rows in other bytes."""
    return [f"{name} {version(name)}" for name in ("ratls", "pyarrow")]


def check_source(
    source: Source,
    stamps: Stamps | None,
    dataset: Dataset,
    progress: Callable[[int, int | None], None] = lambda rows, total: None,
    look: Callable[[RecordBatch], None] = lambda batch: None,
) -> Checked:
    """Read and check all rows, as a release does; keep a stamp where one can hold.

    Args:
        stamps: None keeps none.
        progress: Called with rows checked, and rows in all where they are known.
        look: Called with each batch, once it is checked.

    Raises: What `Source.chunks` raises; FileNotWritten.
    """
    seen, total = RowsSeen(), source.expected_rows()
    if stamps is not None:
        stamps.forget(dataset)
    with closing(source.chunks()) as chunks:
        for chunk in chunks:
            seen.add(chunk)
            look(chunk.batch)
            progress(seen.rows, total)
    stamped = stamps is not None and stamps.keep(source, dataset, seen)
    return Checked(seen.rows, seen.batches, seen.bytes, seen.digest(), stamped)
