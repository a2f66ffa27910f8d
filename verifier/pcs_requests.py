"""The requests to one collateral service: which addresses, over which TLS, within which limits.

Interface: Intel's Provisioning Certification Service, version 4, as Intel and the PCCS speak it.
Requests contain only the FMSPC and fixed words. What is answered is capped, and verified by the
caller.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeAlias

import certifi
import httpx

from verifier.backoff import Backoff
from verifier.errors import CollateralFetchError, ConfigError, RatlsError
from verifier.files import read_file
from verifier.kind import PlatformKind
from verifier.responses import MAX_ANSWER, Answer, Answers, PcsAnswerMalformed

Trust: TypeAlias = ssl.SSLContext  # whose certificates a service may show; `tls_trust` makes it
INTEL = "https://api.trustedservices.intel.com"
# Intel publishes this one list on a host of its own; caching services have it with the rest.
_INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
# The revocation lists of both technologies are below this path.
_PATH = "/sgx/certification/v4"
_ADDRESS = re.compile(
    r"(https://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?)/?", re.ASCII
)
_PROXY = re.compile(
    r"(http://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5}))/?", re.ASCII
)
# What Intel's services and caching ones mean by these, and what helps.
_FIXES = {
    400: "it does not understand the question: it speaks another version of the interface",
    401: "it wants credentials, which are never sent: name a service that asks for none",
    403: "it does not serve this machine: look at its access rules, and at what is in between",
    404: "it does not know this platform: register the platform there, or ask another service",
    405: "it is no service of version 4 of Intel's interface: check the address and the port",
    408: "it gave up waiting for the request: try again later, or look at the network",
    410: "it no longer serves this evaluation data number: ask for a newer one",
    429: "it is asked too often: try again later",
    460: "the service's own store is damaged: refresh or rebuild its cache",
    461: "the caching service does not know this platform: register the platform with it",
    462: "Intel has no certificate for the platform as it is: check BIOS and registration",
    502: "the caching service cannot reach Intel's: check its network, proxy and API key",
    503: "it is overloaded, or being maintained: try again later",
    504: "what it asks did not answer it: check its network, or try again later",
}
_NUMBER_UNKNOWN = (
    "it does not know this platform, or not (yet) this evaluation data number: "
    "ask without --evaluation-data-number to learn which"
)
_PASSING = {408, 429}  # besides 5xx: another try may get an answer


class PcsAddressMalformed(ConfigError):
    """The address of the collateral service is not `https://HOST[:PORT]`."""

    code = "pcs-address-malformed"
    default_fix = "give scheme, host and port alone; paths are fixed, and plain HTTP is not spoken"


class ProxyAddressMalformed(ConfigError):
    """The address of the proxy is not `http://HOST:PORT`."""

    code = "proxy-address-malformed"
    default_fix = "give scheme, host and port alone; a proxy that wants a password is not used"


def parse_proxy(text: str) -> str:
    """Read `http://HOST:PORT`, of a proxy that lets TLS through (CONNECT) and sees none of it.

    Raises:
        ProxyAddressMalformed: Another scheme, a user, a path, or no such port.
    """
    match = _PROXY.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ProxyAddressMalformed("--proxy", expected="http://HOST:PORT", found=ascii(text[:80]))
    return match[1].lower()


@dataclass(frozen=True, slots=True)
class Service:
    """A collateral service, from local configuration: Intel's own or one that speaks like it."""

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


class CaFileUnusable(ConfigError):
    """The file of `--ca` holds no certificates."""

    code = "ca-file-unusable"
    default_fix = (
        "give a PEM file with the certificate, or the authority, of the collateral service"
    )


