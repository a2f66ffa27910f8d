"""What Intel says about one platform, authenticated, and with nobody in it revoked.

It depends on no instant and no quote but the platform's certificates, so it is remembered for the
next quote of the same platform. Whether it covers the instant is asked each time anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal, AppraisalLog
from verifier.checks import QuoteCheck
from verifier.collateral import (
    Collateral,
    authenticate_crl_issuer,
    authenticate_qe_identity,
    authenticate_tcb_info,
)
from verifier.crl import authenticate_crl
from verifier.pck import PckChain
from verifier.qe import QeIdentity
from verifier.tcb import TcbInfo
from verifier.validity import CollateralWindow, Period

_CHECKS = (
    QuoteCheck.ROOT_CRL,
    QuoteCheck.PCK_CRL,
    QuoteCheck.TCB_INFO,
    QuoteCheck.QE_IDENTITY,
)


@dataclass(frozen=True, slots=True, eq=False)
class Endorsements:
    """Authentic statements about one platform, and when all they rest on holds."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    window: CollateralWindow
    appraisal: Appraisal

    @property
    def evaluation_data_number(self) -> int:
        """The smaller one of TCB info's and QE identity's.

        Intel's services hand out documents of different numbers at the same time (genuine pairs
        19 and 17 exist), so a difference is no sign of tampering. A policy's floor on the smaller
        number stops whoever pairs new with old.
        """
        return min(self.tcb_info.evaluation_data_number, self.qe_identity.evaluation_data_number)


# Pure: the same bytes under the same root are endorsed alike. A certificate that is revoked later
# stands in another list, which is another collateral; what has expired is seen by the caller.
@lru_cache(maxsize=1024)
def endorse(pck: PckChain, collateral: Collateral, roots: TrustAnchors) -> Endorsements:
    """Authenticate everything that Intel says about the platform of this PCK chain.

    Raises:
        CertChainError, RevocationError, CollateralSignatureError: A link is broken (4).
        CollateralFormatError, CollateralMismatchError, TcbInfoVersionOutdated: See the parsers.
    """
    log = AppraisalLog(_CHECKS)
    with log.check(QuoteCheck.ROOT_CRL) as note:
        root_crl = authenticate_crl(collateral.root_ca_crl, pck.root, "root CRL")
        root_crl.require_not_revoked(pck.root)
        root_crl.require_not_revoked(pck.authority)
        note(f"{len(root_crl.serials)} revoked")
    with log.check(QuoteCheck.PCK_CRL) as note:
        pck_crl = authenticate_crl(collateral.pck_crl, pck.authority, "PCK CRL")
        crl_issuer = authenticate_crl_issuer(collateral, pck.authority, roots)
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
    # The pinned root too: its own certificate ends one day.
    certificates = [pck.root, pck.authority, pck.leaf]
    certificates += [c for s in (crl_issuer, tcb_signer, qe_signer) for c in (s.root, s.signer)]
    window = CollateralWindow.of(
        tcb_info=Period.of_document("TCB info", tcb_info.issued, tcb_info.next_update),
        qe_identity=Period.of_document("QE identity", qe_identity.issued, qe_identity.next_update),
        crls=[Period.of_crl(crl) for crl in (root_crl, pck_crl)],
        certificates=[Period.of_certificate(c) for c in dict.fromkeys(certificates)],
    )
    return Endorsements(tcb_info, qe_identity, window, log.close())
