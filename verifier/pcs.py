"""Fetch what Intel publishes about a platform, and give it to nobody before it has been verified.

    service = Service.parse("https://pccs.example:8081")
    quotes, trust = {"quote.bin": raw}, tls_trust()
    fetched = fetch_collateral(quotes, service, roots=roots, trust=trust, clock=now)
    store(fetched, Path("collateral.json"), kept=None, roots=roots)

The address comes from the command line alone. Of a quote, an FMSPC and one of two words reach a
request, and only after the quote's certificate chain held. The service is believed in nothing:
it can withhold, and it can replay, which `store` notices. Interface: Intel's Provisioning
Certification Service, version 4, as it and the PCCS speak it.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import certifi
import httpx

from verifier.anchors import TrustAnchors
from verifier.certificate import PLATFORM_CA
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.crl import crl_der
from verifier.document import parse_object
from verifier.errors import (
    CaFileUnusable,
    CollateralMalformed,
    PcsAddressMalformed,
    PcsAnswerMalformed,
    PcsAnswerTooLarge,
    PcsCertificateUntrusted,
    PcsRedirects,
    PcsRefused,
    PcsTooSlow,
    PcsUnreachable,
    QuotesOfDifferentPlatforms,
    RatlsError,
    placed,
)
from verifier.files import parse_file, read_file, write_atomically
from verifier.pck import authenticate_pck_chain
from verifier.quote import Quote
from verifier.verify import VerifiedQuote, verify_quote

MAX_ANSWER = 1 << 20  # bytes; genuine ones have some tens of kilobytes
TOTAL_SECONDS = 30.0
INTEL = "https://api.trustedservices.intel.com"
# Intel publishes this one list on a host of its own; caching services have it with the rest.
_INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_PATH = "/sgx/certification/v4"
_ADDRESS = re.compile(
    r"(https://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?)/?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Service:
    """Whom to ask, from local configuration: Intel's own service or one that speaks like it."""

    origin: str  #    https://HOST[:PORT]
    root_crl: str  #  the address of the root's revocation list

    @classmethod
    def parse(cls, text: str) -> Self:
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
        return cls(origin, _INTEL_ROOT_CRL if origin == INTEL else f"{origin}{_PATH}/rootcacrl")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask for. All that a quote can decide about a request."""

    fmspc: bytes  #  6
    ca: str  #       `platform` or `processor`

    @classmethod
    def by(cls, raw: bytes, roots: TrustAnchors) -> Self:
        """What a quote's platform needs, once its PCK chain leads to the root.

        Raises:
            QuoteFormatError: Not a quote that carries its chain (3).
            CertChainError: A forged quote, which makes nobody ask for anything (4).
        """
        pck = authenticate_pck_chain(Quote.parse(raw).auth.require_pck_chain(), roots)
        ca = "platform" if pck.authority.common_name == PLATFORM_CA else "processor"
        return cls(pck.extension.platform.fmspc, ca)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle with which every quote given was found authentic; `fetch_collateral` makes it."""

    collateral: Collateral
    contents: Contents
    verified: tuple[VerifiedQuote, ...]


def fetch_collateral(
    quotes: Mapping[str, bytes],
    service: Service,
    *,
    roots: TrustAnchors,
    trust: ssl.SSLContext,
    clock: Callable[[], datetime],
    seconds: float = TOTAL_SECONDS,
    early: bool = False,
) -> Fetched:
    """Ask for the collateral of these quotes' platform and verify them all with it.

    Runs an event loop of its own, so not to be called from within one.

    Args:
        quotes: One or more quotes of one kind of platform, each under a name for refusals.
        roots: The root key believed without proof.
        trust: Whose certificates the service may show; see `tls_trust`.
        clock: Asked once the answers are there.
        seconds: For everything together, from the first look-up of a name to the last byte.
        early: Ask for what Intel says at disclosure, instead of a grace period later.

    Raises:
        QuotesOfDifferentPlatforms: No one bundle is for all of them (3).
        CollateralFetchError: The service did not give it (5).
        RatlsError: What `verify_quote` says; then nothing of what came may be kept.
    """
    wanted = _wanted_by_all(quotes, roots)
    collateral = _download(service, wanted, trust, seconds, early)
    at = clock()
    verified = []
    for name, raw in quotes.items():
        with placed(name):
            verified.append(verify_quote(raw, collateral, roots=roots, at=at))
    return Fetched(collateral, Contents.authenticate(collateral, roots), tuple(verified))


def _wanted_by_all(quotes: Mapping[str, bytes], roots: TrustAnchors) -> Wanted:
    found: dict[Wanted, str] = {}
    for name, raw in quotes.items():
        with placed(name):
            found.setdefault(Wanted.by(raw, roots), name)
    if len(found) != 1:
        raise QuotesOfDifferentPlatforms(
            "quotes",
            expected="one kind of platform",
            found=", ".join(f"{w.fmspc.hex()} {w.ca} ({name})" for w, name in found.items())
            or "none",
        )
    return next(iter(found))


def tls_trust(ca: Path | None = None) -> ssl.SSLContext:
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


def _download(
    service: Service, wanted: Wanted, trust: ssl.SSLContext, seconds: float, early: bool
) -> Collateral:
    """A bundle that nobody has verified yet."""
    try:
        members = asyncio.run(_ask(service, wanted, trust, seconds, early))
    except (TimeoutError, httpx.TimeoutException) as error:
        raise PcsTooSlow(
            service.origin, expected=f"an end within {seconds:g} s", found="none"
        ) from error
    except httpx.TransportError as error:
        raise _broken(service, error) from error
    return Collateral.parse(json.dumps(members, indent=1, ensure_ascii=False).encode() + b"\n")


