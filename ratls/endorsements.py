"""Collateral in the server's own certificate, so that a client without a network can judge it.

    value = encode_endorsements(collateral)       # on the server's side: for `build_certificate`
    collateral = stapled_collateral(der)          # on the verifier's side: from the certificate

Endorsements in the words of RFC 9334, section 8.2; the extension 2.23.133.5.4.2 of interoperable
RA-TLS: CBOR tag 60000 over a version and seven byte strings, in the order of Open Enclave
(docs/channel.md 3.6). The server chose them: each is signed by Intel, and old ones are signed as
well. So they are collateral like any other: windows, the policy's floors and what was seen before
hold for them, and nothing is made easier.
"""

from __future__ import annotations

import json

from cryptography import x509

from ratls import cbor
from ratls.certificate import (
    ENDORSEMENTS_OID,
    MAX_CERTIFICATE,
    EnclaveCertificateMalformed,
    load_certificate,
)
from ratls.errors import EvidenceFormatError
from verifier.certificate import read_chain
from verifier.collateral import Collateral
from verifier.crl import crl_der
from verifier.errors import CollateralFetchError, RatlsError
from verifier.responses import Answer, certificate_pem

TAG, VERSION = 60000, 1
_HEAD = bytes.fromhex("d9ea60")
_FIELDS = 7  # besides the version; an eighth is the instant at which they were put together
_WIDE, _SHORT = bytes.fromhex("1a00000001"), b"\x01"


class EndorsementsMissing(CollateralFetchError):
    """The certificate has no endorsements extension."""

    code = "endorsements-missing"
    default_fix = "name a bundle with --collateral; this server staples none"
    says = "{thing}: the server staples no collateral"


class EndorsementsMalformed(EvidenceFormatError):
    """The endorsements extension does not hold collateral in its form."""

    code = "endorsements-malformed"
    default_fix = "name a bundle with --collateral; tell the operator of the server"


def encode_endorsements(collateral: Collateral) -> bytes:
    """The content of the extension, for this bundle.

    Raises:
        EndorsementsMalformed: The bundle is too large for a certificate.
        CrlMalformed, CertificateMalformed: A part of it cannot be read.
    """
    parts = [
        _answer("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        collateral.tcb_info_issuer_chain.encode(),
        crl_der(collateral.pck_crl, "PCK CRL"),
        crl_der(collateral.root_ca_crl, "root CRL"),
        collateral.pck_crl_issuer_chain.encode(),
        _answer("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
        collateral.qe_identity_issuer_chain.encode(),
    ]
    raw = cbor.encode(cbor.Tagged(TAG, [VERSION, *parts]))
    if len(raw) > MAX_CERTIFICATE - 12 * 1024:  # quote, key and names need their room
        raise EndorsementsMalformed(
            "endorsements", expected="a bundle that fits into a certificate", found=f"{len(raw)}"
        )
    return raw


def _answer(member: str, text: str, signature: bytes) -> bytes:
    """As the service sends it: `{"MEMBER":{…},"signature":"…"}`, the text as it was signed."""
    return f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()


def parse_endorsements(raw: bytes) -> Collateral:
    """Read the content of the extension; nothing in it is verified.

    Raises:
        EndorsementsMalformed: Not that.
    """
    try:
        if len(raw) > MAX_CERTIFICATE:
            raise cbor.NotStrict("larger than a certificate")
        items = _items(raw)
        tcb, tcb_chain, pck_crl, root_crl, pck_chain, identity, identity_chain = items
        tcb_info = Answer("TCB info", (), tcb.rstrip(b"\0")).signed("tcbInfo")
        qe = Answer("QE identity", (), identity.rstrip(b"\0")).signed("enclaveIdentity")
        members = {
            "pck_crl_issuer_chain": _chain(pck_chain, "PCK CRL issuer chain"),
            "root_ca_crl": crl_der(_text(root_crl), "root CRL").hex(),
            "pck_crl": crl_der(_text(pck_crl), "PCK CRL").hex(),
            "tcb_info_issuer_chain": _chain(tcb_chain, "TCB info issuer chain"),
            "tcb_info": tcb_info[0],
            "tcb_info_signature": tcb_info[1],
            "qe_identity_issuer_chain": _chain(identity_chain, "QE identity issuer chain"),
            "qe_identity": qe[0],
            "qe_identity_signature": qe[1],
        }
        return Collateral.parse(json.dumps(members, ensure_ascii=False).encode())
    except cbor.NotStrict as error:
        raise _malformed(str(error)) from error
    except RatlsError as refusal:
        raise _malformed(f"{refusal.thing}: {refusal.found}") from refusal


def _items(raw: bytes) -> list[bytes]:
    # One producer writes the version in five bytes and reads no other form (docs/channel.md 3.6);
    # everything else has its shortest one (RFC 8949, section 4.2.1).
    wide = len(_HEAD) + 1
    if raw[wide:].startswith(_WIDE):
        raw = raw[:wide] + _SHORT + raw[wide + len(_WIDE) :]
    item = cbor.decode(raw)
    if not isinstance(item, cbor.Tagged) or item.tag != TAG or not isinstance(item.value, list):
        raise cbor.NotStrict("no array with tag 60000")
    version, *parts = item.value or [0]
    found = [part for part in parts if isinstance(part, bytes)]
    if version != VERSION or len(found) != len(parts) or len(parts) not in (_FIELDS, _FIELDS + 1):
        raise cbor.NotStrict("not version 1 with seven or eight byte strings")
    return found[:_FIELDS]


def _text(crl: bytes) -> bytes:
    """Without the NUL behind a PEM text; the last byte of DER may be zero, and counts."""
    return crl.rstrip(b"\0") if crl.startswith(b"-----BEGIN") else crl


def _chain(pem: bytes, title: str) -> str:
    """A signer and the root, as PEM (RFC 7468, section 5.1)."""
    try:
        text = pem.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError as error:
        raise cbor.NotStrict(f"{title} is not ASCII") from error
    found = read_chain(text, 2, title)
    return "".join(certificate_pem(one.der) for one in found)


def stapled_collateral(der: bytes) -> Collateral:
    """The collateral that a certificate carries; nothing in either is verified.

    Raises:
        EndorsementsMissing, EndorsementsMalformed: It carries none, or something else.
        EnclaveCertificateMalformed: Not one X.509 certificate.
    """
    certificate = load_certificate(der)
    try:
        value = certificate.extensions.get_extension_for_oid(ENDORSEMENTS_OID).value
    except x509.ExtensionNotFound as error:
        raise EndorsementsMissing(
            "certificate", expected="the extension 2.23.133.5.4.2", found="none"
        ) from error
    if not isinstance(value, x509.UnrecognizedExtension):
        raise EnclaveCertificateMalformed(
            "certificate", expected="an extension that is read here", found="another"
        )
    return parse_endorsements(value.value)


def _malformed(found: str) -> EndorsementsMalformed:
    return EndorsementsMalformed(
        "endorsements", expected="tag 60000 [1, seven parts of collateral]", found=found
    )
