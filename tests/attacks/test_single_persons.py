"""One person is never the answer: what a recipient solves for out of a single agreed model.

k = 100, rows of hundreds of persons in each of two inputs. A trained model is one exact equation
for each feature: where a feature, or a sum of features, stands out for one person alone, that
equation is this person's label, and what is left of it the row. Held against the rows of an
input, k says nothing about it (R05, R06, R09, R18; claim S24).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from enclave_app.computations import COMPUTATIONS
from enclave_app.computations.groups import ColumnConstant, ValueTooRare
from enclave_app.computations.logistic_regression import C, ClassTooSmall, _standardised, fit
from enclave_app.errors import ReleaseDeniedError
from enclave_app.gate import Input, SubjectDominates, require_groups
from policy.document import PolicyInvalid
from ratls.client_stream import Result
from tests.enclave_app.agreed import Agreed, gated
from tests.enclave_app.test_gate import Rule
from tests.support.enclave import EnclaveWorld, NoResult
from tests.support.enclave import rows as rows_of_the_consortium
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

RUN, K, SEEDS = "logistic_regression", 100, 20
FEATURES = ["age", "marker", "extra"]
Column = npt.NDArray[Any]


def rows(seed: int = 1, *, count: int = 600, **columns: Any) -> pa.Table:
    """One person each; half of them are ill. `columns` replace or add some."""
    rng = np.random.default_rng(seed)
    age, marker = rng.integers(20, 91, count), np.round(rng.normal(0, 1, count), 1)
    made: dict[str, Any] = {
        "patient": [f"{seed}-{i}" for i in range(count)],
        "age": age,
        "marker": marker,
        "extra": rng.normal(0, 1, count),
        "y": (age / 25 + marker + rng.normal(0, 1, count) > 2.2).astype(np.int64),
    }
    return pa.table(made | columns)


def model(*tables: pa.Table, features: list[str] | None = None, k: int = K) -> dict[str, Any]:
    """What the recipient gets, to six digits."""
    parameters = {"features": features or FEATURES, "label": "y", "max_iter": 5000}
    weights = gated(RUN, tables, parameters, Rule(min_subjects_per_input=k))["model_weights"]
    return six_digits(weights)


def six_digits(weights: dict[str, Any]) -> dict[str, Any]:
    short = [float(f"{number:.6g}") for number in weights["coefficients"]]
    return {"coefficients": short, "intercept": float(f"{weights['intercept']:.6g}")}


# The seen case: one person alone stands out in a feature.


def stands_out(kind: str, seed: int, count: int, who: Column) -> Column:
    """A feature in which these rows, and no others, have another value than is usual."""
    rng = np.random.default_rng([seed, 7])
    if kind == "boolean":
        return np.isin(np.arange(count), who)
    few = kind == "few values"
    usual = rng.integers(0, 2, count).astype(float) if few else rng.normal(0, 1, count)
    usual[who] = 4 if few else rng.normal(1000, 1, len(who))
    return usual


def solved_label(weights: dict[str, Any]) -> int:
    """C times the sum over all persons of (label - prediction) · value is the coefficient. Where
    the value is one person's, its sign is the label."""
    return int(weights["coefficients"][2] > 0)


def solved_row(weights: dict[str, Any], label: int, persons: int) -> tuple[int, float] | None:
    """Age and marker of the only carrier: what is left of the equation is its prediction, and of
    all rows that there can be, one has it."""
    deviation = np.sqrt((1 / persons) * (1 - 1 / persons))
    chance = label - weights["coefficients"][2] * deviation**2 / C
    if not 0 < chance < 1:
        return None
    ages, markers = np.meshgrid(np.arange(20, 91), np.arange(-40, 41) / 10, indexing="ij")
    a, m, extra = weights["coefficients"]
    scores = a * ages + m * markers + extra + weights["intercept"]
    best = np.abs(scores - np.log(chance / (1 - chance))).argmin()
    return int(ages.flat[best]), float(markers.flat[best])


