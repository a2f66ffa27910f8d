"""What will stop passing, when, and whether fetching helps: each date is asked of the verifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.documents import instant, tcb_level
from simulation.intel import DAY, YEAR
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import AT, DATE, World, processor_world, put, world
from verifier import Collateral, TcbStatus, TrustAnchors, VerifiedQuote, accept, verify_quote
from verifier import errors as e
from verifier.acceptance import EnclaveDebuggable, StatusNeverAcceptable, TcbStatusUnaccepted
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.crl import CertificateRevoked
from verifier.errors import Exit, RatlsError
from verifier.forecast import Demand, EarlyCollateralUnfit, Forecast, Kind, Reason, forecast, later
from verifier.qe import QuoteSignatureInvalid
from verifier.quote import QuoteMalformed, QuoteUnsupported
from verifier.received import ReceivedQuote
from verifier.tcb import TcbInfoMismatch
from verifier.validity import CollateralNotCurrent

SECOND = timedelta(seconds=1)
W = world()
END = AT + 30 * DAY  # of everything in the unaltered bundle but the root CRL


def ask(
    w: World = W,
    *,
    quote: bytes | None = None,
    collateral: Collateral | None = None,
    at: datetime = AT,
    **more: Any,
) -> Forecast:
    newer_sgx = more.pop("newer_sgx", False)
    return forecast(
        ReceivedQuote.of_file(w.quote() if quote is None else quote, newer_sgx=newer_sgx),
        collateral or w.collateral(),
        roots=w.intel.anchors(),
        at=at,
        **more,
    )


def passes(w: World, collateral: Collateral, at: datetime) -> bool:
    """The verifier's own word, which every forecast is held to."""
    try:
        accept(w.verify(collateral=collateral, at=at))
    except RatlsError:
        return False
    return True


# The first thing to end


def ends(value: datetime) -> Callable[[Any], Any]:
    return lambda form: replace(form, not_after=value)


def crl_ends(value: datetime) -> Callable[[Any], Any]:
    return lambda form: replace(form, next_update=value)


def with_ends(soon: dict[str, datetime]) -> tuple[World, Collateral]:
    """A world in which the named things end then."""
    authorities = ("root", "platform_ca", "pck", "tcb_signer")
    w = World.create(**{name: ends(soon[name]) for name in authorities if name in soon})
    altered: dict[str, Any] = {}
    for name in ("tcb_info", "qe_identity"):
        if name in soon:
            altered[name] = put(nextUpdate=instant(soon[name]))
    for name in ("root_crl", "pck_crl"):
        if name in soon:
            altered[name] = crl_ends(soon[name])
    return w, w.collateral(**altered)


SOON = AT + 5 * DAY
FIRST: list[Any] = [
    # what ends at SOON, the kind, the first second without it, does fetching help
    pytest.param("tcb_info", Kind.TCB_INFO_ENDS, SOON, True),
    pytest.param("qe_identity", Kind.QE_IDENTITY_ENDS, SOON, True),
    pytest.param("root_crl", Kind.ROOT_CRL_ENDS, SOON, True),
    pytest.param("pck_crl", Kind.PCK_CRL_ENDS, SOON, True),
    pytest.param("root", Kind.CERTIFICATE_ENDS, SOON + SECOND, False),
    pytest.param("platform_ca", Kind.CERTIFICATE_ENDS, SOON + SECOND, False),
    pytest.param("pck", Kind.CERTIFICATE_ENDS, SOON + SECOND, False),
    pytest.param("tcb_signer", Kind.CERTIFICATE_ENDS, SOON + SECOND, False),
]


@pytest.mark.parametrize(("name", "kind", "date", "renewable"), FIRST)
def test_what_ends_first_is_named(name: str, kind: Kind, date: datetime, renewable: bool) -> None:
    count_refusal()
    w, collateral = with_ends({name: SOON})
    answer = ask(w, collateral=collateral)
    first = answer.reasons[0]
    assert (answer.verdict, answer.exit_status) == ("accepted", Exit.YES)
    assert (first.kind, first.date, first.renewable) == (kind, date, renewable)
    assert (answer.stops_even_if_renewed == date) is not renewable
    assert answer.refusal.exit_status is Exit.UNDECIDED
    assert answer.refusal.check == "validity"
    assert passes(w, collateral, date - SECOND)
    assert not passes(w, collateral, date)
    if kind is Kind.CERTIFICATE_ENDS:
        owner = w.platform.pck if name == "pck" else getattr(w.intel, name)
        assert first.serial == f"{owner.serial:040x}"
        assert first.serial in first.text
    else:
        assert first.serial is None


