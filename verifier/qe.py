"""The quoting enclave: is it Intel's, how current is it, and which key does it attest?

Without the identity check any enclave on a genuine machine could attest a key: the critical hole of
another verifier (CVE-2026-22696), which checked every signature but not this.
Source: Intel's PCS API v4, `/sgx/certification/v4/qe/identity`; docs/dcap.md 3.5 and 4.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from verifier import ecdsa
from verifier.document import CollateralMalformed, Fields, parse_object
from verifier.errors import (
    BelowEveryLevelError,
    CollateralMismatchError,
    QeIdentityError,
    QuoteSignatureError,
)
from verifier.quote import DEBUG, EcdsaAuthData, EnclaveReport, Quote, Tee
from verifier.status import SvnLevel
from verifier.tcb import read_issue_dates


class QeReportSignatureInvalid(QuoteSignatureError):
    """The platform's PCK key did not sign the quoting enclave's report."""

    code = "qe-report-signature-invalid"
    default_fix = "do not use it: the quote is forged or damaged"


def verify_qe_report_signature(auth: EcdsaAuthData, pck_key: ec.EllipticCurvePublicKey) -> None:
    """The platform's PCK key signed the quoting enclave's report, all 384 bytes of it.

    Raises:
        QeReportSignatureInvalid: It did not.
    """
    if not ecdsa.signed_raw(pck_key, auth.qe_report_signature, auth.qe_report.raw):
        raise QeReportSignatureInvalid(
            "QE report signature", expected="a valid one by the PCK key", found="an invalid one"
        )


class AttestationKeyUnbound(QuoteSignatureError):
    """The quoting enclave attests another key than the one that signed the quote."""

    code = "attestation-key-unbound"
    default_fix = "do not use it: the quote is forged or damaged"


def verify_attestation_key_binding(auth: EcdsaAuthData) -> None:
    """The quoting enclave attests the key that signed the quote.

    Its 64-byte report_data is SHA-256(attestation_key || qe_auth_data), then 32 zero bytes
    (ECDSA Quote Library API, appendix A.4).

    Raises:
        AttestationKeyUnbound: It attests something else.
    """
    # Without this link anyone could sign a report of their own and attach a genuine QE report.
    expected = sha256(auth.attestation_key + auth.qe_auth_data).digest() + bytes(32)
    if auth.qe_report.report_data != expected:
        raise AttestationKeyUnbound(
            "attestation key in the QE's report_data",
            expected=expected.hex(),
            found=auth.qe_report.report_data.hex(),
        )


class QuoteSignatureInvalid(QuoteSignatureError):
    """The attestation key did not sign this quote, or is not a valid key."""

    code = "quote-signature-invalid"
    default_fix = "do not use it: the quote is forged or damaged"


def verify_quote_signature(quote: Quote) -> None:
    """The attestation key signed header and report, as received.

    Raises:
        QuoteSignatureInvalid: It did not, or it is no point of P-256.
    """
    try:
        key = ecdsa.public_key(quote.auth.attestation_key)
    except ValueError as error:
        raise QuoteSignatureInvalid(
            "attestation key", expected="a point of P-256", found="other bytes"
        ) from error
    if not ecdsa.signed_raw(key, quote.auth.signature, quote.signed):
        raise QuoteSignatureInvalid(
            "quote signature", expected="a valid one by the attestation key", found="an invalid one"
        )


class EnclaveId(StrEnum):
    """Which of Intel's enclaves an identity document describes."""

    QE = "QE"
    QVE = "QVE"
    QAE = "QAE"
    TD_QE = "TD_QE"


_DESCRIBED = {EnclaveId.QE: Tee.SGX, EnclaveId.TD_QE: Tee.TDX}


class QeIdentityMismatch(CollateralMismatchError):
    """A genuine identity document, but not of the quoting enclave that made the quote."""

    code = "qe-identity-mismatch"
    default_fix = "fetch the collateral for this quote: SGX and TDX have different QE identities"


class QeNotIntels(QeIdentityError):
    """The enclave that attests the attestation key is not Intel's quoting enclave."""

    code = "qe-not-intels"
    default_fix = "do not use it: any enclave on a genuine machine could have made this quote"


