"""The identity of one start of an enclave: its keys, instance, certificate and evidence.

    identity = EnclaveIdentity.create(attester, policy.digest, at=now)
    identity.answer_challenge(nonce, peer_spki_sha256, task_digest)

Everything lives in memory, and ends with the process: a key that survived a restart would make old
evidence worth stealing. A certificate lasts for hours. `Identities` has the next one made in time,
about another TLS key of the same start, while connections under the earlier one go on.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from policy.keys import KeySigner, ReceiptSigner, spki_der
from policy.values import Digest, Instance, Nonce
from ratls.attester import Attester
from ratls.certificate import build_certificate
from ratls.claims import INSTANCE_SIZE, ROLE_SERVER, CertificateClaims, ChallengeClaims, key_hash
from ratls.errors import FreshnessError
from ratls.evidence import make_evidence
from ratls.log import Log, place_of
from ratls.turns import Turns
from verifier.anchors import Mode
from verifier.errors import Exit, RatlsError

RENEW_AFTER = timedelta(hours=4)  # a certificate lasts three times as long
_AGAIN = timedelta(minutes=1)  # after an attester that failed
_EARLIER = 8  # that are kept for connections that last


class EnclaveIdentity:
    """One start of an enclave, with one of its TLS keys. Made by `create` and `renewed`."""

    def __init__(
        self,
        attester: Attester,
        tls_key: ec.EllipticCurvePrivateKey,
        receipt_key: ec.EllipticCurvePrivateKey,
        claims: CertificateClaims,
        certificate: x509.Certificate,
        turns: Turns,
    ) -> None:
        self._attester, self._tls_key, self._receipt_key = attester, tls_key, receipt_key
        self._claims = claims
        self._turns = turns
        self.certificate_der = certificate.public_bytes(Encoding.DER)
        self.certificate_pem = certificate.public_bytes(Encoding.PEM)
        self.begins, self.ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        self.spki = spki_der(tls_key.public_key())
        self.receipt_spki = spki_der(receipt_key.public_key())
        # The TLS key signs TLS only: one key for two protocols lets one sign for the other.
        self.receipt_signer = ReceiptSigner(KeySigner.from_private(receipt_key))

    @classmethod
    def create(
        cls,
        attester: Attester,
        policy_digest: Digest,
        *,
        at: datetime,
        role: bytes = ROLE_SERVER,
        random: Callable[[int], bytes] = os.urandom,
        endorsements: bytes = b"",
        turns: Turns | None = None,
    ) -> Self:
        """Make the keys, and have the hardware quote them and the policy.

        Args:
            policy_digest: 32 bytes, of the one policy that this process will obey.
            at: Start of the certificate's validity (less an hour for clocks that differ).
            role: Of this key in every connection: evidence of a server is none of a client.
            random: Source of instance and serial number; keys come from the library's own.
            endorsements: As for `build_certificate`.
            turns: Share it between starts that share an attester.

        Raises:
            AttesterError: No quote could be had.
        """
        receipt_key = ec.generate_private_key(ec.SECP256R1())
        claims = CertificateClaims(
            pubkey_hash=b"",  # of each TLS key
            context=CertificateClaims.CONTEXT,
            role=role,
            mode=attester.mode.value.encode(),
            policy_hash=policy_digest,
            instance=Instance(random(INSTANCE_SIZE)),
            receipt_key_hash=hashlib.sha256(spki_der(receipt_key.public_key())).digest(),
        )
        line = turns or Turns()
        return cls._with_new_key(attester, receipt_key, claims, line, at, random, endorsements)

    def renewed(
        self,
        at: datetime,
        *,
        random: Callable[[int], bytes] = os.urandom,
        endorsements: bytes = b"",
    ) -> Self:
        """The same start with another TLS key, its evidence and its certificate.

        Raises:
            AttesterError: No quote could be had.
        """
        rest = (self._attester, self._receipt_key, self._claims, self._turns)
        return self._with_new_key(*rest, at, random, endorsements)

    @classmethod
    def _with_new_key(
        cls,
        attester: Attester,
        receipt_key: ec.EllipticCurvePrivateKey,
        claims: CertificateClaims,
        turns: Turns,
        at: datetime,
        random: Callable[[int], bytes],
        endorsements: bytes,
    ) -> Self:
        tls_key = ec.generate_private_key(ec.SECP256R1())
        claims = replace(claims, pubkey_hash=key_hash(spki_der(tls_key.public_key())))
        serial = int.from_bytes(random(16), "big") | 1  # positive: RFC 5280, section 4.1.2.2
        with turns.own():
            evidence = make_evidence(attester, claims)
        certificate = build_certificate(
            tls_key, evidence, claims.instance, serial, at, endorsements
        )
        return cls(attester, tls_key, receipt_key, claims, certificate, turns)

    def __repr__(self) -> str:
        role = self._claims.role.decode()
        return f"<EnclaveIdentity {role}, instance {self.instance.hex()} ({self.mode})>"

    @cached_property
    def key_pem(self) -> bytes:
        """The TLS key for the server in this process; never written to a file.

        In the form of RFC 5958, section 2.
        """
        return self._tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def spki_sha256(self) -> bytes:
        """Of the TLS key; clients name it by that."""
        return hashlib.sha256(self.spki).digest()

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """PEM of certificate and key, of the same one."""
        return self.certificate_pem, self.key_pem

    @property
    def mode(self) -> Mode:
        """Hardware, or a simulation."""
        return self._attester.mode

    @property
    def instance(self) -> Instance:
        """16 bytes that name this start."""
        return self._claims.instance

    def answer_challenge(
        self,
        nonce: Nonce,
        peer_spki_sha256: bytes,
        task_digest: Digest,
        sealing_key_hash: bytes = b"",
        binder: bytes = b"",
    ) -> bytes:
        """Fresh evidence for one peer and one task.

        Args:
            nonce: 32 bytes from the verifier.
            peer_spki_sha256: Of the channel certificate that the *policy* lists for the
                authenticated peer. Never a value out of a message: evidence made for one party
                could then be had, and shown, by another.
            task_digest: Of a task that the caller has verified; `NO_TASK` for a bare check.
            sealing_key_hash: SHA-256 of the key that rows of this exchange are sealed to.
            binder: Value of the connection's TLS exporter for this end, where there is one.

        Raises:
            TooManyChallenges: The peer asks for more than its share.
            AttesterError: No quote could be had.
        """
        start = self._claims
        claims = ChallengeClaims(
            pubkey_hash=start.pubkey_hash,
            context=ChallengeClaims.CONTEXT,
            role=start.role,
            mode=start.mode,
            policy_hash=start.policy_hash,
            instance=start.instance,
            receipt_key_hash=start.receipt_key_hash,
            peer_hash=peer_spki_sha256,
            task_hash=task_digest,
            nonce=nonce,
            sealing_key_hash=sealing_key_hash,
            binder=binder,
        )
        # Attesters are one device per process: without turns, answers could be mixed up.
        with self._turns.of(peer_spki_sha256):
            return make_evidence(self._attester, claims)


class ConnectionKeyGone(FreshnessError):
    """The connection began under a certificate that this enclave no longer has."""

    code = "connection-key-gone"
    exit_status = Exit.PEER
    default_fix = "connect again: the enclave shows its present certificate"


class Identities:
    """The identities of one start: what new connections are shown, and what earlier ones were.

    Any thread may use it.
    """

    def __init__(self, first: EnclaveIdentity, endorsements: bytes = b"") -> None:
        """Args: endorsements: As for `build_certificate`, of each certificate to come."""
        self._endorsements, self._lock = endorsements, threading.Lock()
        # The present one first; replaced as a whole.
        self._held: tuple[EnclaveIdentity, ...] = (first,)
        self._next = first.ends - 2 * RENEW_AFTER
        self._tried = first.begins

    @property
    def current(self) -> EnclaveIdentity:
        """What new connections are shown."""
        return self._held[0]

    def of(self, spki_sha256: bytes) -> EnclaveIdentity:
        """That with this TLS key; the present one where none is named.

        gRPC does not tell a server which certificate a connection was shown, so its client names
        the key. It chooses among keys of this very start: evidence about one that it did not pin
        is of no use to it.

        Raises:
            ConnectionKeyGone: There is none.
        """
        held = self._held
        for identity in held if spki_sha256 else held[:1]:
            if not spki_sha256 or identity.spki_sha256 == spki_sha256:
                return identity
        raise ConnectionKeyGone("key of the connection", expected="a present one", found="another")

    def renew_if_due(self, at: datetime) -> bool:
        """Have the next certificate made, if it is time; to be called every few seconds.

        Earlier ones are forgotten at their end: no client goes on after it.

        Raises:
            AttesterError: No quote could be had: the present one stays, until a try in a minute.
        """
        with self._lock:
            # A clock that ran ahead for a moment has made one that nobody takes yet.
            due = not self.current.begins <= at < self._next
            if not due or abs(at - self._tried) < _AGAIN:
                return False
            self._tried = at
            made = self.current.renewed(at, endorsements=self._endorsements)
            earlier = [identity for identity in self._held if at <= identity.ends]
            self._held = (made, *earlier[:_EARLIER])
            self._next = at + RENEW_AFTER
            return True

    def renew(self, at: datetime, log: Log | None) -> None:
        """As `renew_if_due`; what came of it is logged, and nothing is raised."""
        event: dict[str, str] = {}
        try:
            if not self.renew_if_due(at):
                return
        except RatlsError as refusal:
            event = {"code": refusal.code}
        except Exception as bug:  # noqa: BLE001 - without another try the server would end
            event = {"bug": place_of(bug)}
        if log is not None and event:
            log.warning("certificate-not-renewed", **event)
        elif log is not None:
            log.info("certificate-renewed")
