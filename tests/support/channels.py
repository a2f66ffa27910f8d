"""Attested servers and clients for tests, on a `Study`; each change is one argument.

with listening(study, echo) as listener:
    with connect_to(study, listener.address) as connection: ...
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ratls.address import Address
from ratls.appraise import Expectation
from ratls.attested_socket import AttestedSocket
from ratls.claims import ROLE_CLIENT
from ratls.identity import EnclaveIdentity
from ratls.listener import Limits, Listener
from ratls.log import open_log
from ratls.pin import ChannelIdentity
from ratls.session import Verifier
from ratls.sockets import connect
from tests.support.flight_peers import LOOPBACK, PlatformAttester, Study
from tests.support.waiting import HANG_LIMIT


def echo(connection: AttestedSocket) -> None:
    """Send back what comes, until the client says that nothing follows."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    connection.end()


def client_enclave(study: Study, **altered: Any) -> EnclaveIdentity:
    """A start of the agreed enclave that connects to others."""
    attester = PlatformAttester(study.world.platform, **altered)
    digest = study.policy.digest
    return EnclaveIdentity.create(attester, digest, at=study.world.at, role=ROLE_CLIENT)


class Log(io.StringIO):
    """What a server has logged."""

    @property
    def codes(self) -> list[str]:
        lines = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line["code"] for line in lines if line["event"] == "refused"]


@contextmanager
def listening(
    study: Study,
    handler: Callable[[AttestedSocket], object] = echo,
    *,
    identity: EnclaveIdentity | None = None,
    expect: Callable[[], Expectation] | None = None,
    enclaves: bool = False,
    limits: Limits | None = None,
    log: Log | None = None,
    verifier: Verifier | None = None,
) -> Iterator[Listener]:
    """The agreed enclave's server, until the block ends."""
    judge = verifier or Verifier(expect or (lambda: study.expectation))
    listener = Listener(
        Address(LOOPBACK, 0),
        identity or study.identity(),
        lambda: judge.expect().policy,
        enclaves=judge if enclaves else None,
        clock=judge.clock,
        seconds=judge.seconds,
        limits=limits,
        log=open_log(log if log is not None else Log()),
    )
    thread = threading.Thread(target=listener.serve, args=[handler], daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.close()
        thread.join()


def connect_to(
    study: Study,
    address: Address,
    own: ChannelIdentity | EnclaveIdentity | None = None,
    verifier: Verifier | None = None,
) -> AttestedSocket:
    """Alice's end, or another one's."""
    judge = verifier or Verifier(lambda: study.expectation)
    return connect(address, own or study.channel(), judge, timeout=HANG_LIMIT)
