"""A bundle judged without a quote: each link and each date by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from simulation.certificates import CertificateForm
from tests.verifier.world import AT, World, bites, keeping, put, with_, world
from verifier import Collateral
from verifier.certificate import RootUntrusted
from verifier.contents import Contents
from verifier.crl import CertificateRevoked
from verifier.errors import CrlOfAnotherIssuer, InstantMalformed, RatlsError
from verifier.kind import PlatformKind
from verifier.qe import QeIdentityMismatch
from verifier.quote import Tee
from verifier.tcb import TcbInfoMismatch
from verifier.validity import CertificateNotCurrent

W = world()
ROOTS = W.intel.anchors()
TWIN = W.intel.twin()


def contents(w: World = W, **altered: Any) -> Contents:
    return Contents.authenticate(w.collateral(**altered), w.intel.anchors())


def judge(collateral: Collateral) -> Contents:
    return Contents.authenticate(collateral, ROOTS)


def test_lists_are_of_another_intel() -> None:
    """Only the two documents descend from the root; lists of an evil twin revoke nothing."""
    lists = World(TWIN, TWIN.platform()).collateral()
    genuine = W.collateral()
    members = ("pck_crl_issuer_chain", "root_ca_crl", "pck_crl")
    mixed = replace(genuine, **{name: getattr(lists, name) for name in members})
    bites(judge, genuine, mixed, RootUntrusted)


@pytest.mark.parametrize("revoked", ["root", "platform_ca", "tcb_info", "qe_identity"])
def test_one_of_the_signers_is_revoked(revoked: str) -> None:
    """Each document may name an edition of the signer of its own; all of them are looked up."""
    forms: list[CertificateForm] = []
    w = World.create(tcb_signer=keeping(forms))
    if revoked in ("root", "platform_ca"):
        culprit, bundle = getattr(w.intel, revoked), put()
    else:
        culprit = replace(forms[0], serial=4711).issue()
        bundle = put(**{f"{revoked}_issuer_chain": culprit.pem + w.intel.root.pem})
    bites(
        lambda altered: contents(w, bundle=bundle, **altered),
        {},
        {"root_crl": with_(revoked=(culprit.serial,))},
        CertificateRevoked,
    )


@pytest.mark.parametrize("place", ["pck_crl", "tcb_info", "qe_identity"])
@pytest.mark.parametrize("which", ["root", "signer"])
def test_one_certificate_in_the_bundle_has_ended(place: str, which: str) -> None:
    """The others are current editions of the same names and keys."""
    forms: list[CertificateForm] = []
    signer = "platform_ca" if place == "pck_crl" else "tcb_signer"
    hooks: dict[str, Any] = {"root" if which == "root" else signer: keeping(forms)}
    w = World.create(**hooks)
    current = w.intel.root if which == "root" else getattr(w.intel, signer)
    genuine = w.collateral()

    def judge_ending(at: datetime) -> None:
        edition = replace(forms[0], serial=4711, not_after=at).issue()
        name = f"{place}_issuer_chain"
        chain = getattr(genuine, name).replace(current.pem, edition.pem)
        altered = replace(genuine, **{name: chain})
        Contents.authenticate(altered, w.intel.anchors()).require_current(AT)

    bites(judge_ending, AT, AT - timedelta(seconds=1), CertificateNotCurrent)


def test_window_is_asked_about_no_real_instant() -> None:
    current = contents().require_current
    bites(current, AT, datetime(2026, 11, 25, 12), InstantMalformed)  # noqa: DTZ001


def test_bundle_of_both_technologies() -> None:
    """Each half is genuine; together they describe no quote at all."""
    enclaves, domains = W.collateral(), W.collateral(tdx=True)
    judge(domains)
    mixed = replace(
        enclaves,
        qe_identity=domains.qe_identity,
        qe_identity_signature=domains.qe_identity_signature,
    )
    bites(judge, enclaves, mixed, QeIdentityMismatch)


@pytest.mark.parametrize(
    ("other", "leaf"),
    [
        pytest.param({"fmspc": b"\1\2\3\4\5\6"}, TcbInfoMismatch, id="FMSPC"),
        pytest.param({"tee": Tee.TDX}, TcbInfoMismatch, id="technology"),
        pytest.param({"ca": "processor"}, CrlOfAnotherIssuer, id="authority"),
    ],
)
def test_bundle_of_another_kind_than_was_asked_for(
    other: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """A service answers with a genuine bundle of another platform."""
    kind = PlatformKind(Tee.SGX, W.platform.tcb.fmspc, "platform")

    def judge_for(asked: PlatformKind) -> None:
        Contents.authenticate(W.collateral(), ROOTS, asked)

    bites(judge_for, kind, replace(kind, **other), leaf)
