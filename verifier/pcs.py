"""Fetch what Intel publishes about a platform, and return it only once it is verified.

    service, other = Service.parse("https://pccs.example:8081"), Service.parse(INTEL)
    quotes, trust = {"quote.bin": ReceivedQuote(raw)}, tls_trust()
    fetched = fetch_collateral(quotes, service, other, roots=roots, trust=trust, clock=now)
    store(fetched, Path("collateral.json"), kept=None, roots=roots)

The addresses come from the command line alone, and nothing is requested before the quote's
certificate chain is checked. The service is not trusted: it can withhold or replay, and `store`
and the marks of `marks` notice both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import InitVar, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.errors import (
    BelowEveryLevelError,
    CollateralFetchError,
    CollateralRollbackError,
    CollateralStaleError,
    ConfigError,
    RatlsError,
    placed,
)
from verifier.files import parse_file, write_atomically
from verifier.kind import PlatformKind
from verifier.marks import Mark
from verifier.pcs_requests import Question, Retries, Service, Trust, ask
from verifier.received import ReceivedQuote
from verifier.text import instant_text
from verifier.verify import VerifiedQuote, verify_received

T = TypeVar("T")
TOTAL_SECONDS = 30.0


class QuotesOfDifferentPlatforms(ConfigError):
    """One bundle serves one kind of platform, and the quotes given are of more than one."""

    code = "quotes-of-different-platforms"
    default_fix = "fetch once for each kind of platform, into a bundle of its own"


def kind_of_all(quotes: Mapping[str, ReceivedQuote], roots: TrustAnchors) -> PlatformKind:
    """The one kind of platform of all these quotes.

    Raises:
        QuotesOfDifferentPlatforms: No one bundle is for all of them, or there is none (3).
        QuoteFormatError: Not a quote that carries its chain (3).
        CertChainError: A forged quote, for which nothing is requested (4).
    """
    found: dict[PlatformKind, str] = {}
    for name, received in quotes.items():
        with placed(name):
            found.setdefault(received.kind(roots), name)
    if len(found) != 1:
        raise QuotesOfDifferentPlatforms(
            "quotes",
            expected="one kind of platform",
            found=", ".join(f"{kind} ({name})" for kind, name in found.items()) or "none",
        )
    return next(iter(found))


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A service that was asked first and gave nothing usable; people are told."""

    source: str
    refusal: RatlsError


_SEAL = object()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle with which every quote given was found genuine: only `verify_all` makes one."""

    collateral: Collateral
    contents: Contents
    verified: tuple[VerifiedQuote, ...]
    below: tuple[BelowEveryLevelError, ...]  # of the others: genuine, and refused everywhere
    seal: InitVar[object]
    source: str = ""  #  an origin, or `cache`
    passed_over: tuple[PassedOver, ...] = ()

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("Fetched is made by verify_all alone")

    def from_source(self, source: str) -> Fetched:
        """The same, and where it came from."""
        return replace(self, source=source, seal=_SEAL)

    def after(self, passed_over: tuple[PassedOver, ...]) -> Fetched:
        """The same, and the services that were asked before."""
        return replace(self, passed_over=passed_over, seal=_SEAL)


def verify_all(
    quotes: Mapping[str, ReceivedQuote],
    collateral: Collateral,
    *,
    roots: TrustAnchors,
    at: datetime,
) -> Fetched:
    """Verify all quotes with this bundle. How current a genuine quote is, is not asked here.

    Raises:
        RatlsError: What `verify_quote` says; then nothing of the bundle may be kept.
    """
    verified, below = [], []
    for name, received in quotes.items():
        with placed(name):
            try:
                verified.append(verify_received(received, collateral, roots=roots, at=at))
            except BelowEveryLevelError as refusal:  # the bundle is right: a forecast needs it
                below.append(refusal)
    contents = Contents.authenticate(collateral, roots)
    return Fetched(collateral, contents, tuple(verified), tuple(below), _SEAL)


def fetch_collateral(
    quotes: Mapping[str, ReceivedQuote],
    *services: Service,
    roots: TrustAnchors,
    trust: Trust,
    clock: Callable[[], datetime],
    seconds: float = TOTAL_SECONDS,
    early: bool = False,
    retries: Retries | None = None,
    require: Callable[[Contents], None] = lambda contents: None,
    otherwise: Callable[[], Fetched | None] = lambda: None,
) -> Fetched:
    """Ask for the collateral of these quotes' platform and verify them all with it.

    The next service is asked when one could not give: nothing came in time, or what came was
    no answer, or it does not cover now, or `require` knows of newer. Any other refusal ends it:
    the service hands out forgeries, or the quote itself is bad, and going on until some collateral
    fits would hide the one and not mend the other.

    Runs an event loop of its own, so not to be called from within one.

    Args:
        quotes: One or more quotes of one kind of platform, each under a name for refusals.
        services: The services to ask, in this order; at least one.
        roots: The root key that is trusted.
        trust: Whose certificates services without a trust of their own may show; see `tls_trust`.
        clock: Asked once the answers are there.
        seconds: For everything together, from the first look-up of a name to the last byte.
            Each service may use an equal share of what is left.
        early: Ask for Intel's early update, published at disclosure; the standard one comes later.
        retries: Of single requests; None for the usual ones.
        require: Sees what was verified, and refuses what is older than something known.
        otherwise: Asked where no service gave; None where it does not have it either.

    Raises:
        QuotesOfDifferentPlatforms: No one bundle is for all of them (3).
        CollateralFetchError: The service, or none of the services, gave it (5).
        RatlsError: What `verify_quote` says; then nothing of what came may be kept.
    """
    kind = kind_of_all(quotes, roots)
    question = Question(kind, trust, early, Retries() if retries is None else retries)

    async def take(service: Service, share: float) -> Fetched:
        try:
            answers = await ask(service, question, share)
            at = clock()
            collateral = answers.as_bundle(instant_text(at))
        except RatlsError as refusal:
            # No signature was checked yet: a server that causes this could as well be silent.
            raise _NotGiven(refusal) from refusal
        try:
            fetched = verify_all(quotes, collateral, roots=roots, at=at)
            require(fetched.contents)
        except (CollateralStaleError, CollateralRollbackError) as refusal:
            raise _NotGiven(refusal) from refusal
        return fetched

    found, passed_over = asyncio.run(_first(services, take, seconds))
    if found is None:
        found = otherwise()
    if found is None:
        raise _exhausted(passed_over)
    return found.after(passed_over)


class _NotGiven(Exception):
    """A service gave nothing usable; the next one may be asked."""

    def __init__(self, refusal: RatlsError) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


async def _first(
    services: Sequence[Service],
    take: Callable[[Service, float], Awaitable[Fetched]],
    seconds: float,
) -> tuple[Fetched | None, tuple[PassedOver, ...]]:
    """The answer of the first service that gives one, and the services tried before it."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_Resolver())
    end = loop.time() + seconds
    passed_over: list[PassedOver] = []
    for place, service in enumerate(services):
        share = (end - loop.time()) / (len(services) - place)
        try:
            found = await take(service, share)
        except _NotGiven as outcome:
            passed_over.append(PassedOver(service.origin, outcome.refusal))
        else:
            return found.from_source(service.origin), tuple(passed_over)
    return None, tuple(passed_over)


