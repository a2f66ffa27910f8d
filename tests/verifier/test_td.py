"""What a verdict on a trust domain says, and what its caller may allow; see also `test_cases`.

The cases of dcap.md 5 are bytes and one answer each (N160 to N202); here stands what they
leave out: the parts of the verdict, options of acceptance, and garbage in every place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.documents import qe_level, tcb_level, tdx_module_identity
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import DATE, drop, put, world
from verifier import VerifiedQuote
from verifier.acceptance import (
    AdvisoryUnaccepted,
    ServiceTdUnaccepted,
    TdAttributesUnaccepted,
    TdDebuggable,
    accept,
    require_td_attributes,
)
from verifier.errors import QuoteFormatError, RatlsError
from verifier.parts import parts_of
from verifier.quote import Quote, QuoteUnsupported, Tee
from verifier.tcb import TcbInfoMismatch, TcbStatus
from verifier.td import TdReport

W = world()
SEPT_VE, PKS, KL, MIGRATABLE, PERFMON = 1 << 28, 1 << 30, 1 << 31, 1 << 29, 1 << 63
ALL = 2**64 - 1
S = TcbStatus


def td_quote(**altered: Any) -> bytes:
    return W.platform.td_quote(bytes(64), **altered)


def svns(*first: int) -> bytes:
    return bytes((*first, *(0,) * (16 - len(first))))


def judge(quote: bytes | None = None, **altered: Any) -> VerifiedQuote:
    return W.verify(
        quote=td_quote() if quote is None else quote,
        collateral=W.collateral(tdx=True, **altered),
    )


def level(status: str, tdx: bytes, **more: Any) -> dict[str, Any]:
    tcb = W.platform.tcb
    return tcb_level(
        tcb.components, tcb.pce_svn, status=status, tdx=tuple(tdx), **{"date": DATE, **more}
    )


def report(**fields: Any) -> TdReport:
    found = Quote.parse(td_quote(**fields)).report
    assert isinstance(found, TdReport)
    return found


# The verdict.


def test_verdict_says_how_current_each_part_is() -> None:
    """Whoever reads `OutOfDate` has to know which of three parts to update."""
    module = [qe_level(5, date=DATE, status="OutOfDate")]
    tcb = judge(
        tcb_info=put(
            tcbLevels=[level("SWHardeningNeeded", svns(0, 0, 2))],
            tdxModuleIdentities=[tdx_module_identity(1, module)],
        )
    ).tcb
    assert (tcb.platform_status, tcb.module_status, tcb.qe_status, tcb.current_status) == (
        S.SW_HARDENING_NEEDED,
        S.OUT_OF_DATE,
        S.UP_TO_DATE,
        None,
    )
    assert tcb.status is S.OUT_OF_DATE


def test_domain_of_tdx_1_5_is_judged_by_what_runs_now_too() -> None:
    quote = td_quote(version=5, tee_tcb_svn=svns(2, 1, 2), tee_tcb_svn_2=svns(5, 1, 2))
    tcb = judge(quote).tcb
    assert (tcb.status, tcb.module_status, tcb.current_status) == (
        S.TD_RELAUNCH_ADVISED,
        S.OUT_OF_DATE,
        S.UP_TO_DATE,
    )


NEW, OLD = svns(5, 1, 2), svns(2, 1, 2)


@pytest.mark.parametrize(("launch", "now"), [(NEW, OLD), (OLD, NEW)], ids=["now", "launch"])
def test_date_and_advisories_are_of_launch_and_of_what_runs_now(launch: bytes, now: bytes) -> None:
    """N201: the worse of the two may be either; a policy's floor on the date meets the older."""
    before = datetime(2021, 3, 4, tzinfo=UTC)
    module = tdx_module_identity(
        1,
        [
            qe_level(5, date=DATE, advisories=["A-1", "A-2"]),
            qe_level(2, date=before, status="OutOfDate", advisories=["A-2", "A-3"]),
        ],
    )
    quote = td_quote(version=5, tee_tcb_svn=launch, tee_tcb_svn_2=now)
    tcb = judge(quote, tcb_info=put(tdxModuleIdentities=[module])).tcb
    assert tcb.date == before
    assert sorted(tcb.advisory_ids) == ["A-1", "A-2", "A-3"]
    twin = td_quote(version=5, tee_tcb_svn=NEW, tee_tcb_svn_2=NEW)
    tcb = judge(twin, tcb_info=put(tdxModuleIdentities=[module])).tcb
    assert (tcb.date, tcb.advisory_ids) == (DATE, ("A-1", "A-2"))


