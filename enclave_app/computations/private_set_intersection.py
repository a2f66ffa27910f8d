"""Which values of a key column all inputs have: how many, or which ones.

    intersection([alice, bob], "national_id")       # ["11", "47", …]

A value that an input repeats counts once. Keys are equal when they are the same text, character
for character, or the same integer; nothing is trimmed, folded or cast. Ids leave in ascending
order (texts by code point), so that one intersection has one written form.

Outputs: `intersection_size`, the exact number; `intersection_ids`, the keys themselves, only
where the policy names this output. Either leaves only if, in each input, at least
`min_subjects_per_input` subjects are in the intersection.

Not prevented: a provider chooses the keys that it asks about, and learns from the output which of
them others have. `max_rows` of a dataset limits how many, `uses` how often.

Parameters of a policy: `key`, a string or integer column of all inputs, of one type, fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.errors import ReleaseDeniedError
from enclave_app.gate import Group, Inputs, numbered
from enclave_app.limits import Need, declared
from policy.sections import Release


def intersection(tables: Sequence[pa.Table], key: str) -> list[Any]:
    """The values of `key` that occur in every table, ascending, each once.

    Args:
        tables: At least one; `key` is a column of each, without nulls, of one type.
    """
    return sorted(_shared(tables, key).to_pylist())


def _shared(tables: Sequence[pa.Table], key: str) -> pa.Array:
    shared = pc.unique(tables[0].column(key))
    for table in tables[1:]:
        shared = shared.filter(pc.is_in(shared, value_set=pc.unique(table.column(key))))
    return shared


class IntersectionTooSmall(ReleaseDeniedError):
    """Too few subjects of one input are in the intersection, or none."""

    code = "intersection-too-small"
    default_fix = "check that the inputs write the key alike; a small intersection is not released"


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group]:
    """The persons in the intersection, in each input."""
    key = parameters["key"]
    shared = _shared([table for table, _ in inputs.values()], key)
    for dataset, (table, subject) in inputs.items():
        # R06: many keys can be one person's, so persons are counted, and in each input: the keys
        # of one provider's making would make any group large enough.
        members = table.column(subject).filter(pc.is_in(table.column(key), value_set=shared))
        yield Group(f"dataset {dataset!r}: intersection", numbered(members), IntersectionTooSmall)


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs."""
    shared = intersection([table for table, _ in inputs.values()], parameters["key"])
    outputs = {"intersection_size": len(shared), "intersection_ids": shared}
    return {name: outputs[name] for name in rule.outputs}


def need(parameters: Mapping[str, Any]) -> Need:
    """Hash tables of the keys, and a Python object for each that leaves."""
    return declared("private_set_intersection")


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """64 bytes for each id that could be shared, which is more than ids have."""
    return 1000 + (64 * min(max_rows) if "intersection_ids" in outputs else 0)
