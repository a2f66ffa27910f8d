"""What leaves the enclave: the sealed outcome to a recipient, a reason to the owner of an input.

collect(asked)         # the outcome with a receipt, or which inputs are missing
tell_reason(asked)     # which rule the asking party's own input breaks, as a code
"""

from __future__ import annotations

from enclave_app.access import require_collect, require_reason
from enclave_app.exchange import TaskExchange
from enclave_app.session import NoOutcomeYet, Released
from policy.receipt import Receipt, ReceiptInput
from policy.rounds import require_rows


def collect(asked: TaskExchange) -> None:
    """Serve a recipient to the end of the exchange.

    Raises:
        CollectNotAuthorized: The party is no recipient.
        PolicyExpired, TaskExpired: They do not hold any more.
    """
    require_collect(asked.party, asked.computation)
    evidence = asked.prove()
    outcome = asked.outcome()
    if isinstance(outcome, NoOutcomeYet):
        asked.stream.pending(list(outcome.missing))
        asked.log.info("asked")
        return
    receipt = _receipt(asked, outcome, evidence)
    asked.require_window("hand-out")
    sealed = receipt.seal(asked.enclave.identity.receipt_signer)
    asked.stream.result(sealed, outcome.ciphertexts[asked.party.id])
    asked.log.info("collected")


def _receipt(asked: TaskExchange, outcome: Released, evidence: bytes) -> Receipt:
    enclave, computation = asked.enclave, asked.computation
    return Receipt(
        task_digest=asked.task.digest,
        policy_digest=enclave.policy.digest,
        instance=enclave.identity.instance,
        computation=computation.id,
        run=computation.run,
        recipient=asked.party.id,
        inputs=tuple(
            ReceiptInput(dataset=dataset, commit_digest=digest)
            for dataset, digest in outcome.commits.items()
        ),
        result_digest=outcome.digest,
        mode=enclave.mode.value,
        nonce=asked.hello.nonce,
        evidence=evidence,
        tls_spki=asked.identity.spki,
        receipt_key=asked.identity.receipt_spki,
    )


def tell_reason(asked: TaskExchange) -> None:
    """Tell the owner of an input what that input alone breaks, at the times of a result.

    Raises:
        ReleaseNotAuthorized, ReasonNotAgreed: As `require_reason` says.
        PolicyExpired, TaskExpired: They do not hold any more.
    """
    policy = asked.enclave.policy
    require_rows(asked.computation)
    dataset = require_reason(policy, asked.party, asked.computation, asked.hello.dataset)
    asked.prove()
    outcome = asked.outcome()
    asked.require_window("hand-out")
    if isinstance(outcome, NoOutcomeYet):
        asked.stream.pending(list(outcome.missing))
    else:
        asked.stream.reason(outcome.reasons[dataset.id])
    asked.log.info("asked")
