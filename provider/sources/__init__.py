"""The rows that a policy declares, from a file or a database: checked, in batches, streamed.

    spec = parse_source({"kind": "csv", "path": "rows.csv"}, base=Path("/srv/ratls"))
    with spec.open(dataset) as source:
        for chunk in source.chunks():  # read once; checked and made ready in threads
            …

Parquet, CSV, Arrow IPC (file and stream), several files as one, and the answer to a SQL query; the
rules are those of `base`, the same for all. Only declared columns leave, in the declared order.
Other spellings of the same value are read (`files`, `text`). A value with two meanings, or one that
would lose a digit (`exact`), is refused, and the refusal says how to convert it.
"""

from __future__ import annotations

from provider.sources.base import LARGEST, SMALLEST, Chunk, Source
from provider.sources.memory import of_table
from provider.sources.spec import SourceSpec, parse_source, source_at

__all__ = [
    "LARGEST",
    "SMALLEST",
    "Chunk",
    "Source",
    "SourceSpec",
    "of_table",
    "parse_source",
    "source_at",
]
