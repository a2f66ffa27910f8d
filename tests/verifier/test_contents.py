"""T09, T22: what is kept of collateral, what replaces it, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.intel import DAY
from tests.support.refusal import count_refusal, refused
from tests.verifier.pcs_peer import PUBLISHED, ROOTS, W, fetch_from
from tests.verifier.world import AT, put
from verifier import Collateral, TrustAnchors
from verifier import errors as e
from verifier.certificate import CertificateNotIssued, CertificateRoleWrong
from verifier.collateral import QeIdentitySignatureInvalid, TcbInfoSignatureInvalid
from verifier.contents import Contents
from verifier.crl import CertificateRevoked, CrlSignatureInvalid
from verifier.document import CollateralMalformed
from verifier.files import FileNotWritten
from verifier.pcs import Fetched, kept_bundle, store
from verifier.validity import CollateralNotCurrent

SIGNER, ROOT = W.intel.tcb_signer.pem, W.intel.root.pem
TWIN = W.intel.twin()


# What is kept


def fetched(folder: Path, **altered: Any) -> Fetched:
    return fetch_from(folder, {}, published=W.collateral(**altered))


def test_a_bundle_is_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    assert kept_bundle(file) is None
    store(fetched(tmp_path, at=AT - DAY), file, kept=None, roots=ROOTS)
    newer = fetched(tmp_path)
    store(newer, file, kept=kept_bundle(file), roots=ROOTS)
    store(newer, file, kept=kept_bundle(file), roots=ROOTS)
    assert kept_bundle(file) == newer.collateral


def put_day(days: int, name: str = "issueDate") -> Callable[[dict[str, Any]], dict[str, Any]]:
    return put(**{name: (AT + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")})


OLDER: list[Any] = [
    pytest.param({"tcb_info": put_day(-1)}, id="TCB-info"),
    pytest.param({"qe_identity": put_day(-1)}, id="QE-identity"),
    pytest.param({"root_crl": lambda c: replace(c, this_update=AT - DAY)}, id="root-CRL"),
    pytest.param({"pck_crl": lambda c: replace(c, this_update=AT - DAY)}, id="PCK-CRL"),
    pytest.param({"at": AT - DAY}, id="everything"),
]


@pytest.mark.parametrize("older", OLDER)
def test_a_cache_replays_what_was_current_before(tmp_path: Path, older: dict[str, Any]) -> None:
    """T09: unexpired, genuine, and from before a recovery that the kept bundle knows of."""
    file = tmp_path / "bundle.json"
    store(fetched(tmp_path), file, kept=None, roots=ROOTS)
    before = file.read_bytes()
    with refused(e.CollateralRolledBack):
        store(fetched(tmp_path, **older), file, kept=kept_bundle(file), roots=ROOTS)
    assert file.read_bytes() == before


def test_bundles_of_different_platforms_have_no_order(tmp_path: Path) -> None:
    file, other = tmp_path / "bundle.json", W.with_platform(fmspc=bytes(6))
    store(fetched(tmp_path), file, kept=None, roots=ROOTS)
    older = fetch_from(
        tmp_path, {}, published=other.collateral(at=AT - DAY), quotes={"q": other.quote()}
    )
    store(older, file, kept=kept_bundle(file), roots=ROOTS)
    assert kept_bundle(file) == older.collateral


def test_a_forged_bundle_does_not_keep_a_genuine_one_out(tmp_path: Path) -> None:
    """T22: poison in the file, with a date of next year, must not outlive the next fetch."""
    file = tmp_path / "bundle.json"
    evil = TWIN.collateral(TWIN.platform(), at=AT + 20 * DAY)
    file.write_bytes(evil)
    genuine = fetched(tmp_path)
    store(genuine, file, kept=kept_bundle(file), roots=ROOTS)
    assert kept_bundle(file) == genuine.collateral


@pytest.mark.parametrize("content", [b"", b"notes", b"{}", PUBLISHED.raw[:-9]])
def test_a_file_that_is_no_bundle_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    """A slip of the keyboard after -o would cost somebody's file."""
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with refused(CollateralMalformed):
        kept_bundle(file)