async def _ask(
    service: Service, wanted: Wanted, trust: ssl.SSLContext, seconds: float, early: bool
) -> dict[str, str]:
    """The members of a bundle, as `Collateral.parse` reads them."""
    # One clock for all of it. A limit for each read would let a peer that sends a byte now and
    # then hold us for ever, within headers too. The handshake has an end of its own before that:
    # a client that is cancelled in the middle of one forgets to close its socket.
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(
            verify=trust,
            trust_env=False,  # no proxy, no credentials, no roots from the environment
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=0.8 * seconds),
            headers={"Accept-Encoding": "identity"},  # what is not packed cannot explode
        ) as client,
    ):
        update = {"update": "early"} if early else {}
        fmspc = wanted.fmspc.hex().upper()
        base = service.origin + _PATH
        root_crl = await _get(client, service.root_crl, {})
        pck_crl = await _get(client, f"{base}/pckcrl", {"ca": wanted.ca, "encoding": "der"})
        tcb = await _get(client, f"{base}/tcb", {"fmspc": fmspc, **update})
        qe = await _get(client, f"{base}/qe/identity", update)
    tcb_info, tcb_info_signature = tcb.signed("tcbInfo")
    qe_identity, qe_identity_signature = qe.signed("enclaveIdentity")
    return {
        "pck_crl_issuer_chain": pck_crl.chain("SGX-PCK-CRL-Issuer-Chain"),
        "root_ca_crl": root_crl.crl("root CRL"),
        "pck_crl": pck_crl.crl("PCK CRL"),
        "tcb_info_issuer_chain": tcb.chain("TCB-Info-Issuer-Chain"),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_info_signature,
        "qe_identity_issuer_chain": qe.chain("SGX-Enclave-Identity-Issuer-Chain"),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_identity_signature,
    }


async def _get(client: httpx.AsyncClient, address: str, parameters: dict[str, str]) -> Answer:
    body = bytearray()
    async with client.stream("GET", address, params=parameters) as response:
        if 300 <= response.status_code < 400:
            raise PcsRedirects(
                address, expected="an answer", found=f"status {response.status_code}"
            )
        if response.status_code != 200:
            raise PcsRefused(address, expected="status 200", found=str(response.status_code))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise PcsAnswerMalformed(address, expected="plain bytes", found="packed ones")
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MAX_ANSWER:
                raise PcsAnswerTooLarge(address, expected=f"{MAX_ANSWER} bytes", found="more")
    return Answer(address, response.headers, bytes(body))


def _broken(service: Service, error: httpx.TransportError) -> RatlsError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PcsCertificateUntrusted(
                service.origin,
                expected="a certificate that is believed",
                found=cause.verify_message,
            )
        cause = cause.__cause__ or cause.__context__
    return PcsUnreachable(
        service.origin, expected="an answer over HTTPS", found=type(error).__name__
    )


# The answers


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with status 200."""

    address: str
    headers: httpx.Headers
    body: bytes

    def chain(self, header: str) -> str:
        """The issuer chain in a header: PEM, percent-encoded.

        Raises:
            PcsAnswerMalformed: There is not exactly one such header, or it is not encoded so.
        """
        values = self.headers.get_list(header)
        if len(values) != 1:
            # Which of two counts would depend on who reads them.
            raise PcsAnswerMalformed(self.address, expected=f"one {header}", found=str(len(values)))
        try:
            # Not `unquote_plus`: where a proxy left a `+` of the base64 bare, it is a `+`.
            return unquote(values[0], errors="strict")
        except UnicodeDecodeError as error:
            raise PcsAnswerMalformed(
                f"{self.address}, {header}", expected="encoded PEM", found="other bytes"
            ) from error

    def crl(self, title: str) -> str:
        """A revocation list, whichever of its three forms the service uses, as hexadecimal text.

        Raises:
            CrlMissing, CrlMalformed: There is none.
        """
        with placed(self.address):
            return crl_der(self.body, title).hex()

    def signed(self, member: str) -> tuple[str, str]:
        """The text that was signed, and its signature, out of `{"MEMBER":{…},"signature":"…"}`.

        The text is cut out as it came: written anew from what was parsed, it might differ.

        Raises:
            CollateralMalformed: Another form; a third member too, which nobody would have signed.
        """
        with placed(self.address):
            try:
                text = self.body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise CollateralMalformed(
                    member, expected="UTF-8", found=f"byte {error.start} is not"
                ) from error
            parse_object(text, "answer").require_only({member, "signature"})
            match = re.fullmatch(_SIGNED % member, text, re.DOTALL)
            if match is None:
                raise CollateralMalformed(
                    "answer", expected=f"{member}, then a signature of 64 bytes", found="neither"
                )
            return match[1], match[2]


# Of a text that `parse_object` took with exactly two members: what ends it is the second one.
_SIGNED = r'\s*\{\s*"%s"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9A-Fa-f]{128})"\s*\}\s*'


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
    if kept is not None and (old := _authentic(kept, roots)) is not None:
        fetched.contents.require_not_older_than(old)
    write_atomically(path, fetched.collateral.raw)


def _authentic(kept: Collateral, roots: TrustAnchors) -> Contents | None:
    try:
        return Contents.authenticate(kept, roots)
    except RatlsError:
        # Its dates are nobody's word: a forged file must not keep a genuine one out.
        return None
