"""A recipient fetches its result from an enclave that proves itself again.

    done = collect(request, outputs, wait=30)
    done.receipt.inputs  # the commits that the result was computed from

Files are written only if the receipt is about exactly this result and recipient, and the result
opens with the recipient's key. Existing files are never overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from policy.errors import ResultBindingError, TicketScopeError
from policy.journal_entries import CollectedEntry
from policy.receipt import Receipt, indented
from policy.rounds import rests_on
from policy.seal import is_denial, open_result, result_info
from policy.sections import Computation
from provider.errors import EnclaveRestarted, ResultDeniedError, ResultUnavailable
from provider.exchange import CheckedTask, EnclaveRequest, require_own
from provider.journalling import Journalling
from ratls.appraise import FreshEvidence
from ratls.client_stream import Pending, Result
from ratls.framing import Kind
from scheduler.queued_task import DatasetStatus, State
from verifier.anchors import Mode
from verifier.files import FileNotWritten, write_together
from verifier.text import digest_text

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where to write; none of the files may exist."""

    result: Path
    receipt: Path
    record: Path

    def require_new(self) -> None:
        """Checked before any connection. Raises: FileNotWritten."""
        for path in (self.result, self.receipt, self.record):
            if path.exists() or path.is_symlink():
                raise FileNotWritten(str(path), expected="a new file", found="an existing one")
            if not path.parent.is_dir():
                raise FileNotWritten(str(path), expected="an existing folder", found="none")


@dataclass(frozen=True, slots=True)
class Collection:
    """A written result with a valid receipt."""

    receipt: Receipt
    fresh: FreshEvidence
    mode: Mode
    size: int  # bytes of the plaintext


class ResultPending(ResultUnavailable):
    """A provider has not released its rows yet, or the computation still runs."""

    code = "result-pending"
    default_fix = "wait for the named providers, or add --wait SECONDS"
    says = "no {thing} yet: {found}"


class ResultDenied(ResultDeniedError):
    """The computation failed, or its result may not leave the enclave. It does not tell which."""

    code = "result-denied"
    default_fix = "ask the providers about their inputs; other rows or parameters need a new task"
    says = "there is no result: the computation failed, or its release rule was not met"


