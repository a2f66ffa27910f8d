"""What the enclave can compute, as data: which policies it accepts, and what results tell.

    DECLARED["logistic_regression"].most_digits
    list(computation_problems("computation[0]", computation, inputs))   # path, expected, found

`policy lint`, `sign` and `accept`, providers and the enclave all use these declarations, and refuse
the same policies before a row is sent. The code is in `enclave_app.computations`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from policy import rounds
from policy.domains import Finding
from policy.joins import join_problems, seen_by
from policy.parameter_kinds import (
    FEATURES,
    KEYS,
    LABELS,
    MEASURED,
    NEAR,
    NUMBERS,
    Columns,
    Part,
    Probabilities,
    Statement,
    Whole,
    meant,
)
from policy.parameters import Fixed, Parameter, Range, Value
from policy.sections import Computation, Dataset

_BOUND_NAME = re.compile("[a-z][a-z0-9_]{0,63}", re.ASCII)


Kind = Columns | Whole | Probabilities | Part | Statement | rounds.Kind


def _nothing_else(path: str, _: Computation, inputs: Sequence[Dataset]) -> Iterator[Finding]:
    yield from ()


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
    parameters: Mapping[str, Kind]
    says: str  # what its result still tells about persons when every rule holds
    fewest_subjects: int  # the least that `min_subjects_per_input` may demand
    optional: frozenset[str] = frozenset()
    fewest_inputs: int = 1
    # Parameters with names of the policy's own: single values that are bound to $name.
    binds: bool = False
    takes_rows: bool = True  # or updates of a model, in rounds: its rows stay with their owners
    # What its parameters say against each other.
    also: Callable[[str, Computation, Sequence[Dataset]], Iterator[Finding]] = _nothing_else
    joins: bool = True  # its inputs may be joined before
    tell_size: frozenset[str] = frozenset()  # outputs that say how many rows there are
    # The enclave ends it after so many seconds; whoever starts it waits no longer.
    seconds: int = 3600
    # What it takes beside its rows. A task for which there is no room is refused when it is opened.
    memory: Memory | None = None
    # R15: more digits tell more, and only few of them are known better than by chance.
    most_digits: int = 6


_TEST_SHARE = Part(0.05, 0.5)  # of the persons, whose rows a model is not trained on
DECLARED: Mapping[str, Declared] = MappingProxyType(
    {
        "boosted_trees": Declared(
            about="A sum of many small decision trees over the rows of all inputs together: how "
            "likely the label is, or how large. Each input needs ten persons for each leaf, that "
            "is, for trees times leaves.",
            outputs=frozenset({"model_weights", "metrics"}),
            parameters={
                "features": Columns(FEATURES, nullable=True, ranged=True),
                "label": Columns(NUMBERS, several=False),
                "predict": rounds.Word(("class", "number")),
                "trees": Whole(1, 500),
                "leaves": Whole(2, 32),
                "bins": Whole(2, 250),
                "learning_rate": Part(0.01, 1.0),
                "test_share": _TEST_SHARE,
            },
            optional=frozenset({"test_share"}),
            memory=Memory(per_row=160, per_feature=4, copies=1),
            fewest_subjects=10,
            # Each leaf is an equation, and there are many: few digits keep them from being solved.
            most_digits=4,
            says="of many groups, each of enough persons of every input, how the label is "
            "distributed, to the agreed digits. Groups of different trees overlap and can be "
            "subtracted. Who knows every row but one can find out that one's label",
        ),
        rounds.RUN: Declared(
            about="One model, trained in rounds by the owners of the inputs: each sends what its "
            "training changed, and no row.",
            outputs=frozenset({"model"}),
            parameters={
                "model": rounds.Word(rounds.MODELS),
                "features": Columns(NUMBERS),
                "label": Columns(NUMBERS, several=False),
                "tensors": rounds.Tensors(),
                "rounds": rounds.Count(1, 1000),
                "quorum": rounds.Count(2, rounds.MOST_PARTIES),
                "reason": rounds.Text(),
                "seconds": rounds.Count(1, 86_400),
                "aggregator": rounds.Word(rounds.AGGREGATORS),
                "mu": rounds.Number(0, 1e3),
                "trim": rounds.Count(1, rounds.MOST_PARTIES // 2),
                "clip_norm": rounds.Number(0, 1e6),
                "weights": rounds.Weights(),
                "epochs": rounds.Count(1, 1000),
                "learning_rate": rounds.Number(0, 10),
                "l2": rounds.Number(0, 10, least_too=True),
            },
            # Counted by each owner over its own rows, before it sends an update.
            fewest_subjects=10,
            says="to every owner, after each round, the joint model; and so, to an owner, how the "
            "others' updates moved it together. What single persons did to an update is hidden by "
            "no noise. The enclave sees no rows, so each owner alone counts its own persons, and "
            "its update may be made up: the norm to which updates are clipped bounds it, and "
            "trimmed_mean and median leave out what stands apart",
            optional=rounds.OPTIONAL,
            fewest_inputs=2,
            takes_rows=False,
            joins=False,
            also=rounds.problems,
        ),
        "k_means": Declared(
            about="Groups of similar rows: the mean of each.",
            outputs=frozenset({"model_weights", "counts"}),
            parameters={
                "features": Columns(MEASURED, ranged=True),
                "clusters": Whole(2, 50),
                "max_iter": Whole(1, 10_000),
            },
            tell_size=frozenset({"counts"}),
            memory=Memory(per_row=240, per_feature=112),
            fewest_subjects=10,
            says="the mean of each feature in every group that holds enough persons of each input, "
            "fewer groups than asked for where one was too small, and with counts how many "
            "persons each holds. Who knows every row but one can compute that one",
        ),
        "linear_regression": Declared(
            about="One model over the rows of all inputs together: the number that the label is, "
            "given the features, by ordinary least squares.",
            outputs=frozenset({"model_weights", "metrics", "counts"}),
            parameters={
                "features": Columns(FEATURES),
                "label": Columns(MEASURED, several=False),
                "test_share": _TEST_SHARE,
            },
            optional=frozenset({"test_share"}),
            tell_size=frozenset({"counts"}),
            memory=Memory(per_row=96, per_feature=48),
            fewest_subjects=10,
            says="how each feature goes with the label over all inputs together, to the agreed "
            "digits. Who knows every row but one can compute that one's label",
        ),
        "logistic_regression": Declared(
            about="One model over the rows of all inputs together: how likely the label is, given "
            "the features.",
            outputs=frozenset({"model_weights", "metrics"}),
            parameters={
                "features": Columns(FEATURES),
                "label": Columns(LABELS, several=False),
                "max_iter": Whole(1, 100_000),
                "test_share": _TEST_SHARE,
            },
            optional=frozenset({"test_share"}),
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
                "columns": Columns(NUMBERS, nullable=True),
                "quantiles": Probabilities(99),
            },
            optional=frozenset({"quantiles"}),
            tell_size=frozenset({"counts"}),
            memory=Memory(per_row=256, per_feature=96, copies=1),
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
        close = get_close_matches(computation.run, DECLARED, n=1, cutoff=NEAR)
        fix = meant(computation.run, DECLARED)
        yield f"{path}.run", " or ".join(DECLARED), ascii(computation.run), fix
        if not close:
            return
        declared = DECLARED[close[0]]  # so that the other problems are said at once, too
    rule = computation.release
    for name in sorted(set(rule.outputs) - declared.outputs):
        wanted, fix = " or ".join(sorted(declared.outputs)), meant(name, declared.outputs)
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
    if "metrics" in rule.outputs and "test_share" not in computation.parameters:
        # How well a model repeats the rows that it was made of says how well it remembers them.
        yield f"{path}.parameters.test_share", "a value, as metrics are released", "nothing"
    if computation.join is not None:
        key = Columns(KEYS, several=False, subject=True, alike=True)
        yield from key.problems(f"{path}.join.key", computation.join.key, inputs)
        yield from join_problems(
            path, computation, inputs, joins=declared.joins, telling=declared.tell_size
        )
    seen = seen_by(computation, inputs)
    yield from _parameters(f"{path}.parameters", computation.parameters, declared, seen)
    yield from declared.also(path, computation, inputs)


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
            yield f"{path}.{name}", wanted, "another parameter", meant(name, declared.parameters)
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
    if not found and not DECLARED[computation.run].takes_rows:  # an owner's program reads them all
        return [*dict.fromkeys(name for dataset in inputs for name in dataset.columns)]
    if computation.join is not None:
        found.setdefault(computation.join.key)
    return [*found]


def named_in(statement: str, columns: Collection[str]) -> list[str]:
    """The columns whose name stands in a statement as a word, in either case."""
    text = statement.casefold()
    return [c for c in columns if re.search(rf"(?<!\w){re.escape(c.casefold())}(?!\w)", text)]
