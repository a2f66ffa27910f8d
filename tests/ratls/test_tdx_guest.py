"""The attester of a TDX guest: what it makes of the kernel's files, and of a host that lies."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ratls.attester import stated_events
from ratls.claims import CertificateClaims, ChallengeClaims
from ratls.errors import AttesterMixedUp
from ratls.evidence import Evidence
from ratls.gramine import QuoteNotMade
from ratls.identity import EnclaveIdentity
from ratls.tdx_guest import (
    REPORTS,
    QuoteOfAnotherDomain,
    ReportFolder,
    RunTimeEventsUnfit,
    TdxAbsent,
    TdxAttester,
    TdxNotPermitted,
    TdxReportBusy,
    TdxReportUnusable,
)
from tests.support.flight_peers import NOW
from tests.support.intel import World
from tests.support.refusal import count_refusal, refused
from tests.support.tsm import StandInKernel
from verifier.anchors import Mode
from verifier.errors import RatlsError
from verifier.event_log import replay
from verifier.files import FileUnreadable
from verifier.quote import Quote, QuoteMalformed, QuoteUnsupported

ASKED = bytes(range(64))
OTHER = b"\x77" * 48


def registers(raw: bytes) -> Any:
    return Quote.parse(raw).report


def test_quote_over_exactly_what_was_asked(world: World) -> None:
    """Each call is a request of its own, in a folder of its own that it removes."""
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    assert registers(attester.quote(ASKED)).report_data == ASKED
    assert registers(attester.quote(ASKED)).report_data == ASKED
    assert (kernel.made, kernel.open_files, kernel.entries) == (3, {}, {})
    assert len(set(kernel.names)) == 3
    assert all(name.startswith("ratls-") for name in kernel.names)
    assert attester.mode is Mode.PRODUCTION


def test_zero_bytes_after_the_quote_are_not_part_of_it(world: World) -> None:
    """Producers pad; inside evidence one byte too many is refused."""
    kernel = StandInKernel(world.platform)
    kernel.answer = lambda data: kernel.genuine(data) + bytes(3000)
    Quote.parse(TdxAttester(kernel.folder).quote(ASKED))


def test_a_guest_of_production_has_its_identity_from_these_files(world: World) -> None:
    attester = TdxAttester(StandInKernel(world.platform).folder)
    identity = EnclaveIdentity.create(attester, bytes(32), at=NOW)
    evidence = Evidence.parse(identity.answer_challenge(ASKED[:32], bytes(32), bytes(32)))
    evidence.require_bound()
    claims = ChallengeClaims.parse(evidence.claims)
    assert (claims.nonce, claims.mode) == (ASKED[:32], b"production")
    assert isinstance(claims, CertificateClaims)


def test_fifty_threads_on_two_attesters_get_their_own_quotes(world: World) -> None:
    """B19: one request of the whole guest is with the host at a time; a second one is an error."""
    kernel = StandInKernel(world.platform)
    attesters = [TdxAttester(kernel.folder) for _ in range(2)]
    together = threading.Barrier(50)

    def ask(number: int) -> bytes:
        together.wait()
        return attesters[number % 2].quote(bytes([number]) * 64)

    with ThreadPoolExecutor(50) as threads:
        quotes = list(threads.map(ask, range(50)))
    for number, quote in enumerate(quotes):
        assert registers(quote).report_data == bytes([number]) * 64
    assert (kernel.open_files, kernel.entries, kernel.waited) == ({}, {}, [])


def test_a_machine_without_the_interface() -> None:
    """X07: the real calls, on whatever machine runs this test; no test runs in a guest."""
    assert not REPORTS.exists()
    with refused(TdxAbsent):
        TdxAttester()
    with refused(TdxAbsent):
        ReportFolder().quote(ASKED)


WRONG: list[tuple[dict[str, Any], type[RatlsError]]] = [
    ({"refuses": {"mkdir": errno.ENOENT}}, TdxAbsent),  #  no configfs, or an older kernel
    ({"refuses": {"mkdir": errno.ENXIO}}, TdxAbsent),  #   no provider is registered
    ({"refuses": {"mkdir": errno.EACCES}}, TdxNotPermitted),
    ({"refuses": {"mkdir": errno.EPERM}}, TdxNotPermitted),
    ({"refuses": {"mkdir": errno.EEXIST}}, TdxReportUnusable),
    ({"refuses": {"mkdir": errno.EROFS}}, TdxReportUnusable),
    ({"provider": "sev_guest"}, TdxAbsent),
    ({"provider": "arm_cca_guest"}, TdxAbsent),
    ({"provider": "tdx_guest_too"}, TdxAbsent),
    ({"provider": ""}, TdxAbsent),
    ({"refuses": {"provider": errno.EIO}}, QuoteNotMade),
    ({"refuses": {"outblob": errno.ENOTTY}}, TdxAbsent),  # the provider has gone meanwhile
    ({"refuses": {"outblob": errno.EINVAL}}, TdxReportUnusable),
    ({"refuses": {"outblob": errno.EFBIG}}, TdxReportUnusable),
    ({"refuses": {"outblob": errno.ETIMEDOUT}}, QuoteNotMade),
    ({"refuses": {"outblob": errno.EIO}}, QuoteNotMade),
    ({"refuses": {"outblob": errno.EBUSY}}, TdxReportBusy),
    ({"refuses": {"outblob": errno.EINTR}}, TdxReportBusy),
    ({"refuses": {"outblob": errno.EAGAIN}}, AttesterMixedUp),
    ({"refuses": {"inblob": errno.EFBIG}}, TdxReportUnusable),
    ({"refuses": {"inblob": errno.EAGAIN}}, AttesterMixedUp),
    ({"taken": 63}, TdxReportUnusable),
    ({"taken": 0}, TdxReportUnusable),
    ({"drops": True}, TdxReportUnusable),  # nothing to quote over: EINVAL, at the read
    ({"racing": 1}, AttesterMixedUp),
    ({"racing": 3}, AttesterMixedUp),
    ({"counter": "7"}, AttesterMixedUp),  #  a write of ours that was not counted
    ({"counter": "many"}, TdxReportUnusable),
    ({"counter": "-1"}, TdxReportUnusable),
    ({"counter": ""}, TdxReportUnusable),
    ({"answer": lambda data: b""}, QuoteNotMade),  # an error of the host's service
    ({"answer": lambda data: bytes(5000)}, QuoteMalformed),
    ({"answer": lambda data: bytes(65537)}, TdxReportUnusable),
]


@pytest.mark.parametrize(("wrong", "leaf"), WRONG)
def test_no_attester_is_had_where_none_could_answer(
    world: World, wrong: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """X07: fail at start, before a key exists, and never serve without evidence."""
    kernel = StandInKernel(world.platform, **wrong)
    with refused(leaf):
        TdxAttester(kernel.folder)
    assert (kernel.open_files, kernel.entries) == ({}, {})


@pytest.mark.parametrize(("wrong", "leaf"), WRONG)
def test_no_quote_is_had(world: World, wrong: dict[str, Any], leaf: type[RatlsError]) -> None:
    """The same of a guest that was well when it started; then it recovers."""
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    before = {name: getattr(kernel, name) for name in wrong}
    for name, value in wrong.items():
        setattr(kernel, name, value)
    with refused(leaf):
        attester.quote(ASKED)
    assert (kernel.open_files, kernel.entries) == ({}, {})
    for name, value in before.items():
        setattr(kernel, name, value)
    assert registers(attester.quote(ASKED)).report_data == ASKED


def test_an_earlier_request_that_the_host_answers_at_last(world: World) -> None:
    """After a signal or a timeout the kernel's one buffer is the host's until it answers."""
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    kernel.busy = 9
    assert registers(attester.quote(ASKED)).report_data == ASKED
    assert kernel.waited == [0.5] * 9
    kernel.busy = 10
    with refused(TdxReportBusy):
        attester.quote(ASKED)


def test_a_folder_that_stays_does_no_harm(world: World) -> None:
    kernel = StandInKernel(world.platform, refuses={"rmdir": errno.EBUSY})
    attester = TdxAttester(kernel.folder)
    assert registers(attester.quote(ASKED)).report_data == ASKED


Lie = Callable[[StandInKernel, bytes], bytes]


@pytest.mark.parametrize(
    ("lie", "leaf"),
    [
        (lambda k, data: k.genuine(bytes(64)), AttesterMixedUp),  # one from yesterday
        (lambda k, data: k.genuine(data[:32] + bytes(32)), AttesterMixedUp),
        (lambda k, data: k.genuine(bytes(32) + data[32:]), AttesterMixedUp),
        *(
            (lambda k, data, n=name: k.platform.td_quote(data, **{n: OTHER}), QuoteOfAnotherDomain)
            for name in (
                *("mr_td", "rtmr0", "rtmr1", "rtmr2"),
                *("mr_config_id", "mr_owner", "mr_owner_config"),
            )
        ),
        (lambda k, data: k.platform.td_quote(data, td_attributes=1), QuoteOfAnotherDomain),
        (lambda k, data: k.platform.td_quote(data, xfam=3), QuoteOfAnotherDomain),
        (lambda k, data: k.platform.quote(data), QuoteUnsupported),  # of the host's enclave
        (lambda k, data: k.genuine(data)[:-1], QuoteMalformed),
        (lambda k, data: k.genuine(data) + b"\1", QuoteMalformed),
        (lambda k, data: b"\3" + k.genuine(data)[1:], QuoteUnsupported),
    ],
)
def test_host_answers_with_another_quote(world: World, lie: Lie, leaf: type[RatlsError]) -> None:
    """B24: the kernel passes on what the host's service answered; whose it is, we look."""
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    kernel.answer = lambda data: lie(kernel, data)
    with refused(leaf):
        attester.quote(ASKED)
    kernel.answer = None
    attester.quote(ASKED)


