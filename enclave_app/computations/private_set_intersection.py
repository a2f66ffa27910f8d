"""Which values of a key column all inputs have: how many, or which ones.

    intersection([alice, bob], "national_id")       # ["11", "47", …]

A value that an input repeats counts once. Keys are equal when they are the same text, character
for character, or the same integer; nothing is trimmed, folded or cast. Ids leave in ascending
order (texts by code point), so that one intersection has one written form.

Outputs: `intersection_size`, the exact number; `intersection_ids`, the keys themselves, only
where the policy names this output. Either leaves only if, in each input, at least
`min_subjects_per_input` subjects are in the intersection.

What it cannot prevent: who provides an input chooses the keys to ask about, and learns of the
others' what the output says. `max_rows` of a dataset bounds how many, `uses` how often.

Parameters of a policy: `key`, a string or integer column of all inputs, of one type, fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.errors import ComputationParameters, IntersectionTooSmall
from enclave_app.release import Input, ReleaseRule, persons, require_group

OUTPUTS = frozenset({"intersection_size", "intersection_ids"})
# A task that chose the key could ask about every column in turn.
FIXED = frozenset({"key"})
_KEY = {"string", "int32", "int64"}  # exact equality means nothing for floats


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


def run(
    inputs: Mapping[str, Input], parameters: Mapping[str, Any], rule: ReleaseRule
) -> dict[str, Any]:
    """The agreed outputs, if the intersection is a group that may be spoken about.

    Raises:
        IntersectionTooSmall: In one of the inputs it is not.
    """
    key = parameters["key"]
    tables = [table for table, _ in inputs.values()]
    shared = _shared(tables, key)
    for dataset, (table, subject) in inputs.items():
        # R06: many keys can be one person's, so persons are counted, and in each input: the keys
        # of one provider's making would make any group large enough.
        members = table.column(subject).filter(pc.is_in(table.column(key), value_set=shared))
        thing = f"dataset {dataset!r}: intersection"
        require_group(thing, persons(members), rule, IntersectionTooSmall)
    outputs: dict[str, Any] = {}
    if "intersection_size" in rule.outputs:
        outputs["intersection_size"] = len(shared)
    if "intersection_ids" in rule.outputs:
        outputs["intersection_ids"] = intersection(tables, key)
    return outputs


def check(parameters: Mapping[str, Any], inputs: Sequence[Mapping[str, str]]) -> None:
    """Refuse what cannot be intersected, before anybody releases a row for it.

    Args:
        parameters: As the task resolves them.
        inputs: For each input its column names with their types.

    Raises:
        ComputationParameters: Naming the parameter or column.
    """
    if set(parameters) != {"key"}:
        raise _unfit("parameters", "key alone", ", ".join(sorted(parameters)))
    key = parameters["key"]
    if not isinstance(key, str):
        raise _unfit("key", "the name of a column", type(key).__name__)
    if len(inputs) < 2:
        raise _unfit("inputs", "at least two", "one: its intersection is all of it")
    # The subject may be the key: that is what most intersections are about.
    found = [columns.get(key, "no such column").removesuffix("!") for columns in inputs]
    if found[0] not in _KEY or len(set(found)) > 1:
        raise _unfit(
            f"key {key[:64]!r}",
            f"one of {', '.join(sorted(_KEY))}, the same in every input",
            ", ".join(dict.fromkeys(found))[:100],
        )


def _unfit(thing: str, expected: str, found: str) -> ComputationParameters:
    return ComputationParameters(thing, expected=expected, found=found)
