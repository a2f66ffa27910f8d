"""Trees: those of plain scikit-learn where nobody needs to be hidden, and no leaf about few."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from enclave_app.computations.boosted_trees import (
    LeafAudit,
    NoLeafLarge,
    TooManyLeaves,
    score,
    steps,
)
from enclave_app.computations.groups import ColumnConstant, ValueTooRare
from enclave_app.computations.logistic_regression import ClassesNotTwo, ClassTooSmall
from enclave_app.computations.metrics import TooFewToTest
from enclave_app.computations.split import is_tested
from enclave_app.computations.tree_grower import Plan, grown
from enclave_app.gate import Input, SubjectDominates
from policy.domains import Agreed
from policy.sections import Column
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused

REGIONS = ("north", "south", "west")
RULE = Rule(outputs=("model_weights",), min_subjects_per_input=20)
PLAN = {"trees": 10, "leaves": 4, "bins": 32, "learning_rate": 0.3}


def agreed() -> Agreed:
    columns = {n: Column.model_validate({"type": "float64?", "min": -4, "max": 4}) for n in "abc"}
    region = Column.model_validate({"type": "string?", "values": list(REGIONS)})
    return Agreed("heart-study", {**columns, "y": Column(type="bool"), "region": region})


def rows(count: int = 1000, seed: int = 1, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    a, b, c = np.clip(rng.normal(0, 1.5, (3, count)), -4, 4)
    region = rng.integers(0, 3, count)
    odds = 2 * (a > 0.5) - 2 * (b < -1) + (region == 2) + rng.normal(0, 1, count)
    made: dict[str, Any] = {"a": a, "b": b, "c": c, "y": odds > 0, "odds": odds}
    made |= {"region": [REGIONS[i] for i in region]}
    return pa.table({**made, "patient": [f"p{seed}-{i}" for i in range(count)]} | columns)


def answer(*tables: pa.Table, rule: Rule = RULE, **change: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {"features": ["a", "b", "c"], "label": "y", "predict": "class"}
    parameters |= PLAN | {"agreed": agreed()}
    return gated("boosted_trees", tables, parameters | change, rule)


def matrix(*tables: pa.Table) -> npt.NDArray[np.uint8]:
    """The features in steps, as the model takes them."""
    whole = pa.concat_tables(tables)
    return np.column_stack([steps(whole.column(n).to_numpy(), -4, 4, PLAN["bins"]) for n in "abc"])


class Everything:
    """No rule about leaves."""

    def counted(self, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        return np.array([len(rows)])

    def may_be_leaf(self, counts: npt.NDArray[np.int64], rows: Any) -> bool:
        return True


@pytest.mark.parametrize("predict", ["class", "number"])
def test_trees_are_those_of_plain_sklearn(predict: str) -> None:
    """An independent path to the last digits: its own binning, loop and predictor."""
    rng = np.random.default_rng(1)
    steps_ = np.asfortranarray(rng.integers(0, 32, (4000, 5), dtype=np.uint8))
    number = np.sin(steps_[:, 0] / 5) * 3 + steps_[:, 1] / 8 + rng.normal(0, 1, 4000)
    target = (number > 2).astype(float) if predict == "class" else number
    plan = Plan(predict == "class", 30, 8, 32, 0.2, 20)
    forest = grown(steps_, target, plan, Everything())
    options: dict[str, Any] = {"max_iter": 30, "max_leaf_nodes": 8, "learning_rate": 0.2}
    options |= {"min_samples_leaf": 20, "early_stopping": False}
    ours = score({"baseline": forest.baseline, "trees": forest.trees, "bins": 32}, steps_)
    if predict == "class":
        plain = HistGradientBoostingClassifier(**options).fit(steps_, target)
        theirs = plain.decision_function(steps_)
    else:
        theirs = HistGradientBoostingRegressor(**options).fit(steps_, target).predict(steps_)
    assert np.allclose(ours, theirs, atol=1e-9)


def leaves_of(model: dict[str, Any], binned: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    """Of each tree the leaf that each row is in, as its value's place."""
    found = []
    for tree in model["trees"]:
        numbered_ = tree | {"value": [float(i) for i in range(len(tree["value"]))]}
        found.append(score(model | {"baseline": 0.0, "trees": [numbered_]}, binned).astype(int))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_leaf_is_about_enough_persons_of_each_input_and_class(seed: int) -> None:
    """R05, R18: counted again from what was released. One input has fewer high values."""
    one, two = rows(2000, seed=seed), rows(1200, seed=seed + 10)
    low = np.minimum(two.column("a").to_numpy(), 1.0)
    two = two.set_column(0, "a", pa.array(low))
    model = answer(one, two)["model_weights"]
    assert model["trees"]
    for table in (one, two):
        label = table.column("y").to_numpy()
        for leaf in leaves_of(model, matrix(table)):
            for class_ in (True, False):
                counts = np.bincount(leaf[label == class_])
                assert counts[counts > 0].min() >= 20
                assert set(leaf[label == class_]) == set(leaf)


