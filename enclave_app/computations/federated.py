"""A model that its parties train in rounds: what leaves at the end, and what it needs.

No row comes in. `enclave_app.rounds` has the rounds; this is the answer of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from enclave_app.gate import Group, Inputs, Share
from enclave_app.limits import Need
from enclave_app.rounds import Model
from policy.document import digest_text
from policy.rounds import Series, Tensor
from policy.sections import Dataset, Release

_NUMBER = 16  # characters of one, as it is written out


def size_of(parameters: Mapping[str, Any]) -> int:
    """Numbers of the model."""
    if parameters["model"] == "vector":
        return sum(Tensor.parse(text).size for text in parameters["tensors"])
    return len(parameters["features"]) + 1


def need(parameters: Mapping[str, Any]) -> Need:
    """Of each input an update, and the model: counted with each, as all of them hold it."""
    return Need(per_row=0, fixed=8 * size_of(parameters) + (1 << 20))


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Names, escaped, and every number."""
    names = [*parameters.get("features", ()), *parameters.get("tensors", ())]
    return 2000 + sum(2 * len(name.encode()) for name in names) + _NUMBER * size_of(parameters)


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """None: there are no rows to count."""
    raise AssertionError("no rows come in")


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """As the registry knows it; a task of rounds is never run on rows."""
    raise AssertionError("no rows come in")


def described(series: Series, model: Model, dataset: Dataset) -> dict[str, Any]:
    """The model in numbers that a recipient can use.

    Args:
        dataset: One of the inputs: they have one domain.
    """
    told: dict[str, Any] = {
        "kind": series.model,
        "round": model.number,
        "digest": digest_text(model.digest),
    }
    numbers = model.numbers.astype(np.float64)
    if series.model == "vector":
        return told | {"tensors": _tensors(series, numbers)}
    middles, halves = np.array(series.scales(dataset)).T
    coefficients, intercept = numbers[:-1] / halves, numbers[-1]
    intercept = intercept - float(coefficients @ middles)
    told |= {"features": list(series.features), "label": series.label}
    if series.model == "logistic":
        told |= {"classes": [0, 1]}
    else:
        # Trained on the label's domain as 0 to 1.
        low, high = series.domain(dataset, series.label)
        coefficients, intercept = coefficients * (high - low), low + intercept * (high - low)
    return told | {"coefficients": coefficients.tolist(), "intercept": float(intercept)}


def _tensors(series: Series, numbers: Any) -> list[dict[str, Any]]:
    found, start = [], 0
    for tensor in series.tensors:
        values = numbers[start : start + tensor.size].tolist()
        found.append({"name": tensor.name, "shape": list(tensor.shape), "values": values})
        start += tensor.size
    return found
