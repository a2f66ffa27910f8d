"""From complete inputs to an outcome: subjects, computation, gate, encryption, in this order.

    outcome = compute(policy, task, tables, check)
    if isinstance(outcome, Denied):
        outcome = denied(policy, task)        # from outside it looks like a result

A pure function of its arguments (but for the randomness of salt and encryption). It keeps
no state: no global, cache or file of one task is there for the next one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import cast

import pyarrow as pa

from enclave_app.computations import COMPUTATIONS
from enclave_app.deadline import checking
from enclave_app.gate import Input, Inputs, denial, padded, padded_size, released, require_groups
from enclave_app.limits import Need
from enclave_app.session import Denied, Released
from policy.computations import columns_used
from policy.document import Policy
from policy.errors import ResourceLimitError
from policy.receipt import SALT_LENGTH, SALT_SIZE, result_digest, salted
from policy.rows import arrow_type
from policy.seal import result_info, seal_result
from policy.sections import Computation, Dataset
from policy.task import Task
from verifier.errors import RatlsError


class ComputationTooLarge(ResourceLimitError):
    """With all rows that the policy allows, the computation would not fit into the enclave."""

    code = "computation-too-large"
    default_fix = "agree on a smaller max_rows, or on fewer columns"


def required(policy: Policy, task: Task, limit: int) -> Need:
    """What the task's computation needs beside its rows.

    Raises:
        ComputationTooLarge: With `max_rows` of each input, rows included, it is more than `limit`
            bytes. Raised when a task is opened: later, rows would have been released for it.
    """
    computation = agreed(policy, task)
    need = COMPUTATIONS[computation.run].need(task.resolved_parameters(policy))
    total = 0
    for dataset in _datasets(policy, computation):
        received = dataset.max_rows * _row_size(dataset)
        total += received + need.fixed + need.bytes(dataset.max_rows, received)
    if total > limit:
        raise ComputationTooLarge(
            f"computation {computation.id!r} on all rows that the policy allows",
            expected=f"at most {limit >> 20} MiB",
            found=f"{total >> 20} MiB",
        )
    return need


def _row_size(dataset: Dataset) -> int:
    """Bytes of a row as it is sent, at least: how long texts are, their arrival shows."""
    types = [arrow_type(column) for column in dataset.columns.values()]
    return sum(4 if pa.types.is_string(t) else -(-t.bit_width // 8) for t in types)


def compute(
    policy: Policy, task: Task, tables: Sequence[pa.Table], check: Callable[[], None] = lambda: None
) -> Released | Denied:
    """Run the task on its inputs, given in the policy's order.

    A refusal on the way is the outcome: its code, and nothing that was computed.

    Args:
        check: Called between the steps of a long computation; raises where it must end.
    """
    computation = agreed(policy, task)
    try:
        parameters = task.resolved_parameters(policy)
        inputs = _inputs(policy, computation, tables)
        code, rule = COMPUTATIONS[computation.run], computation.release
        with checking(check):
            require_groups(inputs, code.groups(inputs, parameters, rule), rule)
            outputs = code.run(inputs, parameters, rule)
        check()
        document = released(outputs, rule, computation=computation.id, run=computation.run)
        return _sealed_to_all(document, policy, task)
    except RatlsError as refusal:
        return Denied(refusal.code)


def own_reasons(
    policy: Policy, task: Task, tables: Sequence[pa.Table], check: Callable[[], None]
) -> dict[str, str]:
    """For each input the code of the first rule that it breaks by itself; "" for none.

    Each input is checked as if there were no other, for every outcome: its provider learns what it
    could compute from its own rows, and nothing about the rows of others.
    """
    computation = agreed(policy, task)
    code, rule = COMPUTATIONS[computation.run], computation.release
    parameters, reasons = task.resolved_parameters(policy), dict.fromkeys(computation.inputs, "")
    for dataset, rows in _inputs(policy, computation, tables).items():
        check()
        alone = {dataset: rows}
        try:
            require_groups(alone, code.groups(alone, parameters, rule), rule)
        except RatlsError as refusal:
            reasons[dataset] = refusal.code
    return reasons


def denied(policy: Policy, task: Task) -> Released:
    """The outcome without a result. In transit it looks like one with a result."""
    computation = agreed(policy, task)
    document = denial(computation=computation.id, run=computation.run)
    return _sealed_to_all(document, policy, task)


def agreed(policy: Policy, task: Task) -> Computation:
    """The computation that a verified task names."""
    computation = policy.computation_by_id(task.computation)
    assert computation is not None  # `Task.open` refuses what the policy does not have
    return computation


def _datasets(policy: Policy, computation: Computation) -> list[Dataset]:
    # A policy's references hold: checked while it was read.
    return cast(list[Dataset], [policy.dataset_by_id(name) for name in computation.inputs])


def _inputs(policy: Policy, computation: Computation, tables: Sequence[pa.Table]) -> Inputs:
    """Each input, of which the computation gets the columns that it names, and who the persons are.

    A dataset may be agreed for several computations: what is for another one is not in reach.
    """
    datasets = _datasets(policy, computation)
    named = columns_used(computation, datasets)
    return {
        d.id: Input(table.select([c for c in d.columns if c in named or c == d.subject]), d.subject)
        for d, table in zip(datasets, tables, strict=True)
    }


def _sealed_to_all(document: bytes, policy: Policy, task: Task) -> Released:
    computation = agreed(policy, task)
    most = [dataset.max_rows for dataset in _datasets(policy, computation)]
    longest = COMPUTATIONS[computation.run].longest(
        task.resolved_parameters(policy), computation.release.outputs, most
    )
    document = salted(document, os.urandom(SALT_SIZE))
    plaintext = padded(document, padded_size(longest + SALT_LENGTH))
    sealed: dict[str, bytes] = {}
    for recipient in computation.recipients:
        party = policy.party_by_id(recipient)
        assert party is not None
        assert party.encryption_key is not None
        info = result_info(task.digest, policy.digest, recipient)
        sealed[recipient] = seal_result(plaintext, party.encryption_key, info)
    return Released(sealed, digest=result_digest(document))
