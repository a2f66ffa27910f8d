"""Federated rounds, as a policy fixes them: rows stay with their owners, and updates come in.

    series = Series.of(computation)
    series.size, series.quorum, series.weights       # numbers of a model, parties, one per input

An update is what a party's training changed: one float32 for each number of the model. Nothing that
decides about it comes from the party: neither its weight, nor how far it may move the model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from policy.errors import TicketScopeError
from policy.parameters import Fixed, Value
from policy.sections import Column, Computation, Dataset
from policy.values import Digest

RUN = "federated"
MOST_NUMBERS = 2_000_000  # of one model: written out as text, they are as long as a result may be
MOST_PARTIES = 32  # each may wait for the others on a call of its own
MODELS = ("logistic", "linear", "vector")
AGGREGATORS = ("fedavg", "fedprox", "trimmed_mean", "median")
_LINEAR = ("features", "label", "epochs", "learning_rate")  # that a model of rows needs
OPTIONAL = frozenset({*_LINEAR, "l2", "tensors", "reason", "mu", "trim"})

Finding = tuple[str, str, str] | tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a closed list."""

    task_may_choose: ClassVar[bool] = False
    words: tuple[str, ...]

    @property
    def said(self) -> str:
        return "one of " + ", ".join(self.words)

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if value not in self.words:
            yield path, " or ".join(self.words), ascii(value)[:80]


@dataclass(frozen=True, slots=True)
class Number:
    """A number within limits; the lower one is included only where `least_too`."""

    task_may_choose: ClassVar[bool] = False
    least: float
    most: float
    least_too: bool = False

    @property
    def said(self) -> str:
        low = f"from {self.least:g}" if self.least_too else f"above {self.least:g}"
        return f"a number {low} to {self.most:,g}"

    def allows(self, value: object) -> bool:
        """NaN is not between anything."""
        return (
            type(value) in (int, float)
            and self.least <= value <= self.most  # type: ignore[operator]
            and (self.least_too or value != self.least)
        )

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not self.allows(value):
            yield path, self.said, ascii(value)[:80]


@dataclass(frozen=True, slots=True)
class Count:
    """An integer within limits. Always fixed."""

    task_may_choose: ClassVar[bool] = False
    least: int
    most: int

    @property
    def said(self) -> str:
        return f"an integer from {self.least:,} to {self.most:,}"

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if type(value) is not int or not self.least <= value <= self.most:
            yield path, self.said, ascii(value)[:80]


