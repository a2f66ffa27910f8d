"""The extensions of certificates and revocation lists, as far as they decide anything.

Read from DER, and not through a library's objects: those cost three quarters of a first verdict,
and most of the time that it takes to load this package. Layout: RFC 5280, sections 4.2 and 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from verifier import der

# OIDs, with their tag and length.
AUTHORITY_KEY_ID, SUBJECT_KEY_ID = bytes.fromhex("0603551d23"), bytes.fromhex("0603551d0e")
BASIC_CONSTRAINTS, KEY_USAGE = bytes.fromhex("0603551d13"), bytes.fromhex("0603551d0f")
CRL_DISTRIBUTION_POINTS, CRL_NUMBER = bytes.fromhex("0603551d1f"), bytes.fromhex("0603551d14")
DELTA_CRL_INDICATOR = bytes.fromhex("0603551d1b")
ISSUING_DISTRIBUTION_POINT = bytes.fromhex("0603551d1c")
SGX = bytes.fromhex("06092a864886f84d010d01")  # 1.2.840.113741.1.13.1, of PCK certificates
_TRUE = b"\1\1\xff"
_KEY_IDENTIFIER = 0x80  # [0], inside an authority key identifier
_DIGITAL_SIGNATURE, _KEY_CERT_SIGN, _CRL_SIGN = 0x80, 0x04, 0x02  # of the first byte


@dataclass(frozen=True, slots=True)
class Extensions:
    """Values by OID (with tag and length), and which of them are critical."""

    values: dict[bytes, bytes]
    critical: frozenset[bytes]

    @classmethod
    def read(cls, sequence: bytes) -> Self:
        """Read `Extensions`; DerError for another form, or one that appears twice.

        RFC 5280, section 4.2, allows one of each.
        """
        values: dict[bytes, bytes] = {}
        critical = []
        for inside in der.contents(sequence, der.SEQUENCE):
            # The name is cut from the bytes: certificates have many of them, and all are short.
            tag, size = inside[:2]
            oid = inside[: 2 + size]
            if tag != der.OID or oid in values:
                raise der.DerError(f"extension {oid.hex()} is repeated or malformed")
            flag_or_value = inside[len(oid) :]
            # False is the default, which DER leaves out (X.690, section 11.5).
            if flag_or_value.startswith(_TRUE):
                critical.append(oid)
                flag_or_value = flag_or_value[len(_TRUE) :]
            values[oid] = der.content(flag_or_value, der.OCTET_STRING)
        return cls(values, frozenset(critical))

    @property
    def constraints(self) -> tuple[bool, int | None] | None:
        """Is it a CA, and how many may follow; None where it does not say.

        Basic constraints: RFC 5280, section 4.2.1.9.
        """
        if BASIC_CONSTRAINTS not in self.values:
            return None
        match der.children(self.values[BASIC_CONSTRAINTS]):
            case []:
                return False, None
            case [ca]:
                return der.true(ca), None
            case [ca, length]:
                return der.true(ca), der.integer(length, high=255)
        raise der.DerError("basic constraints of another form")

    @property
    def usage(self) -> tuple[bool, bool, bool] | None:
        """For signatures, certificates, CRLs; None where it does not say.

        Key usage: RFC 5280, section 4.2.1.3.
        """
        if KEY_USAGE not in self.values:
            return None
        bits = der.bit_string(self.values[KEY_USAGE])
        first = bits[0] if bits else 0
        return (
            bool(first & _DIGITAL_SIGNATURE),
            bool(first & _KEY_CERT_SIGN),
            bool(first & _CRL_SIGN),
        )

    @property
    def key_id(self) -> bytes:
        """Subject key identifier (RFC 5280, section 4.2.1.2), empty where there is none."""
        value = self.values.get(SUBJECT_KEY_ID)
        return b"" if value is None else der.content(value, der.OCTET_STRING)

    @property
    def issuer_key_id(self) -> bytes:
        """The issuer's key identifier (RFC 5280, section 4.2.1.1), empty where there is none."""
        value = self.values.get(AUTHORITY_KEY_ID)
        parts = [] if value is None else der.children(value)
        found = [part for part in parts if part[0] == _KEY_IDENTIFIER]
        return der.content(found[0], _KEY_IDENTIFIER) if len(found) == 1 else b""
