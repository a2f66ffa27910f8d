"""What the enclave can compute, as data: which policies it accepts, and what results tell.

    DECLARED["logistic_regression"].most_digits
    list(computation_problems("computation[0]", computation, inputs))   # path, expected, found

`policy lint`, `sign` and `accept`, providers and the enclave all use these declarations, and refuse
the same policies before a row is sent. The code is in `enclave_app.computations`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import ClassVar

from policy.joins import join_problems, seen_by
from policy.parameters import Fixed, Parameter, Range, Value
from policy.sections import Computation, Dataset

# One problem without its line: path, expected, found, and what to do where that is not obvious.
Finding = tuple[str, str, str] | tuple[str, str, str, str]

_FEW, _NEAR = 32, 0.5  # names that one is compared with; how like it the one meant must be
_NUMBERS = frozenset({"bool", "int32", "int64", "float32", "float64"})
_LABELS = frozenset({"bool", "int32", "int64"})
KEYS = frozenset({"string", "int32", "int64"})  # exact equality means nothing for floats


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

    def _usable(self, path: str, name: str, dataset: Dataset) -> Iterator[Finding]:
        column = dataset.columns.get(name)
        if column is None:
            yield path, f"columns of {dataset.id}", ascii(name), _meant(name, dataset.columns)
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
class Statement:
    """The text of a SELECT. Always fixed. What it may say: `policy.sql`, before anybody signs, and
    `enclave_app.computations.sql_plan`, before it runs."""

    task_may_choose: ClassVar[bool] = False

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not isinstance(value, str) or not 1 <= len(value) <= _STATEMENT_CAP:
            yield path, f"one SELECT of at most {_STATEMENT_CAP} characters", ascii(value)[:80]


_STATEMENT_CAP = 8000
_BOUND_NAME = re.compile("[a-z][a-z0-9_]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, measured and rounded up; `enclave_app` asks for so much, and tests hold it to that."""

    per_row: int
    per_feature: int = 0  #  of a row
    copies: int = 0  #       of the rows as they came
    engine: bool = False  #  and for each input what `memory_mebibytes` agrees on

    def __str__(self) -> str:
        """For people."""
        parts = [f"{self.per_row} bytes a row"]
        parts += [f"{self.per_feature} more for each feature"] if self.per_feature else []
        parts += ["its rows once more"] if self.copies == 1 else []
        parts += [f"its rows {self.copies} times more"] if self.copies > 1 else []
        parts += ["memory_mebibytes for each input"] if self.engine else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a policy may ask of one computation."""

    about: str  # what it computes, in one sentence
    outputs: frozenset[str]
    parameters: Mapping[str, Columns | Whole | Probabilities | Statement]
    says: str  # what its result still tells about persons when every rule holds
    fewest_subjects: int  # the least that `min_subjects_per_input` may demand
    optional: frozenset[str] = frozenset()
    fewest_inputs: int = 1
    # Parameters with names of the policy's own: single values that are bound to $name.
    binds: bool = False
    joins: bool = True  # its inputs may be joined before
    tell_size: frozenset[str] = frozenset()  # outputs that say how many rows there are
    # The enclave ends it after so many seconds; whoever starts it waits no longer.
    seconds: int = 3600
    # What it takes beside its rows. A task for which there is no room is refused when it is opened.
    memory: Memory | None = None
    # R15: more digits tell more, and only few of them are known better than by chance.
    most_digits: int = 6


DECLARED: Mapping[str, Declared] = MappingProxyType(
    {
        "logistic_regression": Declared(
            about="One model over the rows of all inputs together: how likely the label is, given "
            "the features.",
            outputs=frozenset({"model_weights"}),
            parameters={
                "features": Columns(_NUMBERS),
                "label": Columns(_LABELS, several=False),
                "max_iter": Whole(1, 100_000),
            },
            # A coefficient is an equation about the persons who have the feature. With fewer of
            # them than a model of a few features has equations, each could be solved for.
            fewest_subjects=10,
            memory=Memory(per_row=96, per_feature=48),
            says="how each feature goes with the label over all inputs together, to the agreed "
            "digits. Who knows every row but one can find out that one's label: only noise "
            "under a privacy budget would prevent it, and there is none",
        ),
        "private_set_intersection": Declared(
            about="Which keys, or how many, all inputs have in common.",
            outputs=frozenset({"intersection_size", "intersection_ids"}),
            parameters={"key": Columns(KEYS, several=False, subject=True, alike=True)},
            # Of two, each provider would know the other one's.
            fewest_subjects=3,
            # The intersection of one input is all of it.
            fewest_inputs=2,
            joins=False,
            memory=Memory(per_row=256, copies=2),
            says="how many keys all inputs have, or which. A provider chooses the keys that it "
            "asks about, as many as its max_rows",
        ),
        "sql": Declared(
            about="A table of groups of persons, by a SELECT whose text stands in the policy.",
            outputs=frozenset({"table"}),
            parameters={
                "statement": Statement(),
                "max_groups": Whole(1, 10_000),
                "memory_mebibytes": Whole(64, 4096),
                "seconds": Whole(1, 3600),
            },
            # One person's value must not be half of a sum, and two could each compute the other's.
            fewest_subjects=3,
            binds=True,
            memory=Memory(per_row=64, engine=True),
            tell_size=frozenset({"table"}),
            says="the agreed counts, sums and means of every group that holds enough persons of "
            "each input, and that other groups may exist. Totals of one table do not give hidden "
            "groups away; two tables, or two values of a parameter, can be subtracted. Who knows "
            "every row but one can compute that one",
        ),
        "summary_statistics": Declared(
            about="Mean, deviation and quantiles of each column over the rows of all inputs.",
            outputs=frozenset({"statistics", "counts"}),
            parameters={
                "columns": Columns(_NUMBERS, nullable=True),
                "quantiles": Probabilities(99),
            },
            optional=frozenset({"quantiles"}),
            tell_size=frozenset({"counts"}),
            memory=Memory(per_row=256, copies=1),
            # Mean and deviation are two equations: two values are solved by them.
            fewest_subjects=3,
            # A statistic of one input alone is about that provider's rows.
            fewest_inputs=2,
            says="mean, deviation and agreed quantiles of all inputs together, and with counts "
            "the exact number of rows. Who knows every row but one can compute that one",
        ),
    }
)


def computation_problems(
    path: str, computation: Computation, inputs: Sequence[Dataset]
) -> Iterator[Finding]:
    """What the computation does not support; `inputs` are the datasets without problems."""
    declared = DECLARED.get(computation.run)
    if declared is None:
        # R01, D10: a name is looked up in a closed table, never imported.
        close = get_close_matches(computation.run, DECLARED, n=1, cutoff=_NEAR)
        fix = _meant(computation.run, DECLARED)
        yield f"{path}.run", " or ".join(DECLARED), ascii(computation.run), fix
        if not close:
            return
        declared = DECLARED[close[0]]  # so that the other problems are said at once, too
    rule = computation.release
    for name in sorted(set(rule.outputs) - declared.outputs):
        wanted, fix = " or ".join(sorted(declared.outputs)), _meant(name, declared.outputs)
        yield f"{path}.release.outputs", wanted, ascii(name), fix
    if rule.significant_digits > declared.most_digits:
        digits = f"at most {declared.most_digits}"
        fix = f"write {declared.most_digits}: more digits tell more about single persons"
        yield f"{path}.release.significant_digits", digits, str(rule.significant_digits), fix
    if rule.min_subjects_per_input < declared.fewest_subjects:
        subjects = f"at least {declared.fewest_subjects}"
        fix = f"write {declared.fewest_subjects} or more: fewer persons cannot hide in the result"
        yield (
            f"{path}.release.min_subjects_per_input",
            subjects,
            str(rule.min_subjects_per_input),
            fix,
        )
    if len(computation.inputs) < declared.fewest_inputs:
        yield f"{path}.inputs", f"at least {declared.fewest_inputs}", str(len(computation.inputs))
    if computation.join is not None:
        key = Columns(KEYS, several=False, subject=True, alike=True)
        yield from key.problems(f"{path}.join.key", computation.join.key, inputs)
        yield from join_problems(
            path, computation, inputs, joins=declared.joins, telling=declared.tell_size
        )
    seen = seen_by(computation, inputs)
    yield from _parameters(f"{path}.parameters", computation.parameters, declared, seen)


def _meant(name: str, known: Collection[str]) -> str:
    """The nearest name that there is, or all of them; of many names none, as that takes long."""
    if len(known) > _FEW:
        return ""
    close = get_close_matches(name, known, n=1, cutoff=_NEAR)
    listed = ", ".join(ascii(other)[1:-1] for other in sorted(known))
    return f"did you mean {ascii(close[0])[1:-1]}?" if close else f"known here: {listed}"


def _parameters(
    path: str, parameters: Mapping[str, Parameter], declared: Declared, inputs: Sequence[Dataset]
) -> Iterator[Finding]:
    for name, given in parameters.items():
        if name in declared.parameters:
            continue
        if declared.binds:
            yield from _bindable(f"{path}.{name}", name, given)
        else:
            wanted = " or ".join(declared.parameters)
            yield f"{path}.{name}", wanted, "another parameter", _meant(name, declared.parameters)
    used: set[Value] = set()
    for name, kind in declared.parameters.items():
        parameter = parameters.get(name)
        if parameter is None:
            if name not in declared.optional:
                yield f"{path}.{name}", "a value", "nothing"
        elif not isinstance(parameter, Fixed) and not kind.task_may_choose:
            yield f"{path}.{name}", "a value that the policy fixes", "one that a task may choose"
        else:
            values = parameter.values()
            if isinstance(parameter, Range):
                values = (parameter.min, parameter.max)
            for value in values:
                yield from kind.problems(f"{path}.{name}", value, inputs)
            if isinstance(kind, Columns):
                names = {n for v in values for n in (v if isinstance(v, tuple) else (v,))}
                for twice in sorted(map(str, names & used)):
                    yield f"{path}.{name}", "a column with no other purpose", ascii(twice)
                used |= names


def _bindable(path: str, name: str, given: Parameter) -> Iterator[Finding]:
    """A value of a statement: one of one type, and never a part of its text."""
    if not _BOUND_NAME.fullmatch(name):
        yield path, "a name of a-z, 0-9 and _, first a letter", ascii(name)
    kinds = {type(value) for value in given.values()}
    if tuple in kinds:
        yield path, "a single value", "a list"
    elif len(kinds) > 1:
        yield path, "values of one type", "several types"


def bound(run: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The parameters of a task that have names of the policy's own."""
    return {n: v for n, v in values.items() if n not in DECLARED[run].parameters}


def columns_used(computation: Computation, inputs: Sequence[Dataset]) -> list[str]:
    """Columns of the inputs that are computed with, each once, in the order of the policy.

    Of a statement: those whose name stands in its text. It cannot use others: `*` is refused. Where
    inputs are joined, their key too.
    """
    found: dict[str, None] = {}
    for name, kind in DECLARED[computation.run].parameters.items():
        parameter = computation.parameters.get(name)
        for value in parameter.values() if parameter is not None else ():
            if isinstance(kind, Columns):
                found |= dict.fromkeys(map(str, value if isinstance(value, tuple) else (value,)))
            elif isinstance(kind, Statement):
                for dataset in inputs:
                    found |= dict.fromkeys(named_in(str(value), dataset.columns))
    if computation.join is not None:
        found.setdefault(computation.join.key)
    return [*found]


def named_in(statement: str, columns: Collection[str]) -> list[str]:
    """The columns whose name stands in a statement as a word, in either case."""
    text = statement.casefold()
    return [c for c in columns if re.search(rf"(?<!\w){re.escape(c.casefold())}(?!\w)", text)]
