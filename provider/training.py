"""Trains at home, from the joint model: with scikit-learn over the own rows, or by a program.

    trainer = SgdTrainer.of(spec, job)          # reads the rows once; they stay in this process
    trainer = ProgramTrainer(Path("train.py"), series, seconds=600)
    update = changed(series, model, trainer.train(1, model))

A trainer is given the model's numbers and gives back new ones. What is sent is the difference, as
float32. A program is given files and leaves one: names, shapes and numbers in Arrow's form.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from policy.rounds import Series
from policy.sections import Dataset
from provider.errors import SourceError
from provider.full_check import PersonsTooFew
from provider.sources import SourceSpec
from verifier.errors import ConfigError
from verifier.files import MEBIBYTE, read_file

Numbers: TypeAlias = npt.NDArray[np.float32]
Wide: TypeAlias = npt.NDArray[np.float64]
_TOGETHER = 256  # rows between two pulls towards the joint model


class TrainingDiverged(SourceError):
    """Training ended with a number that is not finite."""

    code = "training-diverged"
    default_fix = "agree on a smaller learning_rate, or on domains (min, max) that fit the rows"
    says = "{thing} did not end with finite numbers"


class TrainingLibraryMissing(ConfigError):
    """scikit-learn is not installed, and the agreed model is trained with it."""

    code = "training-library-missing"
    default_fix = "pip install 'ratls[train]', or train with a program of your own: --program"


class ProgramFailed(SourceError):
    """The program that should train ended with an error, or not in time."""

    code = "training-program-failed"
    default_fix = "run it by hand on a folder with global.arrow and round.json"
    says = "{thing} {found}"


class UpdateFileUnfit(SourceError):
    """What the program wrote is not the agreed model, in Arrow's form."""

    code = "update-file-unfit"
    default_fix = "write update.arrow with the names and shapes of global.arrow, as float32"


class Trainer(Protocol):
    """Makes new numbers of a model's, one round at a time."""

    def train(self, number: int, model: Numbers) -> Wide | Numbers:
        """The model after training here. Raises: RatlsError."""


def changed(model: Numbers, trained: Wide | Numbers) -> Numbers:
    """What is sent: the difference. Raises: TrainingDiverged."""
    with np.errstate(all="ignore"):
        update = (trained.astype(np.float64) - model).astype(np.float32)
    if not np.isfinite(update).all():
        raise TrainingDiverged("training", expected="finite numbers", found="others")
    return update


def require_persons(spec: SourceSpec, dataset: Dataset, least: int, wanted: Sequence[str]) -> Wide:
    """Read and check all rows; the wanted columns as float64.

    Raises:
        PersonsTooFew: The rows are about fewer persons than the policy asks of each input.
        RatlsError: What reading the source raises.
    """
    persons: set[Any] = set()
    parts: list[Wide] = []
    with spec.open(dataset) as source, closing(source.chunks()) as chunks:
        for chunk in chunks:
            batch = chunk.batch
            persons.update(batch.column(dataset.subject).unique().to_pylist())
            columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in wanted]
            if columns:
                parts.append(np.column_stack(columns).astype(np.float64))
    if len(persons - {None}) < least:
        raise PersonsTooFew(dataset.id, expected=f"{least} persons", found=str(len(persons)))
    return np.concatenate(parts) if parts else np.empty((0, 0))


@dataclass(frozen=True)
class SgdTrainer:
    """scikit-learn's SGD over the own rows, scaled by their agreed domain, from the joint model."""

    series: Series
    matrix: Wide  # features from -1 to 1
    target: Wide  # 0 or 1; of a linear model from 0 to 1

    @classmethod
    def of(cls, spec: SourceSpec, dataset: Dataset, series: Series, least: int) -> SgdTrainer:
        """Read the rows. Raises: as `require_persons`; TrainingLibraryMissing."""
        _require_library()
        rows = require_persons(spec, dataset, least, [*series.features, series.label])
        middles, halves = np.array(series.scales(dataset)).T
        low, high = series.domain(dataset, series.label)
        return cls(series, (rows[:, :-1] - middles) / halves, (rows[:, -1] - low) / (high - low))

    def train(self, number: int, model: Numbers) -> Wide:
        """A few passes over the rows, in an order that the number of the round fixes."""
        estimator = self._estimator(model)
        random = np.random.default_rng(number)
        pull = self.series.mu if self.series.aggregator == "fedprox" else 0.0
        step = _TOGETHER if pull else len(self.matrix)
        for _ in range(self.series.epochs):
            order = random.permutation(len(self.matrix))
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                estimator.partial_fit(self.matrix[rows], self.target[rows])
                if pull:
                    self._pull(estimator, model, pull, len(rows))
        return np.append(estimator.coef_, estimator.intercept_)

    def _pull(self, estimator: Any, model: Numbers, mu: float, rows: int) -> None:
        """FedProx: each step of SGD also moves the numbers back towards the joint model. Exactly
        that, for the steps that were just made."""
        kept = (1 + self.series.learning_rate * mu) ** -rows
        for name, joint in (("coef_", model[:-1]), ("intercept_", model[-1:])):
            numbers = getattr(estimator, name)
            numbers[...] = joint + kept * (numbers - joint)

    def _estimator(self, model: Numbers) -> Any:
        from sklearn.linear_model import SGDClassifier, SGDRegressor

        series = self.series
        options: dict[str, Any] = {
            "learning_rate": "constant",
            "eta0": series.learning_rate,
            "penalty": "l2" if series.l2 else None,
            "alpha": series.l2,
            "shuffle": False,
        }
        wide = model.astype(np.float64)
        if series.model == "logistic":
            estimator = SGDClassifier(loss="log_loss", **options)
            estimator.classes_ = np.array([0.0, 1.0])
            estimator.coef_ = wide[:-1].reshape(1, -1).copy()
        else:
            estimator = SGDRegressor(loss="squared_error", **options)
            estimator.coef_ = wide[:-1].copy()
        estimator.intercept_ = wide[-1:].copy()
        return estimator


