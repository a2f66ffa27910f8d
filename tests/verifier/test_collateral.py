"""T01 to T07: bundles and signed documents that are altered, split or somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from simulation.certificates import CertificateForm, new_key
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import World, drop, put, world
from verifier import Collateral
from verifier.certificate import (
    CertificateNotIssued,
    CertificateRoleWrong,
    IssuerChainMalformed,
    RootUntrusted,
)
from verifier.collateral import QeIdentitySignatureInvalid, TcbInfoSignatureInvalid
from verifier.document import CollateralMalformed
from verifier.errors import RatlsError
from verifier.qe import QeIdentityMismatch
from verifier.tcb import TcbInfoMismatch, TcbInfoVersionOutdated

W = world()
INTEL = W.intel
STRANGER = new_key(os.urandom)
Hook = Callable[[Any], Any]
# Each document: its slot in the bundle, its check, its signature's leaf.
DOCUMENTS = [
    pytest.param("tcb_info", "tcb-info", TcbInfoSignatureInvalid, id="tcb-info"),
    pytest.param("qe_identity", "qe-identity", QeIdentitySignatureInvalid, id="qe-identity"),
]


# The bundle itself.


def bundle_bytes(hook: Hook = lambda b: b) -> bytes:
    return INTEL.collateral(W.platform, bundle=hook)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="N100-empty"),
        pytest.param(b"not JSON", id="N100-text"),
        pytest.param(b"[]", id="N100-array"),
        pytest.param(bundle_bytes(drop("tcb_info")), id="N100-no-tcb-info"),
        pytest.param(bundle_bytes(drop("tcb_info_signature")), id="N100-no-signature"),
        pytest.param(bundle_bytes(drop("qe_identity")), id="N154-no-identity"),
        pytest.param(bundle_bytes(put(qe_identity=None)), id="N154-null"),
        pytest.param(bundle_bytes(put(tcb_info_signature=5)), id="N101-number"),
        pytest.param(bundle_bytes(put(tcb_info_signature="ab" * 63)), id="N101-short"),
        pytest.param(bundle_bytes(put(tcb_info_signature="ab" * 65)), id="N101-long"),
        pytest.param(bundle_bytes(put(tcb_info_signature="xy" * 64)), id="N101-not-hex"),
        pytest.param(bundle_bytes(put(tcb_info_signature=" " + "ab" * 63 + " ")), id="N101-space"),
        pytest.param(bundle_bytes(put(tcb_info={"id": "SGX"})), id="object-for-text"),
        pytest.param(
            bundle_bytes(put(tcb_info="@@")).replace(b"@@", b"\\ud800"), id="lone-surrogate"
        ),
        pytest.param(bundle_bytes(put(tcbinfo="")), id="N127-extra-member"),
        pytest.param(bundle_bytes() + b"{}", id="N127-second-document"),
        pytest.param(bundle_bytes() + b"x", id="N127-garbage"),
        pytest.param(b"\xef\xbb\xbf" + bundle_bytes(), id="N127-BOM"),
        pytest.param(bundle_bytes().decode().encode("utf-16"), id="T04-utf-16"),
        pytest.param(bundle_bytes()[:-2] + b',"pck_crl":""}', id="N125-member-twice"),
        pytest.param(b'{"a":' * 33 + b"1" + b"}" * 33, id="N126-33"),
        pytest.param(b"[" * 100_000, id="N126-100000"),
        pytest.param(bundle_bytes()[:-2] + b" " * (1 << 20) + b"}", id="too-large"),
        pytest.param(b'{"tcb_info": NaN}', id="T04-NaN"),
        pytest.param(b'{"tcb_info": 1' + b"0" * 5000 + b"}", id="huge-integer"),
    ],
)
def test_attacker_sends_something_else_for_a_bundle(raw: bytes) -> None:
    with refused(CollateralMalformed):
        Collateral.parse(raw)


def test_every_prefix_of_a_bundle_is_refused() -> None:
    count_refusal()
    raw = bundle_bytes().rstrip()
    for size in range(0, len(raw), 7):
        with pytest.raises(CollateralMalformed):
            Collateral.parse(raw[:size])


@given(st.text(max_size=200))
def test_garbage_for_a_document_is_a_typed_refusal(junk: str) -> None:
    """N223: signed garbage too, since a parser must survive whoever can sign."""
    count_refusal()
    for text in ({"tcb_info_text": lambda _: junk}, {"qe_identity_text": lambda _: junk}):
        with pytest.raises(RatlsError):
            W.verify(collateral=W.collateral(**text))


# Who signed the documents.


@pytest.mark.parametrize(("slot", "check", "leaf"), DOCUMENTS)
@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda t: t.replace("OutOfDate", "UpToDate"), id="T01-status"),
        pytest.param(lambda t: t.replace(":", ": ", 1), id="N102-white-space"),
        pytest.param(
            lambda t: json.dumps(dict(reversed(json.loads(t).items())), separators=(",", ":")),
            id="N102-order",
        ),
        pytest.param(lambda t: t[:-1] + " }", id="N102-last"),
        pytest.param(lambda t: "not JSON", id="not-JSON"),
    ],
)
def test_attacker_edits_a_signed_text(
    slot: str, check: str, leaf: type[RatlsError], alter: Callable[[str], str]
) -> None:
    """T01, T02: even a change that means nothing; and no unsigned text reaches the parser."""
    with refused(leaf, check=check):
        W.verify(collateral=W.collateral(bundle=lambda b: {**b, slot: alter(b[slot])}))


@pytest.mark.parametrize(("slot", "check", "leaf"), DOCUMENTS)
@pytest.mark.parametrize(
    "key",
    [STRANGER, W.platform.pck.ec_key, W.platform.attestation_key, INTEL.root.ec_key],
    ids=["stranger", "pck", "attestation", "root"],
)
def test_attacker_signs_a_document_itself(
    slot: str, check: str, leaf: type[RatlsError], key: ec.EllipticCurvePrivateKey
) -> None:
    """N103, N143: a key of the hierarchy is not enough, it must be the TCB signer's."""
    with refused(leaf, check=check):
        W.verify(collateral=W.collateral(**{f"{slot}_key": key}))


