"""When does a quote that passes today stop passing, why, and what can be done about it?

    received = ReceivedQuote.of_file(raw)
    answer = forecast(received, collateral, roots=TrustAnchors.intel(), at=now)
    answer.stops                  # first second at which this quote fails with this very bundle
    answer.stops_even_if_renewed  # the same, were collateral always fetched in time
    answer.reasons[0].fix

Candidate dates come from the documents; whether one ends the verdict is found by running
`verify_quote`, and what accepts the quote, at that second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

from verifier.acceptance import accept
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import Certificate
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.errors import (
    CollateralFormatError,
    CollateralMismatchError,
    CollateralSignatureError,
    CollateralStaleError,
    ConfigError,
    Exit,
    RatlsError,
    placed,
)
from verifier.genuine import GenuineQuote
from verifier.parts import Announced, Part, ahead_of, announced, parts_of, updates
from verifier.pck import PckChain
from verifier.received import ReceivedQuote
from verifier.report import platform_facts
from verifier.tcb import TcbVerdict
from verifier.text import instant_text
from verifier.validity import Period, require_instant
from verifier.verify import QuoteCheck, VerifiedQuote, verify_received

_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
FETCH = "fetch the collateral again"


class Kind(StrEnum):
    """Why a quote stops passing. What accepts it may bring kinds of its own."""

    ALREADY_REFUSED = "already-refused"
    UNDECIDED = "undecided"  #  now: something does not cover the instant
    TCB_INFO_ENDS = "tcb-info-ends"
    QE_IDENTITY_ENDS = "qe-identity-ends"
    ROOT_CRL_ENDS = "root-crl-ends"
    PCK_CRL_ENDS = "pck-crl-ends"
    CERTIFICATE_ENDS = "certificate-ends"
    EARLY_STATUS = "early-status"


# In the order of `Contents.periods`.
_PARTS = (Kind.TCB_INFO_ENDS, Kind.QE_IDENTITY_ENDS, Kind.ROOT_CRL_ENDS, Kind.PCK_CRL_ENDS)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing after which a quote no longer passes."""

    kind: str
    date: datetime  #   first whole second at which it does not pass, UTC
    text: str
    fix: str
    renewable: bool  #  newer collateral takes this reason away
    serial: str | None = None  # of a certificate, 40 hex digits

    def as_json(self) -> dict[str, object]:
        return {
            "kind": str(self.kind),
            "date": instant_text(self.date),
            "text": self.text,
            "serial": self.serial,
            "renewable": self.renewable,
            "fix": self.fix,
        }


def _accept_defaults(verified: VerifiedQuote, at: datetime) -> object:
    return accept(verified)


def _no_limits(verified: VerifiedQuote, at: datetime) -> Iterable[Reason]:
    return ()


@dataclass(frozen=True, slots=True)
class Demand:
    """What a genuine quote must fulfil, and which dates that adds.

    `accept` raises unless the quote, verified at any instant, is good enough at this one.
    `limits` names the dates after this instant from which it may no longer be. Where a limit comes
    with newer collateral, its `renewable` says so.
    """

    accept: Callable[[VerifiedQuote, datetime], object] = _accept_defaults
    limits: Callable[[VerifiedQuote, datetime], Iterable[Reason]] = _no_limits
    advisories: frozenset[str] | None = None  # accepted; None: those of `UpToDate` inform


