"""A provider asks the enclave which rule its own input breaks, where the policy lets it.

    asked = ask_reason(request, "train_party_1")
    asked.code          # "value-too-rare", or "" when the input breaks none by itself

Whether there was a result, and what other inputs are like, the answer does not say: it is the
same whatever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.errors import TicketScopeError
from provider.collect import ResultPending, missing_text
from provider.exchange import EnclaveRequest, own_input
from ratls.appraise import FreshEvidence
from ratls.stream import Kind, Pending
from verifier.anchors import Mode


@dataclass(frozen=True, slots=True)
class Reason:
    """What an enclave that proved itself answered."""

    code: str
    fresh: FreshEvidence
    mode: Mode


class ReasonsNotAgreed(TicketScopeError):
    """The policy tells no provider which rule its input broke."""

    code = "reasons-not-agreed"
    default_fix = 'agree on `reasons = "own input"` in the computation\'s release'


def ask_reason(request: EnclaveRequest, dataset: str) -> Reason:
    """One question.

    Raises:
        DatasetNotAsked, DatasetNotOwned: It is no input of the task, or another party's.
        ReasonsNotAgreed: The policy gives no reasons.
        ResultPending: Nothing has been computed yet, or its time has not come.
        RatlsError: As `EnclaveRequest.attested` says.
    """
    job = request.check_task()
    _, computation = own_input(job, dataset, request.party.party_id)
    if computation.release.reasons is None:
        raise ReasonsNotAgreed(
            f"computation {computation.id}", expected='release.reasons = "own input"', found="none"
        )
    with request.attested(job, Kind.REASON, dataset=dataset) as session:
        answer, fresh = session.exchange.reason(), session.exchange.fresh
    if isinstance(answer, Pending):
        raise ResultPending("reason", expected="every input committed", found=missing_text(answer))
    return Reason(answer, fresh, job.mode)