def test_advisory_of_what_runs_now_informs_only_where_both_are_up_to_date() -> None:
    """N201: it comes with `UpToDate`, for that is the launch; but its level is out of date."""

    def running(status: str) -> VerifiedQuote:
        levels = [qe_level(5, date=DATE), qe_level(2, date=DATE, status=status, advisories=["A-1"])]
        quote = td_quote(version=5, tee_tcb_svn=NEW, tee_tcb_svn_2=OLD)
        return judge(quote, tcb_info=put(tdxModuleIdentities=[tdx_module_identity(1, levels)]))

    accept(running("UpToDate"))
    with refused(AdvisoryUnaccepted, check="advisories"):
        accept(running("OutOfDate"))
    accept(running("OutOfDate"), advisories=frozenset({"A-1"}))


def test_module_of_version_0_has_no_status_of_its_own() -> None:
    tcb = judge(td_quote(tee_tcb_svn=svns(5, 0, 2)), tcb_info=drop("tdxModuleIdentities")).tcb
    assert (tcb.status, tcb.module_status) == (S.UP_TO_DATE, None)


@pytest.mark.parametrize("oldest", ["platform", "qe", "module"])
def test_date_is_the_oldest_of_the_three(oldest: str) -> None:
    """A policy's `min_tcb_date` is held against it: no part may hide behind a newer one."""
    dates = dict.fromkeys(("platform", "qe", "module"), DATE)
    dates[oldest] = datetime(2021, 3, 4, tzinfo=UTC)
    module = [qe_level(1, date=dates["module"])]
    verified = judge(
        tcb_info=put(
            tcbLevels=[level("UpToDate", svns(0, 0, 2), date=dates["platform"])],
            tdxModuleIdentities=[tdx_module_identity(1, module)],
        ),
        qe_identity=put(tcbLevels=[qe_level(1, date=dates["qe"])]),
    )
    assert verified.tcb.date == dates[oldest]


def test_what_is_missing_to_the_newest_level_is_named() -> None:
    """Microcode is component 3; the module's own two are judged by its identity."""
    entries = [level("UpToDate", svns(9, 0, 3)), level("OutOfDate", svns(0, 0, 2))]
    platform, _, _ = parts_of(judge(tcb_info=put(tcbLevels=entries)).genuine)
    assert [(short.component, short.has, short.needs) for short in platform.short] == [
        ("TDX Late Microcode Update (TDX component 3)", 2, 3)
    ]
    assert not any(part.short for part in parts_of(judge().genuine))


def test_verified_domain_knows_what_it_is() -> None:
    """An SGX policy must never be held against a trust domain."""
    verified = judge()
    assert (verified.quote.tee, verified.quote.header.version) == (Tee.TDX, 4)
    with refused(QuoteUnsupported):
        _ = verified.quote.enclave
    assert W.verify().quote.enclave.isv_svn == 1


def test_one_machine_quotes_enclaves_and_domains_with_collateral_of_their_own() -> None:
    """Both bundles are genuine and of this machine; remembering one must not serve the other."""
    sgx, tdx = W.collateral(), W.collateral(tdx=True)
    for _ in range(2):
        W.verify(collateral=sgx)
        W.verify(quote=td_quote(), collateral=tdx)
        with refused(TcbInfoMismatch, check="platform-match"):
            W.verify(quote=td_quote(), collateral=sgx)
        with refused(TcbInfoMismatch, check="platform-match"):
            W.verify(collateral=tdx)


# Attributes.


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        pytest.param(
            {"td_attributes": SEPT_VE | KL},
            TdAttributesUnaccepted,
            id="N174-KL",
        ),
        pytest.param(
            {"td_attributes": SEPT_VE | MIGRATABLE},
            TdAttributesUnaccepted,
            id="migratable",
        ),
        pytest.param(
            {"xfam": 0x602E7 | 1 << 10},
            TdAttributesUnaccepted,
            id="N176-XFAM",
        ),
        pytest.param(
            {"version": 5, "mr_service_td": b"\x5e" * 48},
            ServiceTdUnaccepted,
            id="N175-service-domain",
        ),
    ],
)
def test_domain_with_an_attribute_that_is_not_allowed(
    fields: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """N174 to N176."""
    with refused(leaf, check="attributes"):
        accept(judge(td_quote(**fields)))
    with refused(leaf):
        require_td_attributes(report(**fields))
    require_td_attributes(report(td_attributes=SEPT_VE | PKS))


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        *(({"td_attributes": SEPT_VE | 1 << bit}, TdDebuggable) for bit in range(8)),
        ({"td_attributes": PKS}, TdAttributesUnaccepted),
        ({"xfam": 0x1}, TdAttributesUnaccepted),
        ({"xfam": 0x602E4}, TdAttributesUnaccepted),
    ],
    ids=str,
)
def test_an_unprotected_domain(fields: dict[str, Any], leaf: type[RatlsError]) -> None:
    """N172, N173: the host reads its memory, or takes its pages away unseen."""
    with refused(leaf):
        require_td_attributes(report(**fields))


BOUND = {"version": 5, "mr_service_td": b"\x5e" * 48}


