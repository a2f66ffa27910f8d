"""Evidence: a quote, and the claims that it commits to.

    evidence = make_evidence(attester, claims)   # on the enclave's side
    Evidence.parse(evidence).require_bound()     # on the verifier's side

Wire form (interoperable RA-TLS, docs/channel.md 3.2): CBOR tag 60000 over an array of two byte
strings, quote and claims buffer. The quote's 64 bytes of report data are SHA-256 of the claims
buffer as transported, then 32 zero bytes (docs/channel.md 3.4). Evidence, in the words of RFC
9334, section 8.1; it carries no verdict.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from policy.document import Policy
from policy.errors import ResourceLimitError
from ratls import cbor
from ratls.attester import Attester, stated_events
from ratls.claims import CertificateClaims
from ratls.errors import AttesterMixedUp, BindingError, EvidenceFormatError
from verifier.errors import Exit
from verifier.quote import Quote

TAG_QUOTE = 60000  # the only tag that a remote verifier accepts; 60001 and 60002 are local reports
MAX_EVIDENCE = 8192  # what the other implementations of this format read


_BURST, _PER_SECOND = 32.0, 1.0  # challenges of one peer
_FASTEST = 1024.0  # MiB a second: more than any connection carries


class TooManyChallenges(ResourceLimitError):
    """The peer asks for evidence more often than any honest one."""

    code = "too-many-challenges"
    exit_status = Exit.PEER
    default_fix = "challenge a connection as often as the policy says, or once a second"


class Allowance:
    """Evidence costs the machine time, and others wait: how often one peer may ask for it."""

    def __init__(self, seconds: Callable[[], float], per_second: float = _PER_SECOND) -> None:
        """Begin with a burst."""
        self.seconds, self._at, self._left = seconds, seconds(), _BURST
        self._per_second = per_second

    @classmethod
    def agreed(cls, policy: Policy, seconds: Callable[[], float]) -> Self:
        """An honest peer asks after so many MiB as the policy says, however fast it sends."""
        return cls(seconds, _PER_SECOND + _FASTEST / policy.transport.challenge_mebibytes)

    def spend(self) -> None:
        """Raises: TooManyChallenges."""
        now = self.seconds()
        self._left = min(_BURST, self._left + (now - self._at) * self._per_second) - 1
        self._at = now
        if self._left < 0:
            self._left = 0.0
            raise TooManyChallenges("challenges", expected="as many as are due", found="more")


class ReportDataUnbound(BindingError):
    """The quote was not made over these claims."""

    code = "report-data-unbound"
    default_fix = "do not connect: the quote was made for something else"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quote and its claims. Parsed, not verified."""

    quote: bytes
    claims: bytes

    def encode(self) -> bytes:
        """The wire form."""
        return cbor.encode(cbor.Tagged(TAG_QUOTE, [self.quote, self.claims]))

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read exactly one piece of evidence.

        Raises:
            EvidenceMalformed: Another tag, another shape, another size, bytes left over.
        """
        try:
            if len(raw) > MAX_EVIDENCE:
                raise cbor.NotStrict(f"{len(raw)} bytes, more than {MAX_EVIDENCE}")
            item = cbor.decode(raw)
        except cbor.NotStrict as error:
            raise _malformed(str(error)) from error
        if not isinstance(item, cbor.Tagged) or item.tag != TAG_QUOTE:
            raise _malformed("another tag, or none")
        match item.value:
            case [bytes() as quote, bytes() as claims]:
                return cls(quote, claims)
        raise _malformed("no array of two byte strings")

    def require_bound(self) -> None:
        """The quote must have been made over exactly these claims.

        Raises:
            QuoteFormatError: The quote cannot be read.
            ReportDataUnbound: It was made over something else.
        """
        found = Quote.parse(self.quote).report.report_data
        # All 64 bytes: an upper half left unchecked would be room for a second meaning.
        if not hmac.compare_digest(found, report_data(self.claims)):
            raise ReportDataUnbound(
                "report data of the quote",
                expected=report_data(self.claims).hex(),
                found=found.hex(),
            )


class EvidenceMalformed(EvidenceFormatError):
    """The evidence is not tag 60000 with quote and claims, in the strict form."""

    code = "evidence-malformed"
    exit_status = Exit.NOT_GENUINE  # unreadable evidence is no evidence
    default_fix = "check the address: an enclave shows RA-TLS evidence (CBOR tag 60000)"


def _malformed(found: str) -> EvidenceMalformed:
    return EvidenceMalformed("evidence", expected="tag 60000 [quote, claims]", found=found)


def report_data(claims: bytes) -> bytes:
    """The 64 bytes that commit to a claims buffer: SHA-256 (FIPS 180-4, section 6.2) and zeros."""
    return hashlib.sha256(claims).digest() + bytes(32)


def make_evidence(attester: Attester, claims: CertificateClaims) -> bytes:
    """Have the claims quoted. No other place in an enclave asks an attester for a quote.

    Raises:
        AttesterMixedUp: The quote that came back is over other bytes.
    """
    buffer = replace(claims, events=stated_events(attester)).encode()
    wanted = report_data(buffer)
    quote = attester.quote(wanted)
    # Some attesters are one file per process: two callers at once get each other's quotes.
    if Quote.parse(quote).report.report_data != wanted:
        raise AttesterMixedUp(
            "attester", expected="a quote over what was asked", found="a quote over other bytes"
        )
    return Evidence(quote, buffer).encode()