def test_a_bundle_that_has_no_place(tmp_path: Path) -> None:
    with refused(FileNotWritten):
        store(fetched(tmp_path), tmp_path / "none" / "b.json", kept=None, roots=ROOTS)


# What a bundle says of itself


@pytest.mark.parametrize("days", [0, 29])
def test_contents_cover_their_days(days: int) -> None:
    contents = Contents.authenticate(PUBLISHED, ROOTS)
    contents.require_current(AT + days * DAY)
    window = contents.window
    assert (window.earliest_issue, window.earliest_expiration) == (AT, AT + 30 * DAY)


@pytest.mark.parametrize("days", [-1, 30])
def test_contents_do_not_cover_other_days(days: int) -> None:
    with refused(CollateralNotCurrent):
        Contents.authenticate(PUBLISHED, ROOTS).require_current(AT + days * DAY)


CONTENTS: list[Any] = [
    pytest.param({"tcb_info_key": W.platform.pck.ec_key}, TcbInfoSignatureInvalid, id="T01"),
    pytest.param({"qe_identity_key": W.platform.pck.ec_key}, QeIdentitySignatureInvalid, id="T02"),
    pytest.param(
        {"root_crl": lambda c: replace(c, signer=W.platform.pck.key)},
        CrlSignatureInvalid,
        id="root-CRL",
    ),
    pytest.param(
        {"pck_crl": lambda c: replace(c, signer=W.intel.root.key)},
        CrlSignatureInvalid,
        id="PCK-CRL",
    ),
    pytest.param(
        {"bundle": put(pck_crl_issuer_chain=SIGNER + ROOT)}, CertificateRoleWrong, id="authority"
    ),
    pytest.param(
        {"bundle": put(pck_crl_issuer_chain=TWIN.platform_ca.pem + ROOT)},
        CertificateNotIssued,
        id="twin-authority",
    ),
    pytest.param(
        {"root_crl": lambda c: replace(c, revoked=(W.intel.platform_ca.serial,))},
        CertificateRevoked,
        id="authority-revoked",
    ),
    pytest.param(
        {"root_crl": lambda c: replace(c, revoked=(W.intel.tcb_signer.serial,))},
        CertificateRevoked,
        id="signer-revoked",
    ),
]


@pytest.mark.parametrize(("altered", "leaf"), CONTENTS)
def test_contents_that_do_not_descend_from_the_root(
    altered: dict[str, Any], leaf: type[e.RatlsError]
) -> None:
    """No quote is at hand here, and yet nothing unsigned is shown to anybody."""
    with refused(leaf):
        Contents.authenticate(W.collateral(**altered), ROOTS)


def test_contents_of_genuine_bundles(vectors: Path) -> None:
    seen = 0
    for file in sorted((vectors / "collateral").glob("sgx-*.json")):
        if "tcbinfo-v2" not in file.name:
            contents = Contents.authenticate(
                Collateral.parse(file.read_bytes()), TrustAnchors.intel()
            )
            assert contents.tcb_info.fmspc.hex() in file.name
            assert contents.authority.common_name.split()[-2].lower() in file.name
            seen += 1
    assert seen >= 10


def test_nobody_makes_authentic_contents_but_the_verifier(tmp_path: Path) -> None:
    """A bundle that was only parsed can be neither stored nor noted as the newest."""
    count_refusal()
    found = fetch_from(tmp_path, {})
    known = found.contents
    with pytest.raises(TypeError):
        Fetched(PUBLISHED, known, found.verified, object())
    with pytest.raises(TypeError):
        Contents(
            known.authority,
            known.tcb_info,
            known.qe_identity,
            known.root_crl,
            known.pck_crl,
            known.certificates,
            known.window,
            known.appraisal,
            object(),
        )
    for made in (found, known):
        with pytest.raises((TypeError, ValueError)):
            replace(made)
