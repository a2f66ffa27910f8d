"""Makes channels to enclaves, each for one address and one verified certificate. No other place
does.

    with pinned_channel(address, admitted, identity) as channel:
        ...

A client fails open in two ways (docs/flight.md 1.3): without roots it trusts the system's, and
without credentials it sends plaintext. Neither is possible here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ratls.address import Address
from ratls.appraise import AdmittedCertificate
from ratls.certificate import ENCLAVE_NAME
from ratls.environment import prepare_process
from verifier.errors import ConfigError

if TYPE_CHECKING:
    from policy.party import LocalParty

CLIENT_OPTIONS = [  # of every gRPC client of ours
    # Compressed messages are refused: 1 MB of gzip would become 1 GB before any check. Both
    # options, since the first alone still unpacks what arrives.
    ("grpc.compression_enabled_algorithms_bitset", 1),  # bit 0: as it is
    ("grpc.per_message_decompression", 0),
    # Else proxy variables would choose where the connection goes: docs/flight.md 1.5.
    ("grpc.enable_http_proxy", 0),
    # A retry would send a stream's first messages again, perhaps to another server.
    ("grpc.enable_retries", 0),
    # Else channels of one process to one address share a connection, and with it an identity.
    ("grpc.use_local_subchannel_pool", 1),
    # Notices a dead connection: RFC 9113, section 6.7.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


LARGEST = 1 << 20  # bytes
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """A party's channel certificate, which the policy lists, and its key."""

    cert_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    spki_sha256: bytes  # 32, of the certificate's key

    @classmethod
    def of(cls, party: LocalParty) -> Self:
        """That of a party, from its folder. Raises: what reading its channel key raises."""
        return cls(party.channel_certificate_pem, party.channel_key_pem, party.channel_spki_sha256)


class PinUnusable(ConfigError):
    """There is not exactly one verified certificate to pin, or the address is not numeric."""

    code = "pin-unusable"
    default_fix = "probe and appraise the enclave at a resolved address first"


def pinned_channel(
    address: Address,
    admitted: AdmittedCertificate,
    identity: ChannelIdentity,
    largest: int = LARGEST,
) -> grpc.Channel:
    """A channel that connects only to the holder of exactly this certificate.

    It does not connect yet. gRPC reconnects silently between calls, always under this pin.

    Args:
        address: The numeric address that was probed.
        admitted: What the probe showed, appraised.
        identity: Own certificate and key.
        largest: Bytes that one message from the peer may have.

    Raises:
        PinUnusable: The address is not numeric, or the pin is not exactly one certificate.
        EnvironmentUnsafe: The environment would log keys or traffic.
    """
    prepare_process()
    if not address.is_numeric:
        raise PinUnusable(str(address), expected="the very address that was probed", found="a name")
    credentials = grpc.ssl_channel_credentials(_pin(admitted), identity.key_pem, identity.cert_pem)
    options = [
        *CLIENT_OPTIONS,
        ("grpc.ssl_target_name_override", ENCLAVE_NAME),
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
    ]
    return grpc.secure_channel(str(address), credentials, options)


@contextmanager
def ending(channel: grpc.Channel) -> Iterator[grpc.Channel]:
    """The channel, closed behind the block by `close_channel`."""
    try:
        yield channel
    finally:
        close_channel(channel)


def close_channel(channel: grpc.Channel) -> None:
    """End its calls and the connection.

    gRPC waits until each call has ended. One that Ctrl-C met while it began never does: the thread
    that would notice was not started yet. Then the channel is left to the end of the process.
    """
    closing = threading.Thread(target=channel.close, daemon=True)
    closing.start()
    closing.join(_CLOSE_SECONDS)


def _pin(admitted: AdmittedCertificate) -> bytes:
    """Exactly one PEM block, written from the DER that was verified."""
    if not isinstance(admitted, AdmittedCertificate):
        raise PinUnusable("pin", expected="an admitted certificate", found="something else")
    certificate = x509.load_der_x509_certificate(admitted.der)
    _require_no_issuer(certificate)
    shown = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if shown != admitted.spki:
        raise PinUnusable("pin", expected="the key of the evidence", found="another key")
    pem = certificate.public_bytes(Encoding.PEM)
    # None and b"" would mean "any root of this system"; two blocks, two anchors.
    if len(x509.load_pem_x509_certificates(pem)) != 1:
        raise PinUnusable("pin", expected="one certificate", found="another number")
    return pem


def _require_no_issuer(certificate: x509.Certificate) -> None:
    """A second check of the same kind: the appraisal made it too.

    gRPC does not show which certificate the other end of the data connection has. Under a pin
    that may issue, it could be any that the pinned key has signed, with any key. Of the two marks
    (RFC 5280, section 4.2.1.9 and RFC 5280, section 4.2.1.3) each alone keeps OpenSSL from taking
    it; gRPC's own TLS library looks at the second alone (docs/flight.md 1.2).
    """
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise PinUnusable("pin", expected="CA:FALSE and a key usage", found="neither") from error
    if constraints.ca or usage.key_cert_sign:
        raise PinUnusable("pin", expected="a certificate that issues none", found="an issuer")
