"""SIGSTRUCT: what its signer says about an enclave, 1,808 bytes; read, verified and written.

    sigstruct = Sigstruct.parse(raw)
    sigstruct.verify()          # the RSA signature, by its equation and by a library
    sigstruct.mr_signer

Intel SDM, volume 3D, "Enclave Signature Structure (SIGSTRUCT)"; docs/gramine.md 5. Anyone may
sign any measurement, also with DEBUG: who signed is MRSIGNER, which a policy may ask for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from struct import pack
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from verifier.gramine.errors import EnclaveSignatureError, MeasuredFormatError
from verifier.gramine.signed import SignedManifest
from verifier.layout import Integer, Octets, Typed
from verifier.quote import DEBUG, MrEnclave, MrSigner

SIZE, MODULUS_SIZE, EXPONENT = 1808, 384, 3
_HEADER = bytes.fromhex("06000000e10000000000010000000000")
_HEADER_2 = bytes.fromhex("01010000600000006000000001000000")
_VENDORS = {0, 0x8086}
_RESERVED = ((44, 128), (908, 912), (992, 1008), (1028, 1040))
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # of SHA-256: RFC 8017, 9.2
MODE64 = 0x4
_LEGACY, _FREE = 0x3, 0xFFFFFFFFFFF9FF1B
_FEATURES = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}
_MAY_STAY_OPEN = {"avx", "avx512", "amx"}


class SigstructMalformed(MeasuredFormatError):
    """These bytes are no SIGSTRUCT that a processor would load."""

    code = "sigstruct-malformed"
    default_fix = "name the .sig file that the signer wrote, as it wrote it"


class SigstructSignatureInvalid(EnclaveSignatureError):
    """The holder of the key in a SIGSTRUCT did not sign it, or Q1 and Q2 are wrong."""

    code = "sigstruct-signature-invalid"
    default_fix = "do not run this enclave; obtain the .sig file from its signer again"


class SigningKeyUnsuited(MeasuredFormatError):
    """The key is none with which an enclave can be signed."""

    code = "enclave-key-unsuited"
    default_fix = "make one: openssl genrsa -3 -out enclave-key.pem 3072"


class SigningKeyExposed(MeasuredFormatError):
    """Others can read the key that signs enclaves."""

    code = "enclave-key-exposed"
    default_fix = "chmod 0600 the key's file; if others used this machine, make another key"


class SignedValueInvalid(MeasuredFormatError):
    """A value in the manifest cannot stand in a SIGSTRUCT."""

    code = "signed-value-invalid"
    default_fix = "correct it in the manifest's template, and render it again"


@dataclass(frozen=True, slots=True)
class Sigstruct:
    """All its fields; what they say holds once `verify` has passed."""

    raw: bytes
    vendor = Integer(16, 4)
    sw_defined = Integer(40, 4)
    exponent = Integer(512, 4)
    misc_select = Integer(900, 4)
    misc_mask = Integer(904, 4)
    isv_family_id = Octets(912, 16)
    flags = Integer(928, 8)
    xfrm = Integer(936, 8)
    flags_mask = Integer(944, 8)
    xfrm_mask = Integer(952, 8)
    mr_enclave = Typed(960, 32, MrEnclave)
    isv_ext_prod_id = Octets(1008, 16)
    isv_prod_id = Integer(1024, 2)
    isv_svn = Integer(1026, 2)
    _modulus = Integer(128, MODULUS_SIZE)
    _signature = Integer(516, MODULUS_SIZE)
    _q1 = Integer(1040, MODULUS_SIZE)
    _q2 = Integer(1424, MODULUS_SIZE)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: SigstructMalformed, with the offset."""
        if len(raw) != SIZE:
            raise _malformed("size", f"{SIZE} bytes", str(len(raw)))
        for at, fixed in ((0, _HEADER), (24, _HEADER_2)):
            if raw[at : at + 16] != fixed:
                raise _malformed(f"byte {at}", fixed.hex(), raw[at : at + 16].hex())
        for start, end in _RESERVED:
            if any(raw[start:end]):
                raise _malformed(f"byte {start}", f"zeros up to byte {end}", "other bytes")
        found = cls(raw)
        if found.vendor not in _VENDORS:
            raise _malformed("byte 16", "vendor 0 or 0x8086", f"{found.vendor:#x}")
        if found.exponent != EXPONENT:
            raise _malformed("byte 512", "exponent 3", str(found.exponent))
        if found._modulus.bit_length() != 8 * MODULUS_SIZE or not found._modulus & 1:
            raise _malformed("byte 128", "an odd modulus of 3,072 bits", "another one")
        return found

    @property
    def debug(self) -> bool:
        """May the host read the memory of an enclave that is started with it?"""
        return bool(self.flags & DEBUG)

    @property
    def mr_signer(self) -> MrSigner:
        """SHA-256 over the modulus as it stands here, little-endian."""
        return MrSigner(hashlib.sha256(self.raw[128:512]).digest())

    @property
    def day(self) -> date | None:
        """When it was signed, says the signer; None where it is no date in BCD, as in old files."""
        text = self.raw[20:24][::-1].hex()
        try:
            return date(int(text[:4]), int(text[4:6]), int(text[6:]))
        except ValueError:
            return None

    @property
    def date_text(self) -> str:
        """`2026-01-02`, `0000-00-00` for none; the four bytes where they are no date."""
        if not any(self.raw[20:24]):
            return "0000-00-00"
        read = self.day
        return self.raw[20:24][::-1].hex() if read is None else read.isoformat()

    def signed(self) -> bytes:
        """The 256 bytes that the signature covers."""
        return self.raw[:128] + self.raw[900:1028]

    def verify(self) -> None:
        """Raises: SigstructSignatureInvalid."""
        modulus, signature = self._modulus, self._signature
        wanted = _padded(self.signed())
        # As the processor does it, with Q1 and Q2 for its divisions …
        if not (signature < modulus and self._q1 < modulus and self._q2 < modulus):
            raise _invalid("numbers below the modulus", "a larger one")
        square = signature * signature - self._q1 * modulus
        if square * signature - self._q2 * modulus != wanted:
            raise _invalid("Q1 and Q2 that give the signed digest", "another number")
        # … and as any library does it.
        key = rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()
        try:
            key.verify(
                signature.to_bytes(MODULUS_SIZE, "big"),
                self.signed(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature as error:
            raise _invalid("an RSA signature over the signed bytes", "none") from error

    def as_json(self) -> dict[str, object]:
        """For machines: every field that a reader would compare."""
        return {
            "mr_enclave": str(self.mr_enclave),
            "mr_signer": str(self.mr_signer),
            "isv_prod_id": self.isv_prod_id,
            "isv_svn": self.isv_svn,
            "debug": self.debug,
            "date": self.date_text,
            "vendor": f"{self.vendor:#x}",
            "sw_defined": self.sw_defined,
            "flags": f"{self.flags:#x}",
            "flags_mask": f"{self.flags_mask:#x}",
            "xfrm": f"{self.xfrm:#x}",
            "xfrm_mask": f"{self.xfrm_mask:#x}",
            "misc_select": f"{self.misc_select:#x}",
            "misc_mask": f"{self.misc_mask:#x}",
            "isv_family_id": self.isv_family_id.hex(),
            "isv_ext_prod_id": self.isv_ext_prod_id.hex(),
        }


def parse_day(text: str) -> date | None:
    """`2026-01-02`; `0000-00-00` is no day. Raises: SignedValueInvalid."""
    if text == "0000-00-00":
        return None
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise SignedValueInvalid(
        "--date", expected="YYYY-MM-DD", found=ascii(text[:40]), fix="write it as 2026-01-02"
    )


def unsigned(manifest: SignedManifest, mr_enclave: MrEnclave, day: date | None) -> bytes:
    """A SIGSTRUCT without key and signature, as Gramine 1.9 fills it in from a manifest.

    Args:
        day: None stands as 0000-00-00, so that signing again gives the same bytes.

    Raises: SignedValueInvalid.
    """
    sgx, features = manifest.table("sgx"), manifest.table("sgx", "cpu_features")
    xfrm, mask = _LEGACY, _FREE
    for name, bits in _FEATURES.items():
        wanted = _word(features.get(name, "unspecified" if name in _MAY_STAY_OPEN else None), name)
        if wanted != "unspecified":
            xfrm, mask = (xfrm | bits if wanted == "required" else xfrm & ~bits), mask | bits
    flags = MODE64 | DEBUG * _switch(sgx, "debug")
    raw = bytearray(SIZE)
    raw[0:16], raw[24:40] = _HEADER, _HEADER_2
    raw[20:24] = bytes.fromhex(day.strftime("%Y%m%d") if day else "00000000")[::-1]
    raw[900:908] = pack("<II", _switch(sgx, "use_exinfo"), 0xFFFFFFFF)
    raw[928:960] = pack("<QQQQ", flags, xfrm, 0xFFFFFFFFFFFFFFFF, mask)
    raw[960:992] = mr_enclave.value
    raw[1024:1028] = pack("<HH", _short(sgx, "isvprodid"), _short(sgx, "isvsvn"))
    return bytes(raw)


def sign(raw: bytes, key: rsa.RSAPrivateKey) -> Sigstruct:
    """What `unsigned` gave, with the key and its signature. The same bytes for the same key.

    Raises: SigningKeyUnsuited.
    """
    numbers = key.public_key().public_numbers()
    if (key.key_size, numbers.e) != (8 * MODULUS_SIZE, EXPONENT):
        found = f"{key.key_size} bits, exponent {numbers.e}"
        raise SigningKeyUnsuited("key", expected="RSA, 3,072 bits, exponent 3", found=found)
    covered = raw[:128] + raw[900:1028]
    signature = int.from_bytes(key.sign(covered, padding.PKCS1v15(), hashes.SHA256()), "big")
    square = signature * signature
    q1, q2 = square // numbers.n, square % numbers.n * signature // numbers.n
    full = bytearray(raw)
    for at, number in ((128, numbers.n), (516, signature), (1040, q1), (1424, q2)):
        full[at : at + MODULUS_SIZE] = number.to_bytes(MODULUS_SIZE, "little")
    full[512:516] = pack("<I", EXPONENT)
    made = Sigstruct.parse(bytes(full))
    made.verify()
    return made


def _padded(covered: bytes) -> int:
    """EMSA-PKCS1-v1_5 of SHA-256. RFC 8017, section 9.2."""
    tail = _DIGEST_INFO + hashlib.sha256(covered).digest()
    return int.from_bytes(b"\0\1" + b"\xff" * (MODULUS_SIZE - 3 - len(tail)) + b"\0" + tail, "big")


def _malformed(where: str, expected: str, found: str) -> SigstructMalformed:
    return SigstructMalformed(f"SIGSTRUCT, {where}", expected=expected, found=found)


def _invalid(expected: str, found: str) -> SigstructSignatureInvalid:
    return SigstructSignatureInvalid("SIGSTRUCT: signature", expected=expected, found=found)


def _refuse(name: str, expected: str, found: object) -> SignedValueInvalid:
    shown = "nothing" if found is None else ascii(found)[:60]
    return SignedValueInvalid(f"manifest: sgx.{name}", expected=expected, found=shown)


def _word(value: object, name: str) -> str:
    words = ("required", "disabled", *(("unspecified",) if name in _MAY_STAY_OPEN else ()))
    if not isinstance(value, str) or value not in words:
        raise _refuse(f"cpu_features.{name}", " or ".join(words), value)
    return value


def _switch(sgx: Any, name: str) -> bool:
    value = sgx.get(name)
    if type(value) is not bool:
        raise _refuse(name, "true or false", value)
    return value


def _short(sgx: Any, name: str) -> int:
    value = sgx.get(name)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise _refuse(name, "a number from 0 to 65535", value)
    return value
