"""A quote: its bytes become a frozen value or a refusal. Nothing is verified here.

    quote = Quote.parse(raw)
    quote.report.mr_enclave  # of SGX; a claim until `verifier.verify_quote` has passed

SGX quotes of version 3; TDX quotes of version 4, and of version 5 for TDX 1.0 and 1.5. Layouts:
`sgx_quote3_t` in `sgx_quote_3.h`, `sgx_quote4_t` in `sgx_quote_4.h`, `sgx_quote5_t` in
`sgx_quote_5.h`; in tables in docs/dcap.md 1.1 to 1.3 and 1.5 to 1.8. Integers are little-endian,
except inside signatures and keys, where each half is big-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from struct import Struct
from typing import Any, Self

from verifier.errors import QuoteFormatError, QuoteFormError
from verifier.layout import Integer, Octets, Typed
from verifier.td import TD_1_0, TD_1_5, TdReport

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
MIN_SIZE = 1020
MAX_SIZE = 64 * 1024
MAX_QE_AUTH = 1024
MAX_PCK_CHAIN = 16 * 1024
PCK_CHAIN_PEM = 5  # the one kind of certification data that carries certificates to verify
ENCRYPTED_PPID = 3  # names the platform for Intel alone, by a key of RSA-3072
QE_REPORT_DATA = 6  # of versions 4 and 5: wraps the quoting enclave's report, and that kind
HEADER_SIZE, ENCLAVE_REPORT_SIZE = 48, 384
DEBUG = 0x2  # of ATTRIBUTES.FLAGS
_HEADER = Struct("<HHIHH16s20s")
_DESCRIPTOR = Struct("<HI")  # of version 5, before the body: its type and its size
_SIZE = Struct("<I")
_SIGNATURE = Struct("<64s64s")  #    quote signature, attestation key
_QE = Struct("<384s64sH")  #         QE report, its signature, size of the QE's auth data
_CERTIFICATION = Struct("<HI")  #    type and size of certification data
# Kinds that only name the platform; `sgx_ql_cert_key_type_t` in `sgx_quote_3.h`.
_PPID_DATA_SIZES = {1: 36, 2: 276, 3: 404}


class Tee(StrEnum):
    """The technology that a quote, TCB info or identity is about."""

    SGX = "sgx"
    TDX = "tdx"


_TEE_TYPES = {0: Tee.SGX, 0x81: Tee.TDX}
_EXTENDED = 4  # a report of 885 bytes
_BODIES = {1: (Tee.SGX, ENCLAVE_REPORT_SIZE), 2: (Tee.TDX, TD_1_0), 3: (Tee.TDX, TD_1_5)}


class QuoteMalformed(QuoteFormatError):
    """Not the layout of a quote: a length is wrong, something is missing or left over."""

    code = "quote-malformed"
    default_fix = "obtain the quote again; exactly its own bytes, nothing before or after"


class QuoteNotBytes(QuoteFormError):
    """A text was given where the bytes of a quote belong."""

    code = "quote-not-bytes"
    default_fix = "in Python, verifier.find_quote(text.encode()).raw reads hexadecimal and base64"


def _unpack(form: Struct, raw: bytes, at: int, thing: str) -> tuple[Any, ...]:
    """The fields of `form` at offset `at`, all of which must be there."""
    if at + form.size > len(raw):
        raise QuoteMalformed(
            f"{thing} at byte {at}",
            expected=f"{form.size} bytes",
            found=f"{max(len(raw) - at, 0)} bytes left",
        )
    return form.unpack_from(raw, at)


def _require_end(
    raw: bytes, at: int, thing: str, fix: Callable[[bytes], str | None] = lambda rest: None
) -> None:
    """`thing` ends at offset `at`, and with it the bytes: none is missing, none is left over."""
    # A slice past the end would be shortened silently.
    if at != len(raw):
        raise QuoteMalformed(
            f"end of {thing}", expected=f"byte {at}", found=f"byte {len(raw)}", fix=fix(raw[at:])
        )


def _padding_fix(rest: bytes) -> str | None:
    """What helps against bytes behind a quote that are all zero, as drivers leave them."""
    if not rest or any(rest):
        return None
    return (
        "the rest is zero bytes, with which drivers pad: in Python, "
        "verifier.strip_file_padding(raw) drops them, as the commands do of files"
    )


@dataclass(frozen=True, slots=True)
class _Measurement:
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != 32:
            raise ValueError(f"{type(self).__name__} is 32 bytes")

    def __str__(self) -> str:
        return self.value.hex()


class MrEnclave(_Measurement):
    """SHA-256 over what was loaded into the enclave: which code it is. Not a signer."""

    __slots__ = ()


class MrSigner(_Measurement):
    """SHA-256 of the modulus of the key that signed the enclave: who made it. Not the code."""

    __slots__ = ()


class QuoteUnsupported(QuoteFormatError):
    """A quote of a kind that is not supported, or that does not carry its PCK chain."""

    code = "quote-unsupported"
    default_fix = (
        "ask for an ECDSA quote that carries its PCK certificate chain: SGX version 3, or TDX "
        "version 4 or 5; with --newer-sgx also SGX of those versions"
    )


class ExtendedTdReportUnsupported(QuoteFormatError):
    """A trust domain's report in the extended form of TDX 1.5, body type 4 of version 5.

    It has fields that nothing here judges, such as service domains at the launch and now. Read
    without them, the domain would be taken for one that has none.
    """

    code = "extended-td-report-unsupported"
    default_fix = (
        "ask the operator for a quote with a report of TDX 1.0 or 1.5: version 4, or version 5 "
        "with body type 2 or 3"
    )


_SUPPLY = (
    "give the PCK chain of its host with the bundle, as the member pck_certificate_chain; a bundle "
    "without a quote comes from: ratls collateral fetch --fmspc"
)


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """Bytes 0..48. The SVNs in it are informational: the PCK certificate states the real ones.

    `sgx_quote_header_t` in `sgx_quote_3.h`; ECDSA Quote Library API, appendix A.4.
    """

    version: int  #      3, 4 or 5
    tee: Tee
    qe_svn: int  #       version 3; reserved later
    pce_svn: int
    user_data: bytes  #  20 bytes; the first 16 are an identifier that the quoting enclave chose

    @classmethod
    def parse(cls, raw: bytes, *, newer_sgx: bool) -> Self:
        """Read the header that `raw` starts with."""
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _unpack(
            _HEADER, raw, 0, "quote header"
        )
        if version not in (3, 4, 5):
            raise QuoteUnsupported("quote version", expected="3, 4 or 5", found=str(version))
        if key_type != 2:
            raise QuoteUnsupported(
                "quote attestation_key_type", expected="2 (ECDSA P-256)", found=str(key_type)
            )
        tee = _TEE_TYPES.get(tee_type)
        if tee is None or (version == 3 and tee is not Tee.SGX):
            raise QuoteUnsupported(
                f"tee_type of a quote of version {version}",
                expected="0 (SGX)" if version == 3 else "0 (SGX) or 0x81 (TDX)",
                found=hex(tee_type),
            )
        if version == 4 and tee is Tee.SGX and not newer_sgx:
            raise _newer_sgx(version)
        if vendor != INTEL_QE_VENDOR:
            raise QuoteUnsupported(
                "quote qe_vendor_id", expected=INTEL_QE_VENDOR.hex(), found=vendor.hex()
            )
        return cls(version, tee, qe_svn, pce_svn, user_data)


def _newer_sgx(version: int) -> QuoteUnsupported:
    # Well-formed but rare, so off unless requested.
    return QuoteUnsupported(
        "SGX quote", expected="version 3", found=f"version {version}, which needs to be asked for"
    )


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """What the processor says about one enclave: 384 bytes. Names are Intel's.

    `sgx_report_body_t` in `sgx_report.h`.

    The fields of key separation and sharing (KSS) are zero in enclaves without it.
    """

    raw: bytes
    cpu_svn = Octets(0, 16)
    misc_select = Integer(16, 4)
    isv_ext_prod_id = Octets(32, 16)  #  KSS
    flags = Integer(48, 8)  #            ATTRIBUTES.FLAGS
    xfrm = Integer(56, 8)  #             ATTRIBUTES.XFRM
    attributes = Integer(48, 16)  #      both of them
    mr_enclave = Typed(64, 32, MrEnclave)
    mr_signer = Typed(128, 32, MrSigner)
    config_id = Octets(192, 64)  #       KSS
    isv_prod_id = Integer(256, 2)
    isv_svn = Integer(258, 2)
    config_svn = Integer(260, 2)  #      KSS
    isv_family_id = Octets(304, 16)  #   KSS
    report_data = Octets(320, 64)

    @property
    def svns(self) -> tuple[bytes, ...]:
        """None: of an enclave's platform, TCB info compares the PCK certificate alone."""
        return ()


