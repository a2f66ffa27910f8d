"""`ratls verify eventlog`, as somebody who was shown a guest's log types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratls.cli_verify import app
from simulation.documents import instant
from simulation.event_log import CONFIG_FLAGS, EventForm, encode_log, guest_events
from simulation.intel import root_name
from simulation.trust_domain import MR_TD, GuestMeasurement
from tests.support.intel import AT, World
from tests.support.typed import Folder, typed

W = World.create()
CODE, OTHER = bytes(32), b"\1" * 32
GUEST = GuestMeasurement.of(CODE)
RTMRS = {f"rtmr{number}": value for number, value in enumerate(GUEST.rtmrs)}
QUOTE = W.platform.td_quote(bytes(64), mr_td=MR_TD, **RTMRS)


class Desk(Folder):
    """A folder with a log, a quote and collateral."""

    def run(self, *words: str, log: bytes = GUEST.log, exit_status: int = 0) -> str:
        common = ["eventlog", self.file("log.bin", log), *words]
        return typed(app, common, exit_status).output

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.run(*words, "--json", **options).splitlines()[-1])

    def quote(self, quote: bytes = QUOTE) -> tuple[str, str]:
        return "--quote", self.file("quote.bin", quote)

    def expected(self, log: bytes = GUEST.log) -> tuple[str, str]:
        return "--expected", self.file("good.bin", log)

    def verified(self) -> tuple[str, ...]:
        bundle = self.file("collateral.json", W.collateral(tdx=True).raw)
        root = root_name(W.intel.root)
        return "--collateral", bundle, "--root", root, "--at", instant(AT), "--allow-simulation"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def altered() -> bytes:
    """The log of the guest, one digest altered."""
    events = guest_events(CODE)
    at = next(i for i, event in enumerate(events) if event.kind == CONFIG_FLAGS)
    events[at] = EventForm(0, CONFIG_FLAGS, events[at].data, b"\x5a" * 48)
    return encode_log(events)


def test_a_true_log(desk: Desk) -> None:
    said = desk.run(*desk.quote())
    assert "log.bin: accepted" in said
    assert "the quote was not verified" in said
    assert "EV_EFI_ACTION" not in said
    assert '"Linux initrd"' in desk.run(*desk.quote(), "--events")
    told = desk.json(*desk.quote(), *desk.expected())
    assert (told["verdict"], told["quote_verified"], told["mode"]) == ("accepted", False, None)
    assert [register["equal"] for register in told["registers"]] == [True] * 4


def test_with_collateral_the_quote_is_verified_too(desk: Desk) -> None:
    assert "the quote is genuine" in desk.run(*desk.quote(), *desk.verified())
    told = desk.json(*desk.quote(), *desk.verified())
    assert (told["quote_verified"], told["mode"]) == (True, "simulation")
    forged = QUOTE[:640] + bytes([QUOTE[640] ^ 1]) + QUOTE[641:]
    told = desk.json(*desk.quote(forged), *desk.verified(), exit_status=4)
    assert told["error"]["code"] == "quote-signature-invalid"
    debug = W.platform.td_quote(bytes(64), td_attributes=1, mr_td=MR_TD, **RTMRS)
    desk.run(*desk.quote(debug), *desk.verified(), exit_status=6)


def test_a_platform_that_is_out_of_date_needs_to_be_accepted(desk: Desk) -> None:
    """As by `verify quote`, in the same words."""
    old = W.platform.td_quote(bytes(64), tee_tcb_svn=bytes((2, 1, 2, *bytes(13))), **RTMRS)
    told = desk.json(*desk.quote(old), *desk.verified(), exit_status=6)
    assert told["error"]["code"] == "tcb-status-unaccepted"
    more = ("--accept-status", "OutOfDate", "--accept-advisory", "INTEL-SA-99996")
    told = desk.json(*desk.quote(old), *desk.verified(), *more)
    assert (told["verdict"], told["tcb_status"]) == ("accepted", "OutOfDate")


def test_a_simulated_quote_needs_to_be_allowed(desk: Desk) -> None:
    """X05."""
    words = [word for word in desk.verified() if word != "--allow-simulation"]
    told = desk.json(*desk.quote(), *words, exit_status=6)
    assert told["error"]["code"] == "simulation-not-allowed"
    told = desk.json(*desk.quote(), *words[:2], "--at", instant(AT), exit_status=4)
    assert told["error"]["code"] == "root-untrusted"


def test_an_altered_event_is_named(desk: Desk) -> None:
    said = desk.run(*desk.quote(), *desk.expected(), log=altered(), exit_status=4)
    assert '  event 7 EV_PLATFORM_CONFIG_FLAGS "ACPI DATA"' in said.splitlines()
    told = desk.json(*desk.quote(), *desk.expected(), log=altered(), exit_status=4)
    assert told["error"]["code"] == "measured-event-differs"
    assert told["difference"]["found"]["number"] == 7
    told = desk.json(*desk.quote(), log=altered(), exit_status=4)
    assert (told["error"]["code"], told["difference"]) == ("register-not-replayed", None)


def test_a_true_log_of_another_guest(desk: Desk) -> None:
    other = GuestMeasurement.of(OTHER)
    rtmrs = {f"rtmr{number}": value for number, value in enumerate(other.rtmrs)}
    quote = W.platform.td_quote(bytes(64), mr_td=MR_TD, **rtmrs)
    told = desk.json(*desk.quote(quote), *desk.expected(), log=other.log, exit_status=6)
    assert told["error"]["code"] == "event-not-expected"
    assert told["difference"]["found"]["about"] == "Linux initrd"


def test_a_genuine_log_and_registers_of_its_guest(desk: Desk, vectors: Path) -> None:
    """The same guest's TDREPORT, in which RTMR0 to RTMR3 stand at byte 720; and a quote of another
    guest on the same machine and kernel, with another command line or initrd."""
    field = vectors / "field"
    log = (field / "no-quotes" / "ccel.bin").read_bytes()
    report = (field / "no-quotes" / "tdreport.bin").read_bytes()
    values = [report[at : at + 48].hex() for at in range(720, 912, 48)]
    words = [word for n, value in enumerate(values) for word in (f"--rtmr{n}", value)]
    told = desk.json(*words, log=log)
    assert [register["equal"] for register in told["registers"]] == [True] * 4
    quote = str(field / "quotes" / "3ab56d67.bin")
    told = desk.json("--quote", quote, log=log, exit_status=4)
    assert [register["equal"] for register in told["registers"]] == [True, True, False, True]
    assert told["error"]["code"] == "register-not-replayed"


def test_registers_instead_of_a_quote(desk: Desk) -> None:
    words = [w for n, v in enumerate(GUEST.rtmrs) for w in (f"--rtmr{n}", v.hex())]
    assert desk.json(*words)["quote_verified"] is None
    assert "accepted" in desk.run(*words[:6])  # RTMR3 has no event
    told = desk.json(*words[:4], exit_status=5)
    assert told["error"]["code"] == "register-not-given"


def test_what_is_no_log_or_no_guests_quote(desk: Desk) -> None:
    words = desk.quote()
    assert desk.json(*words, log=QUOTE, exit_status=3)["error"]["code"] == "event-log-unsupported"
    cut = GUEST.log[:500]
    assert desk.json(*words, log=cut, exit_status=3)["error"]["code"] == "event-log-malformed"
    told = desk.json(*desk.quote(W.quote()), exit_status=3)
    assert told["error"]["code"] == "quote-unsupported"
    lying = guest_events(CODE)
    at = next(i for i, event in enumerate(lying) if event.digest is None)
    lying[at] = EventForm(0, lying[at].kind, b"something else", b"\1" * 48)
    told = desk.json(*words, *desk.expected(encode_log(lying)), exit_status=4)
    assert told["error"]["code"] == "event-data-altered"
    assert "good.bin" in told["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--rtmr0", "00"],
        ["--rtmr0", "zz" * 48],
        ["--rtmr0", "00" * 47 + " 0"],
        ["--quote", "q.bin", "--rtmr0", "00" * 48],
        ["--rtmr0", "00" * 48, "--collateral", "c.json"],
        ["--quote", "q.bin", "--root", "intel"],
        ["--quote", "q.bin", "--at", "0"],
        ["--quote", "q.bin", "--accept-status", "OutOfDate"],
    ],
)
def test_words_that_do_not_go_together(desk: Desk, words: list[str]) -> None:
    desk.run(*words, exit_status=2)
