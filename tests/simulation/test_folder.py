"""A simulation on disk: complete, private, never overwritten, and refused when it is damaged."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.attester import MR_SIGNER, SimulatedAttester
from simulation.folder import (
    SimulationFolderNotEmpty,
    SimulationFolderUnusable,
    read,
    read_quoting_enclave,
    renew_collateral,
    write,
)
from simulation.intel import DAY, root_name
from tests.support.intel import AT, REPORT_DATA, World
from tests.support.refusal import refused
from verifier.acceptance import accept
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.collateral import Collateral
from verifier.files import FileNotWritten
from verifier.modes import anchors_for
from verifier.validity import CollateralNotCurrent
from verifier.verify import QuoteCheck, VerifiedQuote, verify_quote

MR_ENCLAVE = b"\x77" * 32
KEYS = ["root", "processor-ca", "platform-ca", "tcb-signer", "pck"]


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    write(world.intel, world.platform, tmp_path / "intel")
    return tmp_path / "intel"


def judge(folder: Path, at: datetime = AT) -> VerifiedQuote:
    """As a provider would: files alone, no object of the world that wrote them."""
    root = (folder / "root.txt").read_text("utf-8").strip()
    return verify_quote(
        SimulatedAttester(folder / "platform", MR_ENCLAVE).quote(REPORT_DATA),
        Collateral.parse((folder / "collateral.json").read_bytes()),
        roots=anchors_for(root, allow_simulation=True),
        at=at,
    )


def test_attester_and_files_convince_the_verifier(world: World, folder: Path) -> None:
    verified = judge(folder)
    accept(verified)
    report = verified.quote.enclave
    assert (report.mr_enclave.value, report.mr_signer.value) == (MR_ENCLAVE, MR_SIGNER)
    assert report.report_data == REPORT_DATA
    assert verified.mode is SimulatedAttester.mode is Mode.SIMULATION
    assert verified.root.name == root_name(world.intel.root)


def test_trust_domains_of_the_platform_convince_it_too(folder: Path) -> None:
    """From the files alone, and after a renewal, which replaces both bundles."""
    intel, platform = read(folder, AT)
    for at in (AT, AT + 40 * DAY):
        renew_collateral(folder, at)
        bundle = Collateral.parse((folder / "collateral.tdx.json").read_bytes())
        quote = platform.td_quote(REPORT_DATA)
        accept(verify_quote(quote, bundle, roots=intel.anchors(), at=at))


def test_the_same_files_do_not_convince_a_production_verifier(folder: Path) -> None:
    """X01."""
    raw = SimulatedAttester(folder / "platform", MR_ENCLAVE).quote(REPORT_DATA)
    collateral = Collateral.parse((folder / "collateral.json").read_bytes())
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        verify_quote(raw, collateral, roots=TrustAnchors.intel(), at=AT)


def test_keys_are_readable_by_their_owner_alone(folder: Path) -> None:
    """Another user of the machine could otherwise quote whatever it likes."""
    secret = [*folder.rglob("*.key"), *folder.rglob("quoting-enclave.json")]
    assert len(secret) == len(KEYS) + 4
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    assert {(folder / n).stat().st_mode & 0o777 for n in ("intel", "platform", "trust-domain")} == {
        0o700
    }


def test_the_attester_is_given_no_key_of_intel(world: World, folder: Path) -> None:
    """With the PCK or root key an enclave's host could certify any platform it wants."""
    content = b"".join(p.read_bytes() for p in (folder / "platform").iterdir())
    assert content.count(b"PRIVATE KEY-----") == 2  # BEGIN and END of one
    issued = (world.intel.root, world.intel.platform_ca, world.intel.tcb_signer, world.platform.pck)
    for key in (i.ec_key for i in issued):
        secret = key.private_numbers().private_value.to_bytes(32, "big")
        assert secret.hex().encode() not in content
        assert _pem(key) not in content
    assert _pem(world.platform.attestation_key) in content


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_what_was_written_is_read_back(world: World, folder: Path) -> None:
    intel, platform = read(folder, AT)
    assert intel.anchors() == world.intel.anchors()
    assert platform.tcb == world.platform.tcb
    assert platform.quote() == world.platform.quote()
    assert intel.collateral(platform) == world.intel.collateral(world.platform)


def test_a_platform_of_the_processor_ca_is_read_back(tmp_path: Path) -> None:
    world = World.create(processor=True)
    write(world.intel, world.platform, tmp_path)
    intel, platform = read(tmp_path, AT)
    assert intel.collateral(platform) == world.intel.collateral(world.platform)
    judge(tmp_path)


