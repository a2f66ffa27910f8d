"""The gate: the only way in which anything computed becomes bytes that may leave.

    require_subjects(tables, subjects, minimum)       # before anything is computed
    plaintext = released(outputs, rule, …)            # canonical JSON, or a refusal

The bytes have one written form for one result: members sorted, numbers rounded to the agreed
digits, nothing that the policy does not name. A computation that wanted to smuggle rows out
has no order, spacing or mantissa to hide them in beyond those digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.errors import OutputNotAgreed, OutputNotCanonical, TooFewSubjects

SCHEMA = "ratls-result/1"


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
        distinct = pc.count_distinct(table.column(subject), mode="only_valid").as_py()
        if distinct < rule.min_subjects_per_input:
            raise TooFewSubjects(
                f"dataset {dataset!r}",
                expected=f"at least {rule.min_subjects_per_input} subjects",
                found="fewer",
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