@pytest.mark.parametrize(("slot", "check", "leaf"), DOCUMENTS)
@pytest.mark.parametrize("signature", ["00" * 64, "00" * 31 + "01" * 33, "ff" * 64])
def test_degenerate_signature_over_a_document(
    slot: str, check: str, leaf: type[RatlsError], signature: str
) -> None:
    """Q06 for collateral."""
    with refused(leaf, check=check):
        W.verify(collateral=W.collateral(bundle=put(**{f"{slot}_signature": signature})))


@pytest.mark.parametrize(("slot", "check", "leaf"), DOCUMENTS)
def test_upper_case_signature_is_the_same_signature(
    slot: str, check: str, leaf: type[RatlsError]
) -> None:
    """Twin of the above."""
    name = f"{slot}_signature"
    W.verify(collateral=W.collateral(bundle=lambda b: {**b, name: b[name].upper()}))


SIGNER, ROOT = INTEL.tcb_signer.pem, INTEL.root.pem
TWIN = INTEL.twin()
CHAINS = [
    pytest.param(SIGNER, IssuerChainMalformed, id="N104-1"),
    pytest.param(SIGNER + INTEL.platform_ca.pem + ROOT, IssuerChainMalformed, id="N104-3"),
    pytest.param(SIGNER + SIGNER, CertificateRoleWrong, id="N104-root-missing"),
    pytest.param(INTEL.platform_ca.pem + ROOT, CertificateRoleWrong, id="N104-CA-as-signer"),
    pytest.param(W.platform.pck.pem + ROOT, CertificateRoleWrong, id="T03-pck-leaf-as-signer"),
    pytest.param(ROOT + SIGNER, CertificateRoleWrong, id="reversed"),
    pytest.param("no PEM", IssuerChainMalformed, id="N104-no-PEM"),
    pytest.param("", IssuerChainMalformed, id="empty"),
    pytest.param(TWIN.tcb_signer.pem + TWIN.root.pem, RootUntrusted, id="N103-twin"),
    pytest.param(TWIN.tcb_signer.pem + ROOT, CertificateNotIssued, id="N103-twin-signer"),
]


@pytest.mark.parametrize(("slot", "check", "_leaf"), DOCUMENTS)
@pytest.mark.parametrize(("chain", "leaf"), CHAINS)
def test_attacker_brings_another_signer_chain(
    slot: str, check: str, _leaf: object, chain: str, leaf: type[RatlsError]
) -> None:
    """N104, N143, T03: everything in it is signed by the believed root, and none may sign this."""
    with refused(leaf, check=check):
        W.verify(collateral=W.collateral(bundle=put(**{f"{slot}_issuer_chain": chain})))


