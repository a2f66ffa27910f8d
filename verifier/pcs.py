"""Fetch what Intel publishes about a platform, and give it to nobody before it has been verified.

    service, other = Service.parse("https://pccs.example:8081"), Service.parse(INTEL)
    quotes, trust = {"quote.bin": raw}, tls_trust()
    fetched = fetch_collateral(quotes, service, other, roots=roots, trust=trust, clock=now)
    store(fetched, Path("collateral.json"), kept=None, roots=roots)

The addresses come from the command line alone. Of a quote, an FMSPC and two words reach a
request, and only after the quote's certificate chain held. A service is believed in nothing: it
can withhold, and it can replay, which `store` and the marks of `cache` notice. Interface: Intel's
Provisioning Certification Service, version 4, as it and the PCCS speak it.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import certifi
import httpx

from verifier.anchors import TrustAnchors
from verifier.certificate import PLATFORM_CA
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.errors import (
    CollateralFetchError,
    CollateralRollbackError,
    CollateralStaleError,
    ConfigError,
    RatlsError,
    placed,
)
from verifier.files import parse_file, read_file, write_atomically
from verifier.pck import authenticate_pck_chain
from verifier.quote import Quote, Tee
from verifier.responses import MAX_ANSWER, Answer, Answers, PcsAnswerMalformed
from verifier.validity import rfc3339
from verifier.verify import VerifiedQuote, verify_quote

T = TypeVar("T")
Trust: TypeAlias = ssl.SSLContext  # whose certificates a service may show; `tls_trust` makes it
TOTAL_SECONDS = 30.0
INTEL = "https://api.trustedservices.intel.com"
# Intel publishes this one list on a host of its own; caching services have it with the rest.
_INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
# Revocation lists are those of both technologies, and stand below this one.
_PATH = "/sgx/certification/v4"
_ADDRESS = re.compile(
    r"(https://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?)/?", re.ASCII
)
# What a caching service means by these, and what helps.
_FIXES = {
    404: "it does not know this platform: have it registered there, or ask another service",
    429: "it is asked too often: try again later",
    460: "the service's own store is damaged: refresh or rebuild its cache",
    461: "the caching service does not know this platform: register the platform with it",
    462: "Intel has no certificate for the platform as it is: check BIOS and registration",
    502: "the caching service cannot reach Intel's: check its network, proxy and API key",
}


class PcsAddressMalformed(ConfigError):
    """The address of the collateral service is not `https://HOST[:PORT]`."""

    code = "pcs-address-malformed"
    default_fix = "give scheme, host and port alone; paths are fixed, and plain HTTP is not spoken"


@dataclass(frozen=True, slots=True)
class Service:
    """Whom to ask, from local configuration: Intel's own service or one that speaks like it."""

    origin: str  #    https://HOST[:PORT]
    root_crl: str  #  the address of the root's revocation list
    trust: Trust | None = field(default=None, compare=False)  # of its own

    @classmethod
    def parse(cls, text: str, trust: Trust | None = None) -> Self:
        """Read `https://HOST[:PORT]`.

        Raises:
            PcsAddressMalformed: Another scheme, a user, a path, a query, or no such port.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[2] or 443) < 65536:
            raise PcsAddressMalformed(
                "--from", expected="https://HOST[:PORT]", found=ascii(text[:80])
            )
        origin = match[1].lower()
        root_crl = _INTEL_ROOT_CRL if origin == INTEL else f"{origin}{_PATH}/rootcacrl"
        return cls(origin, root_crl, trust)


class QuotesOfDifferentPlatforms(ConfigError):
    """One bundle serves one kind of platform, and the quotes given are of more than one."""

    code = "quotes-of-different-platforms"
    default_fix = "fetch once for each kind of platform, into a bundle of its own"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask for. All that a quote can decide about a request."""

    tee: Tee
    fmspc: bytes  #  6
    ca: str  #       `platform` or `processor`

    @classmethod
    def by(cls, raw: bytes, roots: TrustAnchors, *, newer_sgx: bool = False) -> Self:
        """What a quote's platform needs, once its PCK chain leads to the root.

        Raises:
            QuoteFormatError: Not a quote that carries its chain (3).
            CertChainError: A forged quote, which makes nobody ask for anything (4).
        """
        quote = Quote.parse(raw, newer_sgx=newer_sgx)
        pck = authenticate_pck_chain(quote.auth.require_pck_chain(), roots)
        ca = "platform" if pck.authority.common_name == PLATFORM_CA else "processor"
        return cls(quote.tee, pck.extension.platform.fmspc, ca)

    @classmethod
    def by_all(
        cls, quotes: Mapping[str, bytes], roots: TrustAnchors, *, newer_sgx: bool = False
    ) -> Self:
        """What all these quotes need.

        Raises:
            QuotesOfDifferentPlatforms: No one bundle is for all of them, or there is none (3).
            QuoteFormatError, CertChainError: As `by`.
        """
        found: dict[Self, str] = {}
        for name, raw in quotes.items():
            with placed(name):
                found.setdefault(cls.by(raw, roots, newer_sgx=newer_sgx), name)
        if len(found) != 1:
            raise QuotesOfDifferentPlatforms(
                "quotes",
                expected="one kind of platform",
                found=", ".join(f"{wanted} ({name})" for wanted, name in found.items()) or "none",
            )
        return next(iter(found))

    def __str__(self) -> str:
        return f"{self.tee} {self.fmspc.hex()} {self.ca}"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A source that was asked first and could not give; people are told."""

    source: str
    refusal: RatlsError


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle with which every quote given was found authentic; `judge` makes it."""

    collateral: Collateral
    contents: Contents
    verified: tuple[VerifiedQuote, ...]
    source: str = ""  #  an origin, or `cache`
    passed_over: tuple[PassedOver, ...] = ()


