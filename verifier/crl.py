"""Certificate revocation lists. A list that is absent or unreadable is a refusal."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from verifier import der, ecdsa
from verifier.certificate import ECDSA_SHA256, Certificate, read_name, signed_parts
from verifier.errors import CrlMissing, CrlOfAnotherIssuer, Exit, RevocationError
from verifier.extensions import (
    AUTHORITY_KEY_ID,
    CRL_NUMBER,
    DELTA_CRL_INDICATOR,
    ISSUING_DISTRIBUTION_POINT,
    Extensions,
)

_PEM_HEAD, _PEM_FOOT = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_WHITE = b" \t\r\n\0"


class CertificateRevoked(RevocationError):
    """Intel revoked this certificate."""

    code = "certificate-revoked"
    default_fix = "do not release anything to this platform"
    says = "{thing} is revoked: {found}"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that its authority signed. Whether it is current is judged with everything else.

    Rules: docs/dcap.md 3.8 and 4.3; RFC 5280, section 5 and section 6.3.3.
    """

    title: str
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Any entry counts, with any reason and any date.

        Raises:
            CertificateRevoked: The certificate is listed.
        """
        if certificate.serial in self.serials:
            raise CertificateRevoked(
                f"{certificate.common_name} {certificate.serial_hex}",
                expected="not revoked",
                found=f"it is listed in the {self.title}",
            )


class CrlMalformed(RevocationError):
    """A revocation list cannot be read, or is of a kind that Intel does not issue."""

    code = "crl-malformed"
    exit_status = Exit.UNDECIDED  # no signature was reached: nothing is known to be forged
    says = "{thing} is not {expected}: {found}"
    default_fix = "fetch the collateral again from its source"


def crl_der(stored: bytes, title: str) -> bytes:
    """DER of a list that is stored as PEM, as hexadecimal text or as DER (Intel's services differ).

    PEM: RFC 7468, section 6.

    Raises:
        CrlMissing: There is nothing.
        CrlMalformed: None of the three.
    """
    text = stored.strip(_WHITE)
    if not text:
        raise CrlMissing(title, expected="a revocation list", found="nothing")
    with suppress(binascii.Error):
        return binascii.unhexlify(text)
    if text[:2] in (b"0x", b"0X") or text[:3] == b"MII":  # "0" is the first byte of DER, too
        found = "base64 without PEM's lines" if text[:1] == b"M" else "0x before it"
        raise CrlMalformed(title, expected="PEM, hexadecimal text or DER", found=found)
    if text.startswith(_PEM_HEAD) and text.endswith(_PEM_FOOT):
        body = text[len(_PEM_HEAD) : -len(_PEM_FOOT)].translate(None, b" \t\r\n")
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise CrlMalformed(title, expected="base64 in PEM", found=str(error)) from error
    if stored.startswith(b"\x30"):
        return stored
    raise CrlMalformed(title, expected="PEM, hexadecimal text or DER", found="something else")


class CrlSignatureInvalid(RevocationError):
    """The authority named in a revocation list did not sign it."""

    code = "crl-signature-invalid"
    default_fix = "fetch the collateral again; this list is forged or damaged"


@dataclass(frozen=True, slots=True)
class ParsedList:
    """A list as it can be read. Not checked: perhaps its authority never signed it."""

    issuer: bytes  #            DER of the name
    authority_key_id: bytes
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]
    tbs: bytes
    signature: bytes


def parse_crl(stored: bytes, title: str) -> ParsedList:
    """Read a list.

    Raises:
        CrlMissing, CrlMalformed: There is none, or it cannot be read.
    """
    raw = crl_der(stored, title)
    try:
        tbs, signature = signed_parts(raw)
        version, algorithm, name, this, *rest = der.children(tbs)
        if version != _VERSION_2 or algorithm != ECDSA_SHA256:
            raise der.DerError("not a CRL of version 2 with ecdsa-with-SHA256")
        if not rest or rest[0][0] not in (der.UTC_TIME, der.GENERALIZED_TIME):
            raise der.DerError("no nextUpdate")  # RFC 5280, section 5.1.2.5, demands it
        this_update, next_update = der.time(this), der.time(rest[0])
        # What is left: the entries, unless there are none, and the extensions.
        *entries, last = rest[1:]
        (sequence,) = der.children(last, _EXTENSIONS)
        if len(entries) > 1:
            raise der.DerError("a field that no CRL has")
        serials = frozenset(map(_serial, der.children(entries[0]))) if entries else frozenset()
        authority_key_id = _require_profile(Extensions.read(sequence))
    except ValueError as error:
        raise CrlMalformed(title, expected="a revocation list", found=str(error)) from error
    return ParsedList(name, authority_key_id, this_update, next_update, serials, tbs, signature)


@lru_cache(maxsize=32)  # pure: the same bytes under the same authority give the same list
def authenticate_crl(stored: bytes, issuer: Certificate, title: str) -> RevocationList:
    """Read a list and check that `issuer` signed it.

    Raises:
        RevocationError: The leaf that says what is wrong with it.
    """
    found = parse_crl(stored, title)
    name, authority_key_id = found.issuer, found.authority_key_id
    # In the genuine list of Intel's other PCK authority this platform is never revoked.
    if name != issuer.subject or not authority_key_id or authority_key_id != issuer.key_id:
        raise CrlOfAnotherIssuer(
            title, expected=f"one of {issuer.common_name}", found=_shown(name, authority_key_id)
        )
    if not ecdsa.signed_der(issuer.key, found.signature, found.tbs):
        raise CrlSignatureInvalid(
            title, expected=f"a valid signature by {issuer.common_name}", found="an invalid one"
        )
    return RevocationList(title, found.this_update, found.next_update, found.serials)


_VERSION_2 = bytes.fromhex("020101")
_EXTENSIONS = 0xA0  # [0], the last field
_NEEDED = {CRL_NUMBER, AUTHORITY_KEY_ID}
# A delta list, or one for some distribution points only, is silent about the rest: RFC 5280,
# section 5.2.4 and RFC 5280, section 5.2.5.
_PARTIAL = {DELTA_CRL_INDICATOR, ISSUING_DISTRIBUTION_POINT}


def _require_profile(found: Extensions) -> bytes:
    """A complete, direct list with number and authority key; the latter's identifier.

    RFC 5280, section 5.2.3 and RFC 5280, section 5.2.1.
    """
    if not found.values.keys() >= _NEEDED:
        raise der.DerError("not both, cRLNumber and authorityKeyIdentifier")
    odd = (found.values.keys() & _PARTIAL) | (found.critical - _NEEDED)
    if odd:
        raise der.DerError(f"extension {min(odd).hex()}, critical or of a list that is incomplete")
    return found.issuer_key_id


def _shown(name: bytes, authority_key_id: bytes) -> str:
    """The issuer of a list, for people, as far as it can be read."""
    with suppress(ValueError):
        return f"{read_name(name)[0][:80]}, key identifier {authority_key_id.hex()}"
    return "one that is not named"


def _serial(entry: bytes) -> int:
    """The serial number of an entry (RFC 5280, section 5.1.2.6), cut from its bytes for speed."""
    if entry[1] & 0x80:  # rewrite a long-form header, so that the code below has one case
        entry = entry[:1] + b"\0" + der.content(entry, entry[0])
    sequence, _, integer, width = entry[:4]
    end = 4 + width
    date = entry[end : end + 2]
    if sequence != der.SEQUENCE or integer != der.INTEGER or date not in _TIMES:
        raise der.DerError("a revoked certificate without a serial number and a date")
    end_of_date = end + 2 + date[1]
    if len(entry) < end_of_date:
        raise der.DerError("a revoked certificate with half a date")
    _require_none_critical(entry[end_of_date:])
    number = int.from_bytes(entry[4:end], "big", signed=True)
    if number <= 0:
        raise der.DerError("a serial number that no certificate has")
    return number


_TIMES = (b"\x17\x0d", b"\x18\x0f")  # UTCTime and GeneralizedTime, in the lengths of DER


@lru_cache(maxsize=64)  # pure; nearly all entries give the same reason
def _require_none_critical(extensions: bytes) -> None:
    """The extensions of an entry, if it has any: none of them is critical."""
    if not extensions:
        return
    for extension in der.children(extensions):
        # The one critical extension that is defined here gives the entry to another CA: RFC 5280,
        # section 5.3.3.
        if len(der.children(extension)) != 2:
            raise der.DerError("a revoked certificate with a critical extension")
