"""The kinds of values that a computation's parameters take, and what speaks against one.

    list(Whole(1, 500).problems("computation[0].parameters.trees", 501, inputs))

Kinds that only rounds have: `policy.rounds`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from policy.domains import Finding, domain_problems
from policy.parameters import Value
from policy.sections import Dataset

_FEW, NEAR = 32, 0.5  # names that one is compared with; how like it the one meant must be
NUMBERS = frozenset({"bool", "int32", "int64", "float32", "float64"})
LABELS = frozenset({"bool", "int32", "int64"})
FEATURES = NUMBERS | {"string"}  # texts whose values the dataset lists
MEASURED = NUMBERS - {"bool"}
KEYS = frozenset({"string", "int32", "int64"})  # exact equality means nothing for floats


_STATEMENT_CAP = 8000


@dataclass(frozen=True, slots=True)
class Columns:
    """The name of a column, or a list of names. Always fixed: which facts about persons leave
    is agreed on, and a task that could choose would walk through all columns, one use each."""

    task_may_choose: ClassVar[bool] = False
    types: frozenset[str]
    several: bool = True
    nullable: bool = False
    subject: bool = False  # may be the column that names a person
    alike: bool = False  #   of one type and spelling in all inputs
    # Numbers need min and max, alike in all inputs: what is measured by them tells no row.
    ranged: bool = False

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        names = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) != self.several or not all(type(n) is str for n in names):
            yield path, "a list of column names" if self.several else "a column name", "another"
            return
        if len(set(names)) != len(names):
            yield path, "each column once", "one twice"
        wanted = frozenset(map(str, names))
        for dataset in inputs:
            # All at once: thousands of names in hundreds of inputs are compared in a few steps.
            fit = wanted <= dataset.usable(self.types, nullable=self.nullable)
            if not fit or (dataset.subject in wanted and not self.subject):
                for name in map(str, dict.fromkeys(names)):
                    yield from self._usable(path, name, dataset)
        for name in sorted(wanted) if self.alike else ():
            found = {d.columns[name].type for d in inputs if name in d.columns}
            if len(found) > 1:
                yield path, "a column of one type in all inputs", f"{name!a}: {sorted(found)}"
            yield from _one_spelling(path, name, inputs)
        if self.ranged or (self.types >= FEATURES and not self.subject):
            yield from domain_problems(path, sorted(wanted), inputs, ranged=self.ranged)

    def _usable(self, path: str, name: str, dataset: Dataset) -> Iterator[Finding]:
        column = dataset.columns.get(name)
        if column is None:
            yield path, f"columns of {dataset.id}", ascii(name), meant(name, dataset.columns)
        elif name == dataset.subject and not self.subject:
            fix = "name another column: what tells persons apart is never computed with"
            yield path, "columns other than the subject", ascii(name), fix
        elif column.type not in self.types:
            wanted = " or ".join(sorted(self.types))
            fix = f"name another column, or agree on {name} as one of these types"
            yield path, f"columns of type {wanted}", f"{name!a} of {dataset.id}: {column.type}", fix
        elif column.nullable and not self.nullable:
            fix = "fill or drop the rows without a value at the source, and remove the ?"
            yield path, "columns whose type does not end in ?", f"{name!a} of {dataset.id}", fix


def _one_spelling(path: str, name: str, inputs: Sequence[Dataset]) -> Iterator[Finding]:
    """Texts that are compared across inputs need one spelling, or one person counts as several."""
    having = [d for d in inputs if name in d.columns and d.columns[name].type == "string"]
    for dataset in having:
        if dataset.spelling(name) is None:
            wanted = 'a column with a spelling: { type = "string", spelling = "canonical" }'
            yield path, wanted, f"{name!a} of {dataset.id}"
        elif dataset.spelling(name) != having[0].spelling(name):
            yield path, f"the spelling that it has in {having[0].id}", f"{name!a} of {dataset.id}"


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer within limits. The policy may leave it to the task."""

    task_may_choose: ClassVar[bool] = True
    least: int
    most: int

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not (isinstance(value, int) and type(value) is int and self.least <= value <= self.most):
            yield path, f"an integer from {self.least} to {self.most}", ascii(value)[:80]


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Ascending numbers between 0 and 1, neither of them included. Always fixed."""

    task_may_choose: ClassVar[bool] = False
    most: int

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        # 0 and 1 are minimum and maximum. NaN is not between anything.
        if not isinstance(value, tuple) or not all(
            isinstance(p, float) and 0 < p < 1 for p in value
        ):
            yield path, "a list of numbers above 0 and below 1", ascii(value)[:80]
        elif list(value) != sorted(set(value)) or len(value) > self.most:
            yield path, f"at most {self.most} ascending probabilities, each once", "others"


@dataclass(frozen=True, slots=True)
class Part:
    """A number within limits. Always fixed: two tasks that differ in it a little would leave out
    different persons, and the difference of their results would be about these few."""

    task_may_choose: ClassVar[bool] = False
    least: float
    most: float

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not (isinstance(value, float) and self.least <= value <= self.most):
            wanted = f"a number from {self.least} to {self.most}, with a point"
            yield path, wanted, ascii(value)[:80]


@dataclass(frozen=True, slots=True)
class Statement:
    """The text of a SELECT. Always fixed. What it may say: `policy.sql`, before anybody signs, and
    `enclave_app.computations.sql_plan`, before it runs."""

    task_may_choose: ClassVar[bool] = False

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not isinstance(value, str) or not 1 <= len(value) <= _STATEMENT_CAP:
            yield path, f"one SELECT of at most {_STATEMENT_CAP} characters", ascii(value)[:80]


def meant(name: str, known: Collection[str]) -> str:
    """The nearest name that there is, or all of them; of many names none, as that takes long."""
    if len(known) > _FEW:
        return ""
    close = get_close_matches(name, known, n=1, cutoff=NEAR)
    listed = ", ".join(ascii(other)[1:-1] for other in sorted(known))
    return f"did you mean {ascii(close[0])[1:-1]}?" if close else f"known here: {listed}"
