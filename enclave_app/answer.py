"""Answers one exchange of an authenticated party.

    answer(enclave, party, stream, log)      # one DoExchange, from hello to its end

Order matters: the task is verified and the peer authorised before any quote is made; evidence
goes out before any row comes in; what was done is logged after it was done. A withdrawal is obeyed
before anything is answered.
"""

from __future__ import annotations

from enclave_app.application import Enclave
from enclave_app.collect import collect, tell_reason
from enclave_app.exchange import TaskExchange
from enclave_app.receive import receive
from enclave_app.rounds_exchange import take_part
from enclave_app.withdraw import withdraw
from policy.sections import Party
from ratls.claims import NO_TASK
from ratls.framing import Kind
from ratls.log import Log
from ratls.server_stream import ServerExchange

_ABOUT_A_TASK = {
    Kind.RELEASE: receive,
    Kind.COLLECT: collect,
    Kind.REASON: tell_reason,
    Kind.ROUND: take_part,
}


def answer(enclave: Enclave, party: Party, stream: ServerExchange, log: Log) -> None:
    """Serve one exchange of an authenticated party to its end.

    Raises:
        RatlsError: A refusal; the caller tells the peer its code and nothing else.
    """
    kind, hello = stream.kind(), stream.hello()
    if kind is Kind.ATTEST:
        shown = enclave.identities.of(stream.pinned)
        stream.send_evidence(enclave.evidence(hello.nonce, party, NO_TASK, b"", shown))
        log.info("attested")
    elif kind is Kind.WITHDRAW:
        withdraw(enclave, party, stream, hello, log)
    else:
        _ABOUT_A_TASK[kind](TaskExchange.open(enclave, party, stream, hello, log))
