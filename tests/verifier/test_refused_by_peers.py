"""What another verifier refused and this one once accepted: each found by comparing the two."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from simulation.documents import qe_level, tcb_level
from simulation.intel import TDX_COMPONENTS
from simulation.platform import TEE_TCB_SVN
from tests.support.refusal import refused
from tests.verifier.world import DATE, World, put, world
from verifier import Collateral, TcbStatus, VerifiedQuote
from verifier.certificate import CertificateMalformed
from verifier.crl import CertificateRevoked, CrlMalformed
from verifier.document import CollateralMalformed

W = world()
INTEL = W.intel


def revoking(*serials: int) -> Collateral:
    return W.collateral(root_crl=lambda crl: replace(crl, revoked=serials))


def test_root_that_revokes_itself() -> None:
    """T12: the last word of a root whose key is lost."""
    with refused(CertificateRevoked, check="root-crl"):
        W.verify(collateral=revoking(INTEL.root.serial))
    W.verify(collateral=revoking(INTEL.root.serial + 1))


@pytest.mark.parametrize("status", ["SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"])
def test_status_that_no_quoting_enclave_has(status: str) -> None:
    """T14: words for platforms; what they would mean of an enclave, nobody has said."""

    def said(word: str) -> Collateral:
        return W.collateral(qe_identity=put(tcbLevels=[qe_level(8, date=DATE, status=word)]))

    with refused(CollateralMalformed, check="qe-identity"):
        W.verify(collateral=said(status))
    assert W.verify(collateral=said("ConfigurationNeeded")).tcb.qe_status is TcbStatus.OUT_OF_DATE


@pytest.mark.parametrize("spelled", ['"tcbType":-0', '"tcbType": -0'])
def test_zero_below_zero(spelled: str) -> None:
    """T04: two readers of one number see two texts."""

    def write(text: str) -> Collateral:
        return W.collateral(tcb_info_text=lambda t: t.replace('"tcbType":0', text))

    with refused(CollateralMalformed, check="tcb-info"):
        W.verify(collateral=write(spelled))
    W.verify(collateral=write(spelled.replace("-", "")))


def test_certificate_without_a_serial_number() -> None:
    """T12: zero is on no revocation list; and a library only warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        World.create(pck=lambda form: replace(form, serial=1)).verify()
        zero = World.create(pck=lambda form: replace(form, serial=0))
        with refused(CertificateMalformed, check="pck-chain"):
            zero.verify()


@pytest.mark.parametrize("serial", [0, -1])
def test_list_that_revokes_no_serial_number(serial: int) -> None:
    """T11: unreadable, before anybody's signature is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refused(CrlMalformed, check="root-crl"):
            W.verify(collateral=revoking(serial))
        W.verify(collateral=revoking(1))


def test_blank_line_inside_a_certificate() -> None:
    """Q17: two readers of PEM disagree on where the certificate ends."""

    def spaced(by: str) -> bytes:
        lines = W.platform.pck.pem.split("\n")
        lines[2] = lines[2] + by
        chain = ("\n".join(lines) + W.platform.ca.pem + W.platform.root.pem).encode()
        return W.quote(form=lambda form: replace(form, certification_data=chain))

    for blank in ("\n", "\r\n"):
        with refused(CertificateMalformed, check="pck-chain"):
            W.verify(quote=spaced(blank))
    W.verify(quote=spaced(" "))


@pytest.mark.parametrize(
    ("launch", "current", "status"),
    [
        ("UpToDate", "Revoked", "Revoked"),
        ("OutOfDate", "Revoked", "Revoked"),  # N196: what runs now is what the rows meet
        ("Revoked", "UpToDate", "Revoked"),
        ("UpToDate", "OutOfDate", "UpToDate"),  # N197
        ("OutOfDate", "UpToDate", "TDRelaunchAdvised"),  # N192
    ],
)
def test_domain_on_a_module_that_was_revoked_since(launch: str, current: str, status: str) -> None:
    """N196, N197: whatever it was launched on, what runs beneath it now may be revoked."""
    assert judged(launch, current).tcb.status == status


def judged(launch: str, current: str) -> VerifiedQuote:
    """A trust domain of TDX 1.5 whose module went from SVN 5 at its launch to 6."""
    tcb = W.platform.tcb

    def levels(document: dict[str, object]) -> dict[str, object]:
        words = {"06": current, "05": launch}
        identity = {
            "id": "TDX_01",
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
            "tcbLevels": [
                qe_level(int(svn), date=DATE, status=word) for svn, word in words.items()
            ],
        }
        level = tcb_level(tcb.components, tcb.pce_svn, date=DATE, tdx=(0, 0, *TDX_COMPONENTS[2:]))
        return {**document, "tdxModuleIdentities": [identity], "tcbLevels": [level]}

    later = bytes([6, *TEE_TCB_SVN[1:]])
    quote = W.platform.td_quote(bytes(64), version=5, tee_tcb_svn_2=later)
    return W.verify(quote=quote, collateral=W.collateral(tdx=True, tcb_info=levels))
