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
from enclave_app.errors import OutputNotAgreed
from enclave_app.release import released, require_subjects
from enclave_app.session import Denied, Outcome, Released
from policy.document import Computation, Policy
from policy.seal import result_info, seal_result
from policy.task import Task
from verifier.errors import RatlsError


def require_computable(policy: Policy, computation: Computation) -> BuiltIn:
    """The measured code behind an agreed computation.

    Raises:
        ComputationUnknown: The policy names one that is not built in.
        OutputNotAgreed: It wants an output that the computation does not have.
    """
    code = built_in(computation.run)
    if not set(computation.release.outputs) <= code.outputs:
        raise OutputNotAgreed(
            f"computation {computation.id!r}: outputs",
            expected=", ".join(sorted(code.outputs)),
            found=", ".join(computation.release.outputs),
        )
    return code


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
            dataset: (table, _subject(policy, dataset))
            for dataset, table in zip(computation.inputs, tables, strict=True)
        }
        require_subjects(inputs, computation.release)
        outputs = require_computable(policy, computation).run(tables, parameters)
        plaintext = released(
            outputs, computation.release, computation=computation.id, run=computation.run
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
    return {n: c.type + ("?" if c.nullable else "") for n, c in dataset.columns.items()}


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