def _require_library() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise TrainingLibraryMissing("scikit-learn", expected="installed", found="not") from error


_SCHEMA = pa.schema(
    [("name", pa.string()), ("shape", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))]
)


def write_model(series: Series, numbers: Numbers) -> bytes:
    """A model as an Arrow file: a row for each of its parts."""
    values, start = [], 0
    for tensor in series.tensors:
        values.append(numbers[start : start + tensor.size])
        start += tensor.size
    columns = [
        pa.array([tensor.name for tensor in series.tensors]),
        pa.array([list(tensor.shape) for tensor in series.tensors], _SCHEMA.field("shape").type),
        pa.array(values, _SCHEMA.field("values").type),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
    return bytes(sink.getvalue())


def read_model(series: Series, raw: bytes) -> Numbers:
    """What `write_model` wrote, or somebody's program. Raises: UpdateFileUnfit."""
    try:
        return _numbers_in(series, raw)
    except (pa.ArrowException, OSError, ValueError) as error:  # also names that are no text
        raise _unfit("an Arrow file") from error


def _numbers_in(series: Series, raw: bytes) -> Numbers:
    table = pa.ipc.open_file(pa.BufferReader(raw)).read_all()
    table.validate(full=True)
    if not table.schema.equals(_SCHEMA) or len(table) != len(series.tensors):
        raise _unfit("columns name, shape and values, a row for each part")
    shapes = [list(tensor.shape) for tensor in series.tensors]
    names = [tensor.name for tensor in series.tensors]
    if table.column("name").to_pylist() != names or table.column("shape").to_pylist() != shapes:
        raise _unfit("the agreed names and shapes, in their order")
    values = table.column("values").combine_chunks()
    lengths = values.value_lengths().to_pylist()
    if lengths != [tensor.size for tensor in series.tensors] or values.flatten().null_count:
        raise _unfit("as many numbers as each shape has")
    numbers: Numbers = values.flatten().to_numpy()
    return numbers.copy()


def _unfit(expected: str) -> UpdateFileUnfit:
    return UpdateFileUnfit("update.arrow", expected=expected, found="others")


@dataclass(frozen=True)
class ProgramTrainer:
    """Somebody's own program: `PROGRAM FOLDER`, without a shell.

    It finds `global.arrow` (the joint model) and `round.json` there, and leaves `update.arrow`: the
    model after training, in the same form. Rows it reads from where it knows them to be.
    """

    program: Path
    series: Series
    seconds: float

    def train(self, number: int, model: Numbers) -> Numbers:
        with tempfile.TemporaryDirectory(prefix="ratls-round-") as name:
            folder = Path(name)  # of this user alone
            (folder / "global.arrow").write_bytes(write_model(self.series, model))
            about = {
                "round": number,
                "rounds": self.series.rounds,
                "aggregator": self.series.aggregator,
                "mu": self.series.mu,
                "clip_norm": self.series.clip_norm,
            }
            (folder / "round.json").write_text(json.dumps(about), "utf-8")
            self._run(folder)
            update = folder / "update.arrow"
            if update.is_symlink() or not update.is_file():
                raise _unfit("a file")
            most = 8 * self.series.size + MEBIBYTE
            if update.stat().st_size > most:
                raise _unfit(f"at most {most} bytes")
            return read_model(self.series, read_file(update, cap=most))

    def _run(self, folder: Path) -> None:
        """Raises: ProgramFailed."""
        command = [str(self.program.absolute()), str(folder)]
        try:
            # What it says goes to the terminal, not into an answer that another program reads.
            child = subprocess.Popen(  # noqa: S603 - its owner names it, and no shell reads it
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except OSError as error:
            raise self._failed("cannot be started") from error
        try:
            status = child.wait(self.seconds)
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"did not end within {self.seconds:.0f} s") from error
        finally:
            with suppress(ProcessLookupError):  # itself, and all that it started
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if status:
            raise self._failed(f"ended with status {status}")

    def _failed(self, found: str) -> ProgramFailed:
        return ProgramFailed(str(self.program), expected="an update", found=found)
