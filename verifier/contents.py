"""The contents of a bundle of collateral, once every signature in it is checked up to the root.

    contents = Contents.authenticate(collateral, roots)          # of a bundle alone
    contents = authenticate_contents(collateral, roots, pck)     # for one platform's certificates

Neither looks at a clock: whether all of it covers an instant is asked of `window` each time.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import datetime
from functools import lru_cache

from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal
from verifier.appraisal_log import AppraisalLog
from verifier.certificate import PCK_CA, Certificate, SignerChain, authenticate_signer
from verifier.checks import QuoteCheck
from verifier.collateral import (
    Collateral,
    authenticate_crl_issuer,
    authenticate_qe_identity,
    authenticate_tcb_info,
)
from verifier.crl import RevocationList, authenticate_crl
from verifier.errors import CrlOfAnotherIssuer
from verifier.kind import PlatformKind
from verifier.pck import PckChain
from verifier.qe import QeIdentity, QeIdentityMismatch
from verifier.tcb import TcbInfo, TcbInfoMismatch
from verifier.validity import CollateralWindow, Period, require_instant

_CHECKS = (QuoteCheck.ROOT_CRL, QuoteCheck.PCK_CRL, QuoteCheck.TCB_INFO, QuoteCheck.QE_IDENTITY)
_SEAL = object()


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The parts of one authentic bundle, no signer of which is revoked."""

    authority: Certificate  # of the platforms that this bundle is for
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    root_crl: RevocationList
    pck_crl: RevocationList
    certificates: tuple[Certificate, ...]  # every one used
    window: CollateralWindow
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("Contents are made by authenticate_contents alone")

    @classmethod
    def authenticate(
        cls, collateral: Collateral, roots: TrustAnchors, kind: PlatformKind | None = None
    ) -> Contents:
        """Check a bundle by itself, with the PCK authority that its own CRL names.

        Args:
            collateral: The bundle.
            roots: The root key that is trusted.
            kind: What it must be for; None: what its own TCB info is for.

        Raises: as `authenticate_contents` and `require_about`.
        """
        chain = authenticate_signer(collateral.pck_crl_issuer_chain, PCK_CA, roots)
        found = authenticate_contents(collateral, roots, chain)
        found.require_about(found.kind if kind is None else kind)
        return found

    @property
    def kind(self) -> PlatformKind:
        """The kind of platform that this bundle is for."""
        return PlatformKind.of(self.tcb_info.tee, self.tcb_info.fmspc, self.authority)

    def require_about(self, kind: PlatformKind) -> None:
        """The bundle is for this kind of platform, in each of its parts.

        Raises:
            TcbInfoMismatch, QeIdentityMismatch, CrlOfAnotherIssuer: A part is for another (4).
        """
        info, identity = self.tcb_info, self.qe_identity
        if (info.tee, info.fmspc) != (kind.tee, kind.fmspc):
            raise TcbInfoMismatch(
                "TCB info",
                expected=f"one for {kind.tee} {kind.fmspc.hex()}",
                found=f"one for {info.tee} {info.fmspc.hex()}",
            )
        if identity.tee is not kind.tee:
            raise QeIdentityMismatch(
                "QE identity", expected=f"one for {kind.tee}", found=f"one for {identity.tee}"
            )
        if self.kind.ca != kind.ca:
            raise CrlOfAnotherIssuer(
                "PCK CRL", expected=f"that of the {kind.ca} CA", found=f"the {self.kind.ca} CA's"
            )

    @property
    def evaluation_data_number(self) -> int:
        """The smaller one of TCB info's and QE identity's.

        Intel's services hand out documents of different numbers at the same time (genuine pairs
        19 and 17 exist), so a difference is no sign of tampering. A policy's floor on the smaller
        number stops an attacker who pairs new with old.
        """
        return min(self.tcb_info.evaluation_data_number, self.qe_identity.evaluation_data_number)

    def periods(self) -> dict[str, Period]:
        """From when to when each dated part holds, by its name; certificates apart."""
        return {period.thing: period for period in self.window.issued}

    def require_current(self, at: datetime) -> None:
        """All of it covers `at`.

        Raises:
            CollateralStaleError: The first part that does not (5).
        """
        self.window.require(require_instant(at))


# Pure: the same bytes under the same root give the same answer. A certificate that is revoked later
# is in another list, which makes another bundle; what has expired is seen by the caller.
@lru_cache(maxsize=1024)
def authenticate_contents(
    collateral: Collateral, roots: TrustAnchors, chain: PckChain | SignerChain
) -> Contents:
    """Check every part of a bundle up to the root, and that no certificate on the way is revoked.

    Args:
        collateral: The bundle.
        roots: The root key that is trusted.
        chain: A platform's certificates, or the PCK CRL's own chain where there is no platform.

    Raises:
        CertChainError, RevocationError, CollateralSignatureError: A link is broken (4).
        CollateralFormatError, CollateralMismatchError, TcbInfoVersionOutdated: See the parsers.
    """
    if isinstance(chain, PckChain):
        root, authority, leaf = chain.root, chain.authority, chain.leaf
    else:
        root, authority, leaf = chain.root, chain.signer, None
    log = AppraisalLog(_CHECKS)
    with log.check(QuoteCheck.ROOT_CRL) as note:
        root_crl = authenticate_crl(collateral.root_ca_crl, root, "root CRL")
        root_crl.require_not_revoked(root)
        root_crl.require_not_revoked(authority)
        note(f"{len(root_crl.serials)} revoked")
    with log.check(QuoteCheck.PCK_CRL) as note:
        pck_crl = authenticate_crl(collateral.pck_crl, authority, "PCK CRL")
        crl_issuer = authenticate_crl_issuer(collateral, authority, roots)
        root_crl.require_not_revoked(crl_issuer.signer)
        if leaf is not None:
            pck_crl.require_not_revoked(leaf)
        note(f"{len(pck_crl.serials)} revoked")
    with log.check(QuoteCheck.TCB_INFO) as note:
        tcb_info, tcb_signer = authenticate_tcb_info(collateral, roots)
        root_crl.require_not_revoked(tcb_signer.signer)
        note(f"FMSPC {tcb_info.fmspc.hex()}, evaluation {tcb_info.evaluation_data_number}")
    with log.check(QuoteCheck.QE_IDENTITY) as note:
        qe_identity, qe_signer = authenticate_qe_identity(collateral, roots)
        root_crl.require_not_revoked(qe_signer.signer)
        note(f"evaluation {qe_identity.evaluation_data_number}")
    # The pinned root too: its own certificate ends one day.
    used = [root, authority] if leaf is None else [root, authority, leaf]
    used += [c for s in (crl_issuer, tcb_signer, qe_signer) for c in (s.root, s.signer)]
    certificates = tuple(dict.fromkeys(used))
    window = CollateralWindow.of(
        tcb_info=Period.of_document("TCB info", tcb_info.issued, tcb_info.next_update),
        qe_identity=Period.of_document("QE identity", qe_identity.issued, qe_identity.next_update),
        crls=[Period.of_crl(crl) for crl in (root_crl, pck_crl)],
        certificates=[Period.of_certificate(c) for c in certificates],
    )
    return Contents(
        authority,
        tcb_info,
        qe_identity,
        root_crl,
        pck_crl,
        certificates,
        window,
        log.close(),
        _SEAL,
    )