_WEIGHT = Number(0, 1e6)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each party counts: equal, or agreed. No party says it of itself."""

    task_may_choose: ClassVar[bool] = False
    said: ClassVar[str] = '"equal", or one number above 0 for each input'

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if value != "equal" and not (isinstance(value, tuple) and all(map(_WEIGHT.allows, value))):
            yield path, self.said, ascii(value)[:80]


_TENSOR = re.compile(r"[a-z][a-z0-9_.]{0,63} [1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,7}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tensors:
    """The parts of a model, each with its shape, in the order in which they travel."""

    task_may_choose: ClassVar[bool] = False
    said: ClassVar[str] = f'names with shapes, as "layer.weight 64x30"; {MOST_NUMBERS:,} numbers'

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        texts = value if isinstance(value, tuple) else (value,)
        if not isinstance(value, tuple) or not all(
            isinstance(text, str) and _TENSOR.fullmatch(text) for text in texts
        ):
            yield path, 'a list of names with shapes, as "layer.weight 64x30"', ascii(value)[:80]
            return
        tensors = [Tensor.parse(text) for text in texts]
        if len({tensor.name for tensor in tensors}) < len(tensors):
            yield path, "each name once", "one twice"
        if (size := sum(tensor.size for tensor in tensors)) > MOST_NUMBERS:
            yield path, f"at most {MOST_NUMBERS:,} numbers in all", f"{size:,}"


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence that all parties sign."""

    task_may_choose: ClassVar[bool] = False
    said: ClassVar[str] = "a sentence of 10 to 500 characters"

    def problems(self, path: str, value: Value, inputs: Sequence[Dataset]) -> Iterator[Finding]:
        if not isinstance(value, str) or not 10 <= len(value.strip()) <= 500:
            yield path, self.said, ascii(value)[:80]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named part of a model."""

    name: str
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Tensor:
        """Of a text that `Tensors` has checked."""
        name, shape = text.split(" ")
        return cls(name, tuple(map(int, shape.split("x"))))

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Kind = Word | Number | Count | Weights | Tensors | Text


def problems(path: str, computation: Computation, inputs: Sequence[Dataset]) -> Iterator[Finding]:
    """What its parameters say against each other, and about the inputs."""
    given = _fixed(computation)
    model, aggregator = given.get("model"), given.get("aggregator")
    path = f"{path}.parameters"
    if model in MODELS:
        needed = ("tensors",) if model == "vector" else _LINEAR
        other = (*_LINEAR, "l2") if model == "vector" else ("tensors",)
        yield from _needed(path, given, needed, f'model = "{model}"')
        yield from _stray(path, given, other, f'model = "{model}"')
    for name, user in (("mu", "fedprox"), ("trim", "trimmed_mean")):
        if aggregator in AGGREGATORS:
            check = _needed if aggregator == user else _stray
            yield from check(path, given, (name,), f'aggregator = "{aggregator}"')
    if model in ("logistic", "linear"):
        yield from _scaled(path, given, inputs)
    yield from _parties(path, given, computation, inputs)
    if computation.release.reasons is not None:
        fix = "remove it: no row comes in that a rule could refuse"
        yield path.replace("parameters", "release.reasons"), "nothing, of rounds", "a value", fix


def _fixed(computation: Computation) -> dict[str, Value]:
    return {n: p.value for n, p in computation.parameters.items() if isinstance(p, Fixed)}


def _needed(
    path: str, given: Mapping[str, Value], names: Sequence[str], why: str
) -> Iterator[Finding]:
    for name in names:
        if name not in given:
            yield f"{path}.{name}", f"a value, for {why}", "nothing"


def _stray(
    path: str, given: Mapping[str, Value], names: Sequence[str], why: str
) -> Iterator[Finding]:
    for name in names:
        if name in given:
            yield f"{path}.{name}", f"nothing, with {why}", "a value", "remove it: nothing reads it"


def _parties(
    path: str, given: Mapping[str, Value], computation: Computation, inputs: Sequence[Dataset]
) -> Iterator[Finding]:
    """Who takes part, and how few of them may make a round."""
    count, quorum, trim = len(computation.inputs), given.get("quorum"), given.get("trim")
    if count > MOST_PARTIES:
        yield path.replace("parameters", "inputs"), f"at most {MOST_PARTIES}", str(count)
    if len({dataset.owner for dataset in inputs}) < len(inputs):
        fix = "leave one input of each owner: a party with two would count twice"
        yield path.replace("parameters", "inputs"), "each of another owner", "two of one", fix
    weights = given.get("weights")
    if isinstance(weights, tuple) and len(weights) != count:
        yield f"{path}.weights", f"{count} numbers, one for each input", str(len(weights))
    if isinstance(weights, tuple) and given.get("aggregator") in ("trimmed_mean", "median"):
        yield f"{path}.weights", '"equal", for an aggregator by ranks', "numbers"
    if type(quorum) is not int:
        return
    if quorum > count:
        yield f"{path}.quorum", f"at most the {count} parties", str(quorum)
    # Of two, each subtracts its own update from the model, and has the other one's.
    if quorum == 2 and "reason" not in given:
        fix = "write 3, or say in `reason` why two may see each other's updates"
        yield f"{path}.quorum", "at least 3, or a reason beside it", "2", fix
    if quorum > 2 and "reason" in given:
        yield f"{path}.reason", "nothing, with a quorum of 3 or more", "a value", "remove it"
    if type(trim) is int and 2 * trim >= quorum:
        yield f"{path}.trim", f"less than half of the quorum of {quorum}", str(trim)


def _scaled(path: str, given: Mapping[str, Value], inputs: Sequence[Dataset]) -> Iterator[Finding]:
    """Rows are scaled by their agreed domain: all parties alike, and nobody's rows say how."""
    names, label = given.get("features"), given.get("label")
    wanted = [("features", str(n)) for n in names] if isinstance(names, tuple) else []
    wanted += [("label", label)] if isinstance(label, str) else []
    for place, name in wanted:
        columns = [d.columns[name] for d in inputs if name in d.columns]
        domains = {_domain(column) for column in columns}
        if None in domains:
            fix = f"agree on it: {name} = {{ type = …, min = …, max = … }}"
            yield f"{path}.{place}", "columns with a domain, min below max", ascii(name)[:80], fix
        elif len(domains) > 1:
            yield f"{path}.{place}", "a column of one domain in all inputs", ascii(name)[:80]
        elif (place, given.get("model")) == ("label", "logistic") and domains - {(0.0, 1.0)}:
            fix = "agree on the label as bool, or as an integer with min = 0, max = 1"
            yield f"{path}.{place}", "a label of 0 and 1", ascii(name)[:80], fix
        elif (place, given.get("model")) == ("label", "logistic") and any(
            column.type.startswith("float") for column in columns
        ):
            yield f"{path}.{place}", "a label of type bool, int32 or int64", ascii(name)[:80]


def _domain(column: Column) -> tuple[float, float] | None:
    """Least and greatest value; None where it is not agreed, or is one value."""
    if column.type == "bool":
        return 0.0, 1.0
    try:
        low, high = float(column.min), float(column.max)
    except (TypeError, ValueError, OverflowError):
        return None
    return (low, high) if low < high else None


