"""What Intel publishes about a platform, as one bundle, and the signatures on it.

    collateral = Collateral.parse(Path("collateral.json").read_bytes())

What belongs to it: docs/dcap.md 3.1. Nothing in a bundle is trusted until `verify_quote` has
checked its signatures up to the root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from functools import lru_cache
from typing import Self

from verifier import ecdsa
from verifier.anchors import TrustAnchors
from verifier.certificate import PCK_CA, TCB_SIGNER, Certificate, SignerChain, authenticate_signer
from verifier.document import CollateralMalformed, Fields, parse_object
from verifier.errors import CollateralSignatureError, CrlMissing, CrlOfAnotherIssuer
from verifier.qe import QeIdentity
from verifier.strict_json import read_flat_object
from verifier.tcb import TcbInfo


@dataclass(frozen=True, slots=True)
class Collateral:
    """One bundle, in its parts. `raw` is what was read, for those who store it with a verdict."""

    raw: bytes = field(compare=False)
    pck_crl_issuer_chain: str  # PEM, [PCK authority, root]
    root_ca_crl: bytes  # hexadecimal text or PEM
    pck_crl: bytes
    tcb_info_issuer_chain: str  # PEM, [TCB signer, root]
    tcb_info: str  # the exact text that was signed
    tcb_info_signature: bytes  # 64, r || s
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    # Of the quote that it came with, as others write it: see `EcdsaAuthData.pck_chain`.
    pck_certificate_chain: bytes | None = None
    fetched: str = field(default="", compare=False)  # a remark, which decides nothing

    def __repr__(self) -> str:
        return f"<Collateral, {len(self.raw)} bytes>"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a bundle: one JSON object of nine strings.

        There may be two more: when it was fetched, and a PCK chain, which may be null.

        Raises:
            CollateralMalformed: Not that. A member that is not known is refused: no signature
                covers the bundle itself.
            CrlMissing: A revocation list is absent; that never means `nothing is revoked`.
        """
        raw = bytes(raw)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CollateralMalformed(
                "collateral", expected="UTF-8", found=f"byte {error.start} is not"
            ) from error
        fields = parse_object(text, "collateral", read_flat_object)
        try:
            return cls._of(raw, fields)
        except CollateralMalformed as refusal:
            # It was served well: fetching it again would bring the same layout.
            refusal.fix = (
                f"the file is of another layout: mend or remove that member; a bundle holds "
                f"{', '.join(sorted(_MEMBERS - _OPTIONAL))}, each a string"
            )
            raise

    @classmethod
    def _of(cls, raw: bytes, fields: Fields) -> Self:
        fields.require_only(_MEMBERS)
        return cls(
            raw=raw,
            pck_crl_issuer_chain=fields.text("pck_crl_issuer_chain"),
            root_ca_crl=_crl(fields, "root_ca_crl"),
            pck_crl=_crl(fields, "pck_crl"),
            tcb_info_issuer_chain=fields.text("tcb_info_issuer_chain"),
            tcb_info=fields.text("tcb_info"),
            tcb_info_signature=fields.hex("tcb_info_signature", 64),
            qe_identity_issuer_chain=fields.text("qe_identity_issuer_chain"),
            qe_identity=fields.text("qe_identity"),
            qe_identity_signature=fields.hex("qe_identity_signature", 64),
            pck_certificate_chain=_pck_chain(fields),
            fetched=fields.optional_text("fetched"),
        )


_MEMBERS = {member.name for member in fields_of(Collateral)} - {"raw"}
_OPTIONAL = {"pck_certificate_chain", "fetched"}


def _pck_chain(fields: Fields) -> bytes | None:
    """Null and absent are the same: the quote carries its own."""
    if fields.members.get("pck_certificate_chain") is None:
        return None
    return fields.text("pck_certificate_chain").encode("utf-8")


def _crl(fields: Fields, name: str) -> bytes:
    if fields.members.get(name) is None:
        raise CrlMissing(f"collateral.{name}", expected="a revocation list", found="nothing")
    return fields.text(name).encode("utf-8")


class TcbInfoSignatureInvalid(CollateralSignatureError):
    """Intel's TCB signing key did not sign this TCB info."""

    code = "tcb-info-signature-invalid"
    default_fix = "fetch the collateral again; the text must be stored exactly as served"


@lru_cache(maxsize=32)  # pure, as is the next: the same bundle gives the same answer
def authenticate_tcb_info(
    collateral: Collateral, roots: TrustAnchors
) -> tuple[TcbInfo, SignerChain]:
    """The TCB info, once the signature of Intel's TCB signer on this exact text is checked.

    Raises:
        CertChainError: The signer's chain does not hold.
        TcbInfoSignatureInvalid: Signed by another key, or altered.
        CollateralMalformed, TcbInfoVersionOutdated: See `TcbInfo.parse`.
    """
    chain = _require_signed(
        collateral.tcb_info_issuer_chain,
        collateral.tcb_info,
        collateral.tcb_info_signature,
        roots,
        ("TCB info", TcbInfoSignatureInvalid),
    )
    return TcbInfo.parse(collateral.tcb_info), chain


class QeIdentitySignatureInvalid(CollateralSignatureError):
    """Intel's TCB signing key did not sign this QE identity."""

    code = "qe-identity-signature-invalid"
    default_fix = "fetch the collateral again; the text must be stored exactly as served"


@lru_cache(maxsize=32)
def authenticate_qe_identity(
    collateral: Collateral, roots: TrustAnchors
) -> tuple[QeIdentity, SignerChain]:
    """The QE identity, once the signature of Intel's TCB signer on this exact text is checked.

    Raises:
        CertChainError: The signer's chain does not hold.
        QeIdentitySignatureInvalid: Signed by another key, or altered.
        CollateralMalformed, QeIdentityMismatch: See `QeIdentity.parse`.
    """
    chain = _require_signed(
        collateral.qe_identity_issuer_chain,
        collateral.qe_identity,
        collateral.qe_identity_signature,
        roots,
        ("QE identity", QeIdentitySignatureInvalid),
    )
    return QeIdentity.parse(collateral.qe_identity), chain


def _require_signed(
    chain: str,
    text: str,
    signature: bytes,
    roots: TrustAnchors,
    what: tuple[str, type[CollateralSignatureError]],
) -> SignerChain:
    title, refusal = what
    found = authenticate_signer(chain, TCB_SIGNER, roots)
    # Before the text is parsed: text that Intel did not sign must not reach the parser.
    if not ecdsa.signed_raw(found.signer.key, signature, text.encode("utf-8")):
        raise refusal(
            f"{title} signature",
            expected="a valid one by the TCB signing key over this exact text",
            found="an invalid one",
        )
    return found


def authenticate_crl_issuer(
    collateral: Collateral, issuer: Certificate, roots: TrustAnchors
) -> SignerChain:
    """The issuer chain that came with the PCK CRL is that of `issuer`, the quote's PCK authority.

    Keys are compared, not certificates: Intel reissued both with the same keys.

    Raises:
        CertChainError: The chain does not hold.
        CrlOfAnotherIssuer: It is of another authority than the one that issued the PCK leaf.
    """
    found = authenticate_signer(collateral.pck_crl_issuer_chain, PCK_CA, roots)
    authority = found.signer
    if (authority.subject, authority.spki) != (issuer.subject, issuer.spki):
        raise CrlOfAnotherIssuer(
            "PCK CRL issuer chain", expected=issuer.common_name, found=authority.common_name
        )
    return found