@pytest.mark.parametrize(
    ("hook", "leaf"),
    [
        pytest.param(lambda c: c.named("Intel SGX TCB Signing 2"), CertificateRoleWrong, id="name"),
        pytest.param(
            lambda c: c.extended(x509.BasicConstraints(True, 0), critical=True),
            CertificateRoleWrong,
            id="CA",
        ),
        pytest.param(lambda c: replace(c, signer=STRANGER), CertificateNotIssued, id="signature"),
        pytest.param(
            lambda c: replace(c, algorithm=hashes.SHA384()), IssuerChainMalformed, id="sha384"
        ),
    ],
)
def test_tcb_signer_is_bent(
    hook: Callable[[CertificateForm], CertificateForm], leaf: type[RatlsError]
) -> None:
    with refused(leaf, check="tcb-info"):
        World.create(tcb_signer=hook).verify()


# What the documents are about.


def test_tcb_info_of_another_platform() -> None:
    """N111, T06: genuine, signed, of another FMSPC."""
    with refused(TcbInfoMismatch, check="platform-match"):
        W.verify(collateral=W.collateral(tcb_info=put(fmspc="00906ED50000")))


def test_tcb_info_of_another_pce() -> None:
    """N112, T07: another verifier never compared it."""
    with refused(TcbInfoMismatch, check="platform-match"):
        W.verify(collateral=W.collateral(tcb_info=put(pceId="0001")))


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_case_of_identifiers_does_not_matter(case: Callable[[str], str]) -> None:
    """N111, N112: bytes are compared, and another verifier compared text."""
    w = World.create(fmspc=bytes.fromhex("abcdef123456"), pce_id=b"\xab\xcd")

    def write(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "fmspc": case(document["fmspc"]), "pceId": case(document["pceId"])}

    w.verify(collateral=w.collateral(tcb_info=write))


def test_collateral_of_a_sister_platform_fits() -> None:
    """N221: TCB info is for all platforms of one FMSPC."""
    sister = INTEL.platform()
    W.verify(collateral=Collateral.parse(INTEL.collateral(sister)))


def test_tcb_info_for_tdx() -> None:
    """N107, T05: signed by Intel, for another technology."""
    with refused(TcbInfoMismatch, check="platform-match"):
        W.verify(collateral=W.collateral(tcb_info=for_tdx))


def for_tdx(document: dict[str, Any]) -> dict[str, Any]:
    """The same statement, made for TDX."""
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    levels = [
        {**level, "tcb": {**level["tcb"], "tdxtcbcomponents": level["tcb"]["sgxtcbcomponents"]}}
        for level in document["tcbLevels"]
    ]
    return {**document, "id": "TDX", "tdxModule": module, "tcbLevels": levels}


def test_identity_of_the_quoting_enclave_for_tdx() -> None:
    """N144, T05: it describes an enclave that makes no quotes of enclaves."""
    with refused(QeIdentityMismatch, check="qe-match"):
        W.verify(collateral=W.collateral(qe_identity=put(id="TD_QE")))


@pytest.mark.parametrize("enclave", ["QVE", "QAE"])
def test_identity_of_another_enclave(enclave: str) -> None:
    """N144, T05: Intel has more enclaves than one."""
    with refused(QeIdentityMismatch, check="qe-identity"):
        W.verify(collateral=W.collateral(qe_identity=put(id=enclave)))


def test_tcb_info_of_version_2_decides_nothing() -> None:
    """N106: the form that Intel no longer serves; genuine once, and silent about today."""
    with refused(TcbInfoVersionOutdated, check="tcb-info"):
        W.verify(collateral=W.collateral(tcb_info=lambda d: {**drop("id")(d), "version": 2}))


def test_unknown_signed_members_are_tolerated() -> None:
    """Intel added members before; what it signed is no threat."""
    W.verify(collateral=W.collateral(tcb_info=put(new=1), qe_identity=put(new=[{"x": "y"}])))


def test_evaluation_numbers_may_differ_and_the_smaller_counts() -> None:
    """T10, N218: genuine pairs differ, so this is no sign of tampering; policies set a floor."""
    collateral = W.collateral(qe_identity=put(tcbEvaluationDataNumber=17))
    assert W.verify(collateral=collateral).tcb.evaluation_data_number == 17
    assert W.verify().tcb.evaluation_data_number == 21
