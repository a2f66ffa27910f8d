"""The closed list of what this enclave can compute. It is measured; nothing else ever runs.

A policy names a computation by its key here. Callers supply values for named parameters,
never code, expressions or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from enclave_app.computations import (
    logistic_regression,
    private_set_intersection,
    summary_statistics,
)
from enclave_app.errors import ComputationUnknown
from enclave_app.release import Input, ReleaseRule


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One measured computation."""

    outputs: frozenset[str]
    # (parameters, for each input its column names and types): refuses what `run` cannot take.
    # A type ends in `?` where it may be null, and in `!` where the column names a person: who
    # does not ask for persons gets none.
    check: Callable[[Mapping[str, Any], Sequence[Mapping[str, str]]], None]
    # (inputs by dataset id in the policy's order, parameters, what may leave)
    # -> output name -> JSON value
    run: Callable[[Mapping[str, Input], Mapping[str, Any], ReleaseRule], dict[str, Any]]
    fixed: frozenset[str] = frozenset()  # parameters that no policy may leave to a task
    most_digits: int = 17  #               a release rule may allow no more
    fewest_subjects: int = 1  #            and demand no fewer


COMPUTATIONS: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "logistic_regression": BuiltIn(
            logistic_regression.OUTPUTS, logistic_regression.check, logistic_regression.run
        ),
        "private_set_intersection": BuiltIn(
            private_set_intersection.OUTPUTS,
            private_set_intersection.check,
            private_set_intersection.run,
            fixed=private_set_intersection.FIXED,
        ),
        "summary_statistics": BuiltIn(
            summary_statistics.OUTPUTS,
            summary_statistics.check,
            summary_statistics.run,
            fixed=summary_statistics.FIXED,
            most_digits=summary_statistics.MOST_DIGITS,
            fewest_subjects=summary_statistics.FEWEST_SUBJECTS,
        ),
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