def judge(
    quotes: Mapping[str, bytes],
    collateral: Collateral,
    *,
    roots: TrustAnchors,
    at: datetime,
    newer_sgx: bool = False,
) -> Fetched:
    """Verify all quotes with this bundle, which nobody has verified yet.

    Raises:
        RatlsError: What `verify_quote` says; then nothing of the bundle may be kept.
    """
    verified = []
    for name, raw in quotes.items():
        with placed(name):
            verified.append(verify_quote(raw, collateral, roots=roots, at=at, newer_sgx=newer_sgx))
    return Fetched(collateral, Contents.authenticate(collateral, roots), tuple(verified))


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after which pauses, one request is made again.

    The bound of a pause doubles from time to time; the pause is drawn below it, so that many
    who were turned away together do not come back together.
    """

    number: int = 3
    first: float = 0.5  #    seconds: the bound of the first pause
    longest: float = 8.0  #  seconds: of all pauses, and of what a service may ask for
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    draw: Callable[[float, float], float] = random.SystemRandom().uniform

    def pause(self, turn: int, asked_for: float) -> float:
        """Seconds before repetition number `turn`, from 0 on."""
        bound = min(self.longest, self.first * 2.0 ** min(turn, 32))
        return min(self.longest, asked_for) + self.draw(0.0, bound)


def fetch_collateral(
    quotes: Mapping[str, bytes],
    *services: Service,
    roots: TrustAnchors,
    trust: Trust,
    clock: Callable[[], datetime],
    seconds: float = TOTAL_SECONDS,
    early: bool = False,
    newer_sgx: bool = False,
    retries: Retries | None = None,
    require: Callable[[Contents], None] = lambda contents: None,
    otherwise: Callable[[], Fetched | None] = lambda: None,
) -> Fetched:
    """Ask for the collateral of these quotes' platform and verify them all with it.

    The next service is asked when one could not give: nothing came in time, or what came was
    no answer, or it does not cover now, or `require` knows of newer. Whatever else the verifier
    refuses ends it: somebody hands out what is not genuine, or the quote itself is bad, and
    going on until somebody's collateral fits would hide the one and not mend the other.

    Runs an event loop of its own, so not to be called from within one.

    Args:
        quotes: One or more quotes of one kind of platform, each under a name for refusals.
        services: Whom to ask, in this order; at least one.
        roots: The root key believed without proof.
        trust: Whose certificates services without a trust of their own may show; see `tls_trust`.
        clock: Asked once the answers are there.
        seconds: For everything together, from the first look-up of a name to the last byte.
            Each service may use an equal share of what is left.
        early: Ask for what Intel says at disclosure, instead of a grace period later.
        newer_sgx: Also read SGX quotes of versions 4 and 5.
        retries: Of single requests; None for the usual ones.
        require: Sees what was verified, and refuses what is older than something known.
        otherwise: Asked where no service gave; None where it does not have it either.

    Raises:
        QuotesOfDifferentPlatforms: No one bundle is for all of them (3).
        CollateralFetchError: The service, or none of the services, gave it (5).
        RatlsError: What `verify_quote` says; then nothing of what came may be kept.
    """
    question = _Question(
        Wanted.by_all(quotes, roots, newer_sgx=newer_sgx),
        trust,
        early,
        Retries() if retries is None else retries,
    )

    async def take(service: Service, share: float) -> Fetched:
        try:
            answers = await _ask(service, question, share)
            at = clock()
            collateral = answers.as_bundle(rfc3339(at))
        except RatlsError as refusal:
            # No signature was looked at: whoever could bring this about could also say nothing.
            raise _NotGiven(refusal) from refusal
        try:
            fetched = judge(quotes, collateral, roots=roots, at=at, newer_sgx=newer_sgx)
            require(fetched.contents)
        except (CollateralStaleError, CollateralRollbackError) as refusal:
            raise _NotGiven(refusal) from refusal
        return fetched

    found, passed_over = asyncio.run(_first(services, take, seconds))
    if found is None:
        found = otherwise()
    if found is None:
        raise _exhausted(passed_over)
    return replace(found, passed_over=passed_over)


class CaFileUnusable(ConfigError):
    """The file of `--ca` holds no certificates."""

    code = "ca-file-unusable"
    default_fix = (
        "give a PEM file with the certificate, or the authority, of the collateral service"
    )


def tls_trust(ca: Path | None = None) -> Trust:
    """TLS 1.2 or later, chain and name verified, whatever the environment says.

    Args:
        ca: PEM file with the only certificates to believe; None for the public authorities.

    Raises:
        FileUnreadable, CaFileUnusable: There are no certificates in it.
    """
    # Not `create_default_context`: it writes session keys where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_verify_locations(cafile=certifi.where())
        return context
    try:
        context.load_verify_locations(cadata=read_file(ca).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CaFileUnusable(str(ca), expected="PEM certificates", found="none") from error
    return context


# The requests


class _NotGiven(Exception):
    """A service did not give what could be used; the next one may be asked."""

    def __init__(self, refusal: RatlsError) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


async def _first(
    services: Sequence[Service],
    take: Callable[[Service, float], Awaitable[Fetched]],
    seconds: float,
) -> tuple[Fetched | None, tuple[PassedOver, ...]]:
    """What the first service gives that gives, if one does, and those before it."""
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
            return replace(found, source=service.origin), tuple(passed_over)
    return None, tuple(passed_over)


class _Resolver(ThreadPoolExecutor):
    """Where names are looked up. Nobody waits for the end of it, the process neither.

    The system's resolver cannot be cancelled, and may take half a minute to give up; the usual
    executor would have the event loop, and then the interpreter, wait for that.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        found: Future[T] = Future()

        def run() -> None:
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(fn(*args, **options))
                except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                    found.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return found