@pytest.mark.parametrize("predict", ["class", "number"])
def test_later_trees_correct_what_is_released(predict: str) -> None:
    """Values are those of the leaves that are there, not of those that were taken out."""
    one, two = rows(2000, seed=1), rows(1200, seed=2)
    high = Rule(outputs=("model_weights",), min_subjects_per_input=60)
    label = "y" if predict == "class" else "odds"
    model = answer(one, two, rule=high, label=label, predict=predict)["model_weights"]
    binned = matrix(one, two)
    truth = pa.concat_tables([one, two]).column(label).to_numpy().astype(float)
    said = np.full(len(truth), model["baseline"])
    free = answer(one, two, label=label, predict=predict)["model_weights"]
    assert free["trees"] != model["trees"]  # the higher k does take leaves out
    for tree, leaf in zip(model["trees"], leaves_of(model, binned), strict=True):
        likely = 1 / (1 + np.exp(-said))
        slope = likely - truth if predict == "class" else said - truth
        curve = likely * (1 - likely) if predict == "class" else np.ones(len(said))
        for place in np.unique(leaf):
            rows_ = leaf == place
            wanted = -0.3 * slope[rows_].sum() / curve[rows_].sum()
            assert np.isclose(tree["value"][place], wanted, rtol=1e-4, atol=1e-6)
        said += np.array(tree["value"])[leaf]


@settings(deadline=None)
@given(st.data(), st.booleans())
def test_quick_answer_is_that_of_counting_persons(data: Any, classes: bool) -> None:
    """R06: many rows let a leaf leave without its persons being counted; never wrongly."""
    k, inputs, parts = data.draw(st.integers(2, 4)), {}, []
    labels = st.sampled_from([0.0, 1.0]) if classes else st.integers(0, 6).map(float)
    if not classes and data.draw(st.booleans()):
        labels = st.floats(-100, 100, width=32)
    for name in ("one", "two"):
        size = data.draw(st.integers(1, 40))
        people = [
            data.draw(st.integers(0, data.draw(st.sampled_from([1, 3, 40])))) for _ in range(size)
        ]
        inputs[name] = Input(pa.table({"patient": people}), "patient")
        parts.append([data.draw(labels) for _ in range(size)])
    target = np.concatenate(parts)
    rule = Rule(outputs=("model_weights",), min_subjects_per_input=k)
    audit = LeafAudit(inputs, target, rule, classes=classes)
    chosen = np.array([i for i in range(len(target)) if data.draw(st.booleans())], np.uint32)
    counts = audit.counted(chosen)
    assert counts.sum() == len(chosen)
    start, may = 0, True
    for (table, _), part in zip(inputs.values(), parts, strict=True):
        own = chosen[(chosen >= start) & (chosen < start + len(part))]
        start += len(part)
        people, values = table["patient"].to_numpy()[own - start + len(part)], target[own]
        may &= len(set(people)) >= k
        for one in (0.0, 1.0) if classes else ():
            may &= len(set(people[values == one])) >= k
        may = bool(may and holds_for(values, people, k))
    assert audit.may_be_leaf(counts, lambda: chosen) == may


