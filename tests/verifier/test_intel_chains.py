"""Intel's own chain tests of 2018: a synthetic hierarchy, with one thing wrong per folder.

Their PCK leaves carry the SGX extension in a draft form that no genuine leaf has, so the links
and the lists are judged here, and the extension by itself.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.refusal import refused
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import (
    PCK_CA,
    PCK_LEAF,
    CertificateNotIssued,
    CertificateRoleWrong,
    RootUntrusted,
    read_chain,
    require_anchor,
    require_issued_by,
    require_role,
)
from verifier.crl import CertificateRevoked, authenticate_crl
from verifier.errors import RatlsError
from verifier.pck import PckExtension, PckExtensionMalformed
from verifier.validity import CertificateNotCurrent, Period

AT = datetime.fromtimestamp(1767225600, UTC)
FOLDERS: dict[str, type[RatlsError] | None] = {
    "InChainRoot_InvalidExtensions": CertificateRoleWrong,
    "InChainRoot_InvalidIssuer": CertificateNotIssued,
    "InChainRoot_InvalidValidityPeriod": CertificateNotCurrent,
    "Intermediate_InvalidIssuer": CertificateNotIssued,
    "Intermediate_InvalidIssuerCantVerifySignature": CertificateNotIssued,
    "Intermediate_InvalidSubject": CertificateNotIssued,
    "Pck_InvalidExtensions": CertificateRoleWrong,
    "Pck_InvalidIssuer": CertificateNotIssued,
    "Pck_InvalidValidityPeriod": CertificateNotCurrent,
    "Positive_PlatformAsIntermediate": None,
    "Revoked_Intermediate": CertificateRevoked,
    "Revoked_IntermediateUnknownIssuer": CertificateRevoked,  # and a list of somebody else
    "Revoked_PCK": CertificateRevoked,
    "Revoked_PckFewEntriesNoneMatch": None,
    "TrustedRoot_UntrustedChain": RootUntrusted,
}


def judge(folder: Path) -> bytes:
    """Follow the links of one folder; the bytes of the leaf's SGX extension."""
    (trusted,) = read_chain((folder / "IntelSGXRootCACertificate.pem").read_bytes(), 1, "root")
    anchors = TrustAnchors(Mode.SIMULATION, sha256(trusted.spki).digest(), "Intel's test root")
    chain = (folder / "IntelSGXCertificateChain.pem").read_bytes()
    root, authority, leaf = read_chain(chain, 3, "chain")
    require_anchor(root, anchors)
    require_role(authority, PCK_CA)
    require_issued_by(authority, root)
    require_role(leaf, PCK_LEAF)
    require_issued_by(leaf, authority)
    root_crl = authenticate_crl((folder / "rootCaCrl.pem").read_bytes(), root, "root CRL")
    root_crl.require_not_revoked(authority)
    pck_crl = authenticate_crl(
        (folder / "intermediateCaCrl.pem").read_bytes(), authority, "PCK CRL"
    )
    pck_crl.require_not_revoked(leaf)
    for certificate in (root, authority, leaf):
        Period.of_certificate(certificate).require(AT)
    return leaf.sgx or b""


@pytest.mark.parametrize("name", FOLDERS)
def test_intels_chains_get_intels_verdict(vectors: Path, name: str) -> None:
    leaf = FOLDERS[name]
    expected: AbstractContextManager[object] = refused(leaf) if leaf else nullcontext()
    with expected:
        judge(vectors / "pki" / "intel-qvl-chain-tests" / name)


@pytest.mark.parametrize("name", ["Pck_InvalidSGXExtensions", "Positive_PlatformAsIntermediate"])
def test_extension_in_a_form_of_its_own_is_refused(vectors: Path, name: str) -> None:
    """The draft form too: flags that stand where Intel later put other things."""
    with refused(PckExtensionMalformed):
        PckExtension.parse(judge(vectors / "pki" / "intel-qvl-chain-tests" / name))