def tls_trust(ca: Path | None = None) -> Trust:
    """TLS 1.2 or later, chain and name verified; the environment is not read.

    Args:
        ca: PEM file with the only certificates to trust; None for the public authorities.

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


_BACKOFF = Backoff(first=0.5, most=8.0, least=0.0)  # `most` is also all that a service may ask for


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after which pauses, one request is made again."""

    number: int = 3
    backoff: Backoff = _BACKOFF
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.SystemRandom().random

    def pause(self, turn: int, asked_for: float) -> float:
        """Seconds before repetition number `turn`, from 0; `asked_for` is the service's wish."""
        return min(self.backoff.most, asked_for) + self.backoff.seconds(turn, self.random)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the same of every service."""

    kind: PlatformKind
    trust: Trust
    early: bool
    retries: Retries
    clock: Callable[[], datetime]  # for what a service says about when to come back
    number: int | None = None  #      of the edition that is asked for, in place of `early`
    proxy: str | None = None  #       from the command line, never from the environment

    @property
    def edition(self) -> dict[str, str]:
        """The parameter that names it."""
        if self.number is not None:
            return {"tcbEvaluationDataNumber": str(self.number)}
        return {"update": "early"} if self.early else {}


class PcsTooSlow(CollateralFetchError):
    """The collateral service did not answer completely in time."""

    code = "pcs-too-slow"
    default_fix = "try again later, or give it longer with --timeout"
    says = "{thing} did not answer completely {expected}"


async def ask(service: Service, question: Question, seconds: float) -> Answers:
    """The answers of a service, not verified."""
    try:
        # One clock for all of it. A limit for each read would let a peer that sends a byte now
        # and then hold us for ever, within headers too.
        async with (
            _limit(seconds) as end,
            httpx.AsyncClient(
                verify=question.trust if service.trust is None else service.trust,
                trust_env=False,  # no proxy, no credentials, no roots from the environment
                proxy=question.proxy,
                follow_redirects=False,
                headers={"Accept-Encoding": "identity"},  # what is not packed cannot explode
            ) as client,
        ):
            requests = _Requests(client, question, end)
            kind, edition = question.kind, question.edition
            base = f"{service.origin}/{kind.tee}/certification/v4"
            return Answers(
                root_crl=await requests.get(service.root_crl),
                pck_crl=await requests.get(
                    f"{service.origin}{_PATH}/pckcrl", ca=kind.ca, encoding="der"
                ),
                tcb=await requests.get(f"{base}/tcb", fmspc=kind.fmspc.hex().upper(), **edition),
                identity=await requests.get(f"{base}/qe/identity", **edition),
            )
    except (TimeoutError, httpx.TimeoutException) as error:
        raise PcsTooSlow(
            service.origin, expected=f"within {seconds:g} s", found="no end"
        ) from error


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[float]:
    """Raise TimeoutError after so many seconds; the value is when, by the clock of the event loop.

    A client that is cancelled in the middle of a handshake forgets to close its socket, so each
    handshake has an earlier end of its own. Where the process was held up until both are over, this
    one waits for one round of the loop, in which the other takes effect.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async with asyncio.timeout(None) as limit:
        timers: list[asyncio.Handle] = []
        timers.append(
            loop.call_at(end, lambda: timers.append(loop.call_soon(limit.reschedule, end)))
        )
        try:
            yield end
        finally:
            for timer in timers:
                timer.cancel()


class _MayPass(Exception):
    """A failure that another try may not meet: the refusal if it does, and the pause asked for."""

    def __init__(self, refusal: RatlsError, pause: float = 0.0) -> None:
        super().__init__(refusal.code)
        self.refusal, self.pause = refusal, pause


class PcsAnswerTooLarge(CollateralFetchError):
    """The collateral service sent more bytes than any collateral has."""

    code = "pcs-answer-too-large"
    default_fix = "do not use this service"


class PcsRedirects(CollateralFetchError):
    """The collateral service answers with a redirect, which is never followed."""

    code = "pcs-redirects"
    default_fix = "give the address of the service itself"


class PcsRefused(CollateralFetchError):
    """The collateral service does not have, or does not give, what was asked for."""

    code = "pcs-refused"
    default_fix = "404: it does not know this platform; otherwise see the service's own log"