def test_an_existing_folder_with_content_is_left_alone(world: World, tmp_path: Path) -> None:
    """Overwriting a root would end every policy that names it."""
    (tmp_path / "notes").write_text("mine", "utf-8")
    with refused(SimulationFolderNotEmpty):
        write(world.intel, world.platform, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_a_second_run_does_not_replace_the_first(world: World, folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    other = World.create()
    with refused(SimulationFolderNotEmpty):
        write(other.intel, other.platform, folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_an_empty_folder_is_used(world: World, tmp_path: Path) -> None:
    write(world.intel, world.platform, tmp_path)
    judge(tmp_path)


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_stands_where_the_folder_should_be(world: World, tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine", "utf-8")
    with refused(FileNotWritten):
        write(world.intel, world.platform, file / below)
    assert file.read_text("utf-8") == "mine"


def test_collateral_ends_and_is_renewed_under_the_same_root(folder: Path) -> None:
    """Otherwise a policy that all have signed would end with its first bundle."""
    later = AT + 40 * DAY
    root = (folder / "root.txt").read_bytes()
    with refused(CollateralNotCurrent, check=QuoteCheck.VALIDITY):
        judge(folder, later)
    renew_collateral(folder, later)
    judge(folder, later)
    assert (folder / "root.txt").read_bytes() == root


@pytest.mark.parametrize("damage", [None, b"", b"garbage", b"{}", b"[]", b"[" * 100_000])
@pytest.mark.parametrize(
    "name",
    [
        "platform/attestation.key",
        "platform/quoting-enclave.json",
        "intel/root.key",
        "intel/root.crt",
        "intel/pck.crt",
    ],
)
def test_a_damaged_or_missing_file_is_named(folder: Path, name: str, damage: bytes | None) -> None:
    """None removes it. The refusal names the file, and quotes nothing of what it holds."""
    path = folder / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with refused(SimulationFolderUnusable) as refusal:
        renew_collateral(folder, AT)
    assert refusal.error.thing == str(path)


@pytest.mark.parametrize("kind", ["rsa", "p384", "encrypted"])
def test_a_key_of_another_kind_is_refused(folder: Path, kind: str) -> None:
    """Signing with it would give quotes that fail far away from their cause."""
    path = folder / "platform" / "attestation.key"
    if kind == "encrypted":
        key = load_pem_private_key(path.read_bytes(), None)
        form = BestAvailableEncryption(b"unknown")
        raw = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, form)
    else:
        other = rsa.generate_private_key(65537, 2048) if kind == "rsa" else None
        chosen = other or ec.generate_private_key(ec.SECP384R1())
        raw = chosen.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(raw)
    with refused(SimulationFolderUnusable):
        SimulatedAttester(folder / "platform", MR_ENCLAVE)


@pytest.mark.parametrize("member", ["header", "qe_report", "qe_report_signature", "qe_auth_data"])
def test_a_part_of_another_size_is_refused(folder: Path, member: str) -> None:
    """It would shift every byte after it."""
    path = folder / "platform" / "quoting-enclave.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {member: document[member] + "00"}), "utf-8")
    with refused(SimulationFolderUnusable):
        read_quoting_enclave(folder / "platform")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A platform's folder for the property tests, and what its file held at first."""
    folder = tmp_path_factory.mktemp("written")
    write(world.intel, world.platform, folder)
    return folder / "platform", (folder / "platform" / "quoting-enclave.json").read_bytes()


@settings(max_examples=60)
@given(raw=st.binary(max_size=64) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_stands_in_the_platforms_file_is_refused(
    written: tuple[Path, bytes], raw: bytes
) -> None:
    folder, _ = written
    (folder / "quoting-enclave.json").write_bytes(raw)
    with refused(SimulationFolderUnusable):
        read_quoting_enclave(folder)


@settings(max_examples=60)
@given(data=st.data())
def test_every_prefix_of_the_platforms_file_is_refused(
    written: tuple[Path, bytes], data: st.DataObject
) -> None:
    folder, whole = written
    end = data.draw(st.integers(0, len(whole.rstrip()) - 1))
    (folder / "quoting-enclave.json").write_bytes(whole[:end])
    with refused(SimulationFolderUnusable):
        read_quoting_enclave(folder)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_bug_of_the_caller(folder: Path, size: int) -> None:
    """Padding or cutting it in silence would quote something that nobody asked for."""
    attester = SimulatedAttester(folder / "platform", MR_ENCLAVE)
    with pytest.raises(ValueError, match="64 bytes"):
        attester.quote(bytes(size))
