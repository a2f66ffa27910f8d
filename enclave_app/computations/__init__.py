"""The closed list of what this enclave can compute. It is measured; nothing else ever runs.

A policy names a computation by its key here. Callers supply values for named parameters,
never code, expressions or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from enclave_app.computations import logistic_regression
from enclave_app.errors import ComputationUnknown


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One measured computation."""

    outputs: frozenset[str]
    # (parameters, for each input its column names and types): refuses what `run` cannot take
    check: Callable[[Mapping[str, Any], Sequence[Mapping[str, str]]], None]
    # (inputs in the policy's order, parameters) -> output name -> JSON value
    run: Callable[[Sequence[pa.Table], Mapping[str, Any]], dict[str, Any]]


COMPUTATIONS: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "logistic_regression": BuiltIn(
            logistic_regression.OUTPUTS, logistic_regression.check, logistic_regression.run
        )
    }
)


def built_in(name: str) -> BuiltIn:
    """The computation of exactly this name.

    Raises:
        ComputationUnknown: There is none.
    """
    found = COMPUTATIONS.get(name)
    if found is None:
        raise ComputationUnknown(
            "computation", expected=" or ".join(sorted(COMPUTATIONS)), found=repr(name[:64])
        )
    return found