def test_unaltered_bundle_ends_with_its_documents_and_the_platform_years_later() -> None:
    answer = ask()
    assert answer.stops == END
    assert answer.stops_even_if_renewed == AT + 7 * YEAR + SECOND  # the PCK certificate's
    assert [r.kind for r in answer.reasons[:3]] == [
        Kind.TCB_INFO_ENDS,
        Kind.QE_IDENTITY_ENDS,
        Kind.PCK_CRL_ENDS,
    ]
    assert [r.date for r in answer.reasons] == sorted(r.date for r in answer.reasons)
    # Each certificate once, though several chains carry the root and the authority.
    assert sum(r.kind == Kind.CERTIFICATE_ENDS for r in answer.reasons) == 4


def test_every_date_that_the_verdict_rests_on_is_there() -> None:
    """Certificates that several chains carry stand once; nothing of the verifier's is missing."""
    periods = W.verify().window.periods
    assert [r.date for r in ask().reasons] == sorted(later(p.closes, 0 * DAY) for p in periods)  # type: ignore[type-var]


def test_trust_domain_stops_like_an_enclave() -> None:
    count_refusal()
    quote = W.platform.td_quote(bytes(64))
    collateral = Collateral.parse(W.intel.collateral(W.platform, tdx=True))
    answer = ask(quote=quote, collateral=collateral)
    assert (answer.verdict, answer.stops) == ("accepted", END)
    W.verify(quote=quote, collateral=collateral, at=END - SECOND)
    with pytest.raises(e.CollateralStaleError):
        W.verify(quote=quote, collateral=collateral, at=END)


@pytest.mark.parametrize("version", [4, 5])
def test_newer_quotes_of_enclaves_are_read_where_that_is_asked_for(version: int) -> None:
    quote = W.quote(version=version)
    with_them = ask(quote=quote, newer_sgx=True)
    assert with_them.reasons == ask().reasons
    count_refusal()
    assert isinstance(ask(quote=quote).refusal, QuoteUnsupported)


THINGS = ("tcb_info", "qe_identity", "root_crl", "pck_crl")
LASTING = ("root", "platform_ca", "pck", "tcb_signer")
Seconds = st.integers(1, 10**6)


@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from(THINGS), Seconds),
    st.dictionaries(st.sampled_from(LASTING), Seconds),
)
def test_the_second_before_passes_and_the_next_does_not(
    parts: dict[str, int], certificates: dict[str, int]
) -> None:
    """Whatever ends when: the dates are those of the verifier itself, with and without fetching."""
    count_refusal()
    soon = {name: AT + after * SECOND for name, after in (parts | certificates).items()}
    w, collateral = with_ends(soon)
    answer = ask(w, collateral=collateral)
    assert passes(w, collateral, answer.stops - SECOND)
    assert not passes(w, collateral, answer.stops)
    last = answer.stops_even_if_renewed
    assert last is not None
    assert last >= answer.stops
    assert passes(w, w.collateral(at=last - SECOND), last - SECOND)
    assert not passes(w, w.collateral(at=last), last)


