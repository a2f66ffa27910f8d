"""A task: a submitter's signed request to run an agreed computation once.

asked = Task.new(policy, "train", "carol-lab", at=now, parameters={"max_iter": 200})
raw = asked.seal(party.operation)
task, policy = open_task(raw, policy_for, now)
task.resolved_parameters(policy)["max_iter"]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PlainSerializer, PlainValidator

from policy import envelope as dsse
from policy.document import Policy
from policy.errors import TicketScopeError, TicketSignatureError
from policy.fields import Identifier, Slug
from policy.parameters import Fixed, Value, as_value, plain, read_table
from policy.sections import Computation, Party
from policy.statement import (
    Moment,
    PolicyStatement,
    Unverified,
    instant_text,
    require_policy,
    require_study,
)
from policy.values import Digest
from verifier.errors import placed

LIFETIME = timedelta(hours=1)
# Clocks differ a little; a task that was issued further in the future is refused.
CLOCK_SKEW = timedelta(minutes=5)


def _values(value: Any) -> dict[str, Value]:
    return read_table(value, as_value)


class TaskSignatureInvalid(TicketSignatureError):
    """The task is not signed by the operation key of the submitter that it names."""

    code = "task-signature-invalid"
    default_fix = "ask the submitter for the task as it signed it"


class TaskParameterDenied(TicketScopeError):
    """A parameter that the policy fixes, does not have, or does not allow to have this value."""

    code = "task-parameter-denied"
    default_fix = "look at the computation's parameters with `ratls policy show`"

    def sentence(self) -> str:
        if not self.found:
            return f"{self.thing} {self.expected}"
        return f"{self.thing} must be {self.expected}, not {self.found}"


class TaskComputationUnknown(TicketScopeError):
    """The policy has no computation of this name."""

    code = "task-computation-unknown"
    default_fix = "use the id of a computation in the policy"
    says = "the policy has no computation {found}; it has {expected}"


class TaskSubmitterDenied(TicketScopeError):
    """The policy does not let this submitter run this computation."""

    code = "task-submitter-denied"
    default_fix = "have a submitter that the policy lists for this computation sign the task"
    says = "{found} may not submit the task; allowed: {expected}"


class TaskExpired(TicketScopeError):
    """The task has expired."""

    code = "task-expired"
    default_fix = "sign a new task"
    says = "the task expired: it was valid {expected}, and it is {found}"


class TaskNotYetValid(TicketScopeError):
    """The task was issued in the future."""

    code = "task-not-yet-valid"
    default_fix = "compare the clocks of the submitter and of this machine"
    says = "the task is valid from {expected} on, and it is {found}"


class Task(PolicyStatement):
    """What the submitter signs with its operation key."""

    payload_type: ClassVar[str] = dsse.TASK
    noun: ClassVar[str] = "task"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = TaskSignatureInvalid

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]  # 16 random bytes: each task once
    study: Slug
    computation: Identifier
    parameters: Annotated[dict[str, Value], PlainValidator(_values), PlainSerializer(plain)]
    submitter: Slug
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
        """A task that is valid from `at`, checked as a receiver would check it.

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
        """A task that this policy allows at this instant.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            PolicyDigestDiffers, StudyDiffers, TaskSubmitterDenied, SignerUnknown,
            TaskSignatureInvalid, TaskComputationUnknown, TaskParameterDenied, TaskExpired,
            TaskNotYetValid.
        """
        task, envelope = cls._parse(raw)
        task._require_allowed(envelope, policy)
        task.require_window(at)
        return task

    def resolved_parameters(self, policy: Policy) -> dict[str, Value]:
        """All parameters of the computation: the policy's fixed ones and the task's own.

        Raises: TaskComputationUnknown, TaskParameterDenied.
        """
        declared = self._computation(policy).parameters
        free = [name for name, parameter in declared.items() if not isinstance(parameter, Fixed)]
        for name in self.parameters:
            if name not in free:
                others = ", ".join(free) or "none"
                self._deny(name, f"is not one that the policy leaves open: {others}")
        resolved: dict[str, Value] = {}
        for name, parameter in declared.items():
            if isinstance(parameter, Fixed):
                resolved[name] = parameter.value
            elif name not in self.parameters:
                self._deny(name, "is missing")
            elif not parameter.allows(self.parameters[name]):
                self._deny(name, str(parameter), repr(self.parameters[name]))
            else:
                resolved[name] = self.parameters[name]
        return resolved

    def _deny(self, name: str, expected: str, found: str = "") -> None:
        raise TaskParameterDenied(f"parameter {name!r}", expected=expected[:200], found=found[:80])

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
                "task: submitter", expected="submitters of the policy", found=self.submitter
            )
        return party

    def _require_allowed(self, envelope: dsse.Envelope, policy: Policy) -> None:
        require_study(self.noun, self.study, policy)
        require_policy(self.noun, self.policy_digest, policy)
        self.require_signature(envelope, self._submitter(policy).operation_key)
        self._require_scope(policy)

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
        """The task holds at this instant. Checked at every step: a task may expire meanwhile.

        Raises: TaskExpired, TaskNotYetValid.
        """
        if at >= self.expires:
            raise TaskExpired(
                "task", expected=f"before {instant_text(self.expires)}", found=instant_text(at)
            )
        if at < self.issued_at - CLOCK_SKEW:
            raise TaskNotYetValid(
                "task", expected=instant_text(self.issued_at), found=instant_text(at)
            )


def open_task(
    raw: bytes, policy_for: Callable[[Unverified], Policy], at: datetime | None
) -> tuple[Task, Policy]:
    """Find the policy that a received task names, and open the task under it.

    Args:
        raw: The signed envelope as it was received.
        policy_for: Gives the caller's own copy of the named policy, or refuses.
        at: The instant at which the task must hold. This is now, wherever the caller acts on
            the task: releases, collects, submits or queues. None leaves the task's window
            unchecked: right only for sorting, where the task is opened again before any row leaves.

    Raises: what `policy_for` and `Task.open` raise.
    """
    with placed("task"):
        task, envelope = Task._parse(raw)
    policy = policy_for(task._unverified())
    task._require_allowed(envelope, policy)
    if at is not None:
        task.require_window(at)
    return task, policy


@dataclass(frozen=True, slots=True)
class TaskLabel:
    """What a task says of itself, its signature unchecked: for lists that people read."""

    digest: Digest
    study: str
    computation: str
    submitter: str
    expires: datetime

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Raises: as `Task.read`."""
        task, _ = Task._parse(raw)
        return cls(task.digest, task.study, task.computation, task.submitter, task.expires)
