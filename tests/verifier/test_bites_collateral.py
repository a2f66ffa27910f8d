"""Whose bundle it is: each half of an identity by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from simulation.certificates import CertificateForm, Issued, intel_name, new_key
from simulation.intel import PROCESSOR_CA_CN
from tests.support.refusal import refused
from tests.verifier.world import AT, World, bites, keeping, put
from verifier import Collateral, VerifiedQuote
from verifier.document import CollateralMalformed
from verifier.errors import CrlOfAnotherIssuer
from verifier.validity import CertificateNotCurrent

DAY = timedelta(days=1)


ROOT_FORMS: list[CertificateForm] = []
CA_FORMS: list[CertificateForm] = []
W = World.create(root=keeping(ROOT_FORMS), platform_ca=keeping(CA_FORMS))


def root_again(**altered: Any) -> Issued:
    """Another certificate of the root, with something else in it."""
    return replace(ROOT_FORMS[0], serial=4711, **altered).issue()


def ca_again(**altered: Any) -> Issued:
    return replace(CA_FORMS[0], serial=4711, **altered).issue()


def judge(collateral: Collateral) -> VerifiedQuote:
    return W.verify(collateral=collateral)


def listed_by(ca: Issued) -> Collateral:
    """The list of PCK certificates, under this certificate of its authority."""
    return W.collateral(bundle=put(pck_crl_issuer_chain=ca.pem + W.intel.root.pem))


def test_issuer_of_the_list_has_the_authoritys_name_and_another_key() -> None:
    """Twin: another certificate, name and key as before, is the same authority."""
    key = new_key(os.urandom)
    named = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    other = replace(CA_FORMS[0].extended(named), serial=4711, key=key).issue()
    bites(judge, listed_by(ca_again()), listed_by(other), CrlOfAnotherIssuer, check="pck-crl")


def test_issuer_of_the_list_has_the_authoritys_key_and_another_name() -> None:
    other = ca_again(subject=intel_name(PROCESSOR_CA_CN))
    bites(judge, listed_by(ca_again()), listed_by(other), CrlOfAnotherIssuer, check="pck-crl")


def ends(judge: Callable[[Any], object], ending: Callable[[datetime], Any]) -> None:
    """What ends at the instant of the verdict passes, and what ended a day before does not."""
    bites(judge, ending(AT), ending(AT - DAY), CertificateNotCurrent, check="validity")


@pytest.mark.parametrize(("place", "again"), [("root", root_again), ("ca", ca_again)])
def test_quote_carries_an_edition_that_has_ended(place: str, again: Callable[..., Issued]) -> None:
    """The bundle has the current edition of the same name and key; both have to hold."""

    def ending(at: datetime) -> bytes:
        altered: dict[str, Any] = {place: again(not_after=at)}
        return replace(W.platform, **altered).quote()

    ends(lambda quote: W.verify(quote=quote), ending)


@pytest.mark.parametrize("slot", ["pck_crl", "tcb_info", "qe_identity"])
def test_bundle_carries_an_edition_of_the_root_that_has_ended(slot: str) -> None:
    """The quote has the current edition; what the bundle rests on has to hold as well."""
    collateral = W.collateral()

    def ending(at: datetime) -> Collateral:
        own: str = getattr(collateral, f"{slot}_issuer_chain")
        chain = own.replace(W.intel.root.pem, root_again(not_after=at).pem)
        altered: dict[str, Any] = {f"{slot}_issuer_chain": chain}
        return replace(collateral, **altered)

    ends(judge, ending)


def test_bundle_carries_an_edition_of_the_authority_that_has_ended() -> None:
    ends(judge, lambda at: listed_by(ca_again(not_after=at)))


def test_bundle_says_when_it_was_fetched_or_does_not() -> None:
    """A remark: no signature covers it, and nothing is decided by it."""
    assert W.collateral().fetched == ""
    noted = W.collateral(bundle=put(fetched="2026-11-25T12:00:00Z"))
    assert noted.fetched == "2026-11-25T12:00:00Z"
    judge(noted)
    with refused(CollateralMalformed):
        W.collateral(bundle=put(fetched=1764072000))
