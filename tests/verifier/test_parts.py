"""What is told about each part agrees with the verdict, and with the levels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.documents import qe_level, tcb_level, tdx_module_identity
from simulation.platform import TEE_TCB_SVN
from tests.support.refusal import count_refusal
from tests.verifier.world import AT, DATE, drop, put, world
from verifier import VerifiedQuote
from verifier.errors import BelowEveryLevelError
from verifier.forecast import Demand, forecast
from verifier.genuine import GenuineQuote
from verifier.parts import Part, PartName, parts_of, updates
from verifier.received import ReceivedQuote
from verifier.status import TcbStatus, Update, converge

W = world()
HAS = W.platform.tcb
OLD_MODULE = bytes((2, *TEE_TCB_SVN[1:]))
STATUSES = ("UpToDate", "OutOfDate", "Revoked")


def judge(quote: bytes, **altered: Any) -> VerifiedQuote:
    return W.verify(quote=quote, collateral=W.collateral(tdx=True, **altered))


def td_quote(**altered: Any) -> bytes:
    return W.platform.td_quote(bytes(64), **altered)


def test_current_platform_has_nothing_to_do() -> None:
    parts = parts_of(W.verify().genuine)
    assert [part.name for part in parts] == [PartName.PLATFORM, PartName.QUOTING_ENCLAVE]
    assert not any(part.behind for part in parts)
    assert updates(parts) == ()


def test_level_that_nothing_raises_is_told_too() -> None:
    """`SWHardeningNeeded` at the newest level: no update helps, and the reader must know."""
    level = tcb_level(HAS.components, HAS.pce_svn, date=DATE, status="SWHardeningNeeded")
    platform, _ = parts_of(
        W.verify(collateral=W.collateral(tcb_info=put(tcbLevels=[level]))).genuine
    )
    assert (platform.behind, platform.short) == (True, ())
    assert platform.lines == ["platform is SWHardeningNeeded as of 2026-06-01, at the newest level"]


def test_component_without_a_label_has_its_number() -> None:
    """Older TCB info has no categories."""

    def bare(document: dict[str, Any]) -> dict[str, Any]:
        newer = tcb_level(tuple(min(s + 1, 255) for s in HAS.components), HAS.pce_svn, date=DATE)
        levels = [newer, tcb_level(HAS.components, HAS.pce_svn, date=DATE, status="OutOfDate")]
        for level in levels:
            svns = level["tcb"]["sgxtcbcomponents"]
            level["tcb"]["sgxtcbcomponents"] = [{"svn": entry["svn"]} for entry in svns]
        return {**document, "tcbLevels": levels}

    platform, _ = parts_of(W.verify(collateral=W.collateral(tcb_info=bare)).genuine)
    assert [short.component for short in platform.short] == [
        f"SGX component {n}" for n, svn in enumerate(HAS.components, start=1) if svn < 255
    ]
    assert updates([platform]) == (Update.FIRMWARE,)


def test_module_of_version_0_is_told_with_the_platform() -> None:
    """It has no levels of its own; its two components are raised by a newer module."""
    newest = tcb_level(HAS.components, HAS.pce_svn, date=DATE, tdx=(6, 0, 2, *(0,) * 13))
    own = tcb_level(
        HAS.components, HAS.pce_svn, date=DATE, status="OutOfDate", tdx=(5, 0, 2, *(0,) * 13)
    )
    quote = td_quote(tee_tcb_svn=bytes((5, 0, 2, *(0,) * 13)))
    verified = judge(
        quote,
        tcb_info=lambda d: drop("tdxModuleIdentities")({**d, "tcbLevels": [newest, own]}),
    )
    platform, enclave = parts_of(verified.genuine)
    (short,) = platform.short
    assert (short.has, short.needs, short.raised_by) == (5, 6, Update.MODULE)
    assert enclave.name is PartName.QUOTING_ENCLAVE


def test_launch_and_what_runs_now_are_told_apart() -> None:
    quote = td_quote(version=5, tee_tcb_svn=OLD_MODULE, tee_tcb_svn_2=TEE_TCB_SVN)
    parts = {part.name: part for part in parts_of(judge(quote).genuine)}
    assert parts[PartName.TDX_MODULE].status is TcbStatus.OUT_OF_DATE
    assert parts[PartName.TDX_MODULE_NOW].status is TcbStatus.UP_TO_DATE
    assert PartName.PLATFORM_NOW not in parts  # nothing else of the platform was changed
    twin = td_quote(version=5, tee_tcb_svn=TEE_TCB_SVN, tee_tcb_svn_2=TEE_TCB_SVN)
    assert len(parts_of(judge(twin).genuine)) == 3


@pytest.mark.parametrize(
    ("status", "accepted", "seen"),
    [
        ("UpToDate", frozenset(), True),
        ("UpToDate", frozenset({"A-1"}), True),
        ("UpToDate", frozenset({"A-1", "A-2"}), False),
        ("UpToDate", None, False),  # there it informs
        ("OutOfDate", frozenset(), False),  # which is refused for its status
    ],
)
def test_current_level_that_would_be_refused_is_announced(
    status: str, accepted: frozenset[str] | None, seen: bool
) -> None:
    """An operator who updates in good faith would take the platform out of the study."""
    newest = tcb_level(
        (99, *HAS.components[1:]), HAS.pce_svn, date=DATE, status=status, advisories=["A-1", "A-2"]
    )
    own = tcb_level(HAS.components, HAS.pce_svn, date=DATE)
    answer = forecast(
        ReceivedQuote(W.quote()),
        W.collateral(tcb_info=put(tcbLevels=[newest, own])),
        roots=W.intel.anchors(),
        at=AT,
        demand=Demand(advisories=accepted),
    )
    assert answer.exit_status == 0
    assert [level.thing for level in answer.announced] == [
        "the newest level of the platform"
    ] * seen
    if seen and accepted is not None:
        missing = [a for a in ("A-1", "A-2") if a not in accepted]
        assert answer.announced[0].advisory_ids == tuple(missing)


def _described(verified: VerifiedQuote) -> dict[PartName, Part]:
    return {part.name: part for part in parts_of(verified.genuine)}


@given(
    qe=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(STATUSES)), min_size=1, max_size=3),
    module=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(STATUSES)), min_size=1, max_size=3
    ),
    platform=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(STATUSES)), min_size=1, max_size=3
    ),
)
def test_parts_say_what_the_verdict_says(
    qe: list[tuple[int, str]], module: list[tuple[int, str]], platform: list[tuple[int, str]]
) -> None:
    """Two readers of the same levels: neither may tell another story than the other."""
    levels = [
        tcb_level(HAS.components, HAS.pce_svn, date=DATE, status=s, tdx=(0, 0, n, *(0,) * 13))
        for n, s in dict(platform).items()
    ]
    modules = [qe_level(n, date=DATE, status=s) for n, s in dict(module).items()]
    info = put(tcbLevels=levels, tdxModuleIdentities=[tdx_module_identity(1, modules)])
    identity = put(tcbLevels=[qe_level(n, date=DATE, status=s) for n, s in dict(qe).items()])
    count_refusal()
    try:
        verified = judge(td_quote(), tcb_info=info, qe_identity=identity)
    except BelowEveryLevelError as refusal:
        genuine = GenuineQuote.behind(refusal)
        assert genuine is not None
        assert any(part.level is None and part.short for part in parts_of(genuine))
        return
    parts = _described(verified)
    assert parts[PartName.PLATFORM].status is verified.tcb.platform_status
    assert parts[PartName.QUOTING_ENCLAVE].status is verified.tcb.qe_status
    assert parts[PartName.TDX_MODULE].status is verified.tcb.module_status
    first, *others = [part.status for part in parts.values() if part.status is not None]
    assert converge(first, *others) is verified.tcb.status
    for part in parts.values():
        assert bool(part.short) == (part.level is not part.newest)
