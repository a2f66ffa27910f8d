"""`ratls task preview`: what would be released, in shape. It spends nothing and asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json, PartyDir
from provider.options import StateDir, state_folder

if TYPE_CHECKING:
    from policy.document import Policy
    from policy.task import Task


def preview(
    party: PartyDir,
    study: Annotated[str, typer.Option(help="Study whose accepted policy is meant.")],
    computation: Annotated[str, typer.Option(help="Id of the computation in the policy.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter left open; TOML value."),
    ] = None,
    state: StateDir = None,
    json_output: Json = False,
) -> None:
    """Say what a task would release, in shape: outputs, columns, limits, and the uses it takes.

    Nothing is signed, sent or counted, and no row is looked at: the accepted policy is read, and
    the parameters are checked against it.

    Example: ratls task preview --study my-study --computation table --party carol
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.party import LocalParty
        from policy.task import Task
        from provider.task_signing import parse_parameters, policy_in_force

        local, at = LocalParty.load(party), now()
        policy = policy_in_force(local, state_folder(state), study, at=at)
        task = Task.new(
            policy,
            computation,
            local.party_id,
            at=at,
            parameters=parse_parameters(setting or []),
        )
        found = _facts(policy, task)
        shell.answer(found, "\n".join(_lines(found)))


def _facts(policy: Policy, task: Task) -> dict[str, Any]:
    from policy.computations import DECLARED, columns_used
    from policy.parameters import plain
    from policy.sentences import inputs_of

    computation = policy.computation_by_id(task.computation)
    assert computation is not None  # `Task.new` refuses what the policy does not have
    inputs = inputs_of(policy, computation)
    found: dict[str, Any] = {
        "study": policy.study,
        "computation": computation.id,
        "run": computation.run,
        "outputs": list(computation.release.outputs),
        "recipients": list(computation.recipients),
        "parameters": plain(task.resolved_parameters(policy)),
        "columns_used": columns_used(computation, inputs),
        "uses": computation.uses,
        "tells": DECLARED[computation.run].says,
        "table": None,
    }
    if computation.run == "sql":
        from policy.joins import seen_by
        from policy.sql_shape import shape

        found["table"] = shape(computation, seen_by(computation, inputs))
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    from policy.sentences import listed

    lines = [f"{found['computation']} ({found['run']}) of {found['study']}"]
    for name, value in found["parameters"].items():
        lines.append(f"  {name} = {value}")
    if found["table"] is not None:
        from policy.sql_shape import shape_lines

        lines += ["its table has", *shape_lines(found["table"])]
    lines.append(f"for {listed(found['recipients'])}: {listed(found['outputs'])}")
    lines.append(f"it takes one of {found['uses']} uses of each input, also if it is refused")
    lines.append(f"it would tell {found['tells']}")
    return lines
