"""T13, T16, T18: which level a platform has, and what it and the quoting enclave make together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from simulation.documents import qe_level, tcb_level
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import AT, DATE, World, put, with_status, world
from verifier import accept
from verifier.acceptance import StatusNeverAcceptable, TcbRevoked, TcbStatusUnaccepted
from verifier.parts import parts_of
from verifier.pck import PlatformTcb
from verifier.qe import QeTcbLevelUnmatched
from verifier.status import Short, Update, relaunch
from verifier.tcb import TcbLevel, TcbLevelUnmatched, TcbStatus, TcbVerdict, converge

W = world()
Level = tuple[Sequence[int], int, str]  # the first components, PCESVN, status


def levels(*entries: Level) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """TCB info with these levels; components not given are 0."""
    return put(
        tcbLevels=[
            tcb_level((*c, *(0,) * (16 - len(c))), pce, date=DATE, status=s)
            for c, pce, s in entries
        ]
    )


def judge(components: Sequence[int], pce_svn: int, *entries: Level) -> TcbVerdict:
    w = World(
        W.intel,
        W.intel.platform(components=(*components, *(0,) * (16 - len(components))), pce_svn=pce_svn),
    )
    return w.verify(collateral=w.collateral(tcb_info=levels(*entries))).tcb


NEW, OLD = (3, 3, 3), (2, 2, 2)


@pytest.mark.parametrize(
    ("components", "pce_svn", "entries", "status"),
    [
        pytest.param(NEW, 9, [(NEW, 9, "UpToDate"), (OLD, 5, "Revoked")], "UpToDate", id="N181"),
        pytest.param(NEW, 9, [(NEW, 9, "Revoked"), (OLD, 5, "UpToDate")], "Revoked", id="N182"),
        pytest.param(
            (3, 2, 3), 9, [(NEW, 9, "UpToDate"), (OLD, 5, "Revoked")], "Revoked", id="N184"
        ),
        pytest.param(NEW, 8, [(NEW, 9, "UpToDate"), (OLD, 5, "Revoked")], "Revoked", id="N185"),
        pytest.param(
            (1, 1, 1),
            5,
            [(NEW, 9, "UpToDate"), (OLD, 5, "Revoked"), ((1, 1, 1), 5, "OutOfDate")],
            "OutOfDate",
            id="N186",
        ),
        pytest.param(
            (1, 3, 2),
            9,
            [((1, 2, 3), 9, "UpToDate"), ((1, 2, 2), 9, "OutOfDate")],
            "OutOfDate",
            id="N187",
        ),
        pytest.param((9, 9, 9), 99, [(NEW, 9, "UpToDate")], "UpToDate", id="newer-than-known"),
    ],
)
def test_first_level_reached_in_every_component_counts(
    components: Sequence[int], pce_svn: int, entries: list[Level], status: str
) -> None:
    """T16: in whatever order the levels come; a higher level that is not reached says nothing."""
    for order in permutations(entries):
        assert judge(components, pce_svn, *order).status == status


@pytest.mark.parametrize(
    ("components", "pce_svn"),
    [
        pytest.param((1, 1, 1), 99, id="N183-PCE-alone-is-newer"),
        pytest.param((9, 9, 1), 9, id="N187-one-component-older"),
        pytest.param((9, 9, 9), 4, id="PCE-older"),
    ],
)
def test_platform_below_every_level(components: Sequence[int], pce_svn: int) -> None:
    """Nothing is known about such a platform; it is no kind of `OutOfDate`."""
    with refused(TcbLevelUnmatched, check="tcb-level"):
        judge(components, pce_svn, (NEW, 9, "UpToDate"), (OLD, 5, "OutOfDate"))


def test_qe_below_every_level() -> None:
    """N151."""
    with refused(QeTcbLevelUnmatched, check="qe-level"):
        W.verify(quote=W.quote(qe_report=lambda r: replace(r, isv_svn=5)))


def qe_status(status: str) -> Any:
    return put(tcbLevels=[qe_level(1, date=DATE, status=status, advisories=["INTEL-SA-00001"])])


@pytest.mark.parametrize("order", list(permutations([8, 6, 3])), ids=str)
def test_order_of_qe_levels_does_not_matter(order: tuple[int, ...]) -> None:
    """N191: the highest that is reached counts, wherever it stands."""
    words = {8: "UpToDate", 6: "OutOfDate", 3: "Revoked"}
    identity = put(tcbLevels=[qe_level(n, date=DATE, status=words[n]) for n in order])
    verified = W.verify(
        collateral=W.collateral(qe_identity=identity),
        quote=W.quote(qe_report=lambda r: replace(r, isv_svn=7)),
    )
    assert verified.tcb.qe_status is TcbStatus.OUT_OF_DATE


S = TcbStatus
CONVERGENCE = {  # platform: (with an outdated QE)
    S.UP_TO_DATE: S.OUT_OF_DATE,
    S.SW_HARDENING_NEEDED: S.OUT_OF_DATE,
    S.CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.OUT_OF_DATE: S.OUT_OF_DATE,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.REVOKED: S.REVOKED,
}


@pytest.mark.parametrize("platform", CONVERGENCE)
def test_platform_and_quoting_enclave_make_one_status(platform: TcbStatus) -> None:
    """N188, N189: a configuration need survives an outdated QE; a revoked QE revokes all."""
    assert converge(platform, S.UP_TO_DATE) is platform
    assert converge(platform, S.OUT_OF_DATE) is CONVERGENCE[platform]
    assert converge(platform, S.REVOKED) is S.REVOKED


@pytest.mark.parametrize(
    ("status", "merged"),
    [
        ("UpToDate", "UpToDate"),
        ("OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate"),
        ("OutOfDateConfigurationNeeded", "OutOfDate"),
        ("Revoked", "Revoked"),
    ],
)
def test_status_of_the_quoting_enclave_is_merged_into_the_verdict(status: str, merged: str) -> None:
    """N152, N153, T18: an up-to-date platform with another quoting enclave."""
    verified = W.verify(collateral=W.collateral(qe_identity=qe_status(status)))
    assert (verified.tcb.platform_status, verified.tcb.status) == ("UpToDate", merged)
    assert verified.tcb.qe_status == merged  # an enclave has no configuration to be needed


def test_up_to_date_platform_is_accepted() -> None:
    """N180."""
    appraisal = accept(W.verify())
    assert appraisal.stopped_at is None
    assert [r.check for r in appraisal.records][-3:] == ["attributes", "tcb-status", "advisories"]


@pytest.mark.parametrize("status", [s for s in CONVERGENCE if s not in (S.UP_TO_DATE, S.REVOKED)])
def test_status_that_nobody_accepted_is_refused(status: TcbStatus) -> None:
    """N210, T13: and with exactly that status accepted, the twin passes."""
    verified = with_status(status)
    with refused(TcbStatusUnaccepted, check="tcb-status"):
        accept(verified)
    accept(verified, statuses=frozenset({status}))


def test_revoked_level_is_authentic_and_never_accepted() -> None:
    """N182, T13."""
    verified = with_status("Revoked")
    everything_else = frozenset(TcbStatus) - {S.REVOKED}
    with refused(TcbRevoked, check="tcb-status"):
        accept(verified, statuses=everything_else)


@pytest.mark.parametrize("statuses", [frozenset(), frozenset({S.REVOKED, S.UP_TO_DATE})])
def test_caller_asks_to_accept_revoked_or_nothing(statuses: frozenset[TcbStatus]) -> None:
    """N211: a mistake of the caller and no verdict about the quote."""
    with refused(StatusNeverAcceptable):
        accept(W.verify(), statuses=statuses)


def test_advisories_of_platform_and_qe_are_united() -> None:
    """N201: in order, without repeats; another verifier reported the platform's only."""
    tcb = W.platform.tcb
    level = tcb_level(
        tcb.components, tcb.pce_svn, date=DATE, status="OutOfDate", advisories=["A-2", "A-1"]
    )
    identity = put(
        tcbLevels=[
            qe_level(
                1,
                date=datetime(2025, 1, 1, tzinfo=UTC),
                status="OutOfDate",
                advisories=["A-1", "A-3"],
            )
        ]
    )
    collateral = W.collateral(tcb_info=put(tcbLevels=[level]), qe_identity=identity)
    tcb_verdict = W.verify(collateral=collateral).tcb
    assert tcb_verdict.advisory_ids == ("A-2", "A-1", "A-3")
    assert tcb_verdict.date == datetime(2025, 1, 1, tzinfo=UTC)