# The one form that is still written: RFC 9110, section 5.6.7.
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Requests:
    """Requests to one service, each repeated where that can help and time is left."""

    client: httpx.AsyncClient
    question: Question
    end: float  # by the clock of the event loop

    async def get(self, address: str, **parameters: str) -> Answer:
        retries = self.question.retries
        for turn in range(retries.number):
            try:
                return await self._once(address, parameters)
            except _MayPass as outcome:
                pause = retries.pause(turn, outcome.pause)
                # The reason says more than that time ran out while we waited.
                if asyncio.get_running_loop().time() + pause >= self.end:
                    raise outcome.refusal from outcome
            await retries.sleep(pause)
        try:
            return await self._once(address, parameters)
        except _MayPass as outcome:
            raise outcome.refusal from outcome

    async def _once(self, address: str, parameters: dict[str, str]) -> Answer:
        body = bytearray()
        left = self.end - asyncio.get_running_loop().time()
        handshake = httpx.Timeout(None, connect=max(0.8 * left, 0.001))
        try:
            async with self.client.stream(
                "GET", address, params=parameters, timeout=handshake
            ) as response:
                self._require_answer(address, response)
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        raise PcsAnswerTooLarge(
                            address, expected=f"at most {MAX_ANSWER} bytes", found="more"
                        )
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise _broken(address, error, self.question.proxy) from error
        return Answer(address, tuple(response.headers.raw), bytes(body))

    def _require_answer(self, address: str, response: httpx.Response) -> None:
        """Status 200 and bytes that are not compressed, before anything of the body is read."""
        status = response.status_code
        if 300 <= status < 400:
            raise PcsRedirects(address, expected="an answer", found=f"a redirect (status {status})")
        if status != 200:
            refusal = PcsRefused(
                address, expected="status 200", found=str(status), fix=self._fix_of(status)
            )
            if status in _PASSING or 500 <= status < 600:
                raise _MayPass(refusal, self._seconds_asked_for(response))
            raise refusal
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise PcsAnswerMalformed(address, expected="an uncompressed answer", found="compressed")

    def _fix_of(self, status: int) -> str | None:
        if status == 404 and self.question.number is not None:
            return _NUMBER_UNKNOWN
        return _FIXES.get(status)

    def _seconds_asked_for(self, response: httpx.Response) -> float:
        """`Retry-After`, in seconds or as a date: RFC 9110, section 10.2.3."""
        text = response.headers.get("Retry-After", "")
        if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
            return float(text)
        if not _HTTP_DATE.fullmatch(text):
            return 0.0
        try:
            date = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        except ValueError:  # a day that does not exist
            return 0.0
        return max(0.0, (date - self.question.clock()).total_seconds())


class PcsCertificateUntrusted(CollateralFetchError):
    """The server shows a certificate of an authority that is not trusted."""

    code = "pcs-certificate-untrusted"
    default_fix = "name the certificate or authority of your own service with --ca"


class PcsCertificateOfAnotherHost(CollateralFetchError):
    """The server's certificate is trusted, but for another name than the one that was asked."""

    code = "pcs-certificate-of-another-host"
    default_fix = (
        "give --from the name that is in the certificate, or the service one for this name; "
        "if you expected this name there, another server answers in its place"
    )


class PcsCertificateExpired(CollateralFetchError):
    """The server's certificate has expired, or is not valid yet, by this machine's clock."""

    code = "pcs-certificate-expired"
    default_fix = "renew the certificate of the service; if it is valid, set this machine's clock"


class PcsUnreachable(CollateralFetchError):
    """The collateral service cannot be reached, or broke off."""

    code = "pcs-unreachable"
    default_fix = "check the address, and that the service runs and speaks HTTPS"


class PcsProxyFailed(CollateralFetchError):
    """The proxy that was named does not lead to the collateral service."""

    code = "pcs-proxy-failed"
    default_fix = "check --proxy, and that the proxy allows CONNECT to the host and port of --from"


# Error numbers of OpenSSL, `X509_V_ERR_…` in `x509_vfy.h`.
_OTHER_HOST, _OUTSIDE_ITS_TIME = {62, 64}, {9, 10}


def _broken(address: str, error: httpx.TransportError, proxy: str | None) -> Exception:
    found = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Another server, or one that is misconfigured: asking again changes neither.
            return _unbelieved(address, cause)
        if isinstance(cause, ssl.SSLError):
            found = "another protocol than TLS"
        elif isinstance(cause, socket.gaierror):
            found = "no address for this name"
        elif isinstance(cause, ConnectionRefusedError):
            found = "nothing that listens there"
        cause = cause.__cause__ or cause.__context__
    if proxy is not None and isinstance(error, (httpx.ProxyError, httpx.ConnectError)):
        return PcsProxyFailed(address, expected=f"a way through {proxy}", found=str(error) or found)
    return _MayPass(PcsUnreachable(address, expected="an answer over HTTPS", found=found))


def _unbelieved(address: str, cause: ssl.SSLCertVerificationError) -> CollateralFetchError:
    found = cause.verify_message.rstrip(".")
    if cause.verify_code in _OTHER_HOST:
        return PcsCertificateOfAnotherHost(
            address, expected="a certificate for this name", found=found
        )
    if cause.verify_code in _OUTSIDE_ITS_TIME:
        return PcsCertificateExpired(
            address, expected="a certificate that is valid now", found=found
        )
    return PcsCertificateUntrusted(address, expected="a trusted certificate", found=found)
