"""A provider asks the enclave which rule its own input breaks, if the policy allows that.

    asked = ask_reason(request, "train_party_1")
    asked.code          # "value-too-rare", or "" when the input breaks none by itself

The answer does not depend on the other inputs, and does not tell whether there was a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.errors import TicketScopeError
from provider.collect import ResultPending, missing_text
from provider.exchange import EnclaveRequest, own_input
from ratls.appraise import FreshEvidence
from ratls.client_stream import Pending
from ratls.framing import Kind
from verifier.anchors import Mode


@dataclass(frozen=True, slots=True)
class Reason:
    """The answer of an enclave that proved itself."""

    code: str
    fresh: FreshEvidence
    mode: Mode


class ReasonsNotAgreed(TicketScopeError):
    """The policy does not allow reasons."""

    code = "reasons-not-agreed"
    default_fix = 'agree on `reasons = "own input"` in the computation\'s release'


def ask_reason(request: EnclaveRequest, dataset: str) -> Reason:
    """Ask once.

    Raises:
        DatasetNotAsked, DatasetNotOwned: It is no input of the task, or another party's.
        ReasonsNotAgreed: The policy does not allow reasons.
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