@pytest.mark.parametrize(
    ("fields", "asked", "leaf"),
    [
        ({"td_attributes": SEPT_VE | KL}, {"allowed": KL}, TdAttributesUnaccepted),
        ({"td_attributes": SEPT_VE}, {"needed": SEPT_VE | MIGRATABLE}, TdAttributesUnaccepted),
        ({"xfam": 0x3 | 1 << 10}, {"xfam_allowed": 1 << 10}, TdAttributesUnaccepted),
        ({"xfam": 0x3}, {"xfam_needed": 0x7}, TdAttributesUnaccepted),
        (BOUND, {"service_tds": [b"\x5e" * 48]}, ServiceTdUnaccepted),
    ],
    ids=["allowed", "needed", "xfam-allowed", "xfam-needed", "service-domain"],
)
def test_what_a_caller_allows_and_asks_for(
    fields: dict[str, Any], asked: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """N174 to N176: with what is asked instead of the defaults, the answer is the other one."""
    strict = "needed" in next(iter(asked))
    with refused(leaf):
        require_td_attributes(report(**fields), **(asked if strict else {}))
    require_td_attributes(report(**fields), **({} if strict else asked))


def test_what_is_needed_is_also_allowed() -> None:
    """N172, N175: no list opens what ends the protection, and a listed domain is no other one."""
    both = SEPT_VE | MIGRATABLE
    require_td_attributes(report(td_attributes=both), needed=both, allowed=0)
    with refused(TdDebuggable):
        require_td_attributes(report(td_attributes=SEPT_VE | 1), needed=SEPT_VE | 1, allowed=ALL)
    with refused(ServiceTdUnaccepted):
        require_td_attributes(report(**BOUND), service_tds=[b"\x5f" * 48])
    require_td_attributes(report(**BOUND | {"mr_service_td": bytes(48)}), service_tds=[])


@pytest.mark.parametrize(
    "advised", [S.TD_RELAUNCH_ADVISED, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED]
)
def test_relaunch_is_advised_by_a_verdict_and_by_no_document(advised: TcbStatus) -> None:
    """A level that claimed it would skip the comparison of launch and now."""
    count_refusal()
    documents: list[dict[str, Any]] = [
        {"tcb_info": put(tcbLevels=[level(advised, svns(0, 0, 2))])},
        {"qe_identity": put(tcbLevels=[qe_level(1, date=DATE, status=advised)])},
        {
            "tcb_info": put(
                tdxModuleIdentities=[
                    tdx_module_identity(1, [qe_level(1, date=DATE, status=advised)])
                ]
            )
        },
    ]
    for hook in documents:
        with pytest.raises(RatlsError) as refusal:
            judge(**hook)
        assert refusal.value.code == "collateral-malformed"


# Time: the same window as for SGX.


@pytest.mark.parametrize("days", [-1, 31])
def test_collateral_of_a_domain_does_not_cover_the_instant(days: int) -> None:
    count_refusal()
    with pytest.raises(RatlsError) as refusal:
        W.verify(
            quote=td_quote(), collateral=W.collateral(tdx=True), at=W.at + timedelta(days=days)
        )
    assert (refusal.value.check, int(refusal.value.exit_status)) == ("validity", 5)


# Garbage.


@given(st.binary(max_size=2048), st.integers(0, 1300), st.sampled_from([4, 5]))
def test_garbage_in_a_quote_of_a_domain_is_a_typed_refusal(
    junk: bytes, at: int, version: int
) -> None:
    """N223: whatever bytes take the place of genuine ones."""
    count_refusal()
    genuine = td_quote(version=version)
    for raw in (genuine[:at] + junk + genuine[at + len(junk) :], genuine[:at] + junk):
        try:
            Quote.parse(raw)
        except QuoteFormatError as refusal:
            assert refusal.code  # noqa: PT017


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=17) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
PLACES: list[Callable[[object], Callable[[dict[str, Any]], dict[str, Any]]]] = [
    lambda junk: put(tdxModule=junk),
    lambda junk: put(tdxModuleIdentities=junk),
    lambda junk: put(tdxModuleIdentities=[junk]),
    lambda junk: lambda d: {**d, "tdxModule": {**d["tdxModule"], "attributes": junk}},
    lambda junk: (
        lambda d: {**d, "tdxModuleIdentities": [{**d["tdxModuleIdentities"][0], "id": junk}]}
    ),
    lambda junk: (
        lambda d: {**d, "tdxModuleIdentities": [{**d["tdxModuleIdentities"][0], "tcbLevels": junk}]}
    ),
    lambda junk: put(tcbLevels=[{**level("UpToDate", svns(0)), "tcb": junk}]),
]


@given(JSON, st.sampled_from(PLACES))
def test_signed_garbage_about_a_module_is_a_typed_refusal(
    junk: object, place: Callable[[object], Callable[[dict[str, Any]], dict[str, Any]]]
) -> None:
    """N223: a parser must survive whoever can sign."""
    count_refusal()
    with pytest.raises(RatlsError) as refusal:
        judge(tcb_info=place(junk))
    assert refusal.value.check == "tcb-info"
