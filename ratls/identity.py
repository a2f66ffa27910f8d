"""The identity of one start of an enclave: its keys, instance, certificate and evidence.

    identity = EnclaveIdentity.create(attester, policy.digest, at=now)
    identity.answer_challenge(nonce, peer_spki_sha256, task_digest)

Everything is made at start, lives in memory, and ends with the process: a key that survived a
restart would make old evidence worth stealing.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Self

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
from ratls.evidence import make_evidence


class EnclaveIdentity:
    """One start of an enclave. Made by `create`."""

    def __init__(
        self,
        attester: Attester,
        tls_key: ec.EllipticCurvePrivateKey,
        receipt_key: ec.EllipticCurvePrivateKey,
        claims: CertificateClaims,
        certificate_der: bytes,
        certificate_pem: bytes,
    ) -> None:
        self._attester, self._tls_key = attester, tls_key
        self._claims = claims
        self._quoting = threading.Lock()
        self.certificate_der, self.certificate_pem = certificate_der, certificate_pem
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
    ) -> Self:
        """Make the keys, and have the hardware quote them and the policy.

        Args:
            policy_digest: 32 bytes, of the one policy that this process will obey.
            at: Start of the certificate's validity (less an hour for clocks that differ).
            role: Of this key in every connection: evidence of a server is none of a client.
            random: Source of instance and serial number; keys come from the library's own.

        Raises:
            AttesterError: No quote could be had.
        """
        tls_key = ec.generate_private_key(ec.SECP256R1())
        receipt_key = ec.generate_private_key(ec.SECP256R1())
        instance = Instance(random(INSTANCE_SIZE))
        claims = CertificateClaims(
            pubkey_hash=key_hash(spki_der(tls_key.public_key())),
            context=CertificateClaims.CONTEXT,
            role=role,
            mode=attester.mode.value.encode(),
            policy_hash=policy_digest,
            instance=instance,
            receipt_key_hash=hashlib.sha256(spki_der(receipt_key.public_key())).digest(),
        )
        serial = int.from_bytes(random(16), "big") | 1  # positive: RFC 5280, section 4.1.2.2
        certificate = build_certificate(
            tls_key, make_evidence(attester, claims), instance, serial, at
        )
        return cls(
            attester,
            tls_key,
            receipt_key,
            claims,
            certificate.public_bytes(Encoding.DER),
            certificate.public_bytes(Encoding.PEM),
        )

    @property
    def key_pem(self) -> bytes:
        """The TLS key for the server in this process; never written to a file.

        In the form of RFC 5958, section 2.
        """
        return self._tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

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
        # Attesters are one device per process: without this, answers could be mixed up.
        with self._quoting:
            return make_evidence(self._attester, claims)
