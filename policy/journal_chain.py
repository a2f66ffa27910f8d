"""The hash chain of a journal, as bytes: lines that name the line before, and the head.

    records, whole = parse_lines(raw)
    head = reconcile(records, torn, Head.parse(head_file))

Touches no file; `policy.journal` does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Self

from pydantic import Field, ValidationError

from policy.document import digest_text
from policy.errors import AuditError
from policy.fields import Strict
from policy.journal_entries import Count, DigestText, Entry, Moment
from policy.statement import instant_text
from policy.values import Digest
from verifier.text import read_instant

GENESIS = Digest(bytes(32))  # what the first line names as the line before it


class _Line(Strict):
    at: Moment
    entry: Annotated[Entry, Field(discriminator="kind")]
    previous: DigestText
    seq: Count


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One verified line. `digest` is the SHA-256 of its bytes without the line feed."""

    seq: int
    at: datetime
    entry: Entry
    digest: Digest


class JournalHeadLost(AuditError):
    """There are lines, but their head is missing or unreadable."""

    code = "journal-head-lost"


@dataclass(frozen=True, slots=True)
class Head:
    """How many lines there are, and the digest of the last (32 zero bytes for none)."""

    count: int
    digest: Digest

    def encode(self) -> bytes:
        return _json({"count": self.count, "digest": digest_text(self.digest)}) + b"\n"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read exactly what `encode` writes; JournalHeadLost otherwise."""
        try:
            fields = json.loads(raw)
            digest = bytes.fromhex(fields["digest"].removeprefix("sha256:"))
            head = cls(fields["count"], Digest(digest))
            if head.encode() == raw and len(head.digest) == 32 and type(head.count) is int:
                return head
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # falls through to the one refusal for every other content
        raise JournalHeadLost("journal head", expected="the count and digest", found="other bytes")


# Pure, and the last one kept: between two releases the same journal is read again and again.
@lru_cache(maxsize=1)
def parse_lines(raw: bytes) -> tuple[tuple[JournalRecord, ...], int]:
    """The records of a journal, and how many bytes of it are whole lines.

    Bytes after the last line feed are an append that never ended; they are not read.

    Raises:
        JournalAltered: A line is not canonical, or the chain of digests is broken at it.
    """
    whole = raw.rfind(b"\n") + 1
    records: list[JournalRecord] = []
    previous = GENESIS
    for seq, line in enumerate(raw[:whole].split(b"\n")[:-1]):
        record = parse_line(line, seq, previous)
        records.append(record)
        previous = record.digest
    return tuple(records), whole


class JournalAltered(AuditError):
    """A line of the journal is edited, missing, repeated or out of order."""

    code = "journal-altered"


# Pure: the same bytes at the same place after the same line are the same record. An agent reads
# its whole journal for each decision, and almost all of it is unchanged.
@lru_cache(maxsize=65_536)
def parse_line(line: bytes, seq: int, previous: Digest) -> JournalRecord:
    where = f"journal line {seq + 1}"
    try:
        read = _Line.model_validate_json(line)
        at = read_instant(read.at)
    except (ValidationError, ValueError) as error:
        raise JournalAltered(where, expected="a record", found="something else") from error
    # Byte for byte: a repeated key or another form would show readers something else. What
    # older versions did not write is absent here too.
    if _json(read.model_dump(mode="json", exclude_unset=True)) != line:
        raise JournalAltered(where, expected="the canonical form of a record", found="another form")
    if read.seq != seq or read.previous != digest_text(previous):
        raise JournalAltered(
            where, expected="the line that follows the one before", found="another"
        )
    return JournalRecord(seq, at, read.entry, Digest(hashlib.sha256(line).digest()))


class JournalCut(AuditError):
    """The journal ends before the line that its head names."""

    code = "journal-cut"


def reconcile(records: tuple[JournalRecord, ...], torn: bool, head: Head | None) -> Head:
    """Compare the lines with the head; the head as it must be from now on.

    `torn`: bytes of an unfinished line follow the last record.

    Raises:
        JournalHeadLost: There is content and no head.
        JournalCut: Fewer lines than the head counts.
        JournalAltered: The line that the head names is another, or too many follow it.
    """
    if head is None:
        if records or torn:
            raise JournalHeadLost("journal head", expected="a head beside the lines", found="none")
        return Head(0, GENESIS)
    if head.count > len(records):
        raise JournalCut("journal", expected=f"{head.count} lines", found=str(len(records)))
    named = records[head.count - 1].digest if head.count else GENESIS
    if named != head.digest:
        raise JournalAltered(
            f"journal line {head.count}", expected="the line that the head names", found="another"
        )
    # One line may be ahead of the head, by a crash between the two; then nothing else began.
    ahead = len(records) - head.count
    if ahead + torn > 1:
        raise JournalAltered("journal", expected="at most one line after its head", found="more")
    return Head(len(records), records[-1].digest if records else GENESIS)


def encode_line(entry: Entry, at: datetime, head: Head) -> bytes:
    """The line that follows `head`, without its line feed."""
    line = _Line(
        at=instant_text(at), entry=entry, previous=digest_text(head.digest), seq=head.count
    )
    return _json(line.model_dump(mode="json"))


def _json(value: object) -> bytes:
    # ASCII with sorted keys: one spelling, and no name can forge a line or colour a terminal.
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
