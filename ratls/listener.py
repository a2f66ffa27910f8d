"""The server's end of attested connections: who may connect, how many at once, and for how long.

    with Listener(Address("127.0.0.1", 0), identity, lambda: policy) as listener:
        listener.serve(handler)     # handler(connection), in a thread for each; until `close`

One thread does all handshakes, so a stranger's connection costs a file descriptor and some memory,
and no thread, for a few seconds. Only who has shown a certificate that the policy admits gets a
thread, within its share, and only then an attester is asked for a quote. What one connection does
ends that connection, and never this thread.
"""

from __future__ import annotations

import errno
import hashlib
import queue
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from OpenSSL import SSL

from policy.agreement import require_window
from policy.document import Policy
from policy.errors import ResourceLimitError
from ratls.address import Address
from ratls.appraise import appraise_certificate
from ratls.attested_socket import AttestedSocket, message_frame
from ratls.claims import ROLE_CLIENT
from ratls.environment import prepare_process
from ratls.errors import PeerIdentityError
from ratls.identity import EnclaveIdentity, Identities
from ratls.log import Log, place_of
from ratls.repeated import keep_renewed, repeated
from ratls.serving import open_many_files
from ratls.session import Verifier, utc_now, write_message
from ratls.socket_session import SocketPeer, session_of
from ratls.tls import PIECE, Shown, TlsEnd
from verifier.errors import ConfigError, Exit, RatlsError

_ATTEND_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class PeerNotListed(PeerIdentityError):
    """The peer's certificate is that of no party of the policy, nor of an enclave it may be."""

    code = "peer-not-listed"
    default_fix = "use the channel certificate that the policy lists for your party"


class ListenerUnusable(ConfigError):
    """The address cannot be listened on."""

    code = "listener-unusable"
    default_fix = "choose a free port and an address of this machine"


