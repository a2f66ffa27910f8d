"""One attested session, whatever carries it: who proves what to whom, and when again.

    hello = client.open()                # the client's first message
    evidence = server.receive(hello)     # the server's proof, for this very connection
    client.receive(evidence)             # appraised: data may follow
    client.due                           # the server must prove itself again
    server.receive(client.challenge())

A session takes messages and gives messages. It opens no socket and waits for nothing. Both ends
know each other's certificate from TLS. An end that is an enclave proves that it is one, by
evidence about the other end's nonce and certificate, and about this connection: its claim `binder`
is a value that only the two ends of the connection can compute. A party is known by its
certificate, which the policy lists.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from policy.values import Digest, Nonce
from ratls import cbor
from ratls.appraise import (
    AdmittedCertificate,
    Challenge,
    Expectation,
    FreshEvidence,
    appraise_challenge,
    require_still_admitted,
)
from ratls.claims import NO_TASK, NONCE_SIZE
from ratls.errors import StreamIntegrityError
from ratls.evidence import MAX_EVIDENCE, Allowance
from ratls.peer_refusal import PeerRefused, slug
from verifier.files import MEBIBYTE

MAX_MESSAGE = MAX_EVIDENCE + 1024  # bytes
# Of the exporter (RFC 5705, section 4: labels of this form are for private use).
BINDER_LABEL = b"EXPERIMENTAL-ratls-1-binder"
STILL_SECONDS = 60.0  # until what was proved is judged again, by what is then in force

Exporter = Callable[[bytes, int, bytes], bytes]  # label, length, context


def binder(exporter: Exporter, certificate: bytes) -> bytes:
    """What one end's evidence says of this connection: 32 bytes.

    The exporter's value (RFC 8446, section 7.5) is the same at both ends. With the
    certificate of the end that proves itself as context, it is another for each: evidence sent
    back to its maker proves nothing (B17).
    """
    return exporter(BINDER_LABEL, 32, hashlib.sha256(certificate).digest())


def no_binder(certificate: bytes) -> bytes:
    """For transports that hand out no exporter value: the claim is absent at both ends."""
    return b""


class Prover(Protocol):
    """An end that is an enclave; `EnclaveIdentity` is one."""

    def answer_challenge(
        self,
        nonce: Nonce,
        peer_spki_sha256: bytes,
        task_digest: Digest,
        sealing_key_hash: bytes = b"",
        binder: bytes = b"",
    ) -> bytes:
        """Fresh evidence."""
        ...


def utc_now() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Verifier:
    """With what this end, a relying party (RFC 9334, section 7.2), judges the other one.

    `expect` is asked at each decision: policy, collateral and revocation lists are those of that
    moment, and a connection that they no longer admit ends.
    """

    expect: Callable[[], Expectation]
    clock: Callable[[], datetime] = utc_now
    random: Callable[[int], bytes] = os.urandom
    seconds: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Challenger:
    """Challenges the enclave behind one certificate, on one connection, and judges its answers."""

    admitted: AdmittedCertificate
    own_spki_sha256: bytes  # of the certificate that this end showed
    verifier: Verifier
    task_digest: Digest = NO_TASK
    binder: bytes = b""  #    own value for the other end

    def nonce(self) -> Nonce:
        """A fresh one."""
        return Nonce(self.verifier.random(NONCE_SIZE))

    def appraise(
        self, nonce: Nonce, evidence: bytes, sealing_key_hash: bytes = b""
    ) -> FreshEvidence:
        """The answer to this nonce, judged.

        Raises:
            RatlsError: What `appraise_challenge` says.
        """
        challenge = Challenge(
            nonce, self.own_spki_sha256, self.task_digest, sealing_key_hash, self.binder
        )
        expected, at = self.verifier.expect(), self.verifier.clock()
        return appraise_challenge(evidence, self.admitted, challenge, expected, at=at)

    def require_still_admitted(self, fresh: FreshEvidence) -> None:
        """Raises: what `appraise.require_still_admitted` says now."""
        expected, at = self.verifier.expect(), self.verifier.clock()
        require_still_admitted(self.admitted, fresh, expected, at=at)


@dataclass(slots=True)
class Renewal:
    """When a peer must prove itself again: after minutes or MiB, whichever comes first."""

    after: timedelta
    mebibytes: int
    seconds: Callable[[], float]
    left: int = field(init=False)
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.proved()

    @classmethod
    def agreed(cls, expected: Expectation, seconds: Callable[[], float]) -> Renewal:
        """As the policy says."""
        rule = expected.policy.transport
        after = timedelta(minutes=rule.challenge_minutes)
        return cls(after, rule.challenge_mebibytes, seconds)

    def proved(self) -> None:
        """It has just done so."""
        self.left = self.mebibytes * MEBIBYTE
        self.until = self.seconds() + self.after.total_seconds()

    @property
    def due(self) -> bool:
        return self.left <= 0 or self.seconds() >= self.until


class SessionMessageUnexpected(StreamIntegrityError):
    """A message of the challenge is malformed, or not the one that is due."""

    code = "session-message-unexpected"
    default_fix = "run the same version on both sides"


_SHAPES: dict[str, dict[str, type]] = {
    "hello": {"nonce": bytes},
    "evidence": {"evidence": bytes, "nonce": bytes},  # the nonce is empty: no proof is wanted
    "proof": {"evidence": bytes},
    "challenge": {"nonce": bytes},
    "answer": {"evidence": bytes},
    "refused": {"code": str, "id": str},
}


def write_message(name: str, **members: cbor.Value) -> bytes:
    """One message, encoded."""
    return cbor.encode({"type": name, **members})


def read_message(raw: bytes, *due: str) -> tuple[str, dict[str, Any]]:
    """Name and members of a message that is one of those due.

    Raises:
        SessionMessageUnexpected: Malformed, too large, another message, other members.
        PeerRefused: The other end refuses; that is always due.
    """
    try:
        if len(raw) > MAX_MESSAGE:
            raise cbor.NotStrict(f"{len(raw)} bytes")
        members = cbor.decode(raw)
    except cbor.NotStrict as error:
        raise _unexpected(due, str(error)) from error
    name = members.pop("type", None) if isinstance(members, dict) else None
    if not isinstance(members, dict) or not isinstance(name, str) or name not in _SHAPES:
        raise _unexpected(due, "another form")
    shape = _SHAPES[name]
    if members.keys() != shape.keys() or any(type(members[n]) is not k for n, k in shape.items()):
        raise _unexpected(due, f"{name} with other members")
    if name == "refused":
        raise PeerRefused(peer_code=slug(members["code"]), correlation_id=slug(members["id"]))
    if name not in due:
        raise _unexpected(due, name)
    nonce: Any = members.get("nonce", bytes(NONCE_SIZE))
    if len(nonce) != NONCE_SIZE and not (name == "evidence" and nonce == b""):
        raise _unexpected(due, f"{name} with a nonce of another size")
    return name, members


def _unexpected(due: tuple[str, ...], found: str) -> SessionMessageUnexpected:
    return SessionMessageUnexpected("message", expected=" or ".join(due), found=ascii(found))


class Session:
    """One end of one connection."""

    def __init__(
        self,
        *,
        client: bool,
        prover: Prover | None,
        peer_spki_sha256: bytes,
        own_binder: bytes,
        challenger: Challenger | None,
        still: Callable[[], None] = lambda: None,
        seconds: Callable[[], float] = time.monotonic,
        allowance: Allowance | None = None,
    ) -> None:
        """Begin.

        Args:
            prover: This end's enclave; None where it is a party.
            peer_spki_sha256: Of the other end's certificate, as TLS authenticated it.
            own_binder: What this end's evidence says of the connection.
            challenger: Judges the other end; None where that is a party, known by its certificate.
            still: Raises a refusal once that party is no longer admitted.
            allowance: How often this end proves itself again; once a second, if left out.
        """
        self._prover, self._peer_spki = prover, peer_spki_sha256
        self._binder, self.challenger = own_binder, challenger
        self.seconds, self._still = seconds, still
        self._due: tuple[str, ...] = ("evidence",) if client else ("hello",)
        self._asked: Nonce | None = None  # the nonce that the other end has yet to answer
        self._allowance = allowance or Allowance(seconds)
        self._judged = seconds()
        self.fresh: FreshEvidence | None = None
        self.renewal: Renewal | None = None

    @property
    def established(self) -> bool:
        """Has everybody proved itself who must? Until then no data goes either way."""
        return not self._due

    @property
    def proves(self) -> bool:
        """Is this end an enclave, which may be challenged at any time?"""
        return self._prover is not None

    @property
    def due(self) -> bool:
        """Must the other end prove itself again, and was not yet asked to?"""
        return self._asked is None and self.renewal is not None and self.renewal.due

    @property
    def unanswered(self) -> bool:
        """Was the other end asked, and has not yet answered?"""
        return self._asked is not None

    def open(self) -> bytes:
        """The client's first message, with a nonce (RFC 9334, section 10.2)."""
        return write_message("hello", nonce=self._ask())

    def challenge(self) -> bytes:
        """Let the other end, an enclave, prove itself again."""
        return write_message("challenge", nonce=self._ask())

    def _ask(self) -> Nonce:
        assert self.challenger is not None
        self._asked = self.challenger.nonce()
        return self._asked

    def receive(self, raw: bytes) -> bytes | None:
        """Take the other end's message; what to send back, if anything.

        Raises:
            RatlsError: The other end is refused, or refuses; the connection ends here.
        """
        due = self._due or (("answer", "challenge") if self._asked else ("challenge",))
        name, members = read_message(raw, *due)
        if name == "hello":
            return self._hello(members)
        if name == "evidence":
            return self._evidence(members)
        if name == "challenge":
            self._allowance.spend()
            return write_message("answer", evidence=self._prove(members["nonce"]))
        self._judge(members["evidence"])  # a proof or an answer
        self._due = ()
        return None

    def _hello(self, members: dict[str, Any]) -> bytes:
        evidence = self._prove(members["nonce"])
        wanted = b"" if self.challenger is None else self._ask()
        self._due = ("proof",) if wanted else ()
        return write_message("evidence", evidence=evidence, nonce=wanted)

    def _evidence(self, members: dict[str, Any]) -> bytes | None:
        # A server that does not want this enclave's proof would deal with anybody.
        if bool(members["nonce"]) != (self._prover is not None):
            raise _unexpected(("evidence",), "evidence for another kind of client")
        self._judge(members["evidence"])
        self._due = ()
        if self._prover is None:
            return None
        return write_message("proof", evidence=self._prove(members["nonce"]))

    def _prove(self, nonce: bytes) -> bytes:
        if self._prover is None:
            raise _unexpected(self._due, "a challenge to a party")
        return self._prover.answer_challenge(
            Nonce(nonce), self._peer_spki, NO_TASK, b"", self._binder
        )

    def _judge(self, evidence: bytes) -> None:
        assert self.challenger is not None
        assert self._asked is not None
        self.fresh = self.challenger.appraise(self._asked, evidence)
        self._asked, self._judged = None, self.seconds()
        if self.renewal is None:
            expected = self.challenger.verifier.expect()
            self.renewal = Renewal.agreed(expected, self.seconds)
        self.renewal.proved()

    def count(self, size: int) -> None:
        """So many bytes of data went either way."""
        if self.renewal is not None:
            self.renewal.left -= size

    def require_still_admitted(self) -> None:
        """Once a minute: judge the other end again, by what is in force now.

        Raises:
            RatlsError: Policy, collateral or revocation lists have turned against it.
        """
        if self.seconds() < self._judged + STILL_SECONDS:
            return
        if self.challenger is None:
            self._still()
        elif self.fresh is not None:
            self.challenger.require_still_admitted(self.fresh)
        self._judged = self.seconds()
