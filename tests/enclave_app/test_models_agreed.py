"""The models as a policy agrees on them: each example of the page, from rows to the document."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from enclave_app.computations import COMPUTATIONS
from enclave_app.compute import compute, own_reasons, required
from enclave_app.session import Denied, Released
from policy.document import Policy
from policy.domains import Agreed
from policy.seal import open_result, result_info
from policy.show_computations import block
from policy.task import Task
from provider.models import read_result
from tests.enclave_app.agreed import INPUTS, computation
from tests.support.parties import AT, ROOTS, Consortium

COLUMNS = (
    '{ patient = "string", age = { type = "int64", min = 0, max = 120 }, '
    'bmi = { type = "float64", min = 10.0, max = 80.0 }, '
    'region = { type = "string", values = ["north", "south", "west"] }, y = "int64" }'
)
RUNS = ("boosted_trees", "k_means", "linear_regression", "logistic_regression")
PEOPLE = 'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\n'


@pytest.fixture(scope="module")
def world() -> Consortium:
    return Consortium.create(columns=COLUMNS)


def rows(seed: int, count: int = 9000) -> pa.Table:
    """Of two kinds of persons, one for each cluster and class."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 2, count)
    age = np.clip(rng.normal(30 + 40 * old, 8), 0, 120).astype(np.int64)
    region = rng.integers(0, 3, count)
    bmi = np.clip(rng.normal(25 + 3 * region, 4), 10, 80)
    y = (age / 20 + bmi / 10 + rng.normal(0, 1, count) > 5).astype(np.int64)
    texts = [("north", "south", "west")[i] for i in region]
    columns = {"patient": [f"p{seed}-{i}" for i in range(count)], "age": age, "bmi": bmi}
    return pa.table({**columns, "region": texts, "y": y})


def policy(world: Consortium, run: str, **change: str) -> Policy:
    section = block(run, id_="train", inputs=json.dumps(INPUTS), people=PEOPLE)
    for old, new in change.values():
        assert old in section
        section = section.replace(old, new)
    return Policy.parse(world.policy_text(computation=section).encode(), known_roots=ROOTS)


def answer(world: Consortium, agreed: Policy, *tables: pa.Table) -> Any:
    """What the recipient opens, or the code of the refusal."""
    free = {"max_iter": 500} if "max_iter" in str(agreed.computation[0].parameters) else {}
    task = Task.new(agreed, "train", "carol-lab", at=AT, parameters=free)
    assert required(agreed, task, 8 << 30).per_row > 0
    outcome = compute(agreed, task, tables)
    if isinstance(outcome, Denied):
        return outcome.code
    assert isinstance(outcome, Released)
    info = result_info(task.digest, agreed.digest, "carol-lab")
    return json.loads(open_result(outcome.ciphertexts["carol-lab"], world.carol.encryption, info))


@pytest.mark.parametrize("run", RUNS)
def test_each_example_of_the_page_is_a_model(world: Consortium, run: str) -> None:
    """From rows to an estimator, by the text of docs/computations.md."""
    found = answer(world, policy(world, run), rows(1), rows(2))
    assert isinstance(found, dict), found
    assert ("metrics" in found) == (run != "k_means")
    people = rows(3).to_pandas()
    model = read_result(json.dumps(found).encode()).estimator()
    predicted = np.asarray(model.predict(people[["age", "bmi"]]))
    if run in ("boosted_trees", "logistic_regression"):
        assert np.mean(predicted == people["y"]) > 0.75
        assert abs(found["metrics"]["accuracy"] - np.mean(predicted == people["y"])) < 0.03
    if run == "boosted_trees":
        assert 0.8 < found["metrics"]["auc"] < 1


@pytest.mark.parametrize("run", ["boosted_trees", "linear_regression", "logistic_regression"])
def test_texts_enter_by_the_list_of_the_policy(world: Consortium, run: str) -> None:
    agreed = policy(world, run, features=('["age", "bmi"]', '["age", "region"]'))
    found = answer(world, agreed, rows(1), rows(2))
    assert found["model_weights"]["categories"] == {"region": ["north", "south", "west"]}
    model = read_result(json.dumps(found).encode()).estimator()
    assert len(model.predict(rows(3).to_pandas())) == 9000