class ConnectionsExhausted(ResourceLimitError):
    """Too many connections are open at once."""

    code = "connections-exhausted"
    exit_status = Exit.PEER
    default_fix = "close other connections, then try again"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a listener holds at most. A peer is a party, or an enclave that connects."""

    handshakes: int = 1024  #        connections whose peer is unknown yet; the oldest gives way
    handshake_seconds: float = 5.0
    challenge_seconds: float = 30.0
    connections: int = 512  #        each has a thread
    connections_per_peer: int = 64


@dataclass(slots=True)
class _Pending:
    """A connection in its handshake."""

    raw: socket.socket
    tls: TlsEnd[SocketPeer]
    until: float
    shown: Shown
    told: bool = False  # that it is refused; it is only waited for until it has read that


class Listener:
    """Listens from its making until `close`."""

    def __init__(
        self,
        address: Address,
        identity: EnclaveIdentity,
        policy: Callable[[], Policy],
        *,
        enclaves: Verifier | None = None,
        clock: Callable[[], datetime] = utc_now,
        seconds: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        log: Log | None = None,
    ) -> None:
        """Listen.

        Args:
            address: Port 0 takes a free one.
            identity: What this enclave shows and proves; its certificate is renewed in time.
            policy: Lists the parties that may connect; asked for each, and while they stay.
            enclaves: Judges enclaves that connect, which then may, too; None: they may not.
            log: Refusals, by code and id; None for no log.

        Raises:
            ListenerUnusable: The port is in use, or the address is not this machine's.
            EnvironmentUnsafe: The environment would log keys or traffic.
        """
        prepare_process()
        open_many_files()
        self.identities, self._policy = Identities(identity), policy
        self._shown, self._shown_of = Shown.of(identity), identity
        self._enclaves, self._clock, self._seconds = enclaves, clock, seconds
        self._limits, self._log = limits or Limits(), log
        self._pending: dict[int, _Pending] = {}  # by file descriptor, the oldest first
        self._running: Counter[str] = Counter()
        self._open: set[AttestedSocket] = set()
        self._lock = threading.Lock()
        self._ready: queue.SimpleQueue[AttestedSocket | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        try:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            place = (address.host, address.port)
            self._socket = socket.create_server(place, family=family, backlog=1024)
        except OSError as error:
            raise ListenerUnusable(
                str(address), expected="a free port of this machine", found="one in use"
            ) from error
        self._socket.setblocking(False)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="handshakes", daemon=True)
        self._thread.start()
        self._others = (
            keep_renewed(self.identities, clock, log),
            repeated(self, _ATTEND_SECONDS, Listener.attend, log),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, seconds: float | None = None) -> AttestedSocket | None:
        """The next connection whose peer has proved itself; None after `close`, or in that time."""
        try:
            found = self._ready.get(timeout=seconds)
        except queue.Empty:
            return None
        if found is None:
            self._ready.put(None)  # for other threads that wait here
        return found

    def serve(self, handler: Callable[[AttestedSocket], object]) -> None:
        """Call it for each connection, in a thread of its own, until `close`.

        The connection is closed when it returns.
        """
        while (connection := self.accept()) is not None:
            try:
                self._start(self._handle, handler, connection)
            except RuntimeError as bug:  # no thread is left: the others are served
                self._bug(bug)
                connection.close()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        for thread in self._others:
            thread.set()
        with suppress(OSError):
            self._wake.send(b"x")
        self._thread.join()
        with self._lock:
            running = list(self._open)
        for connection in running:
            connection.abort()
        with suppress(queue.Empty):  # those that nobody has accepted
            while (waiting := self._ready.get_nowait()) is not None:
                waiting.close()
        self._ready.put(None)

    @property
    def limits(self) -> Limits:
        """What it holds at most."""
        return self._limits

    def connections(self) -> list[AttestedSocket]:
        """Those that are open now."""
        with self._lock:
            return list(self._open)

    def attend(self) -> None:
        """Once a second: where a program does not receive, answer its peer's challenges."""
        for connection in self.connections():
            with suppress(OSError, ValueError, RuntimeError):  # closed meanwhile; no thread is left
                if connection.unread:
                    self._start(self._attend, connection)

    def _attend(self, connection: AttestedSocket) -> None:
        try:
            connection.attend()
        except RatlsError as refusal:
            self._note(refusal, connection)
        except BaseException as bug:  # noqa: BLE001 - shown without its text
            self._bug(bug)

    # Handshakes, in one thread

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._round([key.fileobj for key, _ in self._selector.select(0.5)])
                except Exception as bug:  # noqa: BLE001 - without this thread nobody is let in
                    self._bug(bug)
                    self._stopped.wait(_PAUSE_SECONDS)
        finally:
            for pending in list(self._pending.values()):
                self._drop(pending)
            self._selector.close()
            for end in (self._socket, self._wake, self._woken):
                end.close()

    def _round(self, ready: Sequence[object]) -> None:
        """Go on with each that is ready; then drop those whose time is over."""
        for end in ready:
            if end is self._socket:
                self._admit_strangers()
            elif isinstance(end, socket.socket) and end is not self._woken:
                # It may have given way to another in this very round, also by number.
                pending = self._pending.get(end.fileno())
                if pending is not None and pending.raw is end:
                    self._go_on(pending)
        now = time.monotonic()
        while self._pending and (old := next(iter(self._pending.values()))).until <= now:
            self._drop(old)

    def _admit_strangers(self) -> None:
        for _ in range(64):
            try:
                raw, _ = self._socket.accept()
            except OSError as error:
                if error.errno in _NONE_LEFT:  # the next stranger waits until one has gone
                    self._stopped.wait(_PAUSE_SECONDS)
                return  # none waits, or it has gone
            if len(self._pending) >= self._limits.handshakes:
                self._drop(next(iter(self._pending.values())))
            try:
                self._begin_handshake(raw)
            except Exception as bug:  # noqa: BLE001 - of one connection: the others go on
                self._pending.pop(raw.fileno(), None)
                raw.close()
                if not isinstance(bug, OSError):
                    self._bug(bug)

    def _begin_handshake(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = self._present()
        tls = TlsEnd(shown, self._judge, client=False)
        until = time.monotonic() + self._limits.handshake_seconds
        self._pending[raw.fileno()] = _Pending(raw, tls, until, shown)
        self._selector.register(raw, selectors.EVENT_READ)

    def _present(self) -> Shown:
        """What a new connection is shown; those before keep theirs."""
        current = self.identities.current
        if current is not self._shown_of:
            self._shown, self._shown_of = Shown.of(current), current
        return self._shown

    def _go_on(self, pending: _Pending) -> None:
        try:
            self._step(pending)
        except RatlsError as refusal:
            self._note(refusal, None)
            self._drop(pending)
        except OSError:
            self._drop(pending)
        except Exception as bug:  # noqa: BLE001 - of one connection: the others go on
            self._bug(bug)
            self._drop(pending)

    def _step(self, pending: _Pending) -> None:
        """Raises: OSError, where the connection is over."""
        tls = pending.tls
        if pending.told:
            if not pending.raw.recv(PIECE):
                raise ConnectionResetError
            return
        try:
            tls.feed_handshake(pending.raw.recv(PIECE), "a client")
            ended = tls.step("a client")
        finally:
            out = tls.take()
            # A flight is small; a stranger that does not read it has no claim to more.
            if out and pending.raw.send(out) != len(out):
                raise BlockingIOError
        if ended and not self._begin(pending):
            self._tell_full(pending)

    def _forget(self, pending: _Pending) -> None:
        self._pending.pop(pending.raw.fileno(), None)
        with suppress(KeyError, ValueError):  # done before
            self._selector.unregister(pending.raw)

    def _drop(self, pending: _Pending) -> None:
        self._forget(pending)
        pending.raw.close()

    def _judge(self, der: bytes) -> SocketPeer:
        """Who the certificate is of. Raises: PeerNotListed; what the appraisal says."""
        policy, at = self._policy(), self._clock()
        require_window(policy, at)
        party = _party(policy, der)
        if party is not None:
            return party
        if self._enclaves is None:
            raise _not_listed()
        admitted = appraise_certificate(der, self._of_clients(self._enclaves).expect(), at=at)
        return SocketPeer(hashlib.sha256(admitted.spki).digest(), None, admitted)

    @staticmethod
    def _of_clients(verifier: Verifier) -> Verifier:
        """B17: what a server proves, nobody may prove as a client."""
        return replace(verifier, expect=lambda: replace(verifier.expect(), role=ROLE_CLIENT))

    # Connections, each in a thread

    def _tell_full(self, pending: _Pending) -> None:
        """Closed at once, it might lose what it is told."""
        pending.told, number = True, secrets.token_hex(8)
        refusal = write_message("refused", code=ConnectionsExhausted.code, id=number)
        if self._log is not None:
            name = pending.tls.peer.name
            self._log.warning("refused", code=ConnectionsExhausted.code, party=name, id=number)
        with suppress(OSError, SSL.Error):
            pending.raw.send(pending.tls.seal(memoryview(message_frame(refusal))))
            pending.raw.shutdown(socket.SHUT_WR)

    def _begin(self, pending: _Pending) -> bool:
        """Give the connection a thread; False where its peer has none left."""
        tls = pending.tls
        name = tls.peer.name

        def still() -> None:
            policy = self._policy()
            require_window(policy, self._clock())
            if _party(policy, tls.peer_der) is None:
                raise _not_listed()

        def closed() -> None:
            with self._lock:
                self._running[name] -= 1
                self._open.discard(connection)

        judge = None if self._enclaves is None else self._of_clients(self._enclaves)
        shown, seconds, policy = pending.shown, self._seconds, self._policy()
        session = session_of(tls, shown, judge, seconds, client=False, policy=policy, still=still)
        connection = AttestedSocket(pending.raw, tls, session, name, closed)
        with self._lock:
            if (
                self._running[name] >= self._limits.connections_per_peer
                or self._running.total() >= self._limits.connections
            ):
                return False
            self._running[name] += 1
            self._open.add(connection)
        self._forget(pending)
        try:
            self._start(self._establish, connection)
        except RuntimeError:  # no thread is left: its share is given back
            closed()
            raise
        return True

    def _establish(self, connection: AttestedSocket) -> None:
        try:
            connection.establish(self._limits.challenge_seconds, client=False)
        except RatlsError as refusal:
            self._note(refusal, connection)
            connection.close()
        except BaseException as bug:  # noqa: BLE001 - shown without its text
            self._bug(bug)
            connection.close()
        else:
            self._ready.put(connection)
            if self._stopped.is_set():
                connection.close()

    def _handle(
        self, handler: Callable[[AttestedSocket], object], connection: AttestedSocket
    ) -> None:
        try:
            with connection:
                handler(connection)
        except RatlsError as refusal:
            self._note(refusal, connection)
        except BaseException as bug:  # noqa: BLE001 - shown without its text
            self._bug(bug)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name="attested", daemon=True).start()

    def _note(self, refusal: RatlsError, connection: AttestedSocket | None) -> None:
        if self._log is not None:
            name = None if connection is None else connection.peer.name
            told = None if connection is None else connection.told
            self._log.warning("refused", code=refusal.code, party=name, id=told)

    def _bug(self, bug: BaseException) -> None:
        if self._log is not None:
            self._log.error("internal", bug=place_of(bug))


def _party(policy: Policy, der: bytes) -> SocketPeer | None:
    """The party whose channel certificate this is, byte for byte."""
    for party in policy.voters:
        if party.channel_certificate.der == der:
            return SocketPeer(party.channel_certificate.spki_sha256, party.id, None)
    return None


def _not_listed() -> PeerNotListed:
    return PeerNotListed("peer", expected="a party of the policy", found="another certificate")
