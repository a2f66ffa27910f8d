"""What the datasets of a policy agree on about columns that models are made of.

    agreed = Agreed.of(policy.study, inputs)      # in the enclave, for a computation
    agreed.values("region")                       # ("north", "south"), or () for a number

A text enters a model by its place in the list of values that the policy gives for the column, and
a number is divided into steps between the column's min and max: neither is found from rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from policy.sections import Column, Dataset

# One problem without its line: path, expected, found, and what to do where that is not obvious.
Finding = tuple[str, str, str] | tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Agreed:
    """What is fixed for all rows and all tasks of a computation."""

    study: str
    columns: Mapping[str, Column]  # of its inputs; features are alike in all of them

    @classmethod
    def of(cls, study: str, inputs: Sequence[Dataset]) -> Agreed:
        """What these inputs agree on."""
        columns: dict[str, Column] = {}
        for dataset in inputs:
            columns |= dataset.columns
        return cls(study, columns)

    def values(self, name: str) -> tuple[str, ...]:
        """The closed list of a text column; empty for others."""
        return self.columns[name].values or ()

    def range(self, name: str) -> tuple[float, float]:
        """The lowest and highest number of a column."""
        column = self.columns[name]
        return (0.0, 1.0) if column.type == "bool" else (float(column.min), float(column.max))

    def ranges(self, names: Sequence[str]) -> list[list[str]]:
        """The ranges of columns as texts, which are not rounded: they come from the policy."""
        return [[repr(bound) for bound in self.range(name)] for name in names]


def domain_problems(
    path: str, names: Sequence[str], inputs: Sequence[Dataset], *, ranged: bool
) -> Iterator[Finding]:
    """Texts without a list of values, numbers without a range, and lists or ranges that differ."""
    for name in names:
        having = [(d.id, d.columns[name]) for d in inputs if name in d.columns]
        faults = [(_fault(column, ranged=ranged), dataset) for dataset, column in having]
        yield from ((path, fault, f"{name!a} of {dataset}") for fault, dataset in faults if fault)
        if (
            not any(fault for fault, _ in faults)
            and len({_domain(column, ranged=ranged) for _, column in having}) > 1
        ):
            yield path, f"{name!a} with one list of values, or one range, in all inputs", "several"


def _fault(column: Column, *, ranged: bool) -> str | None:
    if column.type == "string" and column.values is None:
        return 'a column with a list of values: { type = "string", values = ["a", "b"] }'
    open_ = column.min is None or column.max is None or column.min == column.max
    if ranged and column.type not in ("string", "bool") and open_:
        return "a column with min below max: what is measured by them tells no row"
    return None


def _domain(column: Column, *, ranged: bool) -> tuple[object, ...]:
    bounds = (column.min, column.max) if ranged else ()
    return (column.type == "string", column.values, *bounds)
