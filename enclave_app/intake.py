"""The rows of one attempt to release one dataset: validated, compact, unused until committed.

    intake = Intake(dataset, limits, memory, need, until)
    intake.open(reader.schema)
    intake.add(batch)            # for each batch
    intake.rows, len(intake.batches)  # what a commit must have counted

A batch comes here after `ratls.server_stream` has capped its rows and bytes. It may still point
outside its own buffers or hold bytes that nothing refers to: every offset is checked
(`policy.rows`) before anything reads a column, and what is kept is a compact copy.
"""

from __future__ import annotations

import threading

import pyarrow as pa

from enclave_app.errors import AttemptClosed
from enclave_app.limits import Limits, MemoryBudget, Need
from policy.errors import InvalidDataError, ResourceLimitError
from policy.rows import arrow_schema, check_batch, check_schema
from policy.sections import Dataset
from ratls.errors import StreamIntegrityError


class BatchesExceeded(ResourceLimitError):
    """A release consists of more batches than the enclave keeps."""

    code = "batches-exceeded"
    default_fix = "send batches of 1 to 4 MiB"


class RowsNotAsDeclared(StreamIntegrityError):
    """A null, a number that is not finite, or a value outside its domain, in an agreed column."""

    code = "rows-not-as-declared"
    default_fix = "use `ratls provider push`: it checks every row before sending, and names faults"


class InputEmpty(StreamIntegrityError):
    """A dataset without a single row was committed."""

    code = "input-empty"
    default_fix = "check the source, which has no rows"


class Intake:
    """One attempt. Used by one thread, and closed by any."""

    def __init__(
        self, dataset: Dataset, limits: Limits, memory: MemoryBudget, need: Need, until: float
    ) -> None:
        """Take nothing yet.

        Args:
            need: What the task's computation needs beside the rows. It is accounted for with
                them: a boolean is a bit here and 48 bytes in a training.
            until: When the release must have ended, by the monotonic clock.
        """
        self._dataset, self._limits, self._memory = dataset, limits, memory
        self._need, self.until = need, until
        self._schema = arrow_schema(dataset)
        self._lock = threading.Lock()
        self._closed = False
        self._held = 0
        self._kept: list[pa.RecordBatch] = []
        self.rows = 0

    @property
    def batches(self) -> tuple[pa.RecordBatch, ...]:
        """What was kept, in order; empty batches too."""
        return tuple(self._kept)

    def open(self, schema: pa.Schema) -> None:
        """The stream's schema must be the dataset's, to the letter.

        Raises:
            SchemaError: Another column, type, order, or metadata (a leaf of `policy.errors`).
        """
        check_schema(schema, self._dataset)

    def add(self, batch: pa.RecordBatch) -> None:
        """Validate one batch and keep a copy of it.

        Raises:
            BatchesExceeded: One batch too many.
            SchemaError: As `policy.rows.check_batch` says.
            RowsNotAsDeclared: A value that the policy does not allow.
            MemoryExhausted: No room.
            AttemptClosed: By a later attempt, or because the task expired.
        """
        if len(self._kept) >= self._limits.batches:
            raise BatchesExceeded(
                "release", expected=f"at most {self._limits.batches} batches", found="more"
            )
        try:
            check_batch(batch, self._dataset, rows_before=self.rows)
        except InvalidDataError as refusal:
            # R20: the rule that a cell broke would reach the host, by the log and by the size of
            # the answer. The provider's own check names it.
            raise RowsNotAsDeclared("rows", expected="as declared", found="others") from refusal
        self._keep(batch)

    def _keep(self, batch: pa.RecordBatch) -> None:
        # A received column is a view into its whole message; the copy drops what is not rows.
        compact = batch.serialize()
        copy = pa.ipc.read_record_batch(compact, self._schema)
        with self._lock:
            if self._closed:
                raise self._is_closed()
            size = compact.size + self._need.bytes(batch.num_rows, compact.size)
            self._memory.take(size)
            self._held += size
            self._kept.append(copy)
            self.rows += batch.num_rows

    def require_rows(self) -> None:
        """Require at least one row, and that the attempt was not closed.

        Raises:
            InputEmpty, AttemptClosed: It is otherwise.
        """
        if self._closed:
            raise self._is_closed()
        if not self.rows:
            raise InputEmpty(f"dataset {self._dataset.id!r}", expected="rows", found="none")

    def table(self) -> pa.Table:
        """All rows, in the order of this one stream."""
        return pa.Table.from_batches(self._kept, self._schema)

    def close(self) -> None:
        """Forget the rows and give their memory back. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._kept = []
            self._memory.give(self._held)
            self._held = 0

    def _is_closed(self) -> AttemptClosed:
        return AttemptClosed(f"release of {self._dataset.id!r}", expected="open", found="closed")
