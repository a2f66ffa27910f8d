"""The gate: the only way in which anything computed becomes bytes that may leave.

    require_subjects(inputs, rule)                    # before anything is computed
    require_group(thing, persons, rule)               # for each group that an output is about
    plaintext = padded(released(outputs, rule, …))    # canonical JSON, or a refusal

The bytes have one written form for one result: members sorted, numbers rounded to the agreed
digits, nothing that the policy does not name. A computation that wanted to smuggle rows out
has no order, spacing or mantissa to hide them in beyond those digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.errors import (
    OutputNotAgreed,
    OutputNotCanonical,
    ReleaseDeniedError,
    ResultTooLarge,
    TooFewSubjects,
)

SCHEMA = "ratls-result/1"
# Both powers of two, in bytes; sealed and with its receipt, the largest is still one message.
SMALLEST_RESULT, LARGEST_RESULT = 4 << 10, 32 << 20


class Input(NamedTuple):
    """The rows of one dataset, and the column that names a person."""

    table: pa.Table
    subject: str


class ReleaseRule(Protocol):
    """What the policy agreed on for one computation."""

    @property
    def outputs(self) -> Sequence[str]: ...
    @property
    def min_subjects_per_input(self) -> int: ...
    @property
    def significant_digits(self) -> int: ...


def require_subjects(inputs: Mapping[str, tuple[pa.Table, str]], rule: ReleaseRule) -> None:
    """Each input must hold enough different persons; rows of one person count once.

    Args:
        inputs: Dataset id to its rows and the name of the column that names a person.

    Raises:
        TooFewSubjects: Naming the dataset, not the count: that is the provider's alone.
    """
    for dataset, (table, subject) in inputs.items():
        require_group(f"dataset {dataset!r}", persons(table.column(subject)), rule)


def persons(subjects: pa.ChunkedArray) -> int:
    """How many different persons these rows are about; a null is nobody."""
    distinct: int = pc.count_distinct(subjects, mode="only_valid").as_py()
    return distinct


def require_group(
    thing: str,
    size: int,
    rule: ReleaseRule,
    leaf: type[ReleaseDeniedError] = TooFewSubjects,
) -> None:
    """A group of `size` different persons of one input must be large enough to speak about.

    Raises:
        ReleaseDeniedError: The leaf given. It names the group, never its size.
    """
    if size < rule.min_subjects_per_input:
        raise leaf(
            thing, expected=f"at least {rule.min_subjects_per_input} subjects", found="fewer"
        )


def released(outputs: Mapping[str, Any], rule: ReleaseRule, *, computation: str, run: str) -> bytes:
    """The result document, in its only form.

    Raises:
        OutputNotAgreed: An output that the policy does not name, or lacks one that it does.
        OutputNotCanonical: NaN, an infinity, or a value that is not JSON.
    """
    if set(outputs) != set(rule.outputs):
        raise OutputNotAgreed(
            "outputs", expected=", ".join(sorted(rule.outputs)), found=", ".join(sorted(outputs))
        )
    document = {"schema": SCHEMA, "computation": computation, "run": run}
    rounded = {name: _rounded(value, rule.significant_digits) for name, value in outputs.items()}
    text = json.dumps(
        document | rounded,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode("utf-8")


def padded(document: bytes) -> bytes:
    """`document` and spaces, which JSON ignores, up to a power of two of at least 4096 bytes.

    Raises:
        ResultTooLarge: More than 32 MiB.
    """
    if len(document) > LARGEST_RESULT:
        raise ResultTooLarge("result", expected=f"at most {LARGEST_RESULT} bytes", found="more")
    # R15: the host sees how long the ciphertext is, and a list of ids would tell it their number.
    return document.ljust(max(SMALLEST_RESULT, 1 << (len(document) - 1).bit_length()))


def _rounded(value: Any, digits: int) -> Any:
    """`value` with each float at `digits` significant decimal digits; -0.0 becomes 0.0."""
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _rounded(member, digits) for key, member in value.items()}
    if isinstance(value, list):
        return [_rounded(member, digits) for member in value]
    if type(value) is float and math.isfinite(value):
        rounded = float(f"{value:.{digits}g}") + 0.0
        if math.isfinite(rounded):  # the largest floats round up to infinity
            return rounded
    elif type(value) in {str, int, bool}:
        return value
    raise OutputNotCanonical("output", expected="finite JSON values", found=type(value).__name__)
