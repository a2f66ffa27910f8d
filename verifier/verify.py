"""The decision: does this quote come from genuine SGX hardware, and how current is it?

`verify_quote` reads as the chain of trust. It has no branch and no option: a link that is left
out makes `log.close()` crash, and no caller can ask for less.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum

from verifier.anchors import Mode, TrustAnchors
from verifier.appraisal import Appraisal, AppraisalLog
from verifier.collateral import (
    Collateral,
    SignerChain,
    authenticate_crl_issuer,
    authenticate_qe_identity,
    authenticate_tcb_info,
)
from verifier.crl import RevocationList, authenticate_crl
from verifier.pck import PckChain, PlatformIdentity, PlatformTcb, authenticate_pck_chain
from verifier.qe import (
    QeIdentity,
    QeLevel,
    verify_attestation_key_binding,
    verify_qe_report_signature,
    verify_quote_signature,
)
from verifier.quote import Quote
from verifier.tcb import TcbInfo, TcbVerdict, converge, shortfall, without_repeats
from verifier.validity import CollateralWindow, Period, require_instant, rfc3339


class QuoteCheck(StrEnum):
    """The links, in the order in which they are followed.

    First the quote against the root alone: what fails there is forged, at any time. Then what
    Intel says, and whether all of it covers the instant; only then what it says is used, so
    that an old bundle leads to `undecided` and not to a verdict about the platform.
    """

    QUOTE_FORMAT = "quote-format"
    PCK_CHAIN = "pck-chain"
    QE_REPORT_SIGNATURE = "qe-report-signature"
    KEY_BINDING = "key-binding"
    QUOTE_SIGNATURE = "quote-signature"
    ROOT_CRL = "root-crl"
    PCK_CRL = "pck-crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    VALIDITY = "validity"
    PLATFORM_MATCH = "platform-match"
    QE_MATCH = "qe-match"
    QE_LEVEL = "qe-level"
    TCB_LEVEL = "tcb-level"


def verify_quote(
    raw: bytes, collateral: Collateral, *, roots: TrustAnchors, at: datetime
) -> VerifiedQuote:
    """Decide whether this quote comes from genuine SGX hardware.

    The first check to fail names the broken link. The same arguments give the same answer in ten
    years. A revoked TCB level or a debug enclave is verified too: whether that is good enough is
    the question of `verifier.accept`, or of a policy.

    Args:
        raw: The quote as received: exactly one, no padding.
        collateral: What Intel publishes about the platform. Believed only once checked here.
        roots: The root key believed without proof.
        at: Moment of judgement, timezone-aware.

    Raises:
        QuoteFormatError, CollateralFormatError: Unreadable or unsupported (exit status 3).
        QuoteSignatureError, CertChainError, RevocationError, QeIdentityError,
            CollateralSignatureError, CollateralMismatchError: A link is broken (4).
        CollateralStaleError: Something does not cover `at`; nothing was decided (5).
        InstantMalformed: `at` has no time zone or lies before 1970 (3).
    """
    at = require_instant(at)
    log = AppraisalLog(QuoteCheck)
    with log.check(QuoteCheck.QUOTE_FORMAT) as note:
        quote = Quote.parse(raw)
        pck_pem = quote.auth.require_pck_chain()
        note("SGX, version 3")
    with log.check(QuoteCheck.PCK_CHAIN) as note:
        pck = authenticate_pck_chain(pck_pem, roots)
        platform, platform_tcb = pck.extension.platform, pck.extension.tcb
        note(f"PCK {pck.leaf.serial_hex}, {pck.authority.common_name}, {roots.name}")
    with log.check(QuoteCheck.QE_REPORT_SIGNATURE):
        verify_qe_report_signature(quote.auth, pck.leaf.key)
    with log.check(QuoteCheck.KEY_BINDING):
        verify_attestation_key_binding(quote.auth)
    with log.check(QuoteCheck.QUOTE_SIGNATURE):
        verify_quote_signature(quote)
    with log.check(QuoteCheck.ROOT_CRL) as note:
        root_crl = authenticate_crl(collateral.root_ca_crl, pck.root, "root CRL")
        root_crl.require_not_revoked(pck.authority)
        note(f"{len(root_crl.serials)} revoked")
    with log.check(QuoteCheck.PCK_CRL) as note:
        pck_crl = authenticate_crl(collateral.pck_crl, pck.authority, "PCK CRL")
        crl_issuer = authenticate_crl_issuer(collateral, pck, roots)
        root_crl.require_not_revoked(crl_issuer.signer)
        pck_crl.require_not_revoked(pck.leaf)
        note(f"{len(pck_crl.serials)} revoked")
    with log.check(QuoteCheck.TCB_INFO) as note:
        tcb_info, tcb_signer = authenticate_tcb_info(collateral, roots)
        root_crl.require_not_revoked(tcb_signer.signer)
        note(f"FMSPC {tcb_info.fmspc.hex()}, evaluation {tcb_info.evaluation_data_number}")
    with log.check(QuoteCheck.QE_IDENTITY) as note:
        qe_identity, qe_signer = authenticate_qe_identity(collateral, roots)
        root_crl.require_not_revoked(qe_signer.signer)
        note(f"evaluation {qe_identity.evaluation_data_number}")
    with log.check(QuoteCheck.VALIDITY) as note:
        window = _require_validity(
            at, pck, (crl_issuer, tcb_signer, qe_signer), (root_crl, pck_crl), tcb_info, qe_identity
        )
        note(f"all cover {rfc3339(at)}, until {rfc3339(window.earliest_expiration)}")
    with log.check(QuoteCheck.PLATFORM_MATCH):
        tcb_info.require_platform(platform)
    with log.check(QuoteCheck.QE_MATCH):
        qe_identity.require_described(quote.auth.qe_report)
    with log.check(QuoteCheck.QE_LEVEL) as note:
        qe_level = qe_identity.level_of(quote.auth.qe_report)
        note(f"ISVSVN {quote.auth.qe_report.isv_svn}: {qe_level.status}")
    with log.check(QuoteCheck.TCB_LEVEL) as note:
        tcb = _merge(tcb_info, platform_tcb, qe_identity, qe_level)
        note(f"{tcb.status}, as of {rfc3339(tcb.date)}")
    return VerifiedQuote(quote, roots.mode, roots, tcb, platform, window, log.close(), _SEAL)


_SEAL = object()


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote that is believed: only `verify_quote` can make one, after its last check."""

    quote: Quote
    mode: Mode
    root: TrustAnchors
    tcb: TcbVerdict
    platform: PlatformIdentity
    window: CollateralWindow
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedQuote is made by verify_quote alone")