def test_certificate_that_never_ends() -> None:
    """9999-12-31T23:59:59Z says `no date known` (RFC 5280), and nothing comes after it."""
    never = ends(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    w = World.create(**dict.fromkeys(LASTING, never))
    answer = ask(w)
    assert (answer.stops, answer.stops_even_if_renewed) == (END, None)


def test_whole_seconds_never_fall_before_what_they_are_made_of() -> None:
    half = timedelta(milliseconds=500)
    assert later(AT, SECOND) == AT + SECOND
    assert later(AT + half, timedelta(0)) == AT + SECOND
    assert later(AT - half, timedelta(0)) == AT
    assert later(datetime.max.replace(tzinfo=UTC), timedelta(0)) is None
    assert ask(at=AT + half).at == AT


def test_padding_of_quote_files_changes_nothing() -> None:
    assert ask(quote=W.quote() + bytes(64)).reasons == ask().reasons


def test_genuine_quotes_stop_on_the_second_that_was_forecast(vectors: Path) -> None:
    count_refusal()
    index, seen = json.loads((vectors / "index.json").read_text("utf-8")), 0
    for quote in index["quotes"]:
        received = ReceivedQuote.of_file((vectors / quote["file"]).read_bytes())
        for case in quote["cases"]:
            collateral = Collateral.parse((vectors / case["collateral"]).read_bytes())
            at = datetime.fromtimestamp(case["time"], UTC)
            intel = TrustAnchors.intel()
            demand = Demand(lambda verified, at: None)
            answer = forecast(received, collateral, roots=intel, at=at, demand=demand)
            if answer.verdict != "accepted":
                continue
            seen += 1
            verify_quote(received.raw, collateral, roots=intel, at=answer.stops - SECOND)
            with pytest.raises(e.CollateralStaleError):
                verify_quote(received.raw, collateral, roots=intel, at=answer.stops)
    assert seen >= 20


# The early collateral


def early(
    status: str = "OutOfDate", advisories: tuple[str, ...] = (), **altered: Any
) -> Collateral:
    """What Intel's early update says of this platform since a recovery was disclosed."""
    tcb = W.platform.tcb
    level = tcb_level(tcb.components, tcb.pce_svn, date=DATE, status=status, advisories=advisories)
    info = put(**{"tcbLevels": [level], "tcbEvaluationDataNumber": 22, **altered})
    return W.collateral(tcb_info=info, qe_identity=put(tcbEvaluationDataNumber=22))


def test_status_that_early_collateral_announces_counts_from_the_next_fetch_on() -> None:
    """The platform passes today, and each fetch from now on may be the one that ends it."""
    count_refusal()
    answer = ask(early=early(advisories=("INTEL-SA-00001",)))
    first = answer.reasons[0]
    assert (first.kind, first.date, first.renewable) == (Kind.EARLY_STATUS, END, False)
    assert "INTEL-SA-00001" in first.text
    assert (answer.stops, answer.stops_even_if_renewed) == (END, END)
    assert (answer.verdict, answer.exit_status) == ("accepted", Exit.YES)
    assert answer.early is not None
    told = answer.early.as_json()
    assert (told["accepted"], told["tcb_status"]) == (False, "OutOfDate")
    assert told["error"]["code"] == "tcb-status-unaccepted"  # type: ignore[index]
    assert not passes(W, early(), AT)


def test_early_status_is_within_every_limit() -> None:
    """Whoever fetches daily always has a month left, until the day on which a fetch brings it."""
    count_refusal()
    assert ask(early=early()).status_within(SECOND) is Exit.NOT_ADMITTED
    assert ask(early=early()).status_within(None) is Exit.YES
    assert ask(early=early("UpToDate")).status_within(SECOND) is Exit.YES


def test_early_status_counts_from_the_first_part_that_must_be_fetched() -> None:
    """A fetch replaces all parts at once, so the list that ends first brings the new status."""
    count_refusal()
    answer = ask(collateral=W.collateral(pck_crl=crl_ends(SOON)), early=early())
    assert [r.kind for r in answer.reasons[:2]] == [Kind.EARLY_STATUS, Kind.PCK_CRL_ENDS]
    assert answer.stops_even_if_renewed == SOON


def test_early_status_does_not_hide_what_no_fetch_renews() -> None:
    """A certificate that ends before the bundle is replaced comes first, and keeps its date."""
    count_refusal()
    w = World(W.intel, W.intel.platform(pck=ends(SOON)))
    answer = ask(w, early=early())
    assert (answer.reasons[0].kind, answer.stops) == (Kind.CERTIFICATE_ENDS, SOON + SECOND)
    assert (answer.reasons[1].kind, answer.reasons[1].date) == (Kind.EARLY_STATUS, END)


def test_each_certificate_is_renewed_by_somebody_else() -> None:
    """The operator has to act for the platform's own, a fetch brings that of Intel's signer."""
    leaf, signer, authority, root = (
        r.fix for r in ask().reasons if r.kind == Kind.CERTIFICATE_ENDS
    )
    assert authority == root
    assert len({leaf, signer, authority}) == 3


def test_early_status_that_is_accepted_is_no_reason() -> None:
    for announced in (early("UpToDate"), early("UpToDate", advisories=("INTEL-SA-00001",))):
        answer = ask(early=announced)
        assert answer.reasons == ask().reasons
        assert answer.early is not None
        assert answer.early.refusal is None
    both = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE})
    tolerant = Demand(lambda verified, at: accept(verified, statuses=both))
    assert ask(early=early(), demand=tolerant).reasons == ask().reasons