def holds_for(values: npt.NDArray[Any], people: npt.NDArray[Any], k: int) -> bool:
    """The rules of a leaf, written out again."""
    who = np.unique(people)
    squares = (values - values.mean()) ** 2
    for weights in (np.ones(len(values)), squares):
        held = max(weights[people == one].sum() for one in who)
        if weights.sum() == 0 or held > weights.sum() / 2 * (1 + 1e-9):
            return False
    found, counts = np.unique(values, return_counts=True)
    if counts.max() > 1 and len(set(people[values != found[counts.argmax()]])) < k:
        return False
    return len(found) > 3 or all(len(set(people[values == one])) >= k for one in found)


def test_leaf_that_one_input_would_have_alone_is_not_there() -> None:
    """Who has no row in a leaf knows that its value is about the other's persons."""
    one, two = rows(1000, seed=1), rows(1000, seed=2)
    only = np.abs(one.column("a").to_numpy())
    model = answer(one.set_column(0, "a", pa.array(only)), two.set_column(0, "a", pa.array(-only)))[
        "model_weights"
    ]
    splits = {f for tree in model["trees"] for f in tree["feature"] if f >= 0}
    assert splits
    for tree in model["trees"]:
        for feature, edge in zip(tree["feature"], tree["bin"], strict=True):
            # All of `a` in one input is below zero, and in the other above.
            assert feature != 0 or edge != 15


def test_edges_are_agreed_and_no_value_of_a_person() -> None:
    """R09, R15: thresholds are numbers of agreed steps; where in one somebody is, is not told."""
    one, two = rows(seed=1), rows(seed=2)
    model = answer(one, two)["model_weights"]
    assert model["ranges"] == [["-4.0", "4.0"]] * 3
    assert all(type(e) is int and 0 <= e < 32 for tree in model["trees"] for e in tree["bin"])

    def moved(table: pa.Table) -> pa.Table:
        """Each value somewhere else in its step."""
        for i, name in enumerate("abc"):
            place = matrix(table)[:, i]
            table = table.set_column(i, name, pa.array(-4 + (place + 0.37) / 4))
        return table

    assert answer(moved(one), moved(two))["model_weights"] == model


def test_steps_of_a_range() -> None:
    found = steps(np.array([-5.0, 0.0, 0.99, 1.0, 9.99, 10.0, 11.0, np.nan]), 0.0, 10.0, 10)
    assert found.tolist() == [0, 0, 0, 1, 9, 9, 9, 10]


def test_texts_and_missing_values() -> None:
    one, two = rows(seed=1), rows(seed=2)
    holes = np.where(np.arange(1000) % 4 == 0, np.nan, one.column("a").to_numpy())
    one = one.set_column(0, "a", pa.array(holes))
    model = answer(one, two, features=["a", "b", "region"])["model_weights"]
    assert model["features"] == ["a", "b", "region=north", "region=south", "region=west"]
    assert model["categories"] == {"region": list(REGIONS)}


def test_more_leaves_than_a_tenth_of_the_persons() -> None:
    """R18: with as many equations as persons each label can be solved for."""
    with refused(TooManyLeaves):
        answer(rows(1000, seed=1), rows(390, seed=2))
    assert answer(rows(1000, seed=1), rows(410, seed=2))


def test_no_split_is_about_enough_persons() -> None:
    one, two = rows(400, seed=1), rows(400, seed=2)
    high = Rule(outputs=("model_weights",), min_subjects_per_input=150)
    with refused(NoLeafLarge):
        answer(one, two, rule=high)
    assert answer(rows(2000, seed=1), rows(2000, seed=2), rule=high)