TABLE = (
    "SELECT region, count(*) AS n, avg(age) AS age, sum(bmi) AS bmi FROM train_party_1 GROUP BY "
    "region ORDER BY region"
)
OTHERS = {
    "private_set_intersection": ('key = "patient"', "intersection_ids"),
    "sql": (
        f'statement = "{TABLE}", max_groups = 9, memory_mebibytes = 64, seconds = 60',
        "table",
    ),
    "summary_statistics": ('columns = ["age", "bmi"], quantiles = [0.25, 0.5]', "statistics"),
}


@pytest.mark.parametrize("run", sorted(COMPUTATIONS.keys() - {"federated"}))  # which takes no rows
def test_two_runs_are_equal_to_the_last_byte_on_any_number_of_threads(
    world: Consortium, run: str
) -> None:
    """R15: and the salt of a document, which differs, is no part of the model."""
    found, tables = [], [rows(1), rows(2)]
    if run in OTHERS:
        parameters, output = OTHERS[run]
        inputs = INPUTS[:1] if run == "sql" else INPUTS
        tables = tables[:1] if run == "sql" else [rows(1), rows(1)]
        section = computation(run, parameters, [output], inputs=inputs, minimum=10)
        agreed = Policy.parse(world.policy_text(computation=section).encode(), known_roots=ROOTS)
    else:
        agreed = policy(world, run)
    for threads in (1, 2, 2):
        with threadpool_limits(limits=threads):
            document = answer(world, agreed, *tables)
            assert document["run"] == run
            found.append({n: v for n, v in document.items() if n != "salt"})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("run", RUNS)
def test_reason_of_an_own_input(world: Consortium, run: str) -> None:
    """A provider hears what it could compute of its own rows, whatever the others have."""
    agreed = policy(world, run, reasons=("significant", 'reasons = "own input", significant'))
    free = {"max_iter": 500} if "max_iter" in str(agreed.computation[0].parameters) else {}
    task = Task.new(agreed, "train", "carol-lab", at=AT, parameters=free)
    said = own_reasons(agreed, task, [rows(1), rows(2, 50)], lambda: None)
    assert said == {"train_party_1": "", "train_party_2": "too-few-subjects"}


@pytest.mark.parametrize("run", RUNS)
def test_no_result_is_longer_than_was_declared(world: Consortium, run: str) -> None:
    """R15, R20: every outcome has this length, so a longer one would tell by being refused."""
    agreed = policy(world, run)
    free = {"max_iter": 500} if "max_iter" in str(agreed.computation[0].parameters) else {}
    task = Task.new(agreed, "train", "carol-lab", at=AT, parameters=free)
    parameters: dict[str, Any] = dict(task.resolved_parameters(agreed))
    parameters["agreed"] = Agreed.of(agreed.study, agreed.dataset)
    found = answer(world, agreed, rows(1), rows(2))
    least = len(json.dumps(found, separators=(",", ":")))
    most = COMPUTATIONS[run].longest(parameters, agreed.computation[0].release.outputs, [1, 1])
    assert least <= most


def test_the_split_is_of_the_study(world: Consortium) -> None:
    """Who could choose a salt would move one person to the other side, and subtract."""
    from enclave_app.computations.split import is_tested

    people = pa.chunked_array([[f"p{i}" for i in range(2000)]])
    apart = is_tested(people, "breast-cancer-joint-training", 0.2)
    assert 300 < apart.sum() < 500
    again = is_tested(people, "breast-cancer-joint-training", 0.2)
    assert (apart == again).all()
    # A larger share moves persons one way only; in another study others are left out.
    assert (apart <= is_tested(people, "breast-cancer-joint-training", 0.3)).all()
    other = is_tested(people, "another-study", 0.2)
    assert 40 < (apart & other).sum() < 160


def test_a_person_is_on_one_side_with_all_rows_in_all_inputs() -> None:
    """R06: with a visit on each side, a model that remembers somebody would seem good."""
    from enclave_app.computations.split import is_tested

    one = is_tested(pa.chunked_array([["a", "b", "a"], ["c", "a"]]), "s", 0.5)
    other = is_tested(pa.chunked_array([["c", "b", "a"]]), "s", 0.5)
    assert one[0] == one[2] == one[4] == other[2]
    assert one[1] == other[1]
    assert one[3] == other[0]
    assert not is_tested(pa.chunked_array([pa.array([None, "a"])]), "s", 0.5)[0]
