"""The decision: does this quote come from genuine hardware, and how current is it?

`verify_quote` reads as the chain of trust (docs/dcap.md 4). No link of it can be left out: a link
that is crashes `log.close()`, and no caller can ask for less.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import datetime

from verifier.anchors import Mode, TrustAnchors
from verifier.appraisal import Appraisal
from verifier.appraisal_log import AppraisalLog
from verifier.checks import QuoteCheck as QuoteCheck
from verifier.collateral import Collateral
from verifier.contents import authenticate_contents
from verifier.errors import BelowEveryLevelError
from verifier.genuine import GenuineQuote
from verifier.pck import PlatformIdentity, authenticate_pck_chain, require_own_chain
from verifier.qe import (
    verify_attestation_key_binding,
    verify_qe_report_signature,
    verify_quote_signature,
)
from verifier.quote import Quote, Tee
from verifier.received import ReceivedQuote
from verifier.tcb import TcbVerdict, evaluate
from verifier.validity import CollateralWindow, require_instant

_CHECKS = tuple(QuoteCheck)


def verify_quote(
    raw: bytes,
    collateral: Collateral,
    *,
    roots: TrustAnchors,
    at: datetime,
    newer_sgx: bool = False,
) -> VerifiedQuote:
    """Decide whether this quote comes from genuine SGX or TDX hardware.

    The first check to fail names the broken link. The same arguments give the same answer in ten
    years. A revoked TCB level or a debug enclave is verified too: whether that is good enough is
    the question of `verifier.accept`, or of a policy. Below every level there is no such question.

    Args:
        raw: The quote as received: exactly one, as bytes, no padding. `strip_file_padding` drops
            the zero bytes behind one from a file; `find_quote` reads hexadecimal, base64 and JSON.
        collateral: What Intel publishes about the platform; all of it is checked here.
        roots: The root key that is trusted.
        at: Moment of judgement, timezone-aware.
        newer_sgx: Also read SGX quotes of versions 4 and 5.

    Raises:
        QuoteFormatError, CollateralFormatError: Unreadable or unsupported (exit status 3).
        QuoteSignatureError, CertChainError, RevocationError, QeIdentityError,
            CollateralSignatureError, CollateralMismatchError: A link is broken (4).
        BelowEveryLevelError: Genuine, and below every level that Intel lists (6).
        CollateralStaleError: Something does not cover `at`; nothing was decided (5).
        InstantMalformed: `at` has no time zone or lies before 1970 (3).
    """
    return verify_received(ReceivedQuote(raw, newer_sgx), collateral, roots=roots, at=at)


def verify_received(
    received: ReceivedQuote, collateral: Collateral, *, roots: TrustAnchors, at: datetime
) -> VerifiedQuote:
    """As `verify_quote`, of a quote that may have been read already.

    Raises: as `verify_quote`.
    """
    at = require_instant(at)
    log = AppraisalLog(_CHECKS)
    with log.check(QuoteCheck.QUOTE_FORMAT) as note:
        quote = received.quote
        pck_pem = quote.auth.pck_chain(collateral.pck_certificate_chain)
        note(_KIND[quote.tee, quote.header.version])
    with log.check(QuoteCheck.PCK_CHAIN) as note:
        require_own_chain(pck_pem, collateral.pck_certificate_chain)
        pck = authenticate_pck_chain(pck_pem, roots)
        note(pck.summary)
    with log.check(QuoteCheck.QE_REPORT_SIGNATURE):
        verify_qe_report_signature(quote.auth, pck.leaf.key)
    with log.check(QuoteCheck.KEY_BINDING):
        verify_attestation_key_binding(quote.auth)
    with log.check(QuoteCheck.QUOTE_SIGNATURE):
        verify_quote_signature(quote)
    contents = log.include(authenticate_contents, collateral, roots, pck)  # root-crl to qe-identity
    with log.check(QuoteCheck.VALIDITY) as note:
        contents.window.require(at)
        note(contents.window.summary)
    with log.check(QuoteCheck.PLATFORM_MATCH):
        contents.tcb_info.require_platform(quote.tee, pck.extension.platform)
        contents.tcb_info.require_module(quote.report)
    with log.check(QuoteCheck.QE_MATCH):
        contents.qe_identity.require_described(quote.auth.qe_report, quote.tee)
    genuine = GenuineQuote(quote, pck, contents)  # how current it is comes next
    try:
        with log.check(QuoteCheck.QE_LEVEL) as note:
            qe_level = contents.qe_identity.level_of(quote.auth.qe_report)
            note(qe_level.summary)
        with log.check(QuoteCheck.TCB_LEVEL) as note:
            number, svns = contents.evaluation_data_number, quote.report.svns
            tcb = evaluate(contents.tcb_info, pck.extension.tcb, qe_level, number, svns)
            note(tcb.summary)
    except BelowEveryLevelError as refusal:
        refusal.genuine = genuine  # to be shown, and no `VerifiedQuote`: nothing can accept it
        raise
    return VerifiedQuote(genuine, roots, tcb, log.close(), _SEAL)


_KIND = {(tee, version): f"{tee.name}, version {version}" for tee in Tee for version in (3, 4, 5)}
_SEAL = object()


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote that is verified: only `verify_quote` makes one, after its last check."""

    genuine: GenuineQuote
    root: TrustAnchors
    tcb: TcbVerdict
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedQuote is made by verify_quote alone")

    def __repr__(self) -> str:
        return f"<VerifiedQuote {self.quote.tee.name}, {self.tcb.status} ({self.mode})>"

    @property
    def quote(self) -> Quote:
        return self.genuine.quote

    @property
    def mode(self) -> Mode:
        return self.root.mode

    @property
    def platform(self) -> PlatformIdentity:
        return self.genuine.pck.extension.platform

    @property
    def window(self) -> CollateralWindow:
        """From when to when all of the collateral holds."""
        return self.genuine.contents.window