def _require_validity(
    at: datetime,
    pck: PckChain,
    signers: tuple[SignerChain, ...],
    crls: tuple[RevocationList, ...],
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
) -> CollateralWindow:
    """Everything dated that this verdict rests on covers `at`, the pinned root included."""
    certificates = [pck.root, pck.authority, pck.leaf]
    certificates += [c for chain in signers for c in (chain.root, chain.signer)]
    return CollateralWindow.covering(
        at,
        tcb_info=Period.of_document("TCB info", tcb_info.issued, tcb_info.next_update),
        qe_identity=Period.of_document("QE identity", qe_identity.issued, qe_identity.next_update),
        crls=[Period.of_crl(crl) for crl in crls],
        certificates=[Period.of_certificate(certificate) for certificate in certificates],
    )


def _merge(
    tcb_info: TcbInfo, platform: PlatformTcb, qe_identity: QeIdentity, qe_level: QeLevel
) -> TcbVerdict:
    """One verdict on platform and quoting enclave."""
    level = tcb_info.level_of(platform)
    return TcbVerdict(
        status=converge(level.status, qe_level.status),
        date=min(level.date, qe_level.date),
        advisory_ids=without_repeats(level.advisory_ids, qe_level.advisory_ids),
        # Intel's services hand out TCB info and identity of different numbers at the same time
        # (genuine pairs 19 and 17 exist), so a difference is no sign of tampering. The smaller
        # number counts, and a policy's floor on it stops whoever pairs new with old.
        evaluation_data_number=min(
            tcb_info.evaluation_data_number, qe_identity.evaluation_data_number
        ),
        platform_status=level.status,
        qe_status=qe_level.status,
        behind_newest=shortfall(tcb_info.levels[0], platform),
    )