def collect(
    request: EnclaveRequest,
    outputs: Outputs,
    *,
    raw: bool = False,
    wait: float = 0,
    waiting: Callable[[str], None] = lambda missing: None,
    reported: Callable[[bytes], Iterable[DatasetStatus]] = lambda digest: (),
    seconds: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Collection:
    """Fetch, check, decrypt and store the result of a task.

    Args:
        request: Task, enclave and own keys.
        outputs: The three files that are written.
        raw: Write the result as it was sealed, padding included, and not indented.
        wait: Seconds to ask again while inputs are missing.
        waiting: Called with what is missing, each time.
        reported: The scheduler's view of a task's datasets, by the task's digest.

    Raises:
        EnclaveRestarted: A missing input was released to an earlier start of the enclave.
        ResultPending: Still no result when the waiting ended.
        ResultDenied: There will be none.
        RatlsError: One leaf, recorded in the journal, as for `release`.
    """
    journalling = Journalling(request.state, "collect", request.clock)
    with journalling.refusals_recorded():
        outputs.require_new()
        journalling.task = request.named().digest
        job = request.check_task()
        journalling.mode = job.mode
        computation = _require_recipient(job, request.party.party_id)
        key = request.party.encryption
        end = seconds() + wait
        answer, fresh = _ask(request, job)
        while isinstance(answer, Pending):
            if answer.missing:
                _require_same_start(answer, fresh, reported(job.task.digest))
            missing = missing_text(answer)
            if seconds() + POLL_SECONDS > end:
                raise ResultPending("result", expected="every input committed", found=missing)
            waiting(missing)
            sleep(POLL_SECONDS)
            answer, fresh = _ask(request, job)
        result = answer
        receipt = check_receipt(result, job, computation, fresh, request.party.party_id)
        info = result_info(job.task.digest, job.policy.digest, request.party.party_id)
        plaintext = open_result(result.ciphertext, key, info)
        receipt.require_result(plaintext)
        if is_denial(plaintext):
            raise ResultDenied("result", expected="one that may leave", found="release-denied")
        with write_together() as write:
            write(outputs.record, request.record(job, receipt, fresh))
            write(outputs.receipt, result.receipt)
            write(outputs.result, plaintext if raw else indented(plaintext))
        journalling.record(
            CollectedEntry(
                task=job.task_text,
                instance=receipt.instance.hex(),
                receipt=digest_text(receipt.digest),
                mode=job.mode.value,
            )
        )
        return Collection(receipt, fresh, job.mode, len(plaintext))


class RecipientNotListed(TicketScopeError):
    """This party is not a recipient of the result."""

    code = "recipient-not-listed"
    default_fix = "have one of the computation's recipients collect the result"
    says = "{found} is not a recipient of {thing}; recipients: {expected}"


def _require_recipient(job: CheckedTask, own: str) -> Computation:
    computation = job.policy.computation_by_id(job.task.computation)
    assert computation is not None  # `Task.open` refuses what the policy does not have
    if own not in computation.recipients:
        raise RecipientNotListed(
            f"computation {computation.id}", expected=" or ".join(computation.recipients), found=own
        )
    return computation


def _ask(request: EnclaveRequest, job: CheckedTask) -> tuple[Result | Pending, FreshEvidence]:
    """Ask once; the enclave proves itself each time."""
    with request.attested(job, Kind.COLLECT) as session:
        return session.exchange.collect(), session.exchange.fresh


def _require_same_start(
    answer: Pending, fresh: FreshEvidence, reports: Iterable[DatasetStatus]
) -> None:
    """No missing input was released to an earlier start of the enclave: it would never arrive.

    A lying scheduler can make this party give up a task, and nothing else.

    Raises: EnclaveRestarted.
    """
    for status in reports:
        released = status.state is State.RELEASED and status.dataset in answer.missing
        if released and status.instance and status.instance != fresh.claims.instance:
            raise EnclaveRestarted(
                f"dataset {status.dataset}",
                expected=f"a release to this start of the enclave, {fresh.claims.instance.hex()}",
                found=f"one to {status.instance.hex()}: the enclave restarted after it",
            )


def missing_text(answer: Pending) -> str:
    """Which inputs are missing, in words."""
    return f"missing {', '.join(answer.missing)}" if answer.missing else "still computing"


class ReceiptMismatch(ResultBindingError):
    """A field of the receipt differs from the task, the policy or the result."""

    code = "receipt-mismatch"
    default_fix = "do not use the result; ask the operator which enclave answered"


def check_receipt(
    result: Result, job: CheckedTask, computation: Computation, fresh: FreshEvidence, own: str
) -> Receipt:
    """Compare the receipt with the task, the policy and the connection.

    Raises:
        ReceiptKeyUnbound, KeyUnbound: Not signed by, or not about, the attested enclave.
        ReceiptMismatch: A field is another than it must be.
        RatlsError: It cannot be read, or its signature does not hold.
    """
    receipt = Receipt.open(result.receipt)
    values: dict[str, object] = {
        "task_digest": job.task.digest,
        "policy_digest": job.policy.digest,
        "instance": fresh.claims.instance,
        "computation": computation.id,
        "run": computation.run,
        "recipient": own,
        "mode": job.mode.value,
        "nonce": fresh.claims.nonce,
        "evidence": fresh.raw,
    }
    require_own(receipt, fresh, values, ReceiptMismatch)
    if not rests_on(computation, tuple(i.dataset for i in receipt.inputs)):
        raise ReceiptMismatch(
            "receipt: inputs", expected=", ".join(computation.inputs), found="others"
        )
    return receipt