def row(table: pa.Table, number: int) -> list[Any]:
    return [table[name][number].as_py() for name in FEATURES]


def predicted(weights: dict[str, Any], values: list[Any]) -> int:
    """The released model's own answer about somebody."""
    return int(float(np.dot(weights["coefficients"], values)) + weights["intercept"] > 0)


def with_label(table: pa.Table, number: int, label: int) -> pa.Table:
    labels = table["y"].to_numpy().copy()
    labels[number] = label
    return table.set_column(table.column_names.index("y"), "y", pa.array(labels))


def attacked(kind: str, crowd: int) -> dict[str, int]:
    """Over twenty seeds: what the recipient finds out about one of `crowd` persons of the first
    input who stand out, or `refused`."""
    found = dict.fromkeys(["refused", "label", "row", "depends", "predicted"], 0)
    for seed in range(SEEDS):
        target = int(np.random.default_rng([seed, 9]).integers(600))
        who, others = (target + np.arange(crowd)) % 600, np.arange(0, 600, 2)
        one = rows(seed, extra=stands_out(kind, seed, 600, who))
        elsewhere = stands_out(kind, seed + 50, 600, others if kind != "continuous" else who[:0])
        two = rows(seed + 100, extra=elsewhere)
        label = one["y"][target].as_py()
        try:
            weights = model(one, two)
            other = model(with_label(one, target, 1 - label), two)
        except ReleaseDeniedError:
            found["refused"] += 1
            continue
        found["label"] += solved_label(weights) == label
        found["depends"] += solved_label(weights) != solved_label(other)
        found["row"] += solved_row(weights, label, 1200) == tuple(row(one, target)[:2])
        found["predicted"] += predicted(weights, row(one, target)) == label
    return found


@pytest.mark.parametrize("kind", ["boolean", "few values"])
def test_only_person_with_a_value(kind: str) -> None:
    """Before: the label of 20 in 20, the row of 19 in 20. Now nothing leaves about one person;
    and where half of the rows have the value, the equation is about all of these."""
    count_refusal()
    assert attacked(kind, 1)["refused"] == SEEDS
    assert attacked(kind, K - 1)["refused"] == SEEDS
    found = attacked(kind, 300)
    assert found["refused"] == 0
    assert found["label"] <= found["predicted"]
    assert found["depends"] <= 1
    assert found["row"] == 0


@pytest.mark.parametrize("crowd", [1, 2, 10])
def test_person_far_out_in_a_continuous_feature(crowd: int) -> None:
    """A dose of 1000 where others have one is a yes-or-no feature under another name, and before
    gave the label of 20 in 20. It leaves, pulled in to where many are: nobody stands out."""
    found = attacked("continuous", crowd)
    assert found["refused"] == 0
    assert found["label"] <= found["predicted"]
    assert found["depends"] <= 1
    assert found["row"] == 0


def test_person_of_whom_all_others_are_known() -> None:
    """What remains, as decision 0006 says: six digits tell two labels of one person apart to
    somebody who can train on every other row. Should this ever fail, mend the page too."""
    one, two = rows(1), rows(2)
    inputs = [[Input(with_label(one, 5, y), "patient"), Input(two, "patient")] for y in (0, 1)]
    models = [fit(i, features=FEATURES, label="y", max_iter=5000, k=K) for i in inputs]
    assert model(one, two) == six_digits(models[one["y"][5].as_py()])
    assert six_digits(models[0]) != six_digits(models[1])


# The kind: every group that a model is about, and every way to write one.


def flag(*carriers: int, count: int = 600) -> Column:
    return np.isin(np.arange(count), carriers)


