"""Time: every dated thing that a verdict rests on must cover one instant.

Rules: docs/dcap.md 4.8. Nothing else in this package compares times. Outside a window nothing was
decided: the caller may look again with newer collateral, or say which past instant is meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, NamedTuple, Self

from verifier.certificate import Certificate
from verifier.crl import RevocationList
from verifier.errors import CollateralStaleError, InstantMalformed
from verifier.text import instant_text

SKEW = timedelta(seconds=300)  # how far the publisher's clock may be ahead of ours
_EPOCH = datetime.fromtimestamp(0, UTC)
RESOLUTION = datetime.resolution  # of all instants here: a microsecond


class _Dated:
    """The common sentence of the three leaves here."""

    says: ClassVar[str] = "{thing} does not cover {expected}: it {found}"


class CertificateNotCurrent(_Dated, CollateralStaleError):
    """A certificate is not valid at the instant of judgement."""

    code = "certificate-not-current"
    default_fix = (
        "check the clock; for a past event give its instant with --at; else fetch newer collateral"
    )


class CrlNotCurrent(_Dated, CollateralStaleError):
    """A revocation list does not cover the instant of judgement."""

    code = "crl-not-current"
    default_fix = "fetch the collateral again; for a past event give its instant with --at"


class CollateralNotCurrent(_Dated, CollateralStaleError):
    """TCB info or QE identity does not cover the instant of judgement."""

    code = "collateral-not-current"
    default_fix = "fetch the collateral again; for a past event give its instant with --at"


class Period(NamedTuple):
    """From when to when one thing is valid."""

    thing: str
    starts: datetime
    ends: datetime
    opens: datetime  #   the first instant that is covered: skew included …
    closes: datetime  #  … and the first after it that is not: `ends` itself belongs or does not
    refusal: type[CollateralStaleError]

    @classmethod
    def of_certificate(cls, certificate: Certificate) -> Self:
        """Both bounds are valid instants (RFC 5280, section 4.1.2.5), and there is no skew."""
        starts, ends = certificate.not_before, certificate.not_after
        thing = f"{certificate.common_name} {certificate.serial_hex}"
        return cls(thing, starts, ends, starts, ends + RESOLUTION, CertificateNotCurrent)

    @classmethod
    def of_crl(cls, crl: RevocationList) -> Self:
        """Current until, not at, its nextUpdate (RFC 5280, section 5.1.2.5)."""
        starts, ends = crl.this_update, crl.next_update
        return cls(crl.title, starts, ends, starts - SKEW, ends, CrlNotCurrent)

    @classmethod
    def of_document(cls, title: str, issued: datetime, next_update: datetime) -> Self:
        """TCB info or QE identity; current until, not at, its nextUpdate."""
        return cls(title, issued, next_update, issued - SKEW, next_update, CollateralNotCurrent)

    def require(self, at: datetime) -> None:
        """Refuse unless `at` lies inside.

        Raises:
            CollateralStaleError: The leaf of this kind of thing.
        """
        early = at < self.opens
        if early or at >= self.closes:
            raise self.refusal(
                self.thing,
                expected=instant_text(at),
                found=f"{'starts' if early else 'ended'} "
                f"{instant_text(self.starts if early else self.ends)}",
            )


@dataclass(frozen=True, slots=True)
class CollateralWindow:
    """How old everything is that the verdict rests on, and until when it is valid."""

    earliest_issue: datetime  #       of TCB info, QE identity and both revocation lists
    earliest_expiration: datetime  #  of those and of every certificate used
    tcb_info_issue: datetime
    qe_identity_issue: datetime
    opens: datetime  #                the first instant that every part covers, skew included …
    closes: datetime  #               … and the first after it that one of them does not
    certificates: tuple[Period, ...]
    issued: tuple[Period, ...]  #     TCB info, QE identity, revocation lists
    summary: str  #                   for people

    @property
    def periods(self) -> tuple[Period, ...]:
        """Of every part."""
        return (*self.certificates, *self.issued)

    @classmethod
    def of(
        cls,
        *,
        tcb_info: Period,
        qe_identity: Period,
        crls: Iterable[Period],
        certificates: Iterable[Period],
    ) -> Self:
        """The common window; it may be empty."""
        used, issued = tuple(certificates), (tcb_info, qe_identity, *crls)
        everything = (*used, *issued)
        ends_first = min(everything, key=lambda period: period.closes)
        return cls(
            earliest_issue=min(period.starts for period in issued),
            earliest_expiration=min(period.ends for period in everything),
            tcb_info_issue=tcb_info.starts,
            qe_identity_issue=qe_identity.starts,
            opens=max(period.opens for period in everything),
            closes=ends_first.closes,
            certificates=used,
            issued=issued,
            summary="all cover the instant; "
            f"{ends_first.thing} ends {instant_text(ends_first.ends)}",
        )

    def require(self, at: datetime) -> None:
        """Every part covers `at`.

        Raises:
            CollateralStaleError: The first part that does not.
        """
        if not self.opens <= at < self.closes:
            for period in self.periods:
                period.require(at)
            raise AssertionError("a window is closed, and none of its parts is")


def require_instant(at: datetime) -> datetime:
    """The instant in UTC.

    Raises:
        InstantMalformed: Without a time zone, or not after 1970: a verdict needs a real instant.
    """
    if at.utcoffset() is None:
        raise InstantMalformed("instant of judgement", expected="a time zone", found="none")
    if at <= _EPOCH:
        raise InstantMalformed("instant of judgement", expected="after 1970", found=str(at))
    return at.astimezone(UTC)