@dataclass(frozen=True, slots=True)
class EcdsaAuthData:
    """Everything behind the signed part: two signatures, the key, the quoting enclave's report.

    `sgx_ql_ecdsa_sig_data_t` in `sgx_quote_3.h`; from version 4 on `sgx_ecdsa_sig_data_v4_t` in
    `sgx_quote_4.h`, around `sgx_qe_report_certification_data_t` in `sgx_quote_4.h`.
    """

    signature: bytes  #            64, r || s, by the attestation key over `Quote.signed`
    attestation_key: bytes  #      64, x || y
    qe_report: EnclaveReport
    qe_report_signature: bytes  #  64, r || s, by the PCK key over the report's 384 bytes
    qe_auth_data: bytes  #         0..1024, hashed together with the attestation key
    certification_type: int  #     1..5
    certification_data: bytes

    @classmethod
    def parse(cls, raw: bytes, version: int) -> Self:
        """Read signature data of a quote of this version; it must be used up exactly."""
        signature, attestation_key = _unpack(_SIGNATURE, raw, 0, "quote signature data")
        at = _SIGNATURE.size
        if version > 3:
            # All that follows is in one block, which ends the quote; it cannot hold another.
            kind, size = _unpack(_CERTIFICATION, raw, at, "outer certification data")
            at += _CERTIFICATION.size
            if kind != QE_REPORT_DATA:
                raise QuoteMalformed(
                    "quote outer certification_type", expected=str(QE_REPORT_DATA), found=str(kind)
                )
            _require_end(raw, at + size, "outer certification data")
        qe_report, qe_report_signature, auth_size = _unpack(_QE, raw, at, "QE report")
        at += _QE.size
        if auth_size > MAX_QE_AUTH:
            raise QuoteMalformed(
                "quote qe_auth_size", expected=f"at most {MAX_QE_AUTH}", found=str(auth_size)
            )
        qe_auth_data, at = raw[at : at + auth_size], at + auth_size
        kind, size = _unpack(_CERTIFICATION, raw, at, "certification data")
        at += _CERTIFICATION.size
        _require_end(raw, at + size, "certification data")
        data = raw[at:]
        if not 1 <= kind <= PCK_CHAIN_PEM:
            raise QuoteMalformed("quote certification_type", expected="1 to 5", found=str(kind))
        if size != _PPID_DATA_SIZES.get(kind, size):
            raise QuoteMalformed(
                f"quote certification data of type {kind}",
                expected=f"{_PPID_DATA_SIZES[kind]} bytes",
                found=str(size),
            )
        return cls(
            signature,
            attestation_key,
            EnclaveReport(qe_report),
            qe_report_signature,
            qe_auth_data,
            kind,
            data,
        )

    def pck_chain(self, supplied: bytes | None) -> bytes:
        """The PEM text of the PCK chain: the quote's own, or the one that came with collateral.

        A supplied one is taken for type 3 alone, which names a PPID that only Intel can read. It
        proves itself: the quoting enclave's report must be signed by its leaf.

        Args:
            supplied: The chain that a bundle holds; None: it holds none.

        Raises: as `require_pck_chain`.
        """
        if supplied is not None and self.certification_type == ENCRYPTED_PPID:
            return supplied.rstrip(b"\0")
        return self.require_pck_chain()

    def require_pck_chain(self) -> bytes:
        """The PEM text of the PCK chain, without the NUL bytes that producers append.

        Raises:
            QuoteUnsupported: The quote only names its platform (types 1 to 3) or carries the
                leaf alone (4); certificates would have to be fetched.
            QuoteMalformed: Larger than any chain of three certificates.
        """
        if self.certification_type != PCK_CHAIN_PEM:
            raise QuoteUnsupported(
                "quote certification_type",
                expected="5 (PCK certificate chain)",
                found=f"{self.certification_type}, which carries no chain",
                fix=_SUPPLY if self.certification_type == ENCRYPTED_PPID else None,
            )
        if len(self.certification_data) > MAX_PCK_CHAIN:
            raise QuoteMalformed(
                "quote PCK chain",
                expected=f"at most {MAX_PCK_CHAIN} bytes",
                found=str(len(self.certification_data)),
            )
        return self.certification_data.rstrip(b"\0")