class CollateralSourcesExhausted(CollateralFetchError):
    """Of several collateral services, none gave what could be used."""

    code = "collateral-sources-exhausted"
    default_fix = "see what is said of each service"


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


@dataclass(frozen=True, slots=True)
class _Question:
    """The same for every service."""

    wanted: Wanted
    trust: Trust
    early: bool
    retries: Retries


class PcsTooSlow(CollateralFetchError):
    """The collateral service did not finish in time, however much it sent."""

    code = "pcs-too-slow"
    default_fix = "try again later, or give it longer with --timeout"


async def _ask(service: Service, question: _Question, seconds: float) -> Answers:
    """Answers that nobody has looked into yet."""
    try:
        # One clock for all of it. A limit for each read would let a peer that sends a byte now
        # and then hold us for ever, within headers too. The handshake has an end of its own
        # before that: a client that is cancelled in the middle of one forgets to close its socket.
        async with (
            asyncio.timeout(seconds) as limit,
            httpx.AsyncClient(
                verify=question.trust if service.trust is None else service.trust,
                trust_env=False,  # no proxy, no credentials, no roots from the environment
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=max(0.8 * seconds, 0.001)),
                headers={"Accept-Encoding": "identity"},  # what is not packed cannot explode
            ) as client,
        ):
            asker = _Asker(client, question.retries, limit.when() or 0.0)
            wanted, update = question.wanted, {"update": "early"} if question.early else {}
            base = f"{service.origin}/{wanted.tee}/certification/v4"
            return Answers(
                root_crl=await asker.get(service.root_crl),
                pck_crl=await asker.get(
                    f"{service.origin}{_PATH}/pckcrl", ca=wanted.ca, encoding="der"
                ),
                tcb=await asker.get(f"{base}/tcb", fmspc=wanted.fmspc.hex().upper(), **update),
                identity=await asker.get(f"{base}/qe/identity", **update),
            )
    except (TimeoutError, httpx.TimeoutException) as error:
        raise PcsTooSlow(
            service.origin, expected=f"an end within {seconds:g} s", found="none"
        ) from error


