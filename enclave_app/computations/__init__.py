"""The closed list of what this enclave can compute. It is measured; nothing else runs.

A policy names a computation by its key here. Callers supply values for named parameters,
never code, expressions or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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
from policy.document import Policy
from policy.sections import Release
from verifier.errors import ConfigError


class PartNotInImage(ConfigError):
    """The policy has a computation that this enclave was built without."""

    code = "part-not-in-image"
    default_fix = "build the image with `ratls enclave image --computations`, naming all of them"


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
    # Packages that it loads and that only some images have.
    parts: tuple[str, ...]
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
            getattr(module, "PARTS", ()),
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


def require_parts(policy: Policy) -> None:
    """Everything that the computations of a policy load is there, and fit to run.

    M13: at the start, before any party connects; later, rows would have been released for it.

    Raises:
        PartNotInImage: Names the computation, and the first package that is missing.
        EngineNotLocked: As `sql.ready` says.
    """
    for computation in policy.computation:
        code = COMPUTATIONS[computation.run]
        for part in code.parts:
            if find_spec(part) is None:
                runs = ",".join(sorted({other.run for other in policy.computation}))
                raise PartNotInImage(
                    f"computation {computation.id!r}, run = {computation.run!r}",
                    expected=f"an image that has {part}",
                    found="none",
                    fix=f"build the image anew: `ratls enclave image --computations {runs}`",
                )
        code.ready()