# How the status of a launch and of now become one, in every combination.


CONFIGURATION = {
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
OUTDATED = [S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED]
CURRENT = [
    S.UP_TO_DATE,
    S.SW_HARDENING_NEEDED,
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
]


@pytest.mark.parametrize("launch", OUTDATED)
@pytest.mark.parametrize("current", CURRENT)
def test_update_beneath_an_outdated_domain_advises_a_relaunch(
    launch: TcbStatus, current: TcbStatus
) -> None:
    """A configuration that either of them needs is not forgotten over it."""
    needs = launch in CONFIGURATION or current in CONFIGURATION
    advised = S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED if needs else S.TD_RELAUNCH_ADVISED
    assert relaunch(launch, current) is advised


@pytest.mark.parametrize("launch", OUTDATED)
@pytest.mark.parametrize("current", OUTDATED)
def test_relaunch_onto_what_is_outdated_too_would_not_help(
    launch: TcbStatus, current: TcbStatus
) -> None:
    assert relaunch(launch, current) is launch


@pytest.mark.parametrize("launch", CURRENT)
@pytest.mark.parametrize("current", [*CURRENT, *OUTDATED])
def test_launch_that_is_not_outdated_decides_alone(launch: TcbStatus, current: TcbStatus) -> None:
    """N197: the status is that of the launch; date and advisories are of both."""
    assert relaunch(launch, current) is launch


@pytest.mark.parametrize("other", [*CURRENT, *OUTDATED, S.REVOKED])
def test_what_runs_now_is_revoked(other: TcbStatus) -> None:
    """N196: however good the launch was, or however good what runs now: neither mends the other."""
    assert relaunch(other, S.REVOKED) is S.REVOKED
    assert relaunch(S.REVOKED, other) is S.REVOKED


# What separates a platform from the newest level: exactly that, and nothing that is equal.


HAS = W.platform.tcb


def behind(components: Sequence[int], pce_svn: int) -> tuple[Short, ...]:
    """What the platform lacks where the newest level asks for this."""
    newest = tcb_level(components, pce_svn, date=DATE)
    own = tcb_level(HAS.components, HAS.pce_svn, date=DATE, status="OutOfDate")
    levels = [newest] if (tuple(components), pce_svn) == (HAS.components, HAS.pce_svn) else []
    info = put(tcbLevels=levels or [newest, own])
    return parts_of(W.verify(collateral=W.collateral(tcb_info=info)).genuine)[0].short


def raised(place: int) -> tuple[int, ...]:
    return tuple(c + (n == place) for n, c in enumerate(HAS.components))


def test_platform_at_the_newest_level_lacks_nothing() -> None:
    assert behind(HAS.components, HAS.pce_svn) == ()


@pytest.mark.parametrize("place", [0, 3, 15])
def test_one_component_is_behind(place: int) -> None:
    (short,) = behind(raised(place), HAS.pce_svn)
    assert f"SGX component {place + 1}" in short.component
    assert (short.has, short.needs) == (HAS.components[place], HAS.components[place] + 1)
    assert short.raised_by is Update.FIRMWARE


def test_only_the_pce_is_behind() -> None:
    (short,) = behind(HAS.components, HAS.pce_svn + 1)
    assert short == ("PCE", HAS.pce_svn, HAS.pce_svn + 1, Update.PACKAGE, "SVN")


def test_both_are_behind() -> None:
    assert len(behind(raised(2), HAS.pce_svn + 1)) == 2


@pytest.mark.parametrize(
    ("label", "component"),
    [
        ({}, "SGX component 4"),
        ({"category": "BIOS"}, "BIOS (SGX component 4)"),
        ({"type": "SEAMLDR ACM"}, "SEAMLDR ACM (SGX component 4)"),
        ({"category": "OS/VMM", "type": "SEAMLDR ACM"}, "SEAMLDR ACM (SGX component 4)"),
    ],
)
def test_component_is_called_as_intel_calls_it(label: dict[str, str], component: str) -> None:
    """By its type, else by its category, and by its number in any case."""

    def levels(document: dict[str, Any]) -> dict[str, Any]:
        newest = tcb_level(raised(3), HAS.pce_svn, date=DATE)
        own = tcb_level(HAS.components, HAS.pce_svn, date=DATE)
        for level in (newest, own):
            svns = level["tcb"]["sgxtcbcomponents"]
            svns[3] = {"svn": svns[3]["svn"], **label}
        return {**document, "tcbLevels": [newest, own]}

    (short,) = parts_of(W.verify(collateral=W.collateral(tcb_info=levels)).genuine)[0].short
    assert short.component == component


def test_what_raises_a_component_of_tdx() -> None:
    """The first two are the module's, where it has no identity of its own; then microcode."""

    def asked(*tdx: int) -> list[Update]:
        levels = [
            tcb_level(HAS.components, HAS.pce_svn, date=DATE, tdx=(*svns, *(0,) * 13))
            for svns in (tdx, (5, 0, 2))
        ]
        quote = W.platform.td_quote(bytes(64), tee_tcb_svn=bytes((5, 0, 2, *(0,) * 13)))
        info = put(tcbLevels=levels)
        genuine = W.verify(quote=quote, collateral=W.collateral(tdx=True, tcb_info=info)).genuine
        return [short.raised_by for short in parts_of(genuine)[0].short]

    assert asked(6, 1, 3) == [Update.MODULE, Update.MODULE, Update.FIRMWARE]
    assert asked(5, 0, 3) == [Update.FIRMWARE]


@pytest.mark.parametrize(("sgx", "tdx"), [(15, 16), (17, 16), (16, 0), (16, 15)])
def test_lists_of_different_lengths_never_pass(sgx: int, tdx: int) -> None:
    """The readers make all of them 16; where one were shorter, nothing must pass unseen."""
    count_refusal()

    def reached(components: int, tdx_components: int) -> bool:
        lists = (5,) * components, (5,) * tdx_components
        level = TcbLevel(lists[0], 5, TcbStatus.UP_TO_DATE, AT, (), lists[1])
        try:
            return level.reached_by(PlatformTcb((5,) * 16, 5, bytes(16)), bytes([5] * 16))
        except ValueError:
            return False

    assert reached(16, 16)
    assert not reached(sgx, tdx)