class _Passing(Exception):
    """What may be gone the next time: the refusal if it is not, and the pause asked for."""

    def __init__(self, refusal: RatlsError, pause: float = 0.0) -> None:
        super().__init__(refusal.code)
        self.refusal, self.pause = refusal, pause


class PcsAnswerTooLarge(CollateralFetchError):
    """The collateral service sent more than any collateral takes."""

    code = "pcs-answer-too-large"
    default_fix = "do not use this service"


@dataclass(frozen=True, slots=True)
class _Asker:
    """Requests to one service, each repeated where that can help and time is left."""

    client: httpx.AsyncClient
    retries: Retries
    end: float  # by the clock of the event loop

    async def get(self, address: str, **parameters: str) -> Answer:
        for turn in range(self.retries.number):
            try:
                return await self._once(address, parameters)
            except _Passing as outcome:
                pause = self.retries.pause(turn, outcome.pause)
                # The reason says more than that time ran out while we waited.
                if asyncio.get_running_loop().time() + pause >= self.end:
                    raise outcome.refusal from outcome
            await self.retries.sleep(pause)
        try:
            return await self._once(address, parameters)
        except _Passing as outcome:
            raise outcome.refusal from outcome

    async def _once(self, address: str, parameters: dict[str, str]) -> Answer:
        body = bytearray()
        try:
            async with self.client.stream("GET", address, params=parameters) as response:
                _require_answer(address, response)
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        raise PcsAnswerTooLarge(
                            address, expected=f"{MAX_ANSWER} bytes", found="more"
                        )
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise _broken(address, error) from error
        return Answer(address, tuple(response.headers.raw), bytes(body))


class PcsRedirects(CollateralFetchError):
    """The collateral service points elsewhere, which is never followed."""

    code = "pcs-redirects"
    default_fix = "give the address of the service itself"


class PcsRefused(CollateralFetchError):
    """The collateral service does not have, or does not give, what was asked for."""

    code = "pcs-refused"
    default_fix = "404: it does not know this platform; otherwise see the service's own log"


def _require_answer(address: str, response: httpx.Response) -> None:
    """Status 200 and plain bytes, before anything of the body is read."""
    status = response.status_code
    if 300 <= status < 400:
        raise PcsRedirects(address, expected="an answer", found=f"status {status}")
    if status != 200:
        refusal = PcsRefused(
            address, expected="status 200", found=str(status), fix=_FIXES.get(status)
        )
        if status == 429 or 500 <= status < 600:
            raise _Passing(refusal, _seconds_asked_for(response))
        raise refusal
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise PcsAnswerMalformed(address, expected="plain bytes", found="packed ones")


def _seconds_asked_for(response: httpx.Response) -> float:
    """`Retry-After` in seconds. As a date it would have to be held against a clock, and is not."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0.0


class PcsCertificateUntrusted(CollateralFetchError):
    """Whoever listens there does not show a certificate that is believed for that name."""

    code = "pcs-certificate-untrusted"
    default_fix = "name the certificate or authority of your own service with --ca"


class PcsUnreachable(CollateralFetchError):
    """The collateral service cannot be reached, or broke off."""

    code = "pcs-unreachable"
    default_fix = "check the address, and that the service runs and speaks HTTPS"


def _broken(address: str, error: httpx.TransportError) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Somebody else answers, or it is misconfigured: asking again changes neither.
            return PcsCertificateUntrusted(
                address,
                expected="a certificate that is believed",
                found=cause.verify_message,
            )
        cause = cause.__cause__ or cause.__context__
    return _Passing(
        PcsUnreachable(address, expected="an answer over HTTPS", found=type(error).__name__)
    )


# The file


def kept_bundle(path: Path) -> Collateral | None:
    """The bundle that stands where another is to be written, if something does.

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
        # Its dates are nobody's word: a forged file must not keep a genuine one out.
        return
    contents.require_not_older_than(old)
