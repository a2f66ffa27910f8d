"""From complete inputs to an outcome: subjects, computation, gate, encryption, in this order.

    outcome = compute(policy, task, tables)

A pure function of its arguments (but for the randomness of salt and encryption). It keeps nothing:
no global, cache or file of one task is there when the next one is computed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from enclave_app.computations import COMPUTATIONS
from enclave_app.release import Input, padded, released, require_groups
from enclave_app.session import Denied, Outcome, Released
from policy.document import Computation, Policy
from policy.receipt import result_digest, salted
from policy.seal import result_info, seal_result
from policy.task import Task
from verifier.errors import RatlsError


def compute(policy: Policy, task: Task, tables: Sequence[pa.Table]) -> Outcome:
    """Run the task on its inputs, given in the policy's order.

    A refusal on the way is the outcome: its code, and nothing that was computed.
    """
    computation = agreed(policy, task)
    try:
        parameters = task.resolved_parameters(policy)
        inputs = {
            dataset: Input(table, _subject(policy, dataset))
            for dataset, table in zip(computation.inputs, tables, strict=True)
        }
        code = COMPUTATIONS[computation.run]
        require_groups(
            inputs, code.groups(inputs, parameters, computation.release), computation.release
        )
        outputs = code.run(inputs, parameters, computation.release)
        document = salted(
            released(outputs, computation.release, computation=computation.id, run=computation.run),
            os.urandom(32),
        )
        plaintext = padded(document)
    except RatlsError as refusal:
        return Denied(refusal.code)
    return Released(
        {
            recipient: _sealed(plaintext, policy, task, recipient)
            for recipient in computation.recipients
        },
        digest=result_digest(document),
    )


def agreed(policy: Policy, task: Task) -> Computation:
    """The computation that a verified task names."""
    computation = policy.computation_by_id(task.computation)
    if computation is None:
        raise AssertionError("a verified task names a computation of its policy")
    return computation


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
