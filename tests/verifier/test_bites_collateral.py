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
from tests.verifier.world import AT, World, put
from verifier import Collateral
from verifier.document import CollateralMalformed
from verifier.errors import CrlOfAnotherIssuer
from verifier.validity import CertificateNotCurrent

DAY = timedelta(days=1)


class Forms:
    """A world whose authorities can be issued again with something else in them."""

    def __init__(self) -> None:
        self.kept: dict[str, CertificateForm] = {}

        def keep(name: str) -> Callable[[CertificateForm], CertificateForm]:
            def hook(form: CertificateForm) -> CertificateForm:
                self.kept[name] = form
                return form

            return hook

        self.world = World.create(root=keep("root"), platform_ca=keep("platform_ca"))

    def again(self, name: str, **altered: Any) -> Issued:
        return replace(self.kept[name], serial=4711, **altered).issue()


FORMS = Forms()
W = FORMS.world


def test_reissued_authority_is_the_same_authority() -> None:
    """Twin of the next two: another certificate, name and key as before."""
    chain = FORMS.again("platform_ca").pem + W.intel.root.pem
    W.verify(collateral=W.collateral(bundle=put(pck_crl_issuer_chain=chain)))


def test_issuer_of_the_list_has_the_authoritys_name_and_another_key() -> None:
    key = new_key(os.urandom)
    form = FORMS.kept["platform_ca"].extended(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    )
    chain = replace(form, serial=4711, key=key).issue().pem + W.intel.root.pem
    with refused(CrlOfAnotherIssuer, check="pck-crl"):
        W.verify(collateral=W.collateral(bundle=put(pck_crl_issuer_chain=chain)))


def test_issuer_of_the_list_has_the_authoritys_key_and_another_name() -> None:
    other = FORMS.again("platform_ca", subject=intel_name(PROCESSOR_CA_CN))
    with refused(CrlOfAnotherIssuer, check="pck-crl"):
        bundle = put(pck_crl_issuer_chain=other.pem + W.intel.root.pem)
        W.verify(collateral=W.collateral(bundle=bundle))


@pytest.mark.parametrize("place", ["root", "ca"])
def test_quote_carries_an_edition_that_has_ended(place: str) -> None:
    """The bundle has the current edition of the same name and key; both have to hold."""
    name = {"root": "root", "ca": "platform_ca"}[place]

    def ending(at: datetime) -> bytes:
        altered: dict[str, Any] = {place: FORMS.again(name, not_after=at)}
        return replace(W.platform, **altered).quote()

    W.verify(quote=ending(AT))
    with refused(CertificateNotCurrent, check="validity"):
        W.verify(quote=ending(AT - DAY))


@pytest.mark.parametrize("slot", ["pck_crl", "tcb_info", "qe_identity"])
def test_bundle_carries_an_edition_of_the_root_that_has_ended(slot: str) -> None:
    """The quote has the current edition; what the bundle rests on has to hold as well."""
    collateral = W.collateral()

    def ending(at: datetime) -> Collateral:
        own: str = getattr(collateral, f"{slot}_issuer_chain")
        chain = own.replace(W.intel.root.pem, FORMS.again("root", not_after=at).pem)
        altered: dict[str, Any] = {f"{slot}_issuer_chain": chain}
        return replace(collateral, **altered)

    W.verify(collateral=ending(AT))
    with refused(CertificateNotCurrent, check="validity"):
        W.verify(collateral=ending(AT - DAY))


def test_bundle_carries_an_edition_of_the_authority_that_has_ended() -> None:
    def ending(at: datetime) -> Collateral:
        chain = FORMS.again("platform_ca", not_after=at).pem + W.intel.root.pem
        return W.collateral(bundle=put(pck_crl_issuer_chain=chain))

    W.verify(collateral=ending(AT))
    with refused(CertificateNotCurrent, check="validity"):
        W.verify(collateral=ending(AT - DAY))


def test_bundle_says_when_it_was_fetched_or_does_not() -> None:
    """A remark: no signature covers it, and nothing is decided by it."""
    assert W.collateral().fetched == ""
    noted = W.collateral(bundle=put(fetched="2026-11-25T12:00:00Z"))
    assert noted.fetched == "2026-11-25T12:00:00Z"
    W.verify(collateral=noted)
    with refused(CollateralMalformed):
        W.collateral(bundle=put(fetched=1764072000))