def test_early_collateral_revokes_the_platform() -> None:
    """Not only levels come early: a list may already name the PCK certificate."""
    count_refusal()
    serial = W.platform.pck.serial
    revoking = W.collateral(pck_crl=lambda c: replace(c, revoked=(serial,)))
    answer = ask(early=revoking)
    assert answer.reasons[0].kind == Kind.EARLY_STATUS
    assert answer.early is not None
    assert isinstance(answer.early.refusal, CertificateRevoked)


UNFIT: list[Any] = [
    pytest.param(lambda: early(fmspc="00606A0000FF"), id="another-FMSPC"),
    pytest.param(lambda: early(pceId="0001"), id="another-PCE"),
    pytest.param(lambda: early(tcbEvaluationDataNumber=20), id="files-in-each-others-place"),
    pytest.param(
        lambda: Collateral.parse(W.intel.collateral(W.intel.platform(processor=True))),
        id="another-authority",
    ),
    pytest.param(
        lambda: Collateral.parse(W.intel.collateral(W.platform, tdx=True)), id="of-trust-domains"
    ),
]


@pytest.mark.parametrize("unfit", UNFIT)
def test_early_collateral_that_cannot_say_anything(unfit: Callable[[], Collateral]) -> None:
    """It would be silent about this platform, and silence would look like good news."""
    with refused(EarlyCollateralUnfit):
        ask(early=unfit())


def test_early_collateral_that_has_ended() -> None:
    with refused(CollateralNotCurrent):
        ask(early=early(issueDate=instant(AT - 40 * DAY), nextUpdate=instant(AT)))


def test_early_collateral_that_somebody_else_signed() -> None:
    """Bad news can be forged too: a fleet that is shut down for it is a victory."""
    forged = Collateral.parse(W.intel.collateral(W.platform, tcb_info_key=W.platform.pck.ec_key))
    with refused(TcbInfoSignatureInvalid):
        ask(early=forged)


def test_early_collateral_that_is_too_old_for_what_accepts() -> None:
    def impatient(verified: VerifiedQuote, at: datetime) -> None:
        if verified.window.tcb_info_issue < AT - 9 * DAY:
            raise CollateralNotCurrent("age", expected="9 days", found="more")

    assert ask(early=early(), demand=Demand(impatient)).early is not None
    with refused(CollateralNotCurrent):
        ask(early=early(issueDate=instant(AT - 10 * DAY)), demand=Demand(impatient))


# What fails today


def test_quote_that_is_refused_today_has_no_future() -> None:
    """Debug protects nothing, whatever is fetched."""
    count_refusal()
    answer = ask(quote=W.quote(flags=0x7))
    (reason,) = answer.reasons
    assert (reason.kind, reason.date, reason.renewable) == (Kind.ALREADY_REFUSED, AT, False)
    assert (answer.verdict, answer.exit_status) == ("refused", Exit.NOT_ADMITTED)
    assert answer.stops == answer.stops_even_if_renewed == AT
    assert isinstance(answer.refusal, EnclaveDebuggable)
    assert answer.tcb is not None
    assert answer.pck is not None


FAILING: list[Any] = [
    pytest.param({"quote": b"\3\0"}, QuoteMalformed, False, id="no-quote"),
    pytest.param(
        {"quote": W.quote(form=lambda f: replace(f, signature=bytes(64)))},
        QuoteSignatureInvalid,
        False,
        id="forged-quote",
    ),
    pytest.param(
        {"collateral": W.collateral(tcb_info_key=W.platform.pck.ec_key)},
        TcbInfoSignatureInvalid,
        True,
        id="forged-bundle",
    ),
    pytest.param(
        {"collateral": W.collateral(tcb_info=put(fmspc="00606A0000FF"))},
        TcbInfoMismatch,
        True,
        id="bundle-of-other-platforms",
    ),
]