class _Resolver(ThreadPoolExecutor):
    """Resolves host names in daemon threads: a hanging look-up blocks neither the loop nor exit.

    The system's resolver cannot be cancelled, and may take half a minute to give up; the usual
    executor would have the event loop, and then the interpreter, wait for that.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        found: Future[T] = Future()

        def run() -> None:
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(fn(*args, **options))
                except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                    found.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return found


class CollateralSourcesExhausted(CollateralFetchError):
    """Of several collateral services, none gave what could be used."""

    code = "collateral-sources-exhausted"
    default_fix = "follow the advice for one of the services"
    says = "none of {thing} gave current collateral: {found}"


def _exhausted(passed_over: Sequence[PassedOver]) -> RatlsError:
    """The refusal of the only one, or one that names them all."""
    if len(passed_over) == 1:
        return passed_over[0].refusal
    return CollateralSourcesExhausted(
        f"{len(passed_over)} collateral services",
        expected="one that gives current collateral",
        found="; ".join(f"{p.source}: [{p.refusal.code}] {p.refusal}" for p in passed_over),
        fix="; ".join(f"{p.source}: {p.refusal.fix}" for p in passed_over),
    )


# The file


def kept_bundle(path: Path) -> Collateral | None:
    """The bundle at the path where another is to be written; None where there is nothing.

    Raises:
        FileUnreadable, CollateralMalformed, CrlMissing: Something else, which is not overwritten.
    """
    return parse_file(path, Collateral.parse) if path.exists() else None


def store(fetched: Fetched, path: Path, *, kept: Collateral | None, roots: TrustAnchors) -> None:
    """Write the bundle atomically, in the place of an older one.

    Raises:
        CollateralRolledBack: What is kept is newer (5).
        FileNotWritten: The folder does not take it; what was there is untouched.
    """
    require_not_older(fetched.contents, kept, roots)
    write_atomically(path, fetched.collateral.raw)


def require_not_older(contents: Contents, kept: Collateral | None, roots: TrustAnchors) -> None:
    """Nothing here was issued before its counterpart in the bundle that is kept.

    Raises:
        CollateralRolledBack: Something was (5).
    """
    if kept is None:
        return
    try:
        old = Contents.authenticate(kept, roots)
    except RatlsError:
        # Its dates are not signed: a forged file must not keep a genuine one out.
        return
    # A cache cannot forge, but it can replay: an unexpired bundle of last month hides a level, or
    # a certificate, that was revoked since (T09). Of two kinds of platforms none is the older.
    if contents.kind == old.kind:
        Mark.of(old).require_dates(Mark.of(contents), old.periods())
