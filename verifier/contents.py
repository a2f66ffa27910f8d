"""What a bundle says, once every signature in it was followed to the root; no quote is needed.

contents = Contents.authenticate(collateral, roots)
contents.tcb_info.levels, contents.window(at).earliest_expiration
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from verifier.anchors import TrustAnchors
from verifier.certificate import PCK_CA, Certificate, authenticate_signer
from verifier.collateral import Collateral, authenticate_qe_identity, authenticate_tcb_info
from verifier.crl import RevocationList, authenticate_crl
from verifier.errors import CollateralRolledBack
from verifier.qe import QeIdentity, QeIdentityMismatch
from verifier.quote import Tee
from verifier.tcb import TcbInfo
from verifier.validity import CollateralWindow, Period, require_instant, rfc3339


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of one authentic bundle. Whether they cover an instant is asked of `window`."""

    authority: Certificate  # of the platforms that this bundle is for
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    root_crl: RevocationList
    pck_crl: RevocationList
    certificates: tuple[Certificate, ...]  # every one used

    @classmethod
    def authenticate(cls, collateral: Collateral, roots: TrustAnchors) -> Self:
        """Read a bundle and check that all of it descends from the root.

        Raises:
            CertChainError, CollateralSignatureError, RevocationError: Something does not (4).
            CollateralFormatError, CollateralMismatchError: Not the collateral of one technology.
            TcbInfoVersionOutdated: TCB info of version 2 (5).
        """
        tcb_info, tcb_chain = authenticate_tcb_info(collateral, roots)
        qe_identity, qe_chain = authenticate_qe_identity(collateral, roots)
        if qe_identity.tee is not tcb_info.tee:
            raise QeIdentityMismatch(
                "QE identity", expected=f"that for {tcb_info.tee}", found=f"for {qe_identity.tee}"
            )
        crl_chain = authenticate_signer(collateral.pck_crl_issuer_chain, PCK_CA, roots)
        authority, root = crl_chain.signer, crl_chain.root
        root_crl = authenticate_crl(collateral.root_ca_crl, root, "root CRL")
        pck_crl = authenticate_crl(collateral.pck_crl, authority, "PCK CRL")
        for signer in (root, authority, tcb_chain.signer, qe_chain.signer):
            root_crl.require_not_revoked(signer)
        used = (root, authority, *(c for s in (tcb_chain, qe_chain) for c in (s.root, s.signer)))
        return cls(authority, tcb_info, qe_identity, root_crl, pck_crl, used)

    @property
    def subject(self) -> tuple[Tee, bytes, bytes]:
        """The technology, the FMSPC and the authority's key: what this bundle is about."""
        return self.tcb_info.tee, self.tcb_info.fmspc, self.authority.spki

    def periods(self) -> dict[str, Period]:
        """From when to when each dated part holds, by its name; certificates apart."""
        info, identity = self.tcb_info, self.qe_identity
        parts = (
            Period.of_document("TCB info", info.issued, info.next_update),
            Period.of_document("QE identity", identity.issued, identity.next_update),
            Period.of_crl(self.root_crl),
            Period.of_crl(self.pck_crl),
        )
        return {part.thing: part for part in parts}

    def window(self, at: datetime) -> CollateralWindow:
        """The common window, if all of it covers `at`.

        Raises:
            CollateralStaleError: The first part that does not (5).
        """
        tcb_info, qe_identity, *crls = self.periods().values()
        window = CollateralWindow.of(
            tcb_info=tcb_info,
            qe_identity=qe_identity,
            crls=crls,
            certificates=[Period.of_certificate(c) for c in self.certificates],
        )
        window.require(require_instant(at))
        return window

    def require_not_older_than(self, kept: Contents) -> None:
        """Nothing here was issued before its counterpart in the bundle that is at hand.

        Bundles of different kinds of platforms have no order.

        Raises:
            CollateralRolledBack: Something was (5).
        """
        # A cache cannot forge, but it can replay: an unexpired bundle of last month hides a
        # level, or a certificate, that was revoked since (T09).
        if self.subject != kept.subject:
            return
        for name, period in self.periods().items():
            before = kept.periods()[name].starts
            if period.starts < before:
                raise CollateralRolledBack(
                    name,
                    expected=f"none issued before {rfc3339(before)}",
                    found=f"one of {rfc3339(period.starts)}",
                )
