"""T16: a genuine quote below every level that Intel lists is authentic, and nothing accepts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simulation.documents import qe_level, tcb_level, tdx_module_identity
from simulation.intel import TDX_COMPONENTS
from simulation.platform import TEE_TCB_SVN
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import AT, DATE, put, world
from verifier import Collateral
from verifier.appraisal import Appraisal
from verifier.errors import BelowEveryLevelError, Exit, RatlsError
from verifier.forecast import Demand, Kind, forecast
from verifier.genuine import GenuineQuote
from verifier.parts import PartName, parts_of, updates
from verifier.qe import QeNotIntels, QeTcbLevelUnmatched, QuoteSignatureInvalid
from verifier.received import ReceivedQuote
from verifier.report import QuoteReport, report_quote
from verifier.status import Update
from verifier.tcb import TcbLevelUnmatched
from verifier.tdx_module import TdxModuleLevelUnmatched, TdxModuleMismatch

W = world()
HAS = W.platform.tcb
OTHER_MODULE = bytes((5, 9, *TEE_TCB_SVN[2:]))
Scene = tuple[bytes, Collateral]


def _levels(*raised: int, pce: int = 0, tdx: tuple[int, ...] | None = None) -> dict[str, Any]:
    """One level, which asks for one SVN more than the platform has, in these components."""
    components = tuple(svn + (n in raised) for n, svn in enumerate(HAS.components))
    return tcb_level(components, HAS.pce_svn + pce, date=DATE, tdx=tdx)


def platform() -> Scene:
    return W.quote(), W.collateral(tcb_info=put(tcbLevels=[_levels(7)]))


def enclave() -> Scene:
    return W.quote(qe_report=lambda r: replace(r, isv_svn=0)), W.collateral(
        qe_identity=put(tcbLevels=[qe_level(1, date=DATE)])
    )


def domain() -> Scene:
    level = _levels(7, tdx=TDX_COMPONENTS)
    return W.platform.td_quote(bytes(64)), W.collateral(tdx=True, tcb_info=put(tcbLevels=[level]))


def module() -> Scene:
    return W.platform.td_quote(bytes(64)), W.collateral(tdx=True, tcb_info=_with_module(99))


def module_that_runs_now() -> Scene:
    later = bytes((99, *TEE_TCB_SVN[1:]))
    quote = W.platform.td_quote(bytes(64), version=5, tee_tcb_svn=later, tee_tcb_svn_2=TEE_TCB_SVN)
    return quote, W.collateral(tdx=True, tcb_info=_with_module(99))


def _with_module(svn: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return put(tdxModuleIdentities=[tdx_module_identity(1, [qe_level(svn, date=DATE)])])


BELOW: list[tuple[Callable[[], Scene], type[BelowEveryLevelError], PartName, Update]] = [
    (platform, TcbLevelUnmatched, PartName.PLATFORM, Update.FIRMWARE),
    (domain, TcbLevelUnmatched, PartName.PLATFORM, Update.FIRMWARE),
    (enclave, QeTcbLevelUnmatched, PartName.QUOTING_ENCLAVE, Update.PACKAGE),
    (module, TdxModuleLevelUnmatched, PartName.TDX_MODULE, Update.MODULE),
    (
        module_that_runs_now,
        TdxModuleLevelUnmatched,
        PartName.TDX_MODULE_NOW,
        Update.MODULE,
    ),
]
each = pytest.mark.parametrize(
    ("scene", "leaf", "part", "update"), BELOW, ids=[case[0].__name__ for case in BELOW]
)


def accept_anything(verified: object) -> Appraisal:
    return Appraisal()


def judge(quote: bytes, collateral: Collateral) -> QuoteReport:
    return report_quote(
        ReceivedQuote(quote),
        collateral,
        file="q.bin",
        roots=W.intel.anchors(),
        at=AT,
        acceptance=accept_anything,
    )


@each
def test_whoever_accepts_anything_does_not_accept_what_is_below_every_level(
    scene: Callable[[], Scene],
    leaf: type[BelowEveryLevelError],
    part: PartName,
    update: Update,
) -> None:
    """No option and no policy is asked: there is no verified quote to be accepted."""
    quote, collateral = scene()
    with refused(leaf):
        W.verify(quote=quote, collateral=collateral)
    assert leaf.exit_status is Exit.NOT_ADMITTED
    answer = judge(quote, collateral)
    assert (answer.exit_status, answer.authentic, answer.verified) == (6, True, None)
    assert judge(W.quote(), W.collateral()).exit_status == 0


@each
def test_it_is_shown_whole_and_what_is_short_is_named(
    scene: Callable[[], Scene],
    leaf: type[BelowEveryLevelError],
    part: PartName,
    update: Update,
) -> None:
    count_refusal()
    line = judge(*scene()).machine
    assert (line["authentic"], line["verdict"], line["tcb_status"]) == (True, "refused", None)
    assert line["platform"]["ppid"] == HAS.ppid.hex()  # type: ignore[index]
    assert line["measurement"]["report_data"]  # type: ignore[index]
    below = [p for p in line["parts"] if p["level"] is None]  # type: ignore[attr-defined]
    assert [(p["part"], p["status"]) for p in below] == [(part.name.lower(), None)]
    assert {short["raised_by"] for p in below for short in p["short"]} == {update.value}
    assert "is below every level that Intel lists" in judge(*scene()).people


@each
def test_forecast_says_that_only_an_update_helps(
    scene: Callable[[], Scene],
    leaf: type[BelowEveryLevelError],
    part: PartName,
    update: Update,
) -> None:
    """Fetching again would be advice that never helps; the machine is named to its operator."""
    count_refusal()
    quote, collateral = scene()
    answer = forecast(
        ReceivedQuote(quote),
        collateral,
        roots=W.intel.anchors(),
        at=AT,
        demand=Demand(lambda verified, at: None),
    )
    (reason,) = answer.reasons
    assert (reason.kind, reason.renewable) == (Kind.ALREADY_REFUSED, False)
    assert reason.fix.startswith(f"not renewable: needs an update ({update})")
    assert answer.exit_status == 6
    told = answer.as_json(file="q.bin", mode=W.intel.anchors().mode)
    assert told["platform"]["fmspc"] == HAS.fmspc.hex()  # type: ignore[index]
    assert told["platform"]["ppid"] == HAS.ppid.hex()  # type: ignore[index]
    assert part.name.lower() in [p["part"] for p in told["parts"]]  # type: ignore[attr-defined]


def test_the_nearest_level_says_what_is_short() -> None:
    """Not the lowest of the list, which may ask for more than others."""
    far = tcb_level(tuple(min(s + 1, 255) for s in HAS.components), 0, date=DATE)
    near = tcb_level((99, *HAS.components[1:]), HAS.pce_svn, date=DATE)
    for levels in ([far, near], [near, far]):
        with refused(TcbLevelUnmatched) as refusal:
            W.verify(collateral=W.collateral(tcb_info=put(tcbLevels=levels)))
        assert "SGX component 1)" in refusal.error.found
        assert "SGX component 2)" not in refusal.error.found
        assert Update.FIRMWARE in refusal.error.fix


def test_several_parts_below_at_once_are_all_named() -> None:
    """The check stops at the first; whoever updates that alone would come back for the next."""
    level = _levels(0, pce=1, tdx=(0, 0, 99, *TDX_COMPONENTS[3:]))
    collateral = W.collateral(
        tdx=True,
        tcb_info=lambda d: _with_module(99)({**d, "tcbLevels": [level]}),
        qe_identity=put(tcbLevels=[qe_level(9999, date=DATE)]),
    )
    with refused(QeTcbLevelUnmatched, check="qe-level") as refusal:
        W.verify(quote=W.platform.td_quote(bytes(64)), collateral=collateral)
    genuine = GenuineQuote.behind(refusal.error)
    assert genuine is not None
    parts = parts_of(genuine)
    assert [(part.name, len(part.short)) for part in parts] == [
        (PartName.PLATFORM, 3),
        (PartName.QUOTING_ENCLAVE, 1),
        (PartName.TDX_MODULE, 1),
    ]
    assert set(updates(parts)) == set(Update)


@pytest.mark.parametrize("leaf", [QuoteSignatureInvalid, QeNotIntels, TdxModuleMismatch])
def test_a_forgery_that_is_below_every_level_is_a_forgery(leaf: type[RatlsError]) -> None:
    """Nothing of it is shown: what its parts say is the forger's word."""
    quote, collateral = {
        QuoteSignatureInvalid: lambda: (
            W.quote(form=lambda f: replace(f, signature=bytes(63) + b"\x01")),
            platform()[1],
        ),
        QeNotIntels: lambda: (
            W.quote(qe_report=lambda r: replace(r, isv_svn=0, mr_signer=bytes(32))),
            enclave()[1],
        ),
        TdxModuleMismatch: lambda: (
            W.platform.td_quote(
                bytes(64), version=5, tee_tcb_svn=TEE_TCB_SVN, tee_tcb_svn_2=OTHER_MODULE
            ),
            module()[1],
        ),
    }[leaf]()
    with refused(leaf) as refusal:
        W.verify(quote=quote, collateral=collateral)
    assert GenuineQuote.behind(refusal.error) is None
    answer = judge(quote, collateral)
    assert (answer.exit_status, answer.authentic) == (4, False)
    assert answer.machine["platform"] is answer.machine["parts"] is None
