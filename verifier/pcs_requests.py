"""The requests to one collateral service: which addresses, over which TLS, within which limits.

Interface: Intel's Provisioning Certification Service, version 4, as Intel and the PCCS speak it.
Requests contain only the FMSPC and fixed words. What is answered is capped, and verified by the
caller.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
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
# What a caching service means by these, and what helps.
_FIXES = {
    404: "it does not know this platform: register the platform there, or ask another service",
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


class PcsTooSlow(CollateralFetchError):
    """The collateral service did not answer completely in time."""

    code = "pcs-too-slow"
    default_fix = "try again later, or give it longer with --timeout"
    says = "{thing} did not answer completely {expected}"


async def ask(service: Service, question: Question, seconds: float) -> Answers:
    """The answers of a service, not verified."""
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
            requests = _Requests(client, question.retries, limit.when() or 0.0)
            kind, update = question.kind, {"update": "early"} if question.early else {}
            base = f"{service.origin}/{kind.tee}/certification/v4"
            return Answers(
                root_crl=await requests.get(service.root_crl),
                pck_crl=await requests.get(
                    f"{service.origin}{_PATH}/pckcrl", ca=kind.ca, encoding="der"
                ),
                tcb=await requests.get(f"{base}/tcb", fmspc=kind.fmspc.hex().upper(), **update),
                identity=await requests.get(f"{base}/qe/identity", **update),
            )
    except (TimeoutError, httpx.TimeoutException) as error:
        raise PcsTooSlow(
            service.origin, expected=f"within {seconds:g} s", found="no end"
        ) from error


class _MayPass(Exception):
    """A failure that another try may not meet: the refusal if it does, and the pause asked for."""

    def __init__(self, refusal: RatlsError, pause: float = 0.0) -> None:
        super().__init__(refusal.code)
        self.refusal, self.pause = refusal, pause


class PcsAnswerTooLarge(CollateralFetchError):
    """The collateral service sent more bytes than any collateral has."""

    code = "pcs-answer-too-large"
    default_fix = "do not use this service"


@dataclass(frozen=True, slots=True)
class _Requests:
    """Requests to one service, each repeated where that can help and time is left."""

    client: httpx.AsyncClient
    retries: Retries
    end: float  # by the clock of the event loop

    async def get(self, address: str, **parameters: str) -> Answer:
        for turn in range(self.retries.number):
            try:
                return await self._once(address, parameters)
            except _MayPass as outcome:
                pause = self.retries.pause(turn, outcome.pause)
                # The reason says more than that time ran out while we waited.
                if asyncio.get_running_loop().time() + pause >= self.end:
                    raise outcome.refusal from outcome
            await self.retries.sleep(pause)
        try:
            return await self._once(address, parameters)
        except _MayPass as outcome:
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
                            address, expected=f"at most {MAX_ANSWER} bytes", found="more"
                        )
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise _broken(address, error) from error
        return Answer(address, tuple(response.headers.raw), bytes(body))


class PcsRedirects(CollateralFetchError):
    """The collateral service answers with a redirect, which is never followed."""

    code = "pcs-redirects"
    default_fix = "give the address of the service itself"


class PcsRefused(CollateralFetchError):
    """The collateral service does not have, or does not give, what was asked for."""

    code = "pcs-refused"
    default_fix = "404: it does not know this platform; otherwise see the service's own log"


def _require_answer(address: str, response: httpx.Response) -> None:
    """Status 200 and bytes that are not compressed, before anything of the body is read."""
    status = response.status_code
    if 300 <= status < 400:
        raise PcsRedirects(address, expected="an answer", found=f"a redirect (status {status})")
    if status != 200:
        refusal = PcsRefused(
            address, expected="status 200", found=str(status), fix=_FIXES.get(status)
        )
        if status == 429 or 500 <= status < 600:
            raise _MayPass(refusal, _seconds_asked_for(response))
        raise refusal
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise PcsAnswerMalformed(address, expected="an uncompressed answer", found="compressed")


def _seconds_asked_for(response: httpx.Response) -> float:
    """`Retry-After` in seconds. One that is a date would need a clock, and is ignored."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0.0


class PcsCertificateUntrusted(CollateralFetchError):
    """The server does not show a certificate that is trusted for its name."""

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
            # Another server, or one that is misconfigured: asking again changes neither.
            return PcsCertificateUntrusted(
                address, expected="a trusted certificate", found=cause.verify_message
            )
        cause = cause.__cause__ or cause.__context__
    return _MayPass(
        PcsUnreachable(address, expected="an answer over HTTPS", found=type(error).__name__)
    )