def test_many_rows_of_one_person_are_one_person() -> None:
    """R06: a leaf of a hundred rows may be one visitor."""
    two = rows(1000, seed=2)
    people = two.column("patient").to_pylist()
    far = np.where(np.arange(1000) < 100, 4.0, np.minimum(two.column("a").to_numpy(), 2.0))
    sick = np.where(np.arange(1000) < 100, np.arange(1000) % 2 == 0, two.column("y").to_numpy())
    visits = two.set_column(0, "a", pa.array(far)).set_column(3, "y", pa.array(sick))
    place = visits.column_names.index("patient")
    visits = visits.set_column(place, "patient", pa.array(["v"] * 100 + people[100:]))
    model = answer(rows(1000, seed=1), visits)["model_weights"]
    for leaf in leaves_of(model, matrix(visits)):
        for found in np.unique(leaf):
            who = {
                p
                for p, at in zip(visits.column("patient").to_pylist(), leaf, strict=True)
                if at == found
            }
            assert len(who) >= 20


@pytest.mark.parametrize("y", [[True] * 1000, [False] * 990 + [True] * 10])
def test_class_of_few(y: list[bool]) -> None:
    one = rows(seed=1)
    place = one.column_names.index("y")
    with refused(ClassTooSmall):
        answer(rows(seed=2), one.set_column(place, "y", pa.array(y)))


def test_label_without_two_classes() -> None:
    three = [0, 1, 2, 0] * 250
    tables = [rows(seed=s) for s in (1, 2)]
    tables = [t.set_column(t.column_names.index("y"), "y", pa.array(three)) for t in tables]
    with refused(ClassesNotTwo):
        answer(*tables)


@pytest.mark.parametrize(("others", "leaf"), [(0, ColumnConstant), (19, ValueTooRare)])
def test_number_that_all_have_or_nearly_all(others: int, leaf: Any) -> None:
    """A tree would tell it of every person, or who they are that differ."""
    odds = np.where(np.arange(1000) < others, np.arange(1000) / 7, 3.0)
    with refused(leaf):
        answer(rows(odds=odds), rows(seed=2), label="odds", predict="number")
    assert answer(rows(), rows(seed=2), label="odds", predict="number")


def test_number_and_its_metrics() -> None:
    one, two = rows(2000, seed=1), rows(2000, seed=2)
    rule = Rule(outputs=("model_weights", "metrics"), min_subjects_per_input=20)
    found = answer(one, two, rule=rule, label="odds", predict="number", test_share=0.3)
    left = [
        t.filter(pa.array(is_tested(t.column("patient"), "heart-study", 0.3))) for t in (one, two)
    ]
    truth = pa.concat_tables(left).column("odds").to_numpy()
    predicted = score(found["model_weights"], matrix(*left))
    assert np.isclose(found["metrics"]["r2"], r2_score(truth, predicted))
    assert found["metrics"]["r2"] > 0.3


def test_metrics_of_a_class() -> None:
    one, two = rows(2000, seed=1), rows(2000, seed=2)
    rule = Rule(outputs=("model_weights", "metrics"), min_subjects_per_input=20)
    found = answer(one, two, rule=rule, test_share=0.3)
    left = [
        t.filter(pa.array(is_tested(t.column("patient"), "heart-study", 0.3))) for t in (one, two)
    ]
    truth = pa.concat_tables(left).column("y").to_numpy()
    likely = 1 / (1 + np.exp(-score(found["model_weights"], matrix(*left))))
    assert np.isclose(found["metrics"]["log_loss"], log_loss(truth, likely))
    assert found["metrics"]["auc"] == round(roc_auc_score(truth, likely), 2)
    assert found["metrics"]["accuracy"] == round(float(np.mean((likely > 0.5) == truth)), 2)
    with refused(TooFewToTest):
        answer(one, rows(450, seed=2), rule=rule, test_share=0.05)


def test_person_with_most_of_what_a_number_varies() -> None:
    one, two = rows(seed=1), rows(seed=2)
    odds = two.column("odds").to_numpy().copy()
    odds[0] = 1e4
    with refused(SubjectDominates):
        answer(one, two.set_column(4, "odds", pa.array(odds)), label="odds", predict="number")
    assert answer(one, two, label="odds", predict="number")