OWN = {"mr_td": "mrtd:sha384", "mr_config_id": "mrconfigid", "mr_owner": "mrowner"}
OWN |= {"mr_owner_config": "mrownerconfig"} | {f"rtmr{n}": f"rtmr{n}:sha384" for n in range(3)}


def own_registers(world: World) -> dict[str, bytes]:
    report = registers(world.platform.td_quote())
    return {file: getattr(report, name) for name, file in OWN.items()}


def test_registers_that_the_kernel_itself_tells(world: World) -> None:
    """Since Linux 6.16 the first quote is held against them, too."""
    kernel = StandInKernel(world.platform, own=own_registers(world))
    assert registers(TdxAttester(kernel.folder).quote(ASKED)).report_data == ASKED
    assert kernel.open_files == {}


@pytest.mark.parametrize("file", sorted(OWN.values()))
def test_host_answers_with_another_quote_from_the_start(world: World, file: str) -> None:
    """The first quote already is of another guest, over the very bytes that were asked."""
    own = own_registers(world)
    with refused(QuoteOfAnotherDomain):
        TdxAttester(StandInKernel(world.platform, own=own | {file: OTHER}).folder)
    with refused(TdxReportUnusable):
        TdxAttester(StandInKernel(world.platform, own=own | {file: OTHER[1:]}).folder)


