"""Intel's own certificates and revocation lists, as published, under Intel's root."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import vectors_folder
from tests.support.refusal import refused
from verifier.anchors import TrustAnchors
from verifier.certificate import (
    PCK_CA,
    TCB_SIGNER,
    Certificate,
    RootUntrusted,
    require_anchor,
    require_issued_by,
    require_role,
)
from verifier.crl import authenticate_crl
from verifier.errors import CrlOfAnotherIssuer

INTEL = TrustAnchors.intel()
ROOTS = ("intel-root-ca-2018-2033", "intel-root-ca-2018-2049")
BELOW = {
    "intel-pck-platform-ca": PCK_CA,
    "intel-pck-processor-ca": PCK_CA,
    "intel-tcb-signing-2018-2025": TCB_SIGNER,
    "intel-tcb-signing-2025-2032": TCB_SIGNER,
}
OF_ANOTHER_KEY = "crl-processor-2018-05-30-0"
ISSUERS = {
    "crl-platform": "intel-pck-platform-ca",
    "crl-processor": "intel-pck-processor-ca",
    "crl-root": "intel-root-ca-2018-2049",
}


def certificate(vectors: Path, name: str) -> Certificate:
    return Certificate.parse((vectors / "pki" / f"{name}.der").read_bytes())


def _lists() -> list[Any]:
    folder = vectors_folder()
    if folder is None:
        return [pytest.param(None, id="absent")]
    index = json.loads((folder / "index.json").read_text("utf-8"))
    named = {Path(p["file"]).stem: p for p in index["pki"] if p["kind"] == "crl"}
    return [pytest.param(p, id=name) for name, p in named.items() if name != OF_ANOTHER_KEY]


@pytest.mark.parametrize("name", ROOTS)
def test_both_editions_of_the_root(vectors: Path, name: str) -> None:
    """Genuine quotes carry either; what is believed is the key."""
    require_anchor(certificate(vectors, name), INTEL)


def test_root_of_the_same_name_and_another_key(vectors: Path) -> None:
    """Q13: Intel's own, for machines that were never sold."""
    with refused(RootUntrusted):
        require_anchor(certificate(vectors, "intel-nonproduction-root-a"), INTEL)


@pytest.mark.parametrize("name", BELOW)
@pytest.mark.parametrize("root", ROOTS)
def test_certificates_below_the_root(vectors: Path, name: str, root: str) -> None:
    require_role(certificate(vectors, name), BELOW[name])
    require_issued_by(certificate(vectors, name), certificate(vectors, root))


@pytest.mark.parametrize("published", _lists())
def test_revocation_list_names_what_it_is_said_to_name(
    vectors: Path, published: dict[str, Any]
) -> None:
    """Under its own issuer; under any other it says nothing (N087, T11)."""
    kind = "-".join(Path(published["file"]).name.split("-")[:2])
    raw, facts = (vectors / published["file"]).read_bytes(), published["facts"]
    crl = authenticate_crl(raw, certificate(vectors, ISSUERS[kind]), "list")
    assert len(crl.serials) == facts["revoked_entries"]
    assert crl.this_update == datetime.fromisoformat(facts["this_update"])
    if facts["first_revoked_serial"]:
        assert int(facts["first_revoked_serial"], 16) in crl.serials
    for other in set(ISSUERS.values()) - {ISSUERS[kind]}:
        with refused(CrlOfAnotherIssuer):
            authenticate_crl(raw, certificate(vectors, other), "list")


def test_list_of_an_authority_of_the_same_name_and_another_key(vectors: Path) -> None:
    """T11: Intel's processor authority had another key before its certificate of today."""
    raw = (vectors / "pki" / f"{OF_ANOTHER_KEY}.der").read_bytes()
    with refused(CrlOfAnotherIssuer):
        authenticate_crl(raw, certificate(vectors, ISSUERS["crl-processor"]), "list")
