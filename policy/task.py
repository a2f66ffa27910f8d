"""A task: a submitter's signed wish that an agreed computation be run once.

raw = Task.new(policy, "train", "carol-lab", at=now).seal(party.operation)
task = Task.open(raw, policy, at)
task.resolved_parameters(policy)["max_iter"]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PlainSerializer, PlainValidator

from policy import envelope as dsse
from policy.document import Computation, Party, Policy
from policy.errors import TicketScopeError, TicketSignatureError
from policy.parameters import Fixed, Value, as_value, plain
from policy.problems import Unfit
from policy.statement import (
    Digest,
    IdText,
    Moment,
    SlugText,
    Statement,
    instant_text,
    require_policy,
    require_study,
)
from policy.text import identifier_fault

LIFETIME = timedelta(hours=1)
# Clocks of honest parties differ a little; a task from further ahead is refused.
CLOCK_SKEW = timedelta(minutes=5)


def _values(value: Any) -> dict[str, Value]:
    if not isinstance(value, dict) or len(value) > 64:
        raise Unfit("a table of at most 64 parameters", "another value")
    for name in value:
        if not isinstance(name, str) or identifier_fault(name):
            raise Unfit("parameter names as in a policy", "another name")
    return {n: v if isinstance(v, tuple) else as_value(n, v) for n, v in value.items()}


class TaskSignatureInvalid(TicketSignatureError):
    """The task is not signed by the operation key of the submitter that it names."""

    code = "task-signature-invalid"
    default_fix = "ask the submitter for the task as it signed it"


class TaskParameterDenied(TicketScopeError):
    """A parameter that the policy fixes, does not know, or limits otherwise."""

    code = "task-parameter-denied"
    default_fix = "look at the computation's parameters with `ratls policy show`"


class TaskComputationUnknown(TicketScopeError):
    """The policy has no computation of this name."""

    code = "task-computation-unknown"
    default_fix = "use the id of a computation in the policy"


class TaskSubmitterDenied(TicketScopeError):
    """The task's submitter may not ask for this computation."""

    code = "task-submitter-denied"
    default_fix = "have a submitter that the policy lists for this computation sign the task"


class TaskExpired(TicketScopeError):
    """The task's last instant has passed."""

    code = "task-expired"
    default_fix = "sign a new task"


class TaskNotYetValid(TicketScopeError):
    """The task was issued in the future."""

    code = "task-not-yet-valid"
    default_fix = "compare the clocks of the submitter and of this machine"


class Task(Statement):
    """What the submitter signs with its operation key."""

    payload_type: ClassVar[str] = dsse.TASK
    noun: ClassVar[str] = "task"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = TaskSignatureInvalid

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]  # 16 random bytes: each task once
    study: SlugText
    policy_digest: Digest
    computation: IdText
    parameters: Annotated[dict[str, Value], PlainValidator(_values), PlainSerializer(plain)]
    submitter: SlugText
    issued_at: Moment
    expires: Moment

    @classmethod
    def new(
        cls,
        policy: Policy,
        computation: str,
        submitter: str,
        *,
        at: datetime,
        parameters: Mapping[str, Any] | None = None,
        lifetime: timedelta = LIFETIME,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """A task that holds from `at`, checked as a receiver would check it.

        Raises: the leaves of `open` that are about content.
        """
        task = cls(
            id=random(16).hex(),
            study=policy.study,
            policy_digest=policy.digest,
            computation=computation,
            parameters=dict(parameters or {}),
            submitter=submitter,
            issued_at=at,
            expires=min(at + lifetime, policy.expires),
        )
        task._require_scope(policy)
        return task

    @classmethod
    def open(cls, raw: bytes, policy: Policy, at: datetime) -> Self:
        """A task that this policy allows, now.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            PolicyDigestDiffers, StudyDiffers, TaskSubmitterDenied, SignerUnknown,
            TaskSignatureInvalid, TaskComputationUnknown, TaskParameterDenied, TaskExpired,
            TaskNotYetValid.
        """
        task, envelope = cls.read(raw)
        require_study(cls.noun, task.study, policy)
        require_policy(cls.noun, task.policy_digest, policy)
        cls.require_signature(envelope, task._submitter(policy).operation_key)
        task._require_scope(policy)
        task.require_window(at)
        return task

    def resolved_parameters(self, policy: Policy) -> dict[str, Value]:
        """All parameters of the computation: the policy's fixed ones and the task's own.

        Raises: TaskComputationUnknown, TaskParameterDenied.
        """
        declared = self._computation(policy).parameters
        for name in self.parameters:
            if name not in declared or isinstance(declared[name], Fixed):
                self._deny(name, "a parameter that the policy leaves to the task", "another one")
        resolved: dict[str, Value] = {}
        for name, parameter in declared.items():
            if isinstance(parameter, Fixed):
                resolved[name] = parameter.value
            elif name not in self.parameters:
                self._deny(name, "a value", "nothing")
            elif not parameter.allows(self.parameters[name]):
                self._deny(name, f"one that {parameter} allows", repr(self.parameters[name]))
            else:
                resolved[name] = self.parameters[name]
        return resolved

    def _deny(self, name: str, expected: str, found: str) -> None:
        raise TaskParameterDenied(
            f"task: parameters.{name}", expected=expected[:200], found=found[:80]
        )

    def _computation(self, policy: Policy) -> Computation:
        computation = policy.computation_by_id(self.computation)
        if computation is None:
            raise TaskComputationUnknown(
                "task: computation",
                expected=" or ".join(c.id for c in policy.computation),
                found=self.computation,
            )
        return computation

    def _submitter(self, policy: Policy) -> Party:
        party = policy.party_by_id(self.submitter)
        if party is None or "submitter" not in party.roles:
            raise TaskSubmitterDenied(
                "task: submitter", expected="a submitter of the policy", found=self.submitter
            )
        return party

    def _require_scope(self, policy: Policy) -> None:
        computation = self._computation(policy)
        if self.submitter not in computation.submitters:
            raise TaskSubmitterDenied(
                "task: submitter",
                expected=" or ".join(computation.submitters),
                found=self.submitter,
            )
        self._submitter(policy)
        self.resolved_parameters(policy)

    def require_window(self, at: datetime) -> None:
        """Asked again at every step: a task may end while rows are on their way.

        Raises: TaskExpired, TaskNotYetValid.
        """
        if at >= self.expires:
            raise TaskExpired(
                "task", expected=f"before {instant_text(self.expires)}", found=instant_text(at)
            )
        if at < self.issued_at - CLOCK_SKEW:
            raise TaskNotYetValid(
                "task", expected=f"{instant_text(self.issued_at)} or later", found=instant_text(at)
            )
