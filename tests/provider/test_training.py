"""Training at home: what a program may leave, and scikit-learn's steps from a given model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import SGDClassifier, SGDRegressor

from policy.rounds import Tensor
from provider import training
from provider.training import (
    ProgramFailed,
    ProgramTrainer,
    SgdTrainer,
    TrainingDiverged,
    TrainingLibraryMissing,
    UpdateFileUnfit,
    changed,
    read_model,
    write_model,
)
from tests.support.refusal import count_refusal, refused
from tests.support.rounds import made_series
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

ZERO = np.zeros(5, np.float32)


series = made_series


# A model as a file.


def test_a_model_is_a_file_that_any_arrow_program_reads() -> None:
    numbers = np.arange(5, dtype=np.float32)
    raw = write_model(series(), numbers)
    table = pa.ipc.open_file(pa.BufferReader(raw)).read_all()
    assert table.to_pylist() == [
        {"name": "w", "shape": [2, 2], "values": [0, 1, 2, 3]},
        {"name": "b", "shape": [1], "values": [4]},
    ]
    assert read_model(series(), raw).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "tensors",
    [
        (Tensor("w", (4,)), Tensor("b", (1,))),
        (Tensor("b", (1,)), Tensor("w", (2, 2))),
        (Tensor("w", (2, 2)),),
        (Tensor("w", (2, 2)), Tensor("c", (1,))),
    ],
)
def test_a_model_of_another_shape(tensors: tuple[Tensor, ...]) -> None:
    other = series(tensors=tensors)
    raw = write_model(other, np.zeros(other.size, np.float32))
    assert read_model(other, raw).size == other.size
    with refused(UpdateFileUnfit):
        read_model(series(), raw)


@pytest.mark.parametrize(
    "values", [[[0, 1, 2], [4]], [[0, 1, 2, None], [4]], [None, [4]], [[0, 1, 2, 3, 4], []]]
)
def test_a_file_with_other_numbers_than_its_shapes_have(values: list[Any]) -> None:
    schema = training._SCHEMA
    columns = [["w", "b"], [[2, 2], [1]], values]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    with refused(UpdateFileUnfit):
        read_model(series(), bytes(sink.getvalue()))


GOOD = write_model(series(), np.arange(5, dtype=np.float32))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_any_file_is_a_model_or_a_refusal(start: int, planted: bytes) -> None:
    """The kind: a program's file is somebody else's bytes; nothing of it crashes or is guessed."""
    count_refusal()
    raw = GOOD[:start] + planted + GOOD[start + len(planted) :]
    try:
        assert read_model(series(), raw).shape == (5,)
    except UpdateFileUnfit:
        assert raw != GOOD
    with refused(UpdateFileUnfit):
        read_model(series(), GOOD[:start])


# A program.


def program(folder: Path, body: str) -> Path:
    """One that starts at once; `good` is what it may leave."""
    (folder / "good").write_bytes(write_model(series(), np.arange(5, dtype=np.float32)))
    path = folder / "program"
    text = (
        f"#!{sys.executable} -ISs\nimport os, sys, shutil\nfolder = sys.argv[1]\n"
        f"update = os.path.join(folder, 'update.arrow')\ngood = {str(folder / 'good')!r}\n{body}\n"
    )
    path.write_text(text, "utf-8")
    path.chmod(0o700)
    return path


def trained(folder: Path, body: str) -> Any:
    return ProgramTrainer(program(folder, body), series(), HANG_LIMIT).train(1, ZERO)


def test_a_program_is_given_the_model_and_leaves_one(tmp_path: Path) -> None:
    """In a folder of this user alone, which is gone afterwards."""
    body = (
        f"print('a word for people'); print(folder, file=open({str(tmp_path / 'where')!r}, 'w'))\n"
        f"shutil.copytree(folder, {str(tmp_path / 'seen')!r}); shutil.copy(good, update)\n"
        "os.stat(folder).st_mode & 0o77 and sys.exit(1)"
    )
    assert trained(tmp_path, body).tolist() == [0, 1, 2, 3, 4]
    seen = tmp_path / "seen"
    assert read_model(series(), (seen / "global.arrow").read_bytes()).tolist() == [0] * 5
    assert '"round": 1' in (seen / "round.json").read_text()
    assert not Path((tmp_path / "where").read_text().strip()).exists()


@pytest.mark.parametrize(
    ("body", "leaf"),
    [
        ("shutil.copy(good, update); sys.exit(3)", ProgramFailed),
        ("os.kill(os.getpid(), 9)", ProgramFailed),
        ("pass", UpdateFileUnfit),
        ("open(update, 'wb').write(bytes(9))", UpdateFileUnfit),
        ("open(update, 'wb').truncate(9 << 20)", UpdateFileUnfit),
        ("os.symlink(good, update)", UpdateFileUnfit),
        ("os.mkdir(update)", UpdateFileUnfit),
    ],
)
def test_a_program_that_leaves_something_else(
    tmp_path: Path, body: str, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        trained(tmp_path, body)


def test_a_program_that_does_not_end(tmp_path: Path) -> None:
    """It is ended, with what it started."""
    slow = program(tmp_path, "import time; os.fork(); time.sleep(3600)")
    with refused(ProgramFailed):
        ProgramTrainer(slow, series(), 0.3).train(1, ZERO)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with refused(ProgramFailed):
        ProgramTrainer(tmp_path / "none", series(), 1).train(1, ZERO)


def test_no_shell_reads_the_name_of_a_program(tmp_path: Path) -> None:
    """It may have any name."""
    odd = program(tmp_path, "shutil.copy(good, update)").rename(tmp_path / "a b; touch $HOME")
    assert ProgramTrainer(odd, series(), HANG_LIMIT).train(1, ZERO).tolist() == [0, 1, 2, 3, 4]


# What is sent.


def test_the_difference_is_sent() -> None:
    model = np.array([1, 2, 3], np.float32)
    assert changed(model, np.array([1.5, 2, 2])).tolist() == [0.5, 0, -1]
    for wrong in (np.nan, np.inf, 1e39):
        with refused(TrainingDiverged):
            changed(model, np.array([1.5, wrong, 2]))


# scikit-learn.


def sgd(model: str = "logistic", **given: Any) -> SgdTrainer:
    random = np.random.default_rng(3)
    matrix = random.uniform(-1, 1, (600, 2))
    target = (matrix @ [3, -2] > 0.3).astype(np.float64)
    made = series(
        model=model, tensors=(Tensor("coefficients", (2,)), Tensor("intercept", (1,))),
        features=("x", "z"), label="y", epochs=2, learning_rate=0.1, **given,
    )  # fmt: skip
    return SgdTrainer(made, matrix, target)


@pytest.mark.parametrize("model", ["logistic", "linear"])
def test_it_is_scikit_learns_own_partial_fit_from_the_joint_model(model: str) -> None:
    start = np.array([0.5, -0.25, 0.125], np.float32)
    trainer = sgd(model)
    plain: Any = (
        SGDClassifier(
            loss="log_loss", learning_rate="constant", eta0=0.1, penalty=None, shuffle=False
        )
        if model == "logistic"
        else SGDRegressor(learning_rate="constant", eta0=0.1, penalty=None, shuffle=False)
    )
    order = np.random.default_rng(7)
    for turn in range(2):
        rows = order.permutation(600)
        if turn == 0:
            plain.coef_ = start[:2].astype(np.float64).reshape((1, 2) if model == "logistic" else 2)
            plain.intercept_ = start[2:].astype(np.float64)
            plain.classes_ = np.array([0.0, 1.0])
        plain.partial_fit(trainer.matrix[rows], trainer.target[rows])
    wanted = np.append(plain.coef_, plain.intercept_)
    np.testing.assert_array_equal(trainer.train(7, start), wanted)
    np.testing.assert_array_equal(trainer.train(7, start), wanted)  # and again
    assert not np.array_equal(trainer.train(8, start), wanted)  # in another order


def test_a_pull_keeps_what_is_trained_near_the_joint_model() -> None:
    """FedProx: with a stronger one nearer; with next to none as without."""
    start = np.array([0.5, -0.25, 0.125], np.float32)

    def far(**given: Any) -> float:
        return float(np.linalg.norm(sgd(**given).train(1, start) - start))

    free = far()
    pulled = [far(aggregator="fedprox", mu=mu) for mu in (1e-9, 0.1, 1.0, 100.0)]
    assert pulled[0] == pytest.approx(free, rel=0.02)
    assert pulled == sorted(pulled, reverse=True)
    assert pulled[-1] < free / 50


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with refused(TrainingLibraryMissing):
        training._require_library()
