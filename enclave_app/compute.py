"""From complete inputs to an outcome: subjects, computation, gate, encryption, in this order.

    outcome = compute(policy, task, tables)

A pure function of its arguments (but for the encryption's randomness). It keeps nothing: no
global, cache or file of one task is there when the next one is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from enclave_app.computations import BuiltIn, built_in
from enclave_app.errors import ComputationParameters, OutputNotAgreed, ReleaseRuleTooOpen
from enclave_app.release import Input, padded, released, require_subjects
from enclave_app.session import Denied, Outcome, Released
from policy.document import Computation, Policy
from policy.parameters import Fixed
from policy.seal import result_info, seal_result
from policy.task import Task
from verifier.errors import RatlsError


def require_computable(policy: Policy, computation: Computation) -> BuiltIn:
    """The measured code behind an agreed computation.

    Raises:
        ComputationUnknown: The policy names one that is not built in.
        OutputNotAgreed: It wants an output that the computation does not have.
        ReleaseRuleTooOpen: It wants more digits, or fewer subjects, than the computation gives.
        ComputationParameters: It leaves to tasks what decides which facts about persons leave.
    """
    code = built_in(computation.run)
    if not set(computation.release.outputs) <= code.outputs:
        raise OutputNotAgreed(
            f"computation {computation.id!r}: outputs",
            expected=", ".join(sorted(code.outputs)),
            found=", ".join(computation.release.outputs),
        )
    _require_closed(computation, code)
    return code


def _require_closed(computation: Computation, code: BuiltIn) -> None:
    # Said when the enclave starts: nobody should release rows for what will not be released.
    rule = computation.release
    if (
        rule.significant_digits > code.most_digits
        or rule.min_subjects_per_input < code.fewest_subjects
    ):
        raise ReleaseRuleTooOpen(
            f"computation {computation.id!r}: release",
            expected=f"at most {code.most_digits} significant_digits, "
            f"min_subjects_per_input of at least {code.fewest_subjects}",
            found=f"{rule.significant_digits} and {rule.min_subjects_per_input}",
        )
    for name, parameter in computation.parameters.items():
        if name in code.fixed and not isinstance(parameter, Fixed):
            raise ComputationParameters(
                f"computation {computation.id!r}: parameters.{name}",
                expected="a value that the policy fixes",
                found="one that a task may choose",
            )


def require_parameters(policy: Policy, task: Task) -> Mapping[str, Any]:
    """The task's parameters, if they fit the computation and the columns of its inputs.

    Raises:
        ComputationParameters: They do not.
        ComputeDeniedError, TicketScopeError: As `require_computable`, `Task` say.
    """
    computation = agreed(policy, task)
    parameters = task.resolved_parameters(policy)
    require_computable(policy, computation).check(
        parameters, [_column_types(policy, dataset) for dataset in computation.inputs]
    )
    return parameters


def compute(policy: Policy, task: Task, tables: Sequence[pa.Table]) -> Outcome:
    """Run the task on its inputs, given in the policy's order.

    A refusal on the way is the outcome: its code, and nothing that was computed.
    """
    computation = agreed(policy, task)
    try:
        parameters = require_parameters(policy, task)
        inputs = {
            dataset: Input(table, _subject(policy, dataset))
            for dataset, table in zip(computation.inputs, tables, strict=True)
        }
        require_subjects(inputs, computation.release)
        code = require_computable(policy, computation)
        outputs = code.run(inputs, parameters, computation.release)
        plaintext = padded(
            released(outputs, computation.release, computation=computation.id, run=computation.run)
        )
    except RatlsError as refusal:
        return Denied(refusal.code)
    return Released(
        {
            recipient: _sealed(plaintext, policy, task, recipient)
            for recipient in computation.recipients
        }
    )


def agreed(policy: Policy, task: Task) -> Computation:
    """The computation that a verified task names."""
    computation = policy.computation_by_id(task.computation)
    if computation is None:
        raise AssertionError("a verified task names a computation of its policy")
    return computation


def _column_types(policy: Policy, dataset_id: str) -> dict[str, str]:
    dataset = policy.dataset_by_id(dataset_id)
    assert dataset is not None  # a policy's references hold: checked while it was read
    # A subject is never nullable, so that one mark at most follows a type.
    return {
        n: c.type + ("!" if n == dataset.subject else "?" if c.nullable else "")
        for n, c in dataset.columns.items()
    }


def _subject(policy: Policy, dataset_id: str) -> str:
    dataset = policy.dataset_by_id(dataset_id)
    assert dataset is not None
    return dataset.subject


def _sealed(plaintext: bytes, policy: Policy, task: Task, recipient: str) -> bytes:
    party = policy.party_by_id(recipient)
    assert party is not None
    assert party.encryption_key is not None
    info = result_info(task.digest, policy.digest, recipient)
    return seal_result(plaintext, party.encryption_key, info)
