"""What runs under gramine-direct can never be production: neither its manifest nor its quotes."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

from enclave_app.application import AttesterModeMismatch, Enclave
from enclave_app.cli import app as enclave
from ratls.appraise import Expectation, appraise_certificate
from ratls.claims import ModeClaimMismatch
from ratls.identity import EnclaveIdentity
from ratls.log import open_log
from tests.gramine.development_main import FromOutside
from tests.gramine.world import change, document, signed
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld
from tests.support.gramine_direct import MODULE, development, quotes_for
from tests.support.imports import measured_files
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.typed import typed
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.gramine.complete import write
from verifier.gramine.findings import refusals
from verifier.gramine.lint import lint
from verifier.verify import QuoteCheck

CHANGED = {"loader.argv", "fs.mounts", "sgx.allowed_files"}


def test_its_manifest_is_refused_by_every_party(tmp_path: Path) -> None:
    """M04, M09: by the command, and for each change alone; that of production is not."""
    made = development(document(), tmp_path / "agreement.json", 4711)
    path = tmp_path / "development.manifest.sgx"
    path.write_bytes(write(made))
    said = typed(enclave, ["lint", path], 6).output
    assert "[manifest-refused]" in said
    assert all(key in said for key in CHANGED)
    assert {found.key for found in refusals(lint(signed(made)))} == CHANGED
    for key in sorted(CHANGED):
        table, _, name = key.partition(".")
        alone = signed(change(document(), key, made[table][name]))
        assert [found.key for found in refusals(lint(alone))] == [key]
    assert refusals(lint(signed(document()))) == []


def test_its_entry_point_is_in_no_image_of_a_release() -> None:
    """X04: what is not there cannot be started by other arguments, either."""
    count_refusal()
    assert not [name for name in measured_files() if MODULE in name]


@pytest.mark.parametrize(
    ("claimed", "leaf"),
    [(Mode.SIMULATION, ModeClaimMismatch), (Mode.PRODUCTION, RootUntrusted)],
)
def test_no_policy_that_names_hardware_admits_it(
    monkeypatch: pytest.MonkeyPatch, claimed: Mode, leaf: type[RatlsError]
) -> None:
    """X01, X05: whatever it says of itself, its quotes lead to another root than Intel's."""
    world = EnclaveWorld.create()
    machines = [f"ppid:{world.intel.platform.tcb.ppid.hex()}"]
    people = Consortium.create(NOW, root="intel", mr_enclave=MR_ENCLAVE.hex(), machines=machines)
    agreed = people.complete()
    with quotes_for(world) as port:
        monkeypatch.setattr(sys, "argv", [MODULE, str(port)])
        attester = FromOutside()
        with closing(attester.stream):
            with refused(AttesterModeMismatch):
                Enclave.start(agreed, attester, log=open_log())
            monkeypatch.setattr(attester, "mode", claimed)
            identity = EnclaveIdentity.create(attester, agreed.policy.digest, at=NOW)
    collateral = Collateral.parse(world.collateral)
    expectation = Expectation(agreed.policy, collateral, TrustAnchors.intel())
    check = QuoteCheck.PCK_CHAIN if leaf is RootUntrusted else None
    with refused(leaf, check=check) if check else refused(leaf):
        appraise_certificate(identity.certificate_der, expectation, at=NOW)
