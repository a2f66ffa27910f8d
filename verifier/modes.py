"""Production or simulation. A simulated root needs three permissions; two of them are given here.

1. The `ratls-simulation` distribution is installed.
2. The policy that all parties signed names the simulated root.
3. The command was given `--allow-simulation`.

This module checks the first and the third. Nothing here reads the environment. An entry point is
loaded only if it comes from one of our own distributions.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Protocol

from verifier.anchors import Mode, RootName, TrustAnchors
from verifier.errors import ConfigError, ModeMismatchError

_GROUP = "ratls.simulation"
_SIMULATION = "ratls-simulation"
_OURS = frozenset({"ratls", _SIMULATION})


class SimulationLock(Protocol):
    """What the simulation distribution contributes; production has none."""

    def attester(self, argument: str) -> object:
        """A simulated attester (`ratls.attester.Attester`) on the platform folder `argument`."""


class ForeignEntryPoint(ConfigError):
    """A foreign distribution adds a command, or claims to be the simulation."""

    code = "foreign-entry-point"
    default_fix = "uninstall that distribution, or give ratls an environment of its own"


def own_entry_points(group: str, ours: frozenset[str] = _OURS) -> list[EntryPoint]:
    """What our distributions contribute to a group. Looks at metadata only and loads nothing.

    Raises:
        ForeignEntryPoint: Another distribution contributes to it too. Its code would run in our
            process, under the name of a command, or as the simulation (X09).
    """
    found = list(_contributed(entry_points, group, tuple(sys.path)))
    for entry in found:
        if _distribution(entry) not in ours:
            raise ForeignEntryPoint(
                f"entry point {group}: {entry.name}",
                expected=f"it in {' or '.join(sorted(ours))}",
                found=ascii(_distribution(entry)),
            )
    return found


@lru_cache(maxsize=64)
def _contributed(
    look: Callable[..., EntryPoints], group: str, path: tuple[str, ...]
) -> EntryPoints:
    """Milliseconds, since all distributions on this path are looked through: once in a process."""
    return look(group=group)


def _distribution(entry: EntryPoint) -> str:
    """The name of the distribution that an entry point comes from, as an index would spell it."""
    name = "" if entry.dist is None else entry.dist.name
    return re.sub(r"[-_.]+", "-", name or "").lower()  # broken metadata has none


def simulation_installed() -> bool:
    """Is the distribution installed? Entry points of others in its group do not count."""
    found = _contributed(entry_points, _GROUP, tuple(sys.path))
    return any(_distribution(entry) == _SIMULATION for entry in found)


def simulation_lock() -> SimulationLock:
    """Load the simulation's contribution.

    Raises:
        SimulationNotInstalled: This is a production installation.
        ForeignEntryPoint: Another distribution wants to be the simulation.
    """
    lock: SimulationLock = _lock().load()
    return lock


class SimulationNotInstalled(ModeMismatchError):
    """A simulated root is named, and the simulation distribution is not installed."""

    code = "simulation-not-installed"
    default_fix = 'use root = "intel"; simulations need the ratls-simulation distribution'


def _lock() -> EntryPoint:
    found = own_entry_points(_GROUP, frozenset({_SIMULATION}))
    if len(found) != 1:
        raise SimulationNotInstalled(
            "simulation", expected="one ratls-simulation distribution", found=str(len(found))
        )
    return found[0]


def known_roots() -> frozenset[str]:
    """The schemes that `[platform] root` may use in this installation."""
    return frozenset({"intel", "simulation"} if simulation_installed() else {"intel"})


class SimulationNotAllowed(ModeMismatchError):
    """A simulated root is named, and the command was not given `--allow-simulation`."""

    code = "simulation-not-allowed"
    default_fix = "add --allow-simulation if a simulation is what you want"


def anchors_for(root: str, *, allow_simulation: bool) -> TrustAnchors:
    """The anchors that a policy's `root` names: `intel` or `simulation:sha256:<64 hex>`.

    Raises:
        RootMalformed: Neither form.
        SimulationNotAllowed: The command did not allow it.
        SimulationNotInstalled: The distribution is not installed.
        ForeignEntryPoint: Another distribution wants to be the simulation.
    """
    name = RootName.parse(root)
    if name.mode is Mode.SIMULATION:
        if not allow_simulation:
            raise SimulationNotAllowed("root of trust", expected="intel", found=root)
        _lock()
    return name.anchors


def with_simulation_option(
    command: Callable[..., Any], installed: bool | None = None
) -> Callable[..., Any]:
    """Give a command its `--allow-simulation` where the distribution is installed.

    The command takes `allow_simulation: bool`; in production the option does not exist and the
    command is called with False.

    Args:
        installed: What `simulation_installed` said, for a caller with many commands; asking takes
            some milliseconds. None: asked here.
    """
    signature = inspect.signature(command, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.name != "allow_simulation"]
    if simulation_installed() if installed is None else installed:
        import typer

        option = typer.Option(
            False, "--allow-simulation", help="Accept the simulated root that the policy names."
        )
        kept.append(
            inspect.Parameter(
                "allow_simulation", inspect.Parameter.KEYWORD_ONLY, default=option, annotation=bool
            )
        )

    def run(**arguments: Any) -> Any:
        arguments.setdefault("allow_simulation", False)
        return command(**arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in kept}
    return run
