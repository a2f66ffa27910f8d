"""The gate: all computed values pass here before they leave, and become bytes.

    people = numbered(subjects)                       # persons as numbers, the same for one person
    require_groups(inputs, declared, rule)            # each group that an output is about, or none
    plaintext = padded(released(outputs, rule, **ids), size)  # canonical JSON, or a refusal

There is one rule about persons: a computation declares every group that its outputs are about
(`Group`), and how much of something one person holds (`Share`); here they are counted.

The bytes have one written form for one result: members sorted, numbers rounded to the agreed
digits, nothing that the policy does not name. A computation cannot hide rows in order, spacing
or further digits.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.deadline import check_deadline
from enclave_app.errors import ReleaseDeniedError
from policy.seal import DENIAL_SCHEMA
from policy.sections import Release

People = npt.NDArray[np.int64]  # one number for each row; the same number is the same person

SCHEMA = "ratls-result/1"
# Both powers of two, in bytes. Sealed and with its receipt, the largest is still one message.
SMALLEST_RESULT, LARGEST_RESULT = 4 << 10, 32 << 20


class Input(NamedTuple):
    """The rows of one dataset, and the column that names a person."""

    table: pa.Table
    subject: str


Inputs: TypeAlias = Mapping[str, Input]  # by dataset id, in the policy's order


class TooFewSubjects(ReleaseDeniedError):
    """An input has fewer distinct subjects than the policy demands."""

    code = "too-few-subjects"
    default_fix = "release more subjects, or agree on a smaller min_subjects_per_input"


class Group(NamedTuple):
    """Persons of one input that an output is about. Fewer than k: nothing leaves."""

    thing: str  # names input and column, never a value
    people: People  # of each row in question, numbered
    leaf: type[ReleaseDeniedError] = TooFewSubjects


class SubjectDominates(ReleaseDeniedError):
    """One subject has most of the rows, or most of the variation, of one input."""

    code = "subject-dominates"
    default_fix = "give the column a domain (min, max), or release fewer rows of one subject"


class Share(NamedTuple):
    """The largest part of something that one person of an input holds, and the limit for it."""

    thing: str
    largest: float
    most: float
    leaf: type[ReleaseDeniedError] = SubjectDominates


def numbered(subjects: pa.ChunkedArray) -> People:
    """A number for each row, the same where the subject is the same; -1 where it is null."""
    encoded = subjects.combine_chunks().dictionary_encode()
    numbers: People = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)


def numbered_in(inputs: Inputs) -> dict[str, People]:
    """The same for each input."""
    return {name: numbered(table.column(subject)) for name, (table, subject) in inputs.items()}


def persons(people: People) -> int:
    """How many different persons these rows are about; nulls do not count."""
    known = people[people >= 0]
    seen = np.zeros(known.max(initial=-1) + 1, bool)
    seen[known] = True
    return int(seen.sum())


def require_groups(inputs: Inputs, declared: Iterable[Group | Share], rule: Release) -> None:
    """Each input, and each group that a computation declares, holds enough different persons.

    R05, R06: in each input, since who sends the other one can subtract it; and persons, not rows.
    An empty group is refused like one of a single person: that no person has some value is a
    statement about all of them.

    Args:
        inputs: Dataset id to its rows and the name of the column that names a person.
        declared: Asked for one by one, so that nothing is computed after a refusal.

    Raises:
        ReleaseDeniedError: The leaf of the first group that is too small, or share that is too
            large. It names the group, never its size: that is the provider's alone.
    """
    whole = (
        Group(f"dataset {dataset!r}", numbered(table.column(subject)))
        for dataset, (table, subject) in inputs.items()
    )
    require_all(itertools.chain(whole, declared), rule)


def require_all(declared: Iterable[Group | Share], rule: Release) -> None:
    """The same for groups that are known only once something was computed.

    Raises: as `require_groups`.
    """
    for found in declared:
        check_deadline()
        if isinstance(found, Share):
            if not found.largest <= found.most * (1 + 1e-9):  # exact limits differ by rounding
                raise found.leaf(found.thing, expected="less by any one subject", found="more")
        elif persons(found.people) < rule.min_subjects_per_input:
            raise found.leaf(
                found.thing,
                expected=f"at least {rule.min_subjects_per_input} subjects",
                found="fewer",
            )


class OutputNotAgreed(ReleaseDeniedError):
    """The computation's outputs are not exactly those that the policy releases."""

    code = "output-not-agreed"
    default_fix = "name the computation's outputs in the policy's release rule"


def released(outputs: Mapping[str, Any], rule: Release, *, computation: str, run: str) -> bytes:
    """The result document, in its only form.

    Raises:
        OutputNotAgreed: An output that the policy does not name, or lacks one that it does.
        OutputNotCanonical: NaN, an infinity, or a value that is not JSON.
    """
    if set(outputs) != set(rule.outputs):
        raise OutputNotAgreed(
            "outputs",
            expected=", ".join(sorted(rule.outputs)),
            found=", ".join(sorted(outputs)) or "none",
        )
    document = {"schema": SCHEMA, "computation": computation, "run": run}
    digits = rule.significant_digits
    shortened = {name: rounded(value, digits) for name, value in outputs.items()}
    text = json.dumps(
        document | shortened,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode("utf-8")


def padded_size(longest: int) -> int:
    """The length of every outcome of a task whose longest result has `longest` bytes.

    R15, R20: the host sees how long a ciphertext is. That of a list of ids would tell their
    number, and a short one that nothing was released.
    """
    return min(max(SMALLEST_RESULT, 1 << (longest - 1).bit_length()), LARGEST_RESULT)


class ResultTooLarge(ReleaseDeniedError):
    """The result is longer than any that a recipient is given."""

    code = "result-too-large"
    default_fix = "agree on a smaller output, or on inputs with fewer rows"


def padded(document: bytes, size: int) -> bytes:
    """`document` and spaces, which JSON ignores, up to `size`.

    Raises:
        ResultTooLarge: It is longer.
    """
    if len(document) > size:
        raise ResultTooLarge("result", expected=f"at most {size} bytes", found="more")
    return document.ljust(size)


class ReleaseDenied(ReleaseDeniedError):
    """There is no result. The reason depends on rows, so recipient and host do not learn it."""

    code = "release-denied"
    default_fix = "ask the providers: with `reasons` in the policy each can ask about its own input"


def denial(*, computation: str, run: str) -> bytes:
    """The document that there is no result. It is the same for all rows."""
    document = {"code": ReleaseDenied.code, "computation": computation, "run": run}
    return json.dumps(document | {"schema": DENIAL_SCHEMA}, sort_keys=True).encode()


class OutputNotCanonical(ReleaseDeniedError):
    """A result holds something that has no single written form, such as NaN."""

    code = "output-not-canonical"
    default_fix = "report it to the authors of the computation"


def rounded(value: Any, digits: int) -> Any:
    """`value` with each float at `digits` significant decimal digits; -0.0 becomes 0.0."""
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: rounded(member, digits) for key, member in value.items()}
    if isinstance(value, list):
        return [rounded(member, digits) for member in value]
    if type(value) is float and math.isfinite(value):
        short = float(f"{value:.{digits}g}") + 0.0
        if math.isfinite(short):  # the largest floats round up to infinity
            return short
    elif type(value) in {str, int, bool}:
        return value
    raise OutputNotCanonical("output", expected="finite JSON values", found=type(value).__name__)
