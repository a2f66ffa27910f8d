"""An SGX quote, version 3: its bytes become a frozen value or a refusal. Nothing is believed here.

    quote = Quote.parse(raw)
    quote.report.mr_enclave  # a claim until `verifier.verify_quote` has passed

Layout: `sgx_quote3_t` and `sgx_report_body_t` in Intel's `sgx_quote_3.h` and `sgx_report.h`.
Integers are little-endian, except inside signatures and keys, where each half is big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Self

from verifier.errors import QuoteMalformed, QuoteUnsupported

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
MIN_SIZE = 1020
MAX_SIZE = 64 * 1024
SIGNED_SIZE = 432  # header and report; what the attestation key signs
MAX_QE_AUTH = 1024
MAX_PCK_CHAIN = 16 * 1024
PCK_CHAIN_PEM = 5  # the one kind of certification data that carries certificates to verify
_HEADER = Struct("<HHIHH16s20s")
_REPORT = Struct("<16s I 12x 16s Q Q 32s 32x 32s 32x 64s H H H 42x 16s 64s")  # 384 bytes
_PPID_DATA_SIZES = {1: 36, 2: 276, 3: 404}  # kinds that only name the platform


class Reader:
    """Walks over bytes and refuses to run past their end: a Python slice would shorten silently."""

    def __init__(self, data: bytes, thing: str) -> None:
        self._data, self._thing, self._at = data, thing, 0

    def take(self, size: int, field: str) -> bytes:
        left = len(self._data) - self._at
        if size > left:
            raise QuoteMalformed(
                f"{self._thing}, {field} at byte {self._at}",
                expected=f"{size} bytes",
                found=f"{left} bytes left",
            )
        self._at += size
        return self._data[self._at - size : self._at]

    def integer(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "little")

    def finish(self) -> None:
        if self._at != len(self._data):
            raise QuoteMalformed(
                f"{self._thing}, end at byte {self._at}",
                expected="no further bytes",
                found=f"{len(self._data) - self._at} bytes",
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
    """SHA-256 of the modulus of the key that signed the enclave: whose it is. Not the code."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """Bytes 0..48. The SVNs in it are informational: the PCK certificate states the real ones."""

    version: int  #      3
    qe_svn: int
    pce_svn: int
    user_data: bytes  #  20 bytes; the first 16 are an identifier that the quoting enclave chose

    @classmethod
    def read(cls, reader: Reader) -> Self:
        version, key_type, tee, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(
            reader.take(_HEADER.size, "header")
        )
        if version in (4, 5):
            raise QuoteUnsupported(
                "quote version", expected="3 (SGX)", found=f"{version}, not supported yet"
            )
        for field, expected, found in (
            ("version", 3, version),
            ("attestation_key_type", 2, key_type),
            ("tee_type", 0, tee),
        ):
            if found != expected:
                raise QuoteUnsupported(f"quote {field}", expected=str(expected), found=str(found))
        if vendor != INTEL_QE_VENDOR:
            raise QuoteUnsupported(
                "quote qe_vendor_id", expected=INTEL_QE_VENDOR.hex(), found=vendor.hex()
            )
        return cls(version, qe_svn, pce_svn, user_data)


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """What the processor says about one enclave: 384 bytes. Names are Intel's."""

    raw: bytes
    cpu_svn: bytes  #          16
    misc_select: int  #        u32
    isv_ext_prod_id: bytes  #  16; this and the other KSS fields are zero without KSS
    flags: int  #              u64, ATTRIBUTES.FLAGS
    xfrm: int  #               u64, ATTRIBUTES.XFRM
    mr_enclave: MrEnclave
    mr_signer: MrSigner
    config_id: bytes  #        64
    isv_prod_id: int  #        u16
    isv_svn: int  #            u16
    config_svn: int  #         u16
    isv_family_id: bytes  #    16
    report_data: bytes  #      64

    @classmethod
    def parse(cls, raw: bytes, thing: str) -> Self:
        """Read exactly 384 bytes. Reserved bytes may be anything: later hardware uses them."""
        if len(raw) != _REPORT.size:
            raise QuoteMalformed(thing, expected=f"{_REPORT.size} bytes", found=str(len(raw)))
        (
            cpu_svn,
            misc_select,
            isv_ext_prod_id,
            flags,
            xfrm,
            mr_enclave,
            mr_signer,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            isv_family_id,
            report_data,
        ) = _REPORT.unpack(raw)
        return cls(
            raw=raw,
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            isv_ext_prod_id=isv_ext_prod_id,
            flags=flags,
            xfrm=xfrm,
            mr_enclave=MrEnclave(mr_enclave),
            mr_signer=MrSigner(mr_signer),
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            config_svn=config_svn,
            isv_family_id=isv_family_id,
            report_data=report_data,
        )


