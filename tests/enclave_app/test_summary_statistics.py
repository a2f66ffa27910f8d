"""Statistics over joint rows: right on honest rows, silent where a person could be made out."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.computations.groups import ColumnConstant, ValueTooRare
from enclave_app.computations.summary_statistics import QuantileExposes, describe
from enclave_app.errors import NumbersOutOfRange
from enclave_app.gate import SubjectDominates, TooFewSubjects
from tests.enclave_app.agreed import Agreed, gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

RUN, K = "summary_statistics", 5
NULLABLE = '{ patient = "string", age = "float64?" }'


def table(values: Any, prefix: str = "p", *, patients: list[str] | None = None) -> pa.Table:
    """One row for each value, each of another person unless `patients` says so."""
    names = patients or [f"{prefix}-{i:05d}" for i in range(len(values))]
    return pa.table({"patient": names, "age": values})


def ages(count: int = 100, seed: int = 1) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).integers(20, 90, count)]


def computed(
    *tables: pa.Table, outputs: tuple[str, ...] = ("statistics",), quantiles: Any = None, k: int = K
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"columns": ["age"]}
    if quantiles:
        parameters["quantiles"] = quantiles
    return gated(RUN, tables, parameters, Rule(outputs=outputs, min_subjects_per_input=k))


# Right.


def test_statistics_are_those_of_the_joint_rows() -> None:
    """An independent path: the standard library on rows that nobody ever pooled."""
    one, two = ages(seed=1), ages(140, seed=2)
    found = computed(table(one), table(two), quantiles=[0.25, 0.5, 0.9])["statistics"]["age"]
    assert found["mean"] == pytest.approx(statistics.fmean(one + two), rel=1e-12)
    assert found["standard_deviation"] == pytest.approx(statistics.stdev(one + two), rel=1e-12)
    assert found["quantiles"] == {
        "0.25": np.quantile(one + two, 0.25),
        "0.5": statistics.median(one + two),
        "0.9": np.quantile(one + two, 0.9),
    }
    assert set(found) == {"mean", "standard_deviation", "quantiles"}


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float32(), pa.float64()])
def test_columns_of_each_kind(kind: pa.DataType) -> None:
    plain = table(ages())
    assert computed(plain.set_column(1, "age", plain["age"].cast(kind))) == computed(plain)


def test_share_of_a_bool_column() -> None:
    found = computed(table([True] * 30 + [False] * 70))
    assert found["statistics"]["age"]["mean"] == pytest.approx(0.3)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_missing_values_are_left_out_and_not_zero(nothing: float | None) -> None:
    """A NaN that got into one sum would be the mean; a null read as zero would move it."""
    values = ages()
    with_gaps = table(pa.array([*values, *[nothing] * K], pa.float64()))
    outputs = ("statistics", "counts")
    assert computed(with_gaps, outputs=outputs) == computed(table(values), outputs=outputs)


@given(st.permutations(range(40)), st.integers(0, 40))
def test_no_order_of_rows_or_inputs_shows(order: list[int], cut: int) -> None:
    """R15: ten to the sixteen and one, in another order, have another sum."""
    values = np.array([1e16, 1.0, -1e16, 0.1] * 10)
    other = np.roll(values[order], cut)
    assert describe(other, [0.1, 0.5]) == describe(values, [0.1, 0.5])


def test_result_has_one_written_form_whatever_arrives_how() -> None:
    """R15, S25: rows turned round and cut otherwise; and nobody's name is in the bytes."""
    world = Agreed.on(RUN, 'columns = ["age", "bmi"], quantiles = [0.5]', ["statistics"])
    one, two = _people(1), _people(2)
    document = world.document(one, two)
    turned = one.take(list(reversed(range(len(one)))))
    assert world.document(pa.concat_tables([turned.slice(0, 7), turned.slice(7)]), two) == document
    assert isinstance(document, bytes)
    assert b"person" not in document


def _people(seed: int, count: int = 60) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "patient": [f"person-{seed}-{i}" for i in range(count)],
            "age": rng.integers(20, 90, count),
            "bmi": rng.normal(27, 4, count),
            "y": rng.integers(0, 2, count),
        }
    )


