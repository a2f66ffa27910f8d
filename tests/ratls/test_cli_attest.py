"""`ratls attest quote`, as somebody who wants to see what a machine says of itself types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratls import gramine, tdx_guest
from ratls.cli_attest import app
from simulation import folder
from simulation.attester import SimulatedAttester
from tests.support.gramine import MR_ENCLAVE, StandInDevice
from tests.support.intel import World
from tests.support.refusal import count_refusal
from tests.support.tsm import StandInKernel
from tests.support.typed import typed
from verifier.quote import Quote
from verifier.verify import verify_quote

DATA = bytes(range(64))


def attest(tmp_path: Path, *words: str, status: int = 0, data: bytes = DATA) -> Any:
    common = ["quote", "--report-data", data.hex(), "-o", tmp_path / "q.bin", "--json", *words]
    return json.loads(typed(app, common, status).output.splitlines()[-1])


def in_a_guest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attester = tdx_guest.TdxAttester
    stand_in = StandInKernel(world.platform).folder
    monkeypatch.setattr(tdx_guest, "TdxAttester", lambda **given: attester(stand_in, **given))


@pytest.mark.parametrize("words", [[], ["--attester", "tdx"]])
def test_in_a_tdx_guest(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """The quote is one that the verifier takes; the answer says what is in it."""
    in_a_guest(world, monkeypatch)
    told = attest(tmp_path, *words)
    raw = (tmp_path / "q.bin").read_bytes()
    verified = verify_quote(
        raw, world.collateral(tdx=True), roots=world.intel.anchors(), at=world.at
    )
    assert verified.quote.report.report_data == DATA
    assert (told["tee"], told["quote_version"], told["mode"]) == ("tdx", 4, "production")
    assert told["measurement"]["report_data"] == DATA.hex()
    assert told["size"] == len(raw)


@pytest.mark.parametrize("words", [[], ["--attester", "gramine"]])
def test_in_an_enclave_under_gramine(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    attester, device = gramine.GramineAttester, StandInDevice(world.platform).files
    monkeypatch.setattr(gramine, "GramineAttester", lambda: attester(device))
    monkeypatch.setattr(gramine, "DEVICE", tmp_path)  # a folder that exists
    told = attest(tmp_path, *words)
    assert (told["tee"], told["quote_version"]) == ("sgx", 3)
    assert told["measurement"]["mr_enclave"] == MR_ENCLAVE.hex()


@pytest.mark.parametrize(("place", "tee"), [("platform", "sgx"), ("trust-domain", "tdx")])
def test_in_a_simulation(world: World, tmp_path: Path, place: str, tee: str) -> None:
    folder.write(world.intel, world.platform, tmp_path / "intel")
    name = f"simulation:{tmp_path / 'intel' / place}"
    told = attest(tmp_path, "--attester", name, "--allow-simulation")
    assert (told["tee"], told["mode"]) == (tee, "simulation")
    told = attest(tmp_path, "--attester", name, status=6)
    assert told["error"]["code"] == "simulation-not-allowed"


def test_on_any_other_machine(tmp_path: Path) -> None:
    """X07: nothing is made up where there is no hardware."""
    for words, code in (
        ([], "tdx-absent"),
        (["--attester", "tdx"], "tdx-absent"),
        (["--attester", "gramine"], "sgx-absent"),
        (["--attester", "sgx"], "attester-unknown"),
    ):
        assert attest(tmp_path, *words, status=3)["error"]["code"] == code
    assert not (tmp_path / "q.bin").exists()


def test_no_evidence_is_made_by_this_command(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B25: evidence is a quote over a digest and 32 zero bytes; whoever may run this command beside
    an enclave's code could otherwise bind a key of its own."""
    in_a_guest(world, monkeypatch)
    for data in (DATA[:32] + bytes(32), bytes(64)):
        told = attest(tmp_path, data=data, status=3)
        assert told["error"]["code"] == "report-data-reserved"
    assert not (tmp_path / "q.bin").exists()
    attest(tmp_path, data=bytes(63) + b"\1")


def test_a_file_that_exists_is_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_guest(world, monkeypatch)
    attest(tmp_path)
    first = (tmp_path / "q.bin").read_bytes()
    attest(tmp_path, status=3)
    assert (tmp_path / "q.bin").read_bytes() == first


@pytest.mark.parametrize("text", ["", "00", "zz" * 64, "00" * 65, "00 " + "00" * 62 + "0"])
def test_report_data_of_another_size(tmp_path: Path, text: str) -> None:
    count_refusal()
    typed(app, ["quote", "--report-data", text, "-o", tmp_path / "q.bin"], 2)


def test_for_people(world: World, tmp_path: Path) -> None:
    folder.write(world.intel, world.platform, tmp_path / "intel")
    name = f"simulation:{tmp_path}/intel/trust-domain"
    words = ["--report-data", DATA.hex(), "-o", tmp_path / "q.bin", "--attester", name]
    said = typed(app, ["quote", *words, "--allow-simulation"]).output
    assert "TDX quote of version 4" in said
    assert "not verified" in said
    made = SimulatedAttester(tmp_path / "intel" / "platform").quote(DATA)
    assert Quote.parse(made).report.report_data == DATA
