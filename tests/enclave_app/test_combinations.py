"""R08, R09: two means about everybody, of which the difference is about one person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app.computations.combinations import columns_about_few
from tests.enclave_app.agreed import Agreed
from tests.support.refusal import count_refusal

K = 10
_RANGE = '{ type = "float64?", min = 0, max = 60 }'
COLUMNS = f'{{ patient = "string", planned = {_RANGE}, given = {_RANGE} }}'
STATISTICS = Agreed.on(
    "summary_statistics", 'columns = ["planned", "given"]', ["statistics"],
    columns=COLUMNS, minimum=K,
)  # fmt: skip
COUNTS = Agreed.on(
    "summary_statistics", 'columns = ["planned", "given"]', ["counts"], columns=COLUMNS, minimum=K
)
CLUSTERS = Agreed.on(
    "k_means", 'features = ["planned", "given"], clusters = 2, max_iter = 300', ["model_weights"],
    columns=COLUMNS.replace("float64?", "float64"), minimum=K,
)  # fmt: skip


def rows(seed: int, differing: int, *, missing: bool = False, required: bool = False) -> pa.Table:
    """Doses of 300 patients, around 10 or around 40; so many were given another than planned."""
    rng = np.random.default_rng(seed)
    planned = rng.integers(1, 20, 300) + 30.0 * (rng.random(300) < 0.5)
    dose: Any = planned.copy()
    dose[:differing] += 3 + np.arange(differing) % 4
    if missing:  # the same patients lack both values, and so many more lack one
        planned[20:40] = dose[20:40] = np.nan
        dose[40 : 40 + differing] = np.nan
    names = pa.array([f"{seed}-{i}" for i in range(300)])
    doses = [pa.array(values, from_pandas=True) for values in (planned, dose)]
    fields = [pa.field("patient", pa.string(), nullable=False)]
    fields += [pa.field(n, pa.float64(), nullable=not required) for n in ("planned", "given")]
    return pa.Table.from_arrays([names, *doses], schema=pa.schema(fields))


@pytest.mark.parametrize("differing", [1, 2, K - 1])
def test_means_of_columns_that_differ_for_few(differing: int) -> None:
    """A provider subtracts its own rows, and then one mean from the other."""
    count_refusal()
    assert STATISTICS.answer(rows(1, differing), rows(2, 50)) == "value-too-rare"
    for none_or_enough in (0, K + 5):
        answer = STATISTICS.answer(rows(1, none_or_enough), rows(2, 50))
        assert set(answer["statistics"]) == {"planned", "given"}


@pytest.mark.parametrize("differing", [1, K - 1])
def test_counts_of_columns_that_few_lack(differing: int) -> None:
    """Enough persons lack each value, and one of them has the other one."""
    count_refusal()
    assert COUNTS.answer(rows(1, differing, missing=True), rows(2, 20, missing=True)) == (
        "value-too-rare"
    )
    answer = COUNTS.answer(rows(1, K + 5, missing=True), rows(2, 20, missing=True))
    assert set(answer["counts"]) == {"planned", "given"}


@pytest.mark.parametrize("differing", [1, K - 1])
def test_centres_of_features_that_differ_for_few(differing: int) -> None:
    """A centre is a mean of each feature: a cluster in which few differ is dissolved."""
    count_refusal()
    few = rows(1, differing, required=True)
    assert CLUSTERS.answer(few, rows(2, 300, required=True)) == "no-cluster-large"
    answer = CLUSTERS.answer(rows(1, 300, required=True), rows(2, 300, required=True))
    assert len(answer["model_weights"]["centres"]) == 2


@pytest.mark.parametrize("wrong", [1, K - 1])
def test_a_total_that_is_not_the_sum_of_its_parts_for_few(wrong: int) -> None:
    """No two columns are alike; of three, one patient's are entered wrongly."""
    rng = np.random.default_rng(4)
    one, other = rng.normal(50, 10, (2, 400))
    total = one + other
    assert columns_about_few([one, other, total], np.arange(400), K) is None
    total[:wrong] += 7
    assert columns_about_few([one, other, total], np.arange(400), K) == (0, 1, 2)
    total[: 2 * K] += 7
    assert columns_about_few([one, other, total], np.arange(400), K) is None


def test_as_many_columns_as_persons_are_no_accident() -> None:
    """Of so many numbers some combination is always about few: that says nothing about rows."""
    columns = [*np.random.default_rng(5).normal(0, 1, (30, 45))]
    assert columns_about_few(columns, np.arange(45), K) is None


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(2, 6))
def test_columns_of_any_rows(seed: int, differing: int, k: int) -> None:
    """Several rows of a person, values that are missing, rows of nobody."""
    rng = np.random.default_rng(seed)
    people = rng.integers(-1, 120, 400)
    one = rng.normal(50, 10, 400)
    other = 2.5 * one
    those = rng.permutation(120)[:differing]
    other[np.isin(people, those)] += rng.uniform(5, 9)
    few = 0 < len(set(those.tolist()) & set(people.tolist())) < k
    holes = rng.random(400) < 0.3
    one[holes], other[holes] = np.nan, np.nan
    here = {int(p) for p in people[~holes] if p in those}
    found = columns_about_few([rng.normal(0, 1, 400), one, other], people, k)
    if few and here:
        assert found == (1, 2)
    if not here:
        assert found is None