def test_only_what_the_policy_names_is_there() -> None:
    """A count that nobody agreed on: with it a provider knows the other's number of rows."""
    parameters = 'columns = ["age"]'
    for outputs in (["statistics"], ["counts"], ["counts", "statistics"]):
        found = Agreed.on(RUN, parameters, outputs).answer(_people(1), _people(2, 70))
        assert set(found) == {"schema", "computation", "run", *outputs}
        assert found.get("counts", {"age": 130}) == {"age": 130}
        assert "130" not in str(found.get("statistics"))


def test_statistics_leave_with_six_digits_at_most() -> None:
    found = Agreed.on(RUN, 'columns = ["bmi"]', ["statistics"], digits=4)
    numbers = found.answer(_people(1), _people(2))["statistics"]["bmi"].values()
    assert all(float(f"{n:.4g}") == n for n in numbers)


# What no rows get.

_SPREAD = [float(i) for i in range(20)]


@pytest.mark.parametrize(
    ("values", "leaf"),
    [
        ([1.0, 2.0, 3.0, 4.0], TooFewSubjects),
        ([1.0, 2.0, 3.0, 4.0, None, None, None], TooFewSubjects),
        ([None] * 20, TooFewSubjects),
        ([7.0] * 20, ColumnConstant),
        ([0.1] * 20, ColumnConstant),
        ([0.0] * 20 + [1.0] * 4, ValueTooRare),
        ([0.0] * 20 + [1.0] * 20 + [2.0], ValueTooRare),
        ([*_SPREAD, 100.0], SubjectDominates),
        ([*_SPREAD, -100.0], SubjectDominates),
    ],
)
def test_column_in_which_a_person_could_be_made_out(
    values: list[float | None], leaf: type[RatlsError]
) -> None:
    """R05, R09: the rule holds in each input, as whoever sends the other can subtract it."""
    other = table(ages(500))
    column = pa.array(values, pa.float64())
    for tables in ([table(column), other], [other, table(column)], [table(column)]):
        with refused(leaf):
            computed(*tables)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [0.0] * 20 + [1.0] * 5,
        [0.0] * 20 + [1.0] * 20 + [2.0] * 5,
        [*_SPREAD, 30.0],
    ],
)
def test_column_that_just_keeps_everybody_hidden(values: list[float]) -> None:
    """The accepted twins: one more person, one value less far away."""
    assert "mean" in computed(table(values), table(ages(500)))["statistics"]["age"]


def test_rows_repeated_until_there_are_enough() -> None:
    """R06: a thousand rows of four persons are four persons."""
    people = [f"p{i % 4}" for i in range(1000)]
    with refused(TooFewSubjects):
        computed(table(ages(1000), patients=people), table(ages()))


def test_one_person_among_enough_has_nearly_all_rows() -> None:
    """Five persons, as agreed on; and a mean that is the blood pressure of one."""
    # What varies is the others'; only the number of rows gives it away.
    usual, others = [60.0, 61.0] * 450, ages(100)
    people = [f"p{i}" for i in range(100)]
    with refused(SubjectDominates):
        computed(table(usual + others, patients=["main"] * 900 + people), table(ages()))
    fewer = usual[:100] + others
    computed(table(fewer, patients=["main"] * 100 + people), table(ages()))


def test_one_person_repeats_a_rare_value() -> None:
    """Five rows with the value, one person."""
    values = [0.0] * 20 + [1.0] * 5
    with refused(ValueTooRare):
        computed(table(values, patients=[f"p{i}" for i in range(20)] + ["ill"] * 5))


# Quantiles.


def test_provider_brings_low_values_until_the_median_is_the_others_maximum() -> None:
    """R06, R09: over the joint rows there are plenty on either side, all of them Alice's."""
    bob = [float(i) for i in range(50, 90)]
    crafted = [float(i) for i in (*range(10), *range(1000, 1049))]
    assert statistics.median(crafted + bob) == max(bob)
    for tables in ([crafted, bob], [bob, crafted]):
        with refused(QuantileExposes):
            computed(*map(table, tables), quantiles=[0.5])
    computed(table(bob), table([b + 0.5 for b in bob]), quantiles=[0.5])


@pytest.mark.parametrize("quantiles", [[0.01], [0.99], [0.5, 0.51], [0.001, 0.5], [0.48, 0.5]])
def test_quantile_beyond_or_between_which_are_too_few(quantiles: list[float]) -> None:
    """R05, R09: an extreme by another name; many close ones are the rows themselves."""
    values = [float(i) for i in range(100)]
    with refused(QuantileExposes):
        computed(table(values), table(values), quantiles=quantiles)