def test_some_registers_and_not_the_others(world: World) -> None:
    own = own_registers(world)
    del own["mrowner"]
    with refused(TdxAbsent):
        TdxAttester(StandInKernel(world.platform, own=own).folder)


def test_events_of_run_time_are_stated_from_a_file(world: World, tmp_path: Path) -> None:
    """A policy may list them; whoever extends RTMR3 writes them down, and they are read anew."""
    first, second = b"\1" * 48, b"\2" * 48
    kernel, file = StandInKernel(world.platform), tmp_path / "rtmr3"
    file.write_text(f"{first.hex()}\n", "ascii")
    kernel.answer = lambda data: kernel.platform.td_quote(data, rtmr3=replay([first]))
    attester = TdxAttester(kernel.folder, events=file)
    assert stated_events(attester) == (first,)
    file.write_text(f"{first.hex()}\n{second.hex()}\n", "ascii")
    assert stated_events(attester) == (first, second)
    assert stated_events(TdxAttester(kernel.folder)) is None


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        ("", RunTimeEventsUnfit),
        (f"{'02' * 48}\n", RunTimeEventsUnfit),  # others than those that were measured
        (f"{'01' * 48}\n" * 2, RunTimeEventsUnfit),
        (f"{'01' * 48}\n\n", RunTimeEventsUnfit),
        (f"{'01' * 47}\n", RunTimeEventsUnfit),
        (f" {'01' * 48}\n", RunTimeEventsUnfit),
        (f"{'01' * 48}\n" * 33, RunTimeEventsUnfit),
        ("\u00e9\n", RunTimeEventsUnfit),
        (None, FileUnreadable),
    ],
)
def test_events_that_do_not_explain_the_register(
    world: World, tmp_path: Path, text: str | None, leaf: type[RatlsError]
) -> None:
    """Every party would refuse such evidence: it is said where it can be mended."""
    kernel, file = StandInKernel(world.platform), tmp_path / "rtmr3"
    kernel.answer = lambda data: kernel.platform.td_quote(data, rtmr3=replay([b"\1" * 48]))
    if text is not None:
        file.write_text(text, "utf-8")
    with refused(leaf):
        TdxAttester(kernel.folder, events=file)


def test_what_may_change_while_a_guest_runs(world: World) -> None:
    """RTMR3 is extended at run time, and the module beneath it is updated."""
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    kernel.answer = lambda data: kernel.platform.td_quote(
        data, version=5, rtmr3=OTHER, tee_tcb_svn_2=bytes((6, 1, 2, *bytes(13)))
    )
    assert registers(attester.quote(ASKED)).rtmr3 == OTHER


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_bug_of_the_caller(world: World, size: int) -> None:
    """The kernel would refuse it where the quote is read, or take the length for its own fault."""
    count_refusal()
    kernel = StandInKernel(world.platform)
    attester = TdxAttester(kernel.folder)
    with pytest.raises(ValueError, match="64 bytes"):
        attester.quote(bytes(size))
    assert kernel.made == 1
