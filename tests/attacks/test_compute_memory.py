"""R04, D11: rows within all caps that a computation cannot hold.

A boolean is one bit on the wire and in the enclave's memory, and 48 bytes in a training: 26 MB of
them became 853 MB, and one party's rows ended the tasks of all others with the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from enclave_app import application
from enclave_app.computations import COMPUTATIONS
from enclave_app.computations.logistic_regression import need
from enclave_app.compute import ComputationTooLarge, required
from enclave_app.gate import ReleaseDenied
from enclave_app.intake import Intake
from enclave_app.limits import MEBIBYTE, Limits, MemoryExhausted, Need
from policy.sections import Dataset
from ratls.client_stream import Result
from ratls.framing import Kind
from tests.enclave_app.agreed import Agreed
from tests.support.enclave import (
    EnclaveWorld,
    LiveEnclave,
    NoResult,
    refused_by_enclave,
    room,
    rows,
)
from tests.support.refusal import count_refusal, refused

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"
FLAGS = [f"flag_{i}" for i in range(40)]
ROWS = 100_000


@pytest.fixture(scope="module")
def live(world: EnclaveWorld) -> Iterator[LiveEnclave]:
    with world.running() as running:
        yield running


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


def released(live: LiveEnclave, task: bytes) -> Result | NoResult:
    people = live.world.consortium
    live.release(people.bob, TWO, rows(2), task)
    live.release(people.alice, ONE, rows(1), task)
    return live.wait(people.carol, task)


def test_a_task_that_would_not_fit_is_refused_before_any_row(world: EnclaveWorld) -> None:
    """All rows that the policy allows, of both, with what the training needs: 44 MB."""
    alice = world.consortium.alice
    total = 2 * 100_000 * (4 + 8 + 8 + 8 + 48 * 4)
    task = world.task()
    with (
        world.running(limits=Limits(held_bytes=total - 1, buckets=(0.01,))) as small,
        refused_by_enclave(ComputationTooLarge),
        small.exchange(Kind.RELEASE, alice, task=task, dataset=ONE),
    ):
        pass
    with world.running(limits=Limits(held_bytes=total, buckets=(0.01,))) as large:
        assert isinstance(released(large, task), Result)


@pytest.mark.parametrize("name", sorted(set(COMPUTATIONS) - {"federated"}))  # takes no rows
def test_every_computation_is_estimated(name: str) -> None:
    """The kind: a computation without an estimate would be taken for one that needs nothing."""
    sections = {
        "boosted_trees": (
            'features = ["age"], label = "y", predict = "class", trees = 9, leaves = 4, bins = 9, '
            "learning_rate = 0.5",
            "model_weights",
        ),
        "k_means": ('features = ["age"], clusters = 2, max_iter = 9', "model_weights"),
        "linear_regression": ('features = ["age"], label = "y"', "model_weights"),
        "logistic_regression": ('features = ["age"], label = "y", max_iter = 9', "model_weights"),
        "private_set_intersection": ('key = "patient"', "intersection_size"),
        "sql": (
            'statement = "SELECT count(*) AS n FROM train_party_1", max_groups = 9, '
            "memory_mebibytes = 64, seconds = 9",
            "table",
        ),
        "summary_statistics": ('columns = ["age"]', "statistics"),
    }
    parameters, output = sections[name]
    agreed = Agreed.on(name, parameters, [output], minimum=10, digits=4)
    with refused(ComputationTooLarge):
        required(agreed.policy, agreed.task, 10 * MEBIBYTE)
    assert required(agreed.policy, agreed.task, 200 * MEBIBYTE).per_row > 0


def test_booleans_count_as_what_they_become() -> None:
    """The rows of one party fill the budget of the process before they could fill its memory."""
    columns = (
        '{ patient = "string", y = "bool", ' + ", ".join(f'{f} = "bool"' for f in FLAGS) + " }"
    )
    parameters = f'features = {json.dumps(FLAGS)}, label = "y", max_iter = 500'
    agreed = Agreed.on(
        "logistic_regression", parameters, ["model_weights"], columns=columns, minimum=10
    )
    dataset: Dataset = agreed.policy.dataset[0]
    column = pa.array([True, False] * 5000)
    names = pa.array([f"p{i}" for i in range(10_000)])
    arrays = [names, *[column] * (len(FLAGS) + 1)]
    fields = [
        pa.field(n, a.type, nullable=False) for n, a in zip(dataset.columns, arrays, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    budget = room(64 * MEBIBYTE, 64 * MEBIBYTE)

    def release(needed: Need) -> int:
        into = Intake(
            dataset, Limits(), budget.of("alice-clinic", bytes(32)), needed, 1.0, b"r" * 16
        )
        before = budget.memory.free
        into.join(0, 1).add(batch.serialize(), bytes(16), last=True)
        taken = before - budget.memory.free
        into.close()
        assert budget.memory.free == before
        return taken

    training = need({"features": FLAGS, "label": "y"})
    assert release(Need(0)) < 200_000
    assert release(training) > 10_000 * len(FLAGS) * 25
    filling = Intake(
        dataset, Limits(), budget.of("alice-clinic", bytes(32)), training, 1.0, b"r" * 16
    )
    place = filling.join(0, 1)
    with refused(MemoryExhausted):
        for _ in range(100):
            place.add(batch.serialize(), bytes(16), last=False)
    filling.close()
    assert release(training) > 0, "another party's rows find room again"


def test_a_computation_without_memory_ends_alone(
    live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocation fails in the middle; the enclave, its other tasks and its budget do not."""
    count_refusal()

    def exhausted(*arguments: object) -> object:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(application, "compute", exhausted)
        assert released(live, live.world.task()) == NoResult(ReleaseDenied.code)
    assert live.enclave.budgets.memory.free == live.enclave.limits.held_bytes
    assert isinstance(released(live, live.world.task()), Result)


