"""A withdrawal arrives: the enclave stops what it ends, and says so under its signature.

withdraw(enclave, party, stream, hello, log)

Any party may bring it; the signature of the party that withdraws decides. The hello has it in the
place of a task, so the evidence names its digest.
"""

from __future__ import annotations

from enclave_app.application import Enclave
from policy.receipt import Ended
from policy.sections import Party
from policy.statement import require_policy
from policy.withdrawal import Withdrawal
from ratls.log import Log
from ratls.server_stream import Hello, ServerExchange


def withdraw(
    enclave: Enclave, party: Party, stream: ServerExchange, hello: Hello, log: Log
) -> None:
    """Obey it, then answer: evidence, and the signed end.

    Raises:
        PolicyDigestDiffers: It covers only versions before the one that is obeyed here, or others.
        RatlsError: What `Withdrawal.open` raises.
    """
    withdrawal = Withdrawal.open(hello.task, enclave.policies)
    if withdrawal.version < enclave.policy.version:
        require_policy(withdrawal.noun, withdrawal.policy_digest, enclave.policy)
    enclave.end(withdrawal.party)
    log.info("withdrawn", withdrawn=withdrawal.party)
    identity = enclave.identities.of(stream.pinned)
    evidence = enclave.evidence(hello.nonce, party, withdrawal.digest, b"", identity)
    stream.send_evidence(evidence)
    ended = Ended(
        task_digest=withdrawal.digest,
        policy_digest=enclave.policy.digest,
        instance=identity.instance,
        party=withdrawal.party,
        nonce=hello.nonce,
        evidence=evidence,
        tls_spki=identity.spki,
        receipt_key=identity.receipt_spki,
    )
    stream.acknowledge(ended.seal(identity.receipt_signer))