@pytest.mark.parametrize("quantiles", [[0.05], [0.95], [0.45, 0.5], [0.1, 0.25, 0.5, 0.75, 0.9]])
def test_quantile_with_enough_on_either_side(quantiles: list[float]) -> None:
    values = [float(i) for i in range(100)]
    found = computed(table(values), table(values), quantiles=quantiles)
    assert len(found["statistics"]["age"]["quantiles"]) == len(quantiles)


def test_quantiles_that_coincide_tell_how_many_have_the_value() -> None:
    """Two equal quantiles say that all rows between them are equal: these must be enough."""
    values = [float(i) for i in range(40)] + [50.0] * 20 + [float(i) for i in range(60, 100)]
    computed(table(values), quantiles=[0.45, 0.55])
    one_of_many = [float(i) for i in range(100)]
    with refused(QuantileExposes):
        computed(table(values), table(one_of_many), quantiles=[0.47, 0.5])


# Counts.


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_count_that_tells_of_the_few_without_a_value(missing: int) -> None:
    """R08: who knows the number of rows subtracts, and has a cell that was never released."""
    gaps = table(pa.array([*ages(), *[None] * missing], pa.float64()))
    with refused(TooFewSubjects):
        computed(gaps, table(ages()), outputs=("counts",))
    with refused(TooFewSubjects):
        computed(table(ages()), gaps, outputs=("counts", "statistics"))
    computed(gaps, table(ages()))  # without the count nothing says that they exist


@pytest.mark.parametrize("missing", [0, 5])
def test_count_where_none_or_enough_have_no_value(missing: int) -> None:
    gaps = table(pa.array([*ages(), *[None] * missing], pa.float64()))
    assert computed(gaps, table(ages()), outputs=("counts",)) == {"counts": {"age": 200}}


def test_count_of_a_group_below_the_minimum() -> None:
    """R05."""
    with refused(TooFewSubjects):
        computed(table([1.0, 2.0, 3.0, 4.0]), table(ages()), outputs=("counts",))


# Numbers.


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308] * 10,
        [1e200, 2e200, 3e200, 4e200] * 5,
        [1e-200, 2e-200, 3e-200, 4e-200] * 5,
        [float("inf"), *_SPREAD],
        [float("-inf"), float("inf"), *_SPREAD],
    ],
)
def test_values_that_cannot_be_squared(values: list[float]) -> None:
    """F08: finite on the way in, infinite or zero in the deviation. An infinity in a column that
    may lack values is no lack: left out in silence, the mean would be wrong."""
    with refused(NumbersOutOfRange):
        computed(table(values))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_values_too_few_to_have_a_deviation(values: list[float]) -> None:
    """Also where the rule of the release lets one person be a group."""
    with refused(NumbersOutOfRange):
        describe(np.array(values), [0.5])
    assert describe(np.array([1.0, 2.0]), [])["mean"] == 1.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1e160 + 1e152 * i for i in range(20)], [-1e160 + 1e152 * i for i in range(20)]),
        ([1e-200 * i for i in range(20)], ages()),
    ],
)
def test_values_that_cannot_be_squared_together_or_alone(
    one: list[float], other: list[float]
) -> None:
    """Each input alone would do, or both together."""
    for tables in ((one, other), (other, one)):
        with refused(NumbersOutOfRange):
            computed(*map(table, tables))
    computed(table(other), table(other))


@pytest.mark.parametrize(
    ("one", "code"),
    [
        ([50.0] * 20, ColumnConstant.code),
        ([None] * 20, TooFewSubjects.code),
        ([1.0, 2.0, 3.0], TooFewSubjects.code),
    ],
)
def test_a_refusal_lets_nothing_of_the_rest_out(one: list[float | None], code: str) -> None:
    """R08: with one column suppressed, a total over the others would give it back."""
    count_refusal()
    world = Agreed.on(RUN, 'columns = ["age"]', ["statistics"], columns=NULLABLE, minimum=5)
    assert world.answer(table(pa.array(one, pa.float64())), table(ages())) == code
    assert "statistics" in world.answer(table(ages()), table(ages()))