@pytest.mark.parametrize(("given", "leaf", "of_bundle"), FAILING)
def test_what_cannot_pass_has_the_verifiers_refusal(
    given: dict[str, Any], leaf: type[RatlsError], of_bundle: bool
) -> None:
    count_refusal()
    answer = ask(**given, early=early())
    (reason,) = answer.reasons
    assert type(answer.refusal) is leaf
    assert answer.exit_status is leaf.exit_status
    assert (reason.kind, reason.renewable) == (Kind.ALREADY_REFUSED, of_bundle)
    assert answer.stops == AT
    assert answer.stops_even_if_renewed == (None if of_bundle else AT)
    assert (answer.pck, answer.early) == (None, None)


def test_bundle_that_has_ended_says_since_when() -> None:
    """Nothing was decided today; what ended, and what the platform can hope for, is known."""
    count_refusal()
    answer = ask(at=END + 3 * DAY)
    assert (answer.verdict, answer.exit_status) == ("undecided", Exit.UNDECIDED)
    assert (answer.reasons[0].kind, answer.stops) == (Kind.TCB_INFO_ENDS, END)
    assert Kind.UNDECIDED in [reason.kind for reason in answer.reasons]
    assert answer.stops_even_if_renewed == AT + 7 * YEAR + SECOND
    assert answer.pck is not None
    assert answer.tcb is None


def test_bundle_that_has_not_begun() -> None:
    count_refusal()
    answer = ask(at=AT - DAY)
    assert (answer.reasons[0].kind, answer.stops) == (Kind.UNDECIDED, AT - DAY)
    assert answer.exit_status is Exit.UNDECIDED


def test_instant_that_is_none_is_no_verdict() -> None:
    with refused(e.InstantMalformed):
        ask(at=AT.replace(tzinfo=None))


def test_list_of_statuses_that_means_nothing_is_no_verdict() -> None:
    nothing = Demand(lambda verified, at: accept(verified, statuses=frozenset()))
    with refused(StatusNeverAcceptable):
        ask(demand=nothing)


# What accepts brings its own dates


def demand_until(end: datetime, named: datetime, *, renewable: bool = False) -> Demand:
    """Accepts until `end`, and says that it does so until `named`."""

    def accepts(verified: VerifiedQuote, at: datetime) -> None:
        if at >= end:
            raise TcbStatusUnaccepted("patience", expected="some", found="none")

    return Demand(
        accepts, lambda verified, at: [Reason("patience-ends", named, "none", "wait", renewable)]
    )


def test_limits_of_what_accepts_stand_among_the_others() -> None:
    count_refusal()
    answer = ask(demand=demand_until(SOON, SOON))
    assert (answer.reasons[0].kind, answer.stops) == ("patience-ends", SOON)
    assert answer.stops_even_if_renewed == SOON
    assert isinstance(answer.refusal, TcbStatusUnaccepted)
    assert ask(demand=demand_until(SOON, SOON, renewable=True)).stops == SOON


def test_limit_that_does_not_hold_is_not_believed() -> None:
    """The verifier is asked at each date: what still passes then has not stopped."""
    count_refusal()
    answer = ask(demand=demand_until(END, SOON))
    assert (answer.reasons[0].kind, answer.stops) == (Kind.TCB_INFO_ENDS, END)


# For monitoring


@pytest.mark.parametrize(
    ("within", "status"),
    [
        (None, Exit.YES),
        (30 * DAY - SECOND, Exit.YES),
        (30 * DAY, Exit.NOT_ADMITTED),
        (timedelta(days=99999), Exit.NOT_ADMITTED),
    ],
)
def test_status_that_a_monitoring_job_reads(within: timedelta | None, status: Exit) -> None:
    assert ask().status_within(within) is status
    count_refusal()
    assert ask(at=END).status_within(within) is Exit.UNDECIDED
    assert ask(quote=b"").status_within(within) is Exit.UNUSABLE


def test_processor_platform_in_json() -> None:
    w = processor_world()
    told = ask(w).as_json(file="q.bin", mode=w.intel.anchors().mode)
    assert list(told) == [
        "file", "verdict", "mode", "at", "stops", "days_left", "stops_even_if_renewed", "reasons",
        "platform", "tcb_status", "tcb_evaluation_data_number", "advisory_ids", "parts",
        "announced", "early",
        "error",
    ]  # fmt: skip
    assert (told["verdict"], told["days_left"]) == ("accepted", 30)
    assert told["platform"]["piid"] is None  # type: ignore[index]
    assert told["error"]["code"] == "collateral-not-current"  # type: ignore[index]
    assert json.loads(json.dumps(told)) == told