@dataclass(frozen=True, slots=True)
class Quote:
    """An ECDSA quote. Parsed, not verified."""

    header: QuoteHeader
    report: EnclaveReport | TdReport  # of the enclave, or of the trust domain
    auth: EcdsaAuthData
    signed: bytes  # header, descriptor and report as received: what `auth.signature` covers

    def __repr__(self) -> str:
        return f"<Quote {self.tee.name}, version {self.header.version}>"

    @property
    def tee(self) -> Tee:
        """SGX or TDX; `report` is of the matching type."""
        return self.header.tee

    @property
    def enclave(self) -> EnclaveReport:
        """The report of an SGX enclave.

        Raises:
            QuoteUnsupported: It is a trust domain's, and the caller can only judge enclaves.
        """
        if not isinstance(self.report, EnclaveReport):
            raise QuoteUnsupported("quote", expected="an SGX enclave's", found="a TDX domain's")
        return self.report

    @classmethod
    def parse(cls, raw: bytes, *, newer_sgx: bool = False) -> Self:
        """Read exactly one quote, with nothing after it.

        Args:
            raw: The quote's bytes.
            newer_sgx: Also read SGX quotes of versions 4 and 5.

        Raises:
            QuoteNotBytes: A text.
            QuoteMalformed: A length is wrong, bytes are missing or left over.
            QuoteUnsupported: Another version, technology, body or key type.
        """
        if isinstance(raw, str):
            raise QuoteNotBytes("quote", expected="bytes", found="str")
        if not MIN_SIZE <= len(raw) <= MAX_SIZE:
            raise QuoteMalformed(
                "quote", expected=f"{MIN_SIZE} to {MAX_SIZE} bytes", found=f"{len(raw)} bytes"
            )
        raw = bytes(raw)  # a caller's bytearray may change under us
        header = QuoteHeader.parse(raw, newer_sgx=newer_sgx)
        start, size = HEADER_SIZE, ENCLAVE_REPORT_SIZE if header.tee is Tee.SGX else TD_1_0
        if header.version == 5:
            start, size = _described_body(raw, header.tee, newer_sgx=newer_sgx)
        end = start + size
        (auth_size,) = _unpack(_SIZE, raw, end, "quote signature_data_size")
        _require_end(raw, end + _SIZE.size + auth_size, "quote", _padding_fix)
        kind = EnclaveReport if header.tee is Tee.SGX else TdReport
        return cls(
            header,
            kind(raw[start:end]),
            EcdsaAuthData.parse(raw[end + _SIZE.size :], header.version),
            signed=raw[:end],
        )


