"""The closed list of what this enclave can compute. It is measured; nothing else runs.

A policy names a computation by its key here. Callers supply values for named parameters,
never code, expressions or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from enclave_app.computations import (
    boosted_trees,
    federated,
    k_means,
    linear_regression,
    logistic_regression,
    private_set_intersection,
    sql,
    summary_statistics,
)
from enclave_app.gate import Group, Inputs, Share
from enclave_app.limits import Need
from policy.sections import Release


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One measured computation. What a policy may ask of it: `policy.computations`.

    `groups` and `run` take the inputs by dataset id in the policy's order, the parameters, and
    what may leave.
    """

    # Every group of persons that the outputs are about, for the gate to count.
    groups: Callable[[Inputs, Mapping[str, Any], Release], Iterable[Group | Share]]
    # Output name -> JSON value.
    run: Callable[[Inputs, Mapping[str, Any], Release], dict[str, Any]]
    # parameters -> the memory that both need beside the rows. Measured by a test.
    need: Callable[[Mapping[str, Any]], Need]
    # (parameters, outputs, `max_rows` of each input) -> bytes of the longest result. Rows decide
    # nothing in it: every outcome of a task has this length, padded.
    longest: Callable[[Mapping[str, Any], Sequence[str], Sequence[int]], int]
    # Called at the start of an enclave whose policy has it. Raises: where it must not run.
    ready: Callable[[], None]


def _nothing() -> None:
    """To be done at the start for most of them."""


COMPUTATIONS: Mapping[str, BuiltIn] = MappingProxyType(
    {
        name: BuiltIn(
            module.groups,
            module.run,
            module.need,
            module.longest,
            getattr(module, "ready", _nothing),
        )
        for name, module in (
            ("boosted_trees", boosted_trees),
            ("k_means", k_means),
            ("linear_regression", linear_regression),
            ("federated", federated),
            ("logistic_regression", logistic_regression),
            ("private_set_intersection", private_set_intersection),
            ("sql", sql),
            ("summary_statistics", summary_statistics),
        )
    }
)