class QeTcbLevelUnmatched(BelowEveryLevelError):
    """The quoting enclave is Intel's, and older than every level that Intel lists."""

    code = "qe-tcb-level-unmatched"
    default_fix = (
        "update the PSW or QGS package of the platform, then make a new quote; no option accepts "
        "this one"
    )


@dataclass(frozen=True, slots=True, eq=False)
class QeIdentity:
    """Intel's description of its quoting enclave. Parse it only once its signature is checked.

    There is one for enclaves and one for trust domains.
    """

    tee: Tee  #              the technology of the quotes that the enclave makes
    issued: datetime
    next_update: datetime
    evaluation_data_number: int
    misc_select: int
    misc_select_mask: int
    attributes: int  #       FLAGS, then XFRM: 16 bytes, little-endian
    attributes_mask: int
    mr_signer: bytes  #      32
    isv_prod_id: int
    levels: tuple[SvnLevel, ...]  #  highest first, in any order on the wire

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an identity of version 2.

        Raises:
            CollateralMalformed: Not that, or one that no enclave can have.
            QeIdentityMismatch: Of another of Intel's enclaves.
        """
        fields = parse_object(text, "QE identity")
        enclave = fields.member_of("id", EnclaveId)
        version = fields.integer("version", high=65535)
        if version != 2:
            raise CollateralMalformed("QE identity version", expected="2", found=str(version))
        if enclave not in _DESCRIBED:
            raise QeIdentityMismatch(
                "QE identity", expected="id QE or TD_QE", found=f"id {enclave}"
            )
        issued, next_update = read_issue_dates(fields)
        misc_select, misc_mask = _masked(fields, "miscselect", 4)
        attributes, attributes_mask = _masked(fields, "attributes", 16)
        return cls(
            tee=_DESCRIBED[enclave],
            issued=issued,
            next_update=next_update,
            evaluation_data_number=fields.integer("tcbEvaluationDataNumber", high=2**31),
            misc_select=misc_select,
            misc_select_mask=misc_mask,
            attributes=attributes,
            attributes_mask=attributes_mask,
            mr_signer=fields.hex("mrsigner", 32),
            isv_prod_id=fields.integer("isvprodid", high=65535),
            levels=SvnLevel.of_quoting_enclave(fields),
        )

    def require_described(self, report: EnclaveReport, tee: Tee) -> None:
        """This report is of the enclave described here; its code (MRENCLAVE) may change.

        Args:
            report: The quoting enclave's.
            tee: The technology of the quote.

        Raises:
            QeIdentityMismatch: The identity is of the other technology's quoting enclave.
            QeNotIntels: A field differs, or it is a debug enclave.
        """
        if self.tee is not tee:
            raise QeIdentityMismatch(
                "QE identity", expected=f"one for {tee}", found=f"one for {self.tee}"
            )
        for field, expected, found in (
            ("MRSIGNER", self.mr_signer, report.mr_signer.value),
            ("ISVPRODID", self.isv_prod_id, report.isv_prod_id),
            ("MISCSELECT", self.misc_select, report.misc_select & self.misc_select_mask),
            ("ATTRIBUTES", self.attributes, report.attributes & self.attributes_mask),
            # Outside the mask too: the host reads a debug enclave's keys.
            ("DEBUG", 0, report.flags & DEBUG),
        ):
            if expected != found:
                raise QeNotIntels(
                    f"quoting enclave's {field}", expected=_shown(expected), found=_shown(found)
                )

    def level_of(self, report: EnclaveReport) -> SvnLevel:
        """The highest level that this quoting enclave reaches.

        Raises:
            QeTcbLevelUnmatched: It is below all of them.
        """
        thing = "quoting enclave's ISVSVN"
        return SvnLevel.reached(self.levels, report.isv_svn, thing, QeTcbLevelUnmatched)


def _shown(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else f"{value:#x}"


def _masked(fields: Fields, name: str, size: int) -> tuple[int, int]:
    """Value and mask, as little-endian integers; a value outside its own mask fits nothing."""
    value = int.from_bytes(fields.hex(name, size), "little")
    mask = int.from_bytes(fields.hex(f"{name}Mask", size), "little")
    if value & ~mask:
        raise CollateralMalformed(
            f"{fields.where}.{name}", expected="no bit outside its mask", found="one"
        )
    return value, mask