HALF, EVEN = flag(*range(300)), flag(*range(0, 600, 2))
NOISE = np.random.default_rng(3).normal(0, 1, 600)
THIRDS, SIXTHS = np.arange(600) % 3, np.arange(600) // 3 % 2
ILL = rows()["y"].to_numpy() == 1
# What stands in the columns `extra` and `more`, the refusal, and the twin that is released.
GROUPS: dict[str, tuple[dict[str, Any], type[ReleaseDeniedError], dict[str, Any]]] = {
    "one no among yes": ({"extra": ~flag(7)}, ValueTooRare, {"extra": ~HALF}),
    "99 of 600": ({"extra": flag(*range(99))}, ValueTooRare, {"extra": HALF}),
    "0 and 1": ({"extra": 1 * flag(7)}, ValueTooRare, {"extra": 1 * HALF}),
    "0.0 and 1.0": ({"extra": flag(7) * 1.0}, ValueTooRare, {"extra": HALF * 1.0}),
    "-0.0 is 0.0": (
        {"extra": np.where(flag(*range(99)), -0.0, flag(500) * 1.0)},
        ValueTooRare,
        {"extra": np.where(flag(*range(99)), -0.0, ~HALF * 1.0)},
    ),
    "one value": ({"extra": flag()}, ColumnConstant, {"extra": HALF}),
    "a rare middle": (
        {"extra": np.where(flag(7), 1, 2 * HALF)}, ValueTooRare, {"extra": THIRDS},
    ),
    "counts, mostly 0": (
        {"extra": np.where(np.arange(600) < 60, np.arange(600), 0)},
        ValueTooRare,
        {"extra": np.where(np.arange(600) < 160, np.arange(600), 0)},
    ),
    "ill in one cell": (
        {"extra": HALF & (~ILL | flag(*np.flatnonzero(ILL)[:1]))}, ValueTooRare, {"extra": HALF},
    ),
    "two that differ in one row": (
        {"extra": HALF, "more": HALF ^ flag(7)}, ValueTooRare, {"extra": HALF, "more": EVEN},
    ),
    "two that agree in one row": (
        {"extra": HALF, "more": ~HALF ^ flag(7)}, ValueTooRare, {"extra": HALF, "more": ~HALF},
    ),
    "one in neither of two halves": (
        {"extra": HALF & ~flag(7), "more": ~HALF}, ValueTooRare, {"extra": HALF, "more": ~HALF},
    ),
    "categories and one without": (
        {"extra": (THIRDS == 0) & ~flag(6), "more": THIRDS == 1, "third": THIRDS == 2, "y": SIXTHS},
        ValueTooRare,
        {"extra": THIRDS == 0, "more": THIRDS == 1, "third": THIRDS == 2, "y": SIXTHS},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("first", [True, False])
def test_group_smaller_than_agreed(name: str, first: bool) -> None:
    """In each input: with the other one's rows subtracted, these alone remain."""
    columns, leaf, twin = GROUPS[name]
    features = ["age", "marker", *(name for name in columns if name != "y")]
    honest = rows(1, **twin)
    with refused(leaf):
        model(*(rows(1, **columns), honest)[:: 1 if first else -1], features=features)
    assert len(model(honest, honest, features=features)["coefficients"]) == len(features)


def test_tenth_value_is_rare() -> None:
    """Stages from 0 to 9, the last of them one patient's; with one more they are a measurement."""
    stage = np.arange(1200) % 9
    with refused(ValueTooRare):
        model(rows(1, count=1200, extra=np.where(np.arange(1200) < 99, 9, stage)), rows(2))
    model(rows(1, count=1200, extra=np.where(np.arange(1200) < 100, 9, stage)), rows(2))


@pytest.mark.parametrize(("crowd", "more"), [(1, 0), (9, 0), (9, 16)])
def test_provider_brings_rows_that_are_as_far_out(crowd: int, more: int) -> None:
    """Bob's few large doses would be pulled in; Alice makes up a hundred like them, and has the
    recipient subtract what is hers. Many features make it no better."""
    rng = np.random.default_rng(4)
    others = {f"m{i}": rng.normal(0, 1, 600) for i in range(more)}
    features = [*FEATURES, *others]
    quiet = rows(1, extra=NOISE, **others)
    made_up = rows(2, extra=NOISE + 1000 * flag(*range(100)), **others)
    alone = rows(1, extra=NOISE + 1000 * flag(*range(crowd)), **others)
    for tables in ((alone, made_up), (made_up, alone)):
        with refused(SubjectDominates):
            model(*tables, features=features)
    model(quiet, made_up, features=features)


@pytest.mark.parametrize("size", [1.0, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_difference_of_two_features_that_is_one_person(size: float, offset: float) -> None:
    """Each varies over everybody; the one less the other is a yes-or-no feature of one person."""
    features, other = ["extra", "more"], rows(2, extra=offset + NOISE, more=offset + NOISE)
    alone = rows(1, extra=offset + NOISE, more=offset + NOISE + size * flag(7))
    with refused(SubjectDominates):
        model(alone, other, features=features)
    everybody = rows(1, extra=offset + NOISE, more=offset + NOISE + size * np.roll(NOISE, 1))
    model(everybody, other, features=features)


def test_nine_persons_who_are_a_difference() -> None:
    """Who adds and subtracts equations has one about nine persons, eleven, or a hundred rows."""
    middle = np.argsort(np.abs(NOISE))  # far from the ends, where features are pulled in
    features, other = ["extra", "more"], rows(2, extra=NOISE, more=NOISE)
    with refused(SubjectDominates):
        model(rows(1, extra=NOISE, more=NOISE + flag(*middle[:9])), other, features=features)
    model(rows(1, extra=NOISE, more=NOISE + flag(*middle[:12])), other, features=features)


def test_more_features_than_half_of_the_persons() -> None:
    """As many equations as rows are the rows."""
    rng = np.random.default_rng(8)
    made = {f"m{i}": rng.normal(0, 1, 120) for i in range(70)}
    with refused(SubjectDominates):
        model(rows(1, count=120, **made), rows(2, count=120, **made), features=[*made], k=20)
    model(rows(1, count=120, **made), rows(2, count=120, **made), features=[*made][:20], k=20)


def _flags(number: int) -> dict[str, Column]:
    """Yes or no, each independent of the others and of everything: 1200 rows."""
    rng = np.random.default_rng(5)
    return {f"flag{i}": rng.permutation(np.arange(1200) % 2 == 1) for i in range(number)}


def test_pair_that_differs_in_few_rows_among_other_features() -> None:
    """Fifty who have the one and not the other, alike in all else: no rows are as frequent."""
    flags, few = _flags(6), np.arange(1200) < 50
    for name in flags:
        flags[name] = np.where(few, name == "flag0", flags[name])
    other = rows(2, count=1200, **_flags(6), pair=_flags(6)["flag0"])
    with refused(ValueTooRare):
        pair = flags["flag0"] & ~few
        model(rows(1, count=1200, **flags, pair=pair), other, features=[*flags, "pair"])
    model(rows(1, count=1200, **flags, pair=flags["flag0"]), other, features=[*flags, "pair"])


@pytest.mark.parametrize(("persons", "flags"), [(1, 0), (99, 0), (5, 9)])
def test_few_in_no_category(persons: int, flags: int) -> None:
    """Three categories, each a feature: their sum is one but for these. With nine flags more, in
    which they are alike, no other rows are as frequent as theirs."""
    few = np.arange(1200) < persons
    thirds = {f"category{i}": np.arange(1200) % 3 == i for i in range(3)}
    alike = {name: column & ~few for name, column in _flags(flags).items()}
    other, features = rows(2, count=1200, **thirds, **_flags(flags)), [*thirds, *alike]
    with refused(ValueTooRare):
        without = {name: column & ~few for name, column in thirds.items()}
        model(rows(1, count=1200, **without, **alike), other, features=features)
    model(rows(1, count=1200, **thirds, **alike), other, features=features)


@pytest.mark.parametrize("sign", [-1, 1])
def test_far_out_in_many_rows(sign: int) -> None:
    """R06: many rows of one person are no company at the end of a feature; he is pulled in."""
    main = np.arange(600) < 80
    people = ["main" if at else f"p{i}" for i, at in enumerate(main)]
    far = rows(1, patient=people, extra=np.where(main, sign * (1000 + NOISE), NOISE))
    inputs = [Input(far, "patient"), Input(rows(2), "patient")]
    matrix, _, _ = _standardised(inputs, ["extra"], K)
    assert np.abs(matrix).max() < 3


@pytest.mark.parametrize("visits", [4, 300])
def test_few_persons_in_many_rows(visits: int) -> None:
    """R06: three hundred rows with the value, and 75 persons, or one."""
    people = [f"p{i // visits}" if i < 300 else f"q{i}" for i in range(600)]
    with refused(ValueTooRare):
        model(rows(1, patient=people, extra=HALF), rows(2, extra=EVEN))
    model(rows(1, extra=HALF), rows(2, extra=EVEN))


def test_one_person_has_most_rows() -> None:
    """A model of Alice's patients, nine of ten rows of which are one patient's visits."""
    people = ["main" if i % 10 else f"p{i}" for i in range(4000)]
    with refused(SubjectDominates):
        model(rows(1, count=4000, patient=people), rows(2))
    with refused(SubjectDominates):  # in nothing out of the ordinary but their number
        usual = {
            n: np.where(np.arange(4000) % 10, v, rows(1, count=4000)[n].to_numpy())
            for n, v in (("age", 55), ("marker", 0.0), ("extra", 0.0))
        }
        model(rows(1, count=4000, patient=people, **usual), rows(2))
    people = ["main" if i % 20 == 0 else f"p{i}" for i in range(4000)]
    model(rows(1, count=4000, patient=people), rows(2))


ill_in: Callable[[int], Column] = lambda members: (np.arange(600) < members).astype(np.int64)  # noqa: E731


@pytest.mark.parametrize("members", [0, 1, 99])
@pytest.mark.parametrize("first", [True, False])
def test_class_of_the_label_with_few_members(members: int, first: bool) -> None:
    """The only patient who is ill: `classes` says that there is one, the weights who it is. With
    none, everybody of this input is known to be well."""
    few, many = rows(1, y=ill_in(members)), rows(2, y=ill_in(300))
    with refused(ClassTooSmall):
        model(*(few, many)[:: 1 if first else -1])
    model(rows(1, y=ill_in(100)), many)


def test_class_that_has_enough_members_only_jointly() -> None:
    """R06: sixty and sixty are above a hundred, until the one sixty are subtracted."""
    with refused(ClassTooSmall):
        model(rows(1, y=ill_in(60)), rows(2, y=ill_in(60)))
    model(rows(1, y=ill_in(100)), rows(2, y=ill_in(100)))


def test_task_that_chooses_features() -> None:
    """R07: one use per feature, each true for one person more than the last."""
    fixed = 'features = ["age", "bmi"], label = "y", max_iter = 200'
    Agreed.on(RUN, fixed, ["model_weights"], minimum=K)
    for old, new in (
        ('["age", "bmi"]', '{ choose = [["age"], ["age", "bmi"]] }'),
        ('"y"', '{ choose = ["y", "age"] }'),
    ):
        with refused(PolicyInvalid):
            Agreed.on(RUN, fixed.replace(old, new), ["model_weights"], minimum=K)


def test_mean_and_deviation_about_the_few_who_are_not_zero() -> None:
    """The same rule for statistics: four costs among hundreds of zeros are the whole column."""

    def described(column: Column) -> Any:
        tables = [rows(1, extra=column), rows(2)]
        return gated("summary_statistics", tables, {"columns": ["extra"]}, rule)["statistics"]

    rule = Rule(outputs=("statistics",), min_subjects_per_input=K)
    with refused(ValueTooRare):
        described(np.where(np.arange(600) < 99, np.arange(600) % 50, 0.0))
    assert described(np.where(np.arange(600) < 110, np.arange(600) % 50 + 1, 0.0))


# A result that passes holds k persons in each group, counted another way: by Python's own sets.


def _of_model(table: pa.Table, other: pa.Table) -> Iterator[tuple[str, str]]:
    for line in table.to_pylist():
        yield f"label {line['y']}", line["patient"]
        for name in ("one", "two"):
            yield f"{name} {line[name]}", line["patient"]
            if len(set(table[name].to_pylist())) == 2:
                yield f"{name} {line[name]} and label {line['y']}", line["patient"]


def _of_statistics(table: pa.Table, other: pa.Table) -> Iterator[tuple[str, str]]:
    for line in table.to_pylist():
        yield f"one {line['one']}", line["patient"]


def _of_intersection(table: pa.Table, other: pa.Table) -> Iterator[tuple[str, str]]:
    keys = set(other["key"].to_pylist())
    for line in table.to_pylist():
        if line["key"] in keys:
            yield "shared", line["patient"]


def _random_table(rng: np.random.Generator, rare: bool) -> pa.Table:
    count = int(rng.integers(100, 200))
    few = [0.3, 0.3, 0.38, 0.02] if rare else [0.3, 0.3, 0.3, 0.1]
    return pa.table(
        {
            "patient": [f"p{i}" for i in rng.integers(0, 300, count)],
            "one": rng.random(count) < rng.choice([0.02, 0.3, 0.5]),
            "two": rng.choice(4, count, p=few).astype(np.float64),
            "y": (rng.random(count) < rng.choice([0.02, 0.3, 0.5])).astype(np.int64),
            "key": rng.integers(0, rng.choice([200, 5000]), count),
        }
    )


@pytest.mark.parametrize(
    ("run", "parameters", "outputs", "groups"),
    [
        (RUN, {"features": ["one", "two"], "label": "y"}, ["model_weights"], _of_model),
        ("summary_statistics", {"columns": ["one"]}, ["statistics", "counts"], _of_statistics),
        ("private_set_intersection", {"key": "key"}, ["intersection_ids"], _of_intersection),
    ],
)
def test_no_result_passes_with_a_group_below_k(
    run: str,
    parameters: dict[str, Any],
    outputs: list[str],
    groups: Callable[[pa.Table, pa.Table], Iterator[tuple[str, str]]],
) -> None:
    """Two hundred worlds of few values and repeated persons, of which some are honest."""
    outcomes = {"passed": 0, "refused": 0}
    for seed in range(200):
        rng = np.random.default_rng([seed, 11])
        tables = [_random_table(rng, seed % 3 == 0) for _ in range(2)]
        rule = Rule(outputs=tuple(outputs), min_subjects_per_input=int(rng.integers(2, 5)))
        inputs = {str(i): Input(table, "patient") for i, table in enumerate(tables)}
        try:
            require_groups(inputs, COMPUTATIONS[run].groups(inputs, parameters, rule), rule)
        except RatlsError:
            outcomes["refused"] += 1
            continue
        outcomes["passed"] += 1
        for table, other in (tables, tables[::-1]):
            held: dict[str, set[str]] = {}
            for name, person in groups(table, other):
                held.setdefault(name, set()).add(person)
            sizes = {name: len(people) for name, people in held.items()}
            assert min(sizes.values()) >= rule.min_subjects_per_input, (seed, sizes)
    assert min(outcomes.values()) > 20, outcomes


def test_refused_over_the_wire_and_the_next_task_is_computed() -> None:
    """No word of the person anywhere, and an honest task afterwards has its model."""
    count_refusal()
    world = EnclaveWorld.create()
    with world.running() as live:
        people = world.consortium
        outcomes = []
        for ages in ({"age": [50] * 59 + [51]}, {}):
            task = world.task()
            table = rows_of_the_consortium(1, **ages)
            names = [
                "CANARY-person" if i == 59 else n
                for i, n in enumerate(table["patient"].to_pylist())
            ]
            live.release(
                people.alice,
                "train_party_1",
                rows_of_the_consortium(1, **ages, patient=names),
                task,
            )
            live.release(people.bob, "train_party_2", rows_of_the_consortium(2), task)
            outcomes.append(live.wait(people.carol, task))
        assert isinstance(outcomes[0], NoResult)
        assert isinstance(outcomes[1], Result)
        assert "CANARY" not in live.stream.getvalue()
