"""The attester of production: what it makes of Gramine's device, and of a device that lies."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ratls.claims import CertificateClaims, ChallengeClaims
from ratls.errors import AttesterMixedUp
from ratls.evidence import Evidence
from ratls.gramine import (
    DEVICE,
    AttestationDevice,
    AttestationDeviceUnusable,
    GramineAttester,
    QuoteNotMade,
    QuoteOfAnotherEnclave,
    RemoteAttestationOff,
    SgxAbsent,
)
from ratls.identity import EnclaveIdentity
from simulation.quote import ReportForm
from tests.support.flight_peers import NOW
from tests.support.gramine import MR_ENCLAVE, StandInDevice
from tests.support.intel import World
from tests.support.refusal import count_refusal, refused
from verifier.anchors import Mode
from verifier.errors import RatlsError
from verifier.quote import Quote, QuoteMalformed, QuoteUnsupported

ASKED = bytes(range(64))


def test_quote_over_exactly_what_was_asked(world: World) -> None:
    """It comes in pieces, has no size known beforehand, and each call has a new one made."""
    device = StandInDevice(world.platform)
    attester = GramineAttester(device.files)
    report = Quote.parse(attester.quote(ASKED)).report
    assert (report.report_data, report.mr_enclave.value) == (ASKED, MR_ENCLAVE)
    assert Quote.parse(attester.quote(bytes(64))).report.report_data == bytes(64)
    assert (device.made, device.open_files) == (2, {})
    assert attester.mode is Mode.PRODUCTION


def test_zero_bytes_after_the_quote_are_not_part_of_it(world: World) -> None:
    """Producers pad; inside evidence one byte too many is refused."""
    device = StandInDevice(world.platform)
    device.answer = lambda data: device.genuine(data) + bytes(70)
    Quote.parse(GramineAttester(device.files).quote(ASKED))


def test_an_enclave_of_production_has_its_identity_from_this_device(world: World) -> None:
    """From the keys to the answer on a challenge, with nothing between but the device."""
    attester = GramineAttester(StandInDevice(world.platform).files)
    identity = EnclaveIdentity.create(attester, bytes(32), at=NOW)
    evidence = Evidence.parse(identity.answer_challenge(ASKED[:32], bytes(32), bytes(32)))
    evidence.require_bound()
    claims = ChallengeClaims.parse(evidence.claims)
    assert (claims.nonce, claims.mode) == (ASKED[:32], b"production")
    assert isinstance(claims, CertificateClaims)


def test_fifty_threads_on_two_attesters_get_their_own_quotes(world: World) -> None:
    """B19: what is to be quoted is one variable of the process, not of an attester."""
    device = StandInDevice(world.platform)
    attesters = [GramineAttester(device.files) for _ in range(2)]
    together = threading.Barrier(50)

    def ask(number: int) -> bytes:
        together.wait()
        return attesters[number % 2].quote(bytes([number]) * 64)

    with ThreadPoolExecutor(50) as threads:
        quotes = list(threads.map(ask, range(50)))
    for number, quote in enumerate(quotes):
        assert Quote.parse(quote).report.report_data == bytes([number]) * 64
    assert device.open_files == {}


def test_true_files_are_read_and_written_as_well(world: World, tmp_path: Path) -> None:
    """The stand-in replaces four calls of `os`; here they are the real ones."""
    report = ReportForm(mr_enclave=MR_ENCLAVE).encode() + bytes(48)
    (tmp_path / "report").write_bytes(report)
    (tmp_path / "attestation_type").write_bytes(b"dcap")
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    (tmp_path / "quote").write_bytes(StandInDevice(world.platform).genuine(ASKED))
    attester = GramineAttester(AttestationDevice(tmp_path))
    assert Quote.parse(attester.quote(ASKED)).report.report_data == ASKED
    assert (tmp_path / "user_report_data").read_bytes() == ASKED
    with refused(AttesterMixedUp):  # a file that stays as it is: not made for this request
        attester.quote(bytes(64))


def test_a_machine_without_the_device() -> None:
    """X07: the real calls, on whatever machine runs this test; no test runs in an enclave."""
    assert not DEVICE.exists()
    with refused(SgxAbsent):
        GramineAttester()


@pytest.mark.parametrize(
    ("wrong", "leaf"),
    [
        ({"kind": None}, SgxAbsent),
        ({"kind": "none"}, RemoteAttestationOff),
        ({"kind": "epid"}, RemoteAttestationOff),
        ({"kind": ""}, RemoteAttestationOff),
        ({"kind": "dcap\n"}, RemoteAttestationOff),
        ({"refuses": {"report": errno.EACCES}}, QuoteNotMade),
        ({"refuses": {"report": errno.EIO}}, AttestationDeviceUnusable),
        ({"refuses": {"attestation_type": errno.ENOENT}}, SgxAbsent),
        ({"breaks": "report"}, AttestationDeviceUnusable),
        ({"report": lambda raw: raw[:-1]}, AttestationDeviceUnusable),
        ({"report": lambda raw: raw + b"\0"}, AttestationDeviceUnusable),
        ({"report": lambda raw: b""}, AttestationDeviceUnusable),
        ({"report": lambda raw: bytes(1 << 20)}, AttestationDeviceUnusable),
    ],
)
def test_no_attester_is_had_where_none_could_answer(
    world: World, wrong: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """X07: the host may start the enclave under gramine-direct, which looks the same but for
    these files. Fail at start, before a key exists, and never serve without evidence."""
    device = StandInDevice(world.platform, **wrong)
    with refused(leaf):
        GramineAttester(device.files)
    assert device.open_files == {}


@pytest.mark.parametrize(
    ("wrong", "leaf"),
    [
        ({"refuses": {"quote": errno.EACCES}}, QuoteNotMade),  # AESM; the cause is on the host
        ({"refuses": {"quote": errno.ENOENT}}, RemoteAttestationOff),
        ({"refuses": {"quote": errno.EINTR}}, AttestationDeviceUnusable),
        ({"refuses": {"user_report_data": errno.EACCES}}, QuoteNotMade),
        ({"refuses": {"user_report_data": errno.ENOENT}}, SgxAbsent),
        ({"breaks": "quote"}, AttestationDeviceUnusable),
        ({"taken": 63}, AttestationDeviceUnusable),
        ({"taken": 0}, AttestationDeviceUnusable),
        ({"answer": lambda data: bytes(8193)}, AttestationDeviceUnusable),
        ({"answer": lambda data: b""}, QuoteMalformed),
        ({"answer": lambda data: bytes(4700)}, QuoteMalformed),
    ],
)
def test_no_quote_is_had(world: World, wrong: dict[str, Any], leaf: type[RatlsError]) -> None:
    """Each failure has its own name: where to look differs. No descriptor stays open."""
    device = StandInDevice(world.platform)
    attester = GramineAttester(device.files)
    for name, value in wrong.items():
        setattr(device, name, value)
    with refused(leaf):
        attester.quote(ASKED)
    assert device.open_files == {}


Lie = Callable[[StandInDevice, bytes], bytes]


@pytest.mark.parametrize(
    ("lie", "leaf"),
    [
        (lambda d, data: d.genuine(bytes(64)), AttesterMixedUp),  #      one from yesterday
        (lambda d, data: d.genuine(data[:32] + bytes(32)), AttesterMixedUp),
        (lambda d, data: d.genuine(bytes(32) + data[32:]), AttesterMixedUp),
        (lambda d, data: d.platform.quote(data), QuoteOfAnotherEnclave),
        (lambda d, data: d.platform.quote(data, mr_enclave=bytes(32)), QuoteOfAnotherEnclave),
        (lambda d, data: d.genuine(data)[:-1], QuoteMalformed),
        (lambda d, data: d.genuine(data) + b"\1", QuoteMalformed),
        (lambda d, data: b"\4" + d.genuine(data)[1:], QuoteUnsupported),
    ],
)
def test_host_answers_with_another_quote(world: World, lie: Lie, leaf: type[RatlsError]) -> None:
    """Gramine passes on what the host's service answered: whose it is, we look ourselves."""
    device = StandInDevice(world.platform)
    attester = GramineAttester(device.files)
    device.answer = lambda data: lie(device, data)
    with refused(leaf):
        attester.quote(ASKED)
    device.answer = None
    attester.quote(ASKED)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_bug_of_the_caller(world: World, size: int) -> None:
    """The device would pad or cut it without a word, and the quote would be over other bytes."""
    count_refusal()
    device = StandInDevice(world.platform)
    attester = GramineAttester(device.files)
    with pytest.raises(ValueError, match="64 bytes"):
        attester.quote(bytes(size))
    assert device.made == 0
