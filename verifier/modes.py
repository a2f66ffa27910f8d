"""Production or simulation: the two of the three locks that commands hold in their hands.

A simulated root is believed only if the `ratls-simulation` distribution is installed, the
policy that all parties signed names that root, and the command says `--allow-simulation`.
This module asks for the first and the third. Nothing here reads the environment.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from verifier.anchors import TrustAnchors

_GROUP = "ratls.simulation"
_SIMULATED = re.compile(r"simulation:sha256:[0-9a-f]{64}", re.ASCII)


class SimulationLock(Protocol):
    """What the simulation distribution contributes; production has none."""

    def anchors(self, root_spki_sha256: bytes) -> TrustAnchors:
        """Anchors that believe exactly the simulated root with this SHA-256 of its SPKI."""

    def attester(self, argument: str) -> object:
        """A simulated attester (`ratls.attester.Attester`) on the platform folder `argument`."""


def simulation_installed() -> bool:
    """Is the distribution there? Looks at metadata only and loads nothing."""
    return bool(entry_points(group=_GROUP))


def simulation_lock() -> SimulationLock:
    """Load the simulation's contribution.

    Raises:
        SimulationNotInstalled: This is a production installation.
    """
    from verifier.errors import SimulationNotInstalled

    found = list(entry_points(group=_GROUP))
    if len(found) != 1:
        raise SimulationNotInstalled(
            "simulation", expected="one ratls-simulation distribution", found=str(len(found))
        )
    lock: SimulationLock = found[0].load()
    return lock


def known_roots() -> frozenset[str]:
    """The schemes that `[platform] root` may use in this installation."""
    return frozenset({"intel", "simulation"} if simulation_installed() else {"intel"})


def anchors_for(root: str, *, allow_simulation: bool) -> TrustAnchors:
    """The anchors that a policy's `root` names: `intel` or `simulation:sha256:<64 hex>`.

    Raises:
        RootMalformed: Neither form.
        SimulationNotAllowed: The third lock is closed.
        SimulationNotInstalled: The first lock is closed.
    """
    from verifier.anchors import TrustAnchors
    from verifier.errors import RootMalformed, SimulationNotAllowed

    if root == "intel":
        return TrustAnchors.intel()
    if not _SIMULATED.fullmatch(root):
        raise RootMalformed(
            "root of trust", expected="intel or simulation:sha256:<64 hex>", found=ascii(root)[:120]
        )
    if not allow_simulation:
        raise SimulationNotAllowed("root of trust", expected="intel", found=root)
    return simulation_lock().anchors(bytes.fromhex(root.removeprefix("simulation:sha256:")))


def with_simulation_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its `--allow-simulation` where the distribution is installed.

    The command takes `allow_simulation: bool`; in production the option does not exist and the
    command is called with False.
    """
    signature = inspect.signature(command, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.name != "allow_simulation"]
    if simulation_installed():
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
