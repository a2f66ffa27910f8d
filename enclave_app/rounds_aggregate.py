"""Updates become numbers once, and numbers one model. Pure: arrays in, arrays out.

    update = read_update(parts, series.size)              # or a refusal
    model = aggregated(series, model, {"rows-a": update, "rows-b": other})

Every update is cut to the agreed norm here, whoever sent it. Sums run in the order of the policy's
inputs, in float64; the model has the agreed digits, so that none of its numbers carries more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policy.rounds import Series
from ratls.errors import StreamIntegrityError

Numbers: TypeAlias = npt.NDArray[np.float32]
_Block: TypeAlias = npt.NDArray[np.float64]
ITEM = 4  # bytes of a float32
PART = 1 << 22  # bytes of each part of an update but the last
_COLUMNS = 1 << 15  # numbers of each update at a time: they stay in the processor's cache
_NOTHING = 1e-30  # below it a number of a model is zero


class UpdateMalformed(StreamIntegrityError):
    """The update has another size than the model, or a number that is not finite."""

    code = "update-malformed"
    default_fix = "use `ratls provider train`: it checks every update, and says what is wrong"


def read_update(parts: Sequence[memoryview], size: int) -> Numbers:
    """`size` float32, little-endian, in parts of `PART` bytes.

    Raises: UpdateMalformed. It does not tell which rule was broken: that may depend on rows.
    """
    whole = size * ITEM
    due = [min(PART, whole - start) for start in range(0, whole, PART)]
    if [len(part) for part in parts] != due:
        raise _malformed()
    numbers = np.frombuffer(b"".join(parts), dtype="<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _malformed()
    return numbers


def _malformed() -> UpdateMalformed:
    return UpdateMalformed("update", expected="finite numbers, as many as agreed", found="others")


def shrinking(update: Numbers, norm: float) -> float:
    """What an update is multiplied with, so that it is no longer than `norm`."""
    length = math.sqrt(float(np.square(update, dtype=np.float64).sum()))
    return 1.0 if length <= norm else norm / length


def aggregated(series: Series, model: Numbers, updates: Mapping[str, Numbers]) -> Numbers:
    """The model after a round: the one before, moved by what the updates have in common.

    Args:
        updates: By dataset; at least as many as the quorum.
    """
    taken = [(w, updates[i]) for i, w in zip(series.inputs, series.weights, strict=True)
             if i in updates]  # fmt: skip
    shares = [shrinking(update, series.clip_norm) for _, update in taken]
    weights = [weight for weight, _ in taken]
    found = np.empty(series.size, np.float32)
    for start in range(0, series.size, _COLUMNS):
        part = slice(start, min(start + _COLUMNS, series.size))
        rows = np.empty((len(taken), part.stop - start))
        for row, (_, update), share in zip(rows, taken, shares, strict=True):
            np.multiply(update[part], share, out=row, dtype=np.float64)
        moved = model[part] + joined(series, rows, weights)
        found[part] = significant(moved, series.digits)
    return found


def joined(series: Series, rows: _Block, weights: Sequence[float]) -> _Block:
    """One number for each column of `rows`, which has a row for each update."""
    if series.aggregator in ("fedavg", "fedprox"):
        total: _Block = np.zeros(rows.shape[1])
        for weight, row in zip(weights, rows, strict=True):
            total += weight * row
        return total / math.fsum(weights)
    ordered = _sorted(rows)
    count = len(ordered)
    cut = series.trim if series.aggregator == "trimmed_mean" else (count - 1) // 2
    mean: _Block = ordered[cut : count - cut].sum(axis=0) / (count - 2 * cut)
    return mean


def _sorted(rows: _Block) -> _Block:
    """Each column in ascending order. Neighbours change places until none has to: for the few rows
    that there are, whole rows at a time are faster than a sort of each column."""
    count = len(rows)
    for turn in range(count):
        for low in range(turn % 2, count - 1, 2):
            least = np.minimum(rows[low], rows[low + 1])
            np.maximum(rows[low], rows[low + 1], out=rows[low + 1])
            rows[low] = least
    return rows


def significant(values: _Block, digits: int) -> _Block:
    """Each number at so many significant decimal digits; 0.0 where it is next to nothing."""
    kept: _Block = np.where(np.abs(values) < _NOTHING, 1.0, values)
    scale = np.power(10.0, digits - 1 - np.floor(np.log10(np.abs(kept))))
    rounded: _Block = np.where(kept == values, np.rint(kept * scale) / scale, 0.0) + 0.0
    return rounded