@dataclass(frozen=True, slots=True)
class EarlyVerdict:
    """The verdict on this quote today with early collateral, which standard collateral follows."""

    tcb: TcbVerdict | None
    refusal: RatlsError | None

    def as_json(self) -> dict[str, object]:
        return {
            "accepted": self.refusal is None,
            **_status(self.tcb),
            "error": self.refusal and self.refusal.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer on one quote."""

    at: datetime
    reasons: tuple[Reason, ...]  #    at least one; what comes first, first
    refusal: RatlsError  #            that at `stops`; of a quote that fails now, today's
    exit_status: Exit  #              of the quote today
    pck: PckChain | None = None  #    None where nothing of the quote was verified
    tcb: TcbVerdict | None = None  #  as of today
    parts: tuple[Part, ...] = ()  #   of a genuine quote: how far each of its parts is behind
    announced: tuple[Announced, ...] = ()  # what an update would reach, and not be accepted
    early: EarlyVerdict | None = None

    @classmethod
    def of_refused(cls, refusal: RatlsError, at: datetime) -> Self:
        """The answer on a quote that fails today, of which nothing else is known."""
        return cls(at, (_now(refusal, at),), refusal, refusal.exit_status)

    @property
    def stops(self) -> datetime:
        """First second at which the quote does not pass with this bundle.

        For one that fails already: when that began, or `at` where that is not known.
        """
        return self.reasons[0].date

    @property
    def stops_even_if_renewed(self) -> datetime | None:
        """The same, counting only what fetching collateral does not renew; None: none is known."""
        return min((r.date for r in self.reasons if not r.renewable), default=None)

    def status_within(self, within: timedelta | None) -> Exit:
        """For a monitoring job: fails now, may stop within this time, or neither.

        A status that early collateral announces lies within every limit: any fetch may bring it,
        and its date moves on with each bundle that is fetched.
        """
        if self.exit_status is not Exit.YES or within is None:
            return self.exit_status
        announced = any(reason.kind == Kind.EARLY_STATUS for reason in self.reasons)
        return Exit.NOT_ADMITTED if announced or self.stops - self.at <= within else Exit.YES

    @property
    def verdict(self) -> str:
        """Of today; the words of `ratls verify quote`."""
        return self.exit_status.verdict

    def as_json(self, *, file: str, mode: Mode) -> dict[str, object]:
        """The line of `ratls verify forecast --json`; other programs rely on it."""
        renewed = self.stops_even_if_renewed
        return {
            "file": file,
            "verdict": self.verdict,
            "mode": mode.value,
            "at": instant_text(self.at),
            "stops": instant_text(self.stops),
            "days_left": (self.stops - self.at) // _DAY,
            "stops_even_if_renewed": None if renewed is None else instant_text(renewed),
            "reasons": [reason.as_json() for reason in self.reasons],
            "platform": _platform(self.pck),
            **_status(self.tcb),
            "parts": [part.as_json() for part in self.parts] or None,
            "announced": [level.as_json() for level in self.announced],
            "early": None if self.early is None else self.early.as_json(),
            "error": self.refusal and self.refusal.as_json(),
        }


def forecast(
    received: ReceivedQuote,
    collateral: Collateral,
    *,
    roots: TrustAnchors,
    at: datetime,
    demand: Demand | None = None,
    early: Collateral | None = None,
) -> Forecast:
    """Say when a quote stops passing, with this bundle and with any that could replace it.

    Standard collateral says one day what early collateral says today; the date is not announced.
    A status under `early` that is not accepted therefore gets the first date on which this bundle
    has to be fetched again: until then the platform passes with this bundle, and any fetch, also
    today, may bring the new status. See `Forecast.status_within`.

    Args:
        received: The quote, from `ReceivedQuote.of_file`.
        collateral: The bundle in use.
        roots: The root key that is trusted.
        at: From when on to look ahead, timezone-aware; counted in whole seconds.
        demand: What accepts a genuine quote. None: `accept` with its defaults.
        early: A bundle of Intel's early update for the same kind of platform.

    Raises:
        EarlyCollateralUnfit: `early` is of other platforms, or behind `collateral` (3).
        CollateralStaleError and others: `early` itself is of no use (as `verify_quote`).
        ConfigError: The caller's own input is unusable; that is no verdict about the quote.
    """
    at = require_instant(at).replace(microsecond=0)
    asked = _Question(received, roots, demand or Demand())
    verified, refusal = asked.of(collateral, at)
    tcb = None if verified is None else verified.tcb
    genuine = GenuineQuote.behind(refusal)
    if refusal is not None and genuine is not None:
        return _below(refusal, genuine, at)
    if refusal is not None and verified is None and refusal.check != QuoteCheck.VALIDITY:
        return Forecast.of_refused(refusal, at)
    parts = () if verified is None else parts_of(verified.genuine)
    accepted = asked.demand.advisories
    ahead = () if accepted is None else announced(ahead_of(parts), accepted)
    pck, reasons = asked.ends(collateral)  # the quote is genuine, or was or will be
    reasons += asked.demand.limits(verified, at) if verified is not None else ()
    if refusal is not None:
        # What is refused stays refused: no date of its own matters any more.
        kept = reasons if refusal.exit_status is Exit.UNDECIDED else []
        ordered = _ordered([_now(refusal, at), *kept])
        return Forecast(at, ordered, refusal, refusal.exit_status, pck, tcb, parts, ahead)
    verdict = None
    if early is not None:
        with placed("early collateral"):
            verdict = asked.of_early(early, collateral, at)
        if verdict.refusal is not None:
            reasons.append(_early(verdict.refusal, verdict.tcb, reasons))
    ordered, then = asked.first_refused(_ordered(reasons), collateral)
    return Forecast(at, ordered, then, Exit.YES, pck, tcb, parts, ahead, verdict)


def _below(refusal: RatlsError, genuine: GenuineQuote, at: datetime) -> Forecast:
    """The answer on a genuine quote below every level: only an update changes it."""
    parts = parts_of(genuine)
    update = ", ".join(updates(part for part in parts if part.level is None))
    fix = f"not renewable: needs an update ({update}), then a new PCK certificate and a new quote"
    reason = Reason(Kind.ALREADY_REFUSED, at, str(refusal), fix, renewable=False)
    return Forecast(at, (reason,), refusal, refusal.exit_status, genuine.pck, parts=parts)


@dataclass(frozen=True, slots=True)
class _Question:
    """One quote, judged alike at several instants and with several bundles."""

    received: ReceivedQuote
    roots: TrustAnchors
    demand: Demand

    def of(
        self, collateral: Collateral, at: datetime
    ) -> tuple[VerifiedQuote | None, RatlsError | None]:
        """The quote if genuine, and why it does not pass, if it does not."""
        verified = None
        try:
            verified = verify_received(self.received, collateral, roots=self.roots, at=at)
            self.demand.accept(verified, at)
        except ConfigError:
            raise
        except RatlsError as refusal:
            return verified, refusal
        return verified, None

    def ends(self, collateral: Collateral) -> tuple[PckChain, list[Reason]]:
        """The end of everything that a verdict on this quote rests on; all of it is authentic."""
        pck = self.received.pck(self.roots)
        contents = Contents.authenticate(collateral, self.roots)
        found = [
            Reason(kind, date, f"{period.thing} ends", FETCH, renewable=True)
            for kind, period in zip(_PARTS, contents.periods().values(), strict=True)
            if (date := _first_second_after(period)) is not None
        ]
        own = (pck.leaf, pck.authority, pck.root)
        for certificate in dict.fromkeys((*own, *contents.certificates)):
            date = _first_second_after(Period.of_certificate(certificate))
            if date is not None:
                found.append(_certificate_ends(certificate, date, pck))
        return pck, found

    def of_early(self, early: Collateral, collateral: Collateral, at: datetime) -> EarlyVerdict:
        """The verdict of the early bundle on this quote.

        Raises:
            EarlyCollateralUnfit, CollateralStaleError: There is none, and silence would look like
                good news.
        """
        theirs = Contents.authenticate(early, self.roots)
        _require_early_of(theirs, Contents.authenticate(collateral, self.roots))
        verified, refusal = self.of(early, at)
        if refusal is not None and refusal.exit_status is Exit.UNDECIDED:
            raise refusal
        return EarlyVerdict(None if verified is None else verified.tcb, refusal)

    def first_refused(
        self, reasons: tuple[Reason, ...], collateral: Collateral
    ) -> tuple[tuple[Reason, ...], RatlsError]:
        """The reasons from the first one on at which the verifier really refuses; that refusal."""
        for i, reason in enumerate(reasons):
            _, refusal = self.of(collateral, reason.date)
            if refusal is not None:
                return reasons[i:], refusal
        raise AssertionError("a quote passes after the end of everything that it rests on")


def later(instant: datetime, step: timedelta) -> datetime | None:
    """The first whole second, UTC, that lies `step` or more after this; None: beyond year 9999."""
    try:
        moved = instant.astimezone(UTC) + step
        return (moved + (_SECOND - timedelta.resolution)).replace(microsecond=0)
    except OverflowError:
        return None


def _first_second_after(period: Period) -> datetime | None:
    """The first whole second that this does not cover; None: it never ends."""
    return later(period.closes, timedelta(0))


def _certificate_ends(certificate: Certificate, date: datetime, pck: PckChain) -> Reason:
    if certificate == pck.leaf:
        fix = "get the platform a new PCK certificate, then make a new quote"
    elif certificate in (pck.authority, pck.root):
        fix = "get the platform a PCK chain with the renewed certificate, then make a new quote"
    else:
        fix = "fetch the collateral again once Intel has renewed the certificate"
    thing, serial = certificate.common_name, certificate.serial_hex
    return Reason(
        Kind.CERTIFICATE_ENDS, date, f"{thing} {serial} ends", fix, renewable=False, serial=serial
    )


def _early(refusal: RatlsError, tcb: TcbVerdict | None, others: list[Reason]) -> Reason:
    advisories = ", ".join(tcb.advisory_ids) if tcb is not None else ""
    return Reason(
        Kind.EARLY_STATUS,
        min(reason.date for reason in others if reason.renewable),
        f"early collateral: {refusal}{f' ({advisories})' if advisories else ''}",
        f"before the next fetch, which may bring this: {refusal.fix}",
        renewable=False,
    )


def _now(refusal: RatlsError, at: datetime) -> Reason:
    kind = Kind.UNDECIDED if refusal.exit_status is Exit.UNDECIDED else Kind.ALREADY_REFUSED
    of_collateral = isinstance(
        refusal,
        CollateralFormatError
        | CollateralMismatchError
        | CollateralSignatureError
        | CollateralStaleError,
    )
    return Reason(kind, at, str(refusal), refusal.fix, renewable=of_collateral)


class EarlyCollateralUnfit(ConfigError):
    """Early collateral of another kind of platform, or older than the standard collateral given."""

    code = "early-collateral-unfit"
    default_fix = "fetch both for the same platform, the early one with Intel's update `early`"


def _require_early_of(early: Contents, standard: Contents) -> None:
    """Early collateral is for the same platforms and no older.

    Raises:
        EarlyCollateralUnfit: It is not.
    """
    wanted, found = (f"{c.kind}, PCE {c.tcb_info.pce_id.hex()}" for c in (standard, early))
    if wanted != found:
        raise EarlyCollateralUnfit("TCB info", expected=f"for {wanted}", found=f"for {found}")
    # The two files in each other's place would announce good news: yesterday's status.
    numbers = [c.tcb_info.evaluation_data_number for c in (standard, early)]
    if numbers[1] < numbers[0]:
        raise EarlyCollateralUnfit(
            "TCB info", expected=f"evaluation {numbers[0]} or higher", found=str(numbers[1])
        )


def _ordered(reasons: list[Reason]) -> tuple[Reason, ...]:
    """Earliest first; of the same date, what fetching does not cure first."""
    return tuple(sorted(reasons, key=lambda reason: (reason.date, reason.renewable)))


def _status(tcb: TcbVerdict | None) -> dict[str, object]:
    return {
        "tcb_status": None if tcb is None else tcb.status.value,
        "tcb_evaluation_data_number": None if tcb is None else tcb.evaluation_data_number,
        "advisory_ids": None if tcb is None else list(tcb.advisory_ids),
    }


def _platform(pck: PckChain | None) -> dict[str, object] | None:
    if pck is None:
        return None
    return {**platform_facts(pck.extension.platform), "pck_serial": pck.leaf.serial_hex}
