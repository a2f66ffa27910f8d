"""A submitter's task, signed: made only from the policy that this party accepted.

task, envelope = sign_task(party, state, "my-study", "train", {"max_iter": 200}, lifetime, at=now)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from policy.document import Policy
from policy.parameters import Fixed, Value, as_value
from policy.party import LocalParty
from policy.signing import require_own_signature
from policy.state import StudyState
from policy.task import Task, TaskParameterDenied
from verifier.errors import ConfigError

_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def policy_in_force(party: LocalParty, state: Path, study: str, *, at: datetime) -> Policy:
    """The policy of a study that this party accepted and that holds now.

    Raises:
        StateMissing, PolicyExpired, PolicyNotYetValid: There is none.
        PartyNotListed, AnchorDiffers: It lists this party not at all, or with other keys.
    """
    agreement = StudyState(state).current(study, at)
    require_own_signature(agreement, party)
    return agreement.policy


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
            give this party such a task.
    """
    named = policy.computation_by_id(computation)
    if named is not None:
        free = sorted(n for n, p in named.parameters.items() if not isinstance(p, Fixed))
        for name in parameters:
            if name not in free:
                raise TaskParameterDenied(
                    f"parameter {ascii(name)[:80]}",
                    expected=f"one that the policy leaves open: {', '.join(free) or 'none'}",
                    found="another",
                )
    task = Task.new(
        policy, computation, party.party_id, at=at, parameters=parameters, lifetime=lifetime
    )
    return task, task.seal(party.operation)


class ParameterMalformed(ConfigError):
    """A `--set` is not one `name=value` with a TOML value."""

    code = "parameter-malformed"
    default_fix = "write for example --set max_iter=200 or --set 'label=\"y\"'"


def parse_parameters(settings: Sequence[str]) -> dict[str, Value]:
    """`name=value` with TOML values. Raises: ParameterMalformed."""
    parameters: dict[str, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        thing = f"--set {ascii(name)[:80]}"
        if not equals or not name or name in parameters:
            raise ParameterMalformed(thing, expected="each name once, name=value", found="other")
        try:
            document = tomllib.loads(f"value = {text}")
            if set(document) != {"value"}:  # a line end in the value would begin another entry
                raise ValueError("several values")
            parameters[name] = as_value(name, document["value"])
        except (ValueError, RecursionError) as error:
            raise ParameterMalformed(thing, expected="one TOML value", found="another") from error
    return parameters


class DurationMalformed(ConfigError):
    """A duration cannot be read."""

    code = "duration-malformed"
    default_fix = "write for example 30m, 1h or 7d"


def parse_duration(text: str) -> timedelta:
    """`30m`, `1h`, `7d`: one number and s, m, h or d. Raises: DurationMalformed."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise DurationMalformed("--valid-for", expected="a number and s, m, h or d", found=text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
