"""A simulated TDX guest: its registers follow its code, and nobody takes it for a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratls.attester_option import resolve_attester
from simulation.attester import SimulatedAttester, SimulatedDomainAttester
from simulation.folder import SimulationFolderUnusable, write
from simulation.measure import measure
from simulation.trust_domain import MR_TD, GuestMeasurement
from tests.support.intel import AT, REPORT_DATA, World
from tests.support.refusal import refused
from verifier.acceptance import accept
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.collateral import Collateral
from verifier.event_log import EventLog
from verifier.modes import SimulationNotAllowed, anchors_for
from verifier.quote import Quote, Tee
from verifier.replay import judge_log, registers_of
from verifier.verify import QuoteCheck, verify_quote

CODE = b"\x77" * 32


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    write(world.intel, world.platform, tmp_path / "intel")
    return tmp_path / "intel"


def test_attester_and_files_convince_the_verifier(folder: Path) -> None:
    """As a provider would: files alone, no object of the world that wrote them."""
    attester = SimulatedDomainAttester(folder / "trust-domain", CODE)
    bundle = Collateral.parse((folder / "collateral.tdx.json").read_bytes())
    root = (folder / "root.txt").read_text("utf-8").strip()
    roots = anchors_for(root, allow_simulation=True)
    verified = verify_quote(attester.quote(REPORT_DATA), bundle, roots=roots, at=AT)
    accept(verified)
    assert (verified.quote.tee, verified.quote.header.version) == (Tee.TDX, 4)
    assert verified.quote.report.report_data == REPORT_DATA
    assert verified.mode is attester.mode is Mode.SIMULATION


def test_it_cannot_pass_for_a_real_guest(folder: Path) -> None:
    """X01, X05: another root, and nobody takes that root without saying so."""
    raw = SimulatedDomainAttester(folder / "trust-domain", CODE).quote(REPORT_DATA)
    bundle = Collateral.parse((folder / "collateral.tdx.json").read_bytes())
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        verify_quote(raw, bundle, roots=TrustAnchors.intel(), at=AT)
    name = f"simulation:{folder}/trust-domain"
    with refused(SimulationNotAllowed):
        resolve_attester(name, allow_simulation=False)
    assert resolve_attester(name, allow_simulation=True).mode is Mode.SIMULATION


def test_its_log_explains_its_registers(folder: Path) -> None:
    raw = SimulatedDomainAttester(folder / "trust-domain", CODE).quote(REPORT_DATA)
    guest = GuestMeasurement.of(CODE)
    values = registers_of(Quote.parse(raw))
    assert [guest.registers[f"rtmr{n}"] for n in range(4)] == [values[n].hex() for n in range(4)]
    assert guest.registers["mr_td"] == MR_TD.hex()
    report = judge_log(EventLog.parse(guest.log), values, expected=None, file="log.bin")
    assert report.refusal is None


def test_other_code_is_another_rtmr2_and_nothing_else() -> None:
    """A policy that pinned MRTD alone would admit it."""
    one, other = GuestMeasurement.of(CODE), GuestMeasurement.of(b"\x78" * 32)
    assert {n for n in one.registers if one.registers[n] != other.registers[n]} == {"rtmr2"}


def test_the_guest_measures_the_installed_packages(folder: Path) -> None:
    raw = resolve_attester(f"simulation:{folder}/trust-domain", allow_simulation=True).quote(
        REPORT_DATA
    )
    assert registers_of(Quote.parse(raw)) == dict(enumerate(GuestMeasurement.of(measure()).rtmrs))


def test_each_folder_has_one_attester(folder: Path) -> None:
    """The name leads to the right one, and neither quotes with the other's key."""
    platform, domain = folder / "platform", folder / "trust-domain"
    for place, tee in ((platform, Tee.SGX), (domain, Tee.TDX)):
        attester = resolve_attester(f"simulation:{place}", allow_simulation=True)
        assert Quote.parse(attester.quote(REPORT_DATA)).tee is tee
    with refused(SimulationFolderUnusable):
        SimulatedDomainAttester(platform)
    with refused(SimulationFolderUnusable):
        SimulatedAttester(domain)
    with pytest.raises(ValueError, match="64 bytes"):
        SimulatedDomainAttester(domain).quote(bytes(32))


def test_the_guest_is_given_no_key_of_intel(world: World, folder: Path) -> None:
    content = b"".join(p.read_bytes() for p in (folder / "trust-domain").iterdir())
    assert content.count(b"PRIVATE KEY-----") == 2  # BEGIN and END of one
    issued = (world.intel.root, world.intel.platform_ca, world.intel.tcb_signer, world.platform.pck)
    for key in (*(i.ec_key for i in issued), world.platform.attestation_key):
        secret = key.private_numbers().private_value.to_bytes(32, "big")
        assert secret.hex().encode() not in content