@dataclass(frozen=True, slots=True)
class EcdsaAuthData:
    """Everything behind the signed part: two signatures, the key, the quoting enclave's report."""

    signature: bytes  #            64, r || s, by the attestation key over `Quote.signed`
    attestation_key: bytes  #      64, x || y
    qe_report: EnclaveReport
    qe_report_signature: bytes  #  64, r || s, by the PCK key over the report's 384 bytes
    qe_auth_data: bytes  #         0..1024, hashed together with the attestation key
    certification_type: int  #     1..5
    certification_data: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read signature data that must be used up exactly (584 bytes and two variable parts)."""
        reader = Reader(raw, "quote signature data")
        signature = reader.take(64, "signature")
        attestation_key = reader.take(64, "attestation_key")
        qe_report = EnclaveReport.parse(reader.take(384, "qe_report"), "QE report")
        qe_report_signature = reader.take(64, "qe_report_signature")
        auth_size = reader.integer(2, "qe_auth_size")
        if auth_size > MAX_QE_AUTH:
            raise QuoteMalformed(
                "quote qe_auth_size", expected=f"at most {MAX_QE_AUTH}", found=str(auth_size)
            )
        qe_auth_data = reader.take(auth_size, "qe_auth_data")
        kind = reader.integer(2, "certification_type")
        data = reader.take(reader.integer(4, "certification_size"), "certification_data")
        reader.finish()
        if not 1 <= kind <= PCK_CHAIN_PEM:
            raise QuoteMalformed("quote certification_type", expected="1 to 5", found=str(kind))
        if len(data) != _PPID_DATA_SIZES.get(kind, len(data)):
            raise QuoteMalformed(
                f"quote certification data of type {kind}",
                expected=f"{_PPID_DATA_SIZES[kind]} bytes",
                found=str(len(data)),
            )
        return cls(
            signature, attestation_key, qe_report, qe_report_signature, qe_auth_data, kind, data
        )

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
    """An SGX ECDSA quote, version 3. Parsed, not yet believed."""

    header: QuoteHeader  #    bytes 0..48
    report: EnclaveReport  #  bytes 48..432
    auth: EcdsaAuthData  #    bytes 436..end
    signed: bytes  #          bytes 0..432 as received, what `auth.signature` covers

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read exactly one quote, with nothing after it.

        Raises:
            QuoteMalformed: A length lies, bytes are missing or left over.
            QuoteUnsupported: Another version, technology or key type; TDX is not supported yet.
        """
        if not MIN_SIZE <= len(raw) <= MAX_SIZE:
            raise QuoteMalformed(
                "quote", expected=f"{MIN_SIZE} to {MAX_SIZE} bytes", found=f"{len(raw)} bytes"
            )
        raw = bytes(raw)  # a caller's bytearray may change under us
        reader = Reader(raw, "quote")
        header = QuoteHeader.read(reader)
        report = EnclaveReport.parse(reader.take(384, "report"), "quote report")
        auth_size = reader.integer(4, "signature_data_size")
        auth = EcdsaAuthData.parse(reader.take(auth_size, "signature_data"))
        reader.finish()
        return cls(header, report, auth, signed=raw[:SIGNED_SIZE])


def strip_file_padding(raw: bytes) -> bytes:
    """Drop the zero bytes with which drivers pad quote files. Never for a quote inside evidence.

    Where the length field cannot be read, or another byte than zero follows, nothing is
    dropped and `Quote.parse` says what is wrong.
    """
    end = SIGNED_SIZE + 4 + int.from_bytes(raw[SIGNED_SIZE : SIGNED_SIZE + 4], "little")
    return raw if any(raw[end:]) else raw[:end]
