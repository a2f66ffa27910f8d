"""Signs a submitter's task, under the policy that this party accepted.

policy = policy_in_force(party, state, "breast-cancer-joint-training", at=now)
task, envelope = sign_task(party, policy, "train", {"max_iter": 200}, lifetime, at=now)
StudyState(state).require_taking_part(policy, task.computation, task.submitter)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from policy.document import Policy
from policy.parameters import Value, as_value
from policy.party import LocalParty
from policy.signing import require_own_signature
from policy.state import StudyState
from policy.task import Task
from verifier.errors import ConfigError

_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def policy_in_force(party: LocalParty, state: Path, study: str, *, at: datetime) -> Policy:
    """The policy of a study that this party accepted and that is in force.

    Raises:
        StateMissing, PolicyExpired, PolicyNotYetValid: There is none.
        PartyNotListed, AnchorDiffers: It does not list this party, or has other keys for it.
    """
    agreement = StudyState(state).current(study, at)
    require_own_signature(agreement, party)
    return agreement.policy


class ComputationUnnamed(ConfigError):
    """No computation is named, and the policy does not leave exactly one to this party."""

    code = "computation-unnamed"
    default_fix = "name one with --computation"


def only_computation(policy: Policy, submitter: str) -> str:
    """The one computation that this party may submit. Raises: ComputationUnnamed."""
    allowed = [c.id for c in policy.computation if submitter in c.submitters]
    if len(allowed) != 1:
        raise ComputationUnnamed(
            f"policy of {policy.study}",
            expected=f"one computation that {submitter} may submit",
            found=", ".join(allowed) or "none",
        )
    return allowed[0]


def sign_task(
    party: LocalParty,
    policy: Policy,
    computation: str,
    parameters: dict[str, Value],
    lifetime: timedelta,
    *,
    at: datetime,
) -> tuple[Task, bytes]:
    """A task under this policy, and its signed envelope.

    Raises:
        TaskComputationUnknown, TaskSubmitterDenied, TaskParameterDenied: The policy does not
            allow such a task to this party.
    """
    task = Task.new(
        policy, computation, party.party_id, at=at, parameters=parameters, lifetime=lifetime
    )
    return task, task.seal(party.operation)


class ParameterMalformed(ConfigError):
    """A `--set` is not `name=value` with a TOML value, or repeats a name."""

    code = "parameter-malformed"
    default_fix = "write for example --set max_iter=200 or --set 'label=\"y\"'"


def parse_parameters(settings: Sequence[str]) -> dict[str, Value]:
    """`name=value` with TOML values. Raises: ParameterMalformed."""
    parameters: dict[str, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        thing = f"--set {ascii(name)[:80]}"
        if not equals or not name or name in parameters:
            raise ParameterMalformed(
                thing, expected="name=value, each name once", found="something else"
            )
        try:
            document = tomllib.loads(f"value = {text}")
            if set(document) != {"value"}:  # a line end in the value would begin another entry
                raise ValueError("several values")
            parameters[name] = as_value(name, document["value"])
        except (ValueError, RecursionError) as error:
            raise ParameterMalformed(thing, expected="one TOML value", found="another") from error
    return parameters


class DurationMalformed(ConfigError):
    """A duration is not a number with s, m, h or d."""

    code = "duration-malformed"
    default_fix = "write for example 30m, 1h or 7d"


def parse_duration(text: str) -> timedelta:
    """`30m`, `1h`, `7d`: one number and s, m, h or d. Raises: DurationMalformed."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise DurationMalformed("--valid-for", expected="a number and s, m, h or d", found=text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