@dataclass(frozen=True)
class Series:
    """The rounds of one computation, with every value that the policy fixes."""

    computation: str
    inputs: tuple[str, ...]  #   datasets, in the policy's order: that of every sum
    model: str
    tensors: tuple[Tensor, ...]
    rounds: int
    quorum: int
    seconds: int  #              a round lasts at most
    aggregator: str
    clip_norm: float
    weights: tuple[float, ...]  # one for each input
    digits: int
    trim: int = 0
    mu: float = 0.0
    features: tuple[str, ...] = ()
    label: str = ""
    epochs: int = 0
    learning_rate: float = 0.0
    l2: float = 0.0

    @classmethod
    def of(cls, computation: Computation) -> Series:
        """Of a computation without problems whose `run` is `federated`."""
        given: dict[str, object] = {**_fixed(computation)}
        given.pop("reason", None)
        texts = given.pop("tensors", ())
        assert isinstance(texts, tuple)
        tensors = tuple(map(Tensor.parse, texts))
        if given["model"] != "vector":
            features = given["features"]
            assert isinstance(features, tuple)
            tensors = (Tensor("coefficients", (len(features),)), Tensor("intercept", (1,)))
        if given["weights"] == "equal":
            given["weights"] = (1.0,) * len(computation.inputs)
        return cls(
            computation=computation.id,
            inputs=computation.inputs,
            tensors=tensors,
            digits=computation.release.significant_digits,
            **given,  # type: ignore[arg-type]
        )

    @cached_property
    def size(self) -> int:
        """Numbers of the model."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def shape_digest(self) -> Digest:
        """What a model's numbers mean; sealed into every part of one."""
        named = [[tensor.name, list(tensor.shape)] for tensor in self.tensors]
        text = json.dumps([RUN, self.model, named], separators=(",", ":"))
        return Digest(hashlib.sha256(text.encode()).digest())

    def scales(self, dataset: Dataset) -> list[tuple[float, float]]:
        """Middle and half width of the domain of each feature: scaled, it is from -1 to 1."""
        found = []
        for name in self.features:
            low, high = self.domain(dataset, name)
            found.append(((low + high) / 2, (high - low) / 2))
        return found

    def domain(self, dataset: Dataset, name: str) -> tuple[float, float]:
        """Least and greatest value of a column."""
        domain = _domain(dataset.columns[name])
        assert domain is not None  # `problems` refuses others
        return domain


SALT_SIZE = 32  # of a series: in every digest of its models, so that none can be guessed


def model_digest(series: Series, salt: bytes, numbers: bytes | memoryview) -> Digest:
    """What receipts name a model by: SHA-256 over salt, shape digest, float32 little-endian."""
    digest = hashlib.sha256(salt + series.shape_digest)
    digest.update(numbers)
    return Digest(digest.digest())


def series_text(computation: Computation) -> str:
    """For people: what a party's updates are used for, in one sentence."""
    series = Series.of(computation)
    least = f"{series.quorum} of {len(series.inputs)} parties"
    return (
        f"{computation.id} runs at most {series.rounds} rounds of at most {series.seconds:,} s; "
        f"each needs updates of {least}, of at most norm {series.clip_norm:g}, and joins them by "
        f"{series.aggregator}. No row of its inputs is sent: each owner trains at home, and after "
        "each round every owner receives the joint model. Where all other parties of a round "
        f"({series.quorum - 1} or more) act together, they have the last one's update."
    )


def rests_on(computation: Computation, named: tuple[str, ...]) -> bool:
    """Can a result of this computation rest on exactly these inputs? Of rounds, on those of the
    last one."""
    if computation.run != RUN:
        return named == computation.inputs
    known = tuple(i for i in computation.inputs if i in named)
    return named == known and len(named) >= Series.of(computation).quorum


class RowsNotAsked(TicketScopeError):
    """The computation takes updates of a model; its rows stay where they are."""

    code = "rows-not-asked"
    default_fix = "take part in its rounds with `ratls provider train`"
    says = "{thing} takes no rows: they stay with their owners"


class RoundsNotAgreed(TicketScopeError):
    """The computation takes rows; the policy agrees on no rounds for it."""

    code = "rounds-not-agreed"
    default_fix = "release its rows with `ratls provider push`"
    says = "{thing} has no rounds: it takes rows"


def require_rows(computation: Computation) -> None:
    """Raises: RowsNotAsked."""
    if computation.run == RUN:
        raise RowsNotAsked(f"computation {computation.id}", expected="updates", found="rows")


def require_rounds(computation: Computation) -> Series:
    """The rounds of a computation. Raises: RoundsNotAgreed."""
    if computation.run != RUN:
        raise RoundsNotAgreed(f"computation {computation.id}", expected="rows", found="an update")
    return Series.of(computation)