def _described_body(raw: bytes, tee: Tee, *, newer_sgx: bool) -> tuple[int, int]:
    """Where the body starts, and its size as version 5 describes it and as its type has it."""
    kind, size = _unpack(_DESCRIPTOR, raw, HEADER_SIZE, "quote body descriptor")
    if kind == _EXTENDED:
        raise ExtendedTdReportUnsupported(
            "quote body_type", expected="1, 2 or 3", found="4, an extended report of TDX 1.5"
        )
    if kind not in _BODIES:
        raise QuoteUnsupported("quote body_type", expected="1, 2 or 3", found=str(kind))
    described, exact = _BODIES[kind]
    if described is not tee:
        raise QuoteMalformed(
            f"quote body_type {kind}", expected=f"a body of {tee}", found=f"one of {described}"
        )
    if size != exact:
        raise QuoteMalformed("quote body_size", expected=str(exact), found=str(size))
    if tee is Tee.SGX and not newer_sgx:
        raise _newer_sgx(5)
    return HEADER_SIZE + _DESCRIPTOR.size, exact


def strip_file_padding(raw: bytes) -> bytes:
    """Drop the zero bytes with which drivers pad quote files. Never for a quote inside evidence.

    Where the length field cannot be read, or another byte than zero follows, nothing is
    dropped and `Quote.parse` says what is wrong.
    """
    end = described_end(raw)
    return raw if any(raw[end:]) else raw[:end]


def described_end(raw: bytes) -> int:
    """Where a quote ends by its own length fields, which nobody has checked yet."""
    version, tee_type = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[4:8], "little")
    signed = HEADER_SIZE + (ENCLAVE_REPORT_SIZE if tee_type == 0 else TD_1_0)
    if version == 5:
        size = int.from_bytes(raw[50:54], "little")
        signed = HEADER_SIZE + _DESCRIPTOR.size + size
    return signed + 4 + int.from_bytes(raw[signed : signed + 4], "little")
