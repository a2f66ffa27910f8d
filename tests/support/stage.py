"""A channel of a study under attack, whatever its transport, for the universal oracle.

    with universal_oracle(stage.on(GRPC)), stage.serve(attacker) as served: ...

Every server is reached through a relay that records. The honest request is to the honest
enclave that is being served, else to a new one. A client has no journal here: its record is
the error. `server` keeps the refusals that honest enclaves have logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ratls.address import Address
from ratls.identity import EnclaveIdentity
from tests.support.flight_peers import Study
from tests.support.oracle import Leaves, Scene
from tests.support.relay import Relay
from tests.support.transports import HTTP, SOCKETS, TUNNEL, Served, Transport
from verifier.errors import RatlsError

# Whatever is said begins so.
CANARY = b"c4n4ry"
SAID = CANARY + b"-patient"


class Stage(Scene):
    """See the module."""

    transport: Transport
    party = "alice-clinic"  # whose the honest request is

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__((CANARY,), folder, honest=self._ask)
        self.study = study
        self.relays: list[Relay] = []
        self._served: list[Served] = []
        self._honest: list[Served] = []
        self._running: list[Served] = []
        self.records["server"] = lambda: [code for s in self._honest for code in s.codes]
        self.places["the wire"] = lambda: b"".join(relay.recorded for relay in self.relays)
        self.places["the log of a server"] = lambda: "".join(
            served.log.getvalue() for served in self._served
        ).encode()

    def on(self, transport: Transport) -> Stage:
        """From here on it is this one."""
        self.transport = transport
        return self

    def recorded(self, leaf: type[RatlsError]) -> Leaves:
        """Of a handshake that fails: gRPC ends it without a word to any program."""
        return leaf if self.transport in (SOCKETS, HTTP, TUNNEL) else ()

    @contextmanager
    def serve(
        self,
        identity: EnclaveIdentity | None = None,
        *,
        honest: bool | None = None,
        **changed: Any,
    ) -> Iterator[Served]:
        """As `Transport.serve`; with an identity it is the attacker's, unless that is said."""
        with (
            self.transport.serve(self.study, identity, **changed) as served,
            Relay((served.address.host, served.address.port)) as relay,
        ):
            served.address = Address.parse(relay.address)
            self.relays.append(relay)
            self._served.append(served)
            if not (identity is None if honest is None else honest):
                yield served
                return
            self._honest.append(served)
            self._running.append(served)
            try:
                yield served
            finally:
                self._running.remove(served)

    def _ask(self) -> bool:
        said = SAID + b"-of-the-honest"
        new = self.transport.serve(self.study)  # what it records is no matter of the attack
        with (
            nullcontext(self._running[-1]) if self._running else new as served,
            self.transport.connect(
                self.study, served.address, self.study.channel(self.party)
            ) as speak,
        ):
            speak(said)
            served.wait_for(said)
        return True