# Peak of a process that computes, less what it held before.
MEASURED = """
import json, sys
class NoPandas:  # a tool of the tests alone, that pyarrow would load on the way
    def find_spec(name, path, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPandas)
import pyarrow as pa
from enclave_app.computations import COMPUTATIONS
from enclave_app.gate import Input, require_groups
from policy.domains import Agreed
from policy.sections import Column, Release

path, name, parameters, outputs = json.loads(sys.argv[1])
def peak():  # of this program: what getrusage says includes the one that started it
    status = dict(line.split(":") for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
with pa.OSFile(path) as file:
    whole = pa.ipc.open_file(file).read_all()
rule = Release(outputs=outputs, min_subjects_per_input=10, significant_digits=6)
code = COMPUTATIONS[name]
if "features" in parameters:
    columns = {n: Column(type="bool") for n in parameters["features"]}
    columns["number"] = Column(type="float64", min=-9, max=9)
    parameters["agreed"] = Agreed("study", columns)
def compute(table):
    inputs = {str(part): Input(table, "patient") for part in (1, 2)}
    require_groups(inputs, code.groups(inputs, parameters, rule), rule)
    code.run(inputs, parameters, rule)
compute(whole.slice(0, 2000))  # loads the code
before = peak()
compute(whole)
print(json.dumps(peak() - before))
"""


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of what is computed with: each input is these rows."""
    random = np.random.default_rng(1)
    names = pa.array([f"patient-{i:07d}" for i in range(ROWS)])
    flags = {f: pa.array(random.random(ROWS) < 0.5) for f in FLAGS[:12]}
    numbers = {"number": pa.array(random.normal(0, 1, ROWS))}
    table = pa.table({"patient": names, **numbers, "y": flags.pop(FLAGS[0]), **flags})
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize(
    ("name", "parameters", "outputs"),
    [
        (
            "logistic_regression",
            {"features": FLAGS[1:12], "label": "y", "max_iter": 300},
            ["model_weights"],
        ),
        (
            "boosted_trees",
            {"features": ["number", *FLAGS[1:12]], "label": "y", "predict": "class", "trees": 20}
            | {"leaves": 8, "bins": 100, "learning_rate": 0.1},
            ["model_weights"],
        ),
        (
            "boosted_trees",
            {"features": FLAGS[1:12], "label": "number", "predict": "number", "trees": 20}
            | {"leaves": 8, "bins": 100, "learning_rate": 0.1},
            ["model_weights"],
        ),
        ("k_means", {"features": ["number"], "clusters": 8, "max_iter": 900}, ["model_weights"]),
        (
            "linear_regression",
            {"features": FLAGS[1:12], "label": "number"},
            ["model_weights"],
        ),
        ("private_set_intersection", {"key": "patient"}, ["intersection_ids"]),
        (
            "summary_statistics",
            {"columns": ["number"], "quantiles": [0.25, 0.5]},
            ["statistics"],
        ),
    ],
)
def test_what_is_declared_is_what_is_needed(
    many_rows: Path, name: str, parameters: dict[str, object], outputs: list[str]
) -> None:
    """An estimate below the truth protects nobody; one far above it refuses honest tasks."""
    question = json.dumps([str(many_rows), name, parameters, outputs])
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, question], check=True, capture_output=True, text=True
    )
    taken = json.loads(run.stdout)
    declared = COMPUTATIONS[name].need(parameters).bytes(2 * ROWS, 2 * many_rows.stat().st_size)
    slack = 16 * MEBIBYTE  # the allocators' own
    assert taken <= declared + slack
    assert declared <= 3 * taken + slack
