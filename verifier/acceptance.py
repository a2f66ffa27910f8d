"""Is a genuine quote good enough? Attributes and TCB status, where there is no policy.

A debug enclave and a revoked level are always refused, for they protect nothing. Every status but
`UpToDate` is refused unless the caller lists it (docs/dcap.md 4.10).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from enum import StrEnum

from verifier import bits
from verifier.appraisal import Appraisal
from verifier.appraisal_log import AppraisalLog
from verifier.errors import ConfigError, EnclaveAttributeError, TcbStatusError
from verifier.quote import DEBUG, EnclaveReport
from verifier.tcb import TcbStatus, TcbVerdict
from verifier.td import PERFMON, PKS, SEPT_VE_DISABLE, TD_UNPROTECTED, TdReport
from verifier.verify import VerifiedQuote

# `sgx_attributes_t` in `sgx_attributes.h`.
INIT, MODE64BIT, PROVISION_KEY, EINITTOKEN_KEY = 0x1, 0x4, 0x10, 0x20
CET, KSS, AEX_NOTIFY = 0x40, 0x80, 0x400
# Either value protects alike; every other bit, reserved ones included, has one right value.
_FREE_FLAGS = CET | KSS | AEX_NOTIFY
_DEFAULT_FLAGS, _DEFAULT_MASK = INIT | MODE64BIT, (2**64 - 1) & ~_FREE_FLAGS

TD_ALLOWED = SEPT_VE_DISABLE | PKS | PERFMON
XFAM_NEEDED, XFAM_ALLOWED = 0x3, 0x6DBE7  # x87 and SSE; what a guest may have besides
UP_TO_DATE_ONLY = frozenset({TcbStatus.UP_TO_DATE})


class AcceptanceCheck(StrEnum):
    """The checks of a genuine quote; attributes first, since debug protects nothing."""

    ATTRIBUTES = "attributes"
    TCB_STATUS = "tcb-status"
    ADVISORIES = "advisories"


class StatusNeverAcceptable(ConfigError):
    """The list of statuses to accept is empty or holds `Revoked`."""

    code = "status-never-acceptable"
    default_fix = "list at least one status other than Revoked"


def accept(
    verified: VerifiedQuote,
    *,
    statuses: frozenset[TcbStatus] = UP_TO_DATE_ONLY,
    advisories: frozenset[str] | None = None,
    out_of_date_since: date | None = None,
) -> Appraisal:
    """Check attributes, TCB status and advisories of a genuine quote.

    Args:
        verified: What `verify_quote` returned.
        statuses: TCB statuses to accept; `Revoked` can never be one of them.
        advisories: Each advisory that comes with the status must be among these. None accepts
            those that Intel attaches to `UpToDate` for information, and no others; of a trust
            domain, launch and what runs now must both be `UpToDate` for that.
        out_of_date_since: Accept `OutOfDate`, too, of levels from this day on, and of no older
            one, also where `statuses` lists it.

    Returns:
        The appraisal of the quote, followed by these checks.

    Raises:
        EnclaveDebuggable, EnclaveAttributesUnaccepted: Attributes of an enclave.
        TdDebuggable, TdAttributesUnaccepted, ServiceTdUnaccepted: Those of a trust domain.
        TcbRevoked, TcbStatusUnaccepted, TcbOutOfDateTooLong, AdvisoryUnaccepted: Patch level.
        StatusNeverAcceptable: `statuses` is empty or holds `Revoked`.
    """
    if not statuses or TcbStatus.REVOKED in statuses:
        raise StatusNeverAcceptable(
            "TCB statuses to accept",
            expected="at least one, never Revoked",
            found=", ".join(sorted(statuses)) or "none",
        )
    log = AppraisalLog(AcceptanceCheck, before=verified.appraisal)
    with log.check(AcceptanceCheck.ATTRIBUTES) as note:
        note(_require_default_attributes(verified.quote.report))
    with log.check(AcceptanceCheck.TCB_STATUS) as note:
        if out_of_date_since is None:
            require_status(verified.tcb, statuses)
        else:
            require_status(verified.tcb, statuses | {TcbStatus.OUT_OF_DATE})
            require_out_of_date_since(verified.tcb, out_of_date_since)
        note(str(verified.tcb.status))
    with log.check(AcceptanceCheck.ADVISORIES) as note:
        require_advisories(verified.tcb, advisories)
        note(", ".join(verified.tcb.advisory_ids) or "none")
    return log.close()


def _require_default_attributes(report: EnclaveReport | TdReport) -> str:
    if isinstance(report, EnclaveReport):
        require_attributes(report)
        return "no debug, no provisioning or launch key"
    require_td_attributes(report)
    return "no debug, no profiling, no service domain"


class TdDebuggable(EnclaveAttributeError):
    """A trust domain with debug, or with another attribute that removes its protection."""

    code = "td-debuggable"
    default_fix = "launch the trust domain without debug and without profiling"


class TdAttributesUnaccepted(EnclaveAttributeError):
    """The trust domain's attributes or extended features are not those that are accepted."""

    code = "td-attributes-unaccepted"
    default_fix = "launch the trust domain with SEPT_VE_DISABLE and without the bits named"


class ServiceTdUnaccepted(EnclaveAttributeError):
    """A service domain is bound to the trust domain, and may migrate it or act on it."""

    code = "service-td-unaccepted"
    default_fix = "launch the trust domain without a service domain"


def require_td_attributes(
    report: TdReport,
    *,
    needed: int = SEPT_VE_DISABLE,
    allowed: int = TD_ALLOWED,
    xfam_needed: int = XFAM_NEEDED,
    xfam_allowed: int = XFAM_ALLOWED,
    service_tds: Collection[bytes] = (),
) -> None:
    """A trust domain is protected: SEPT_VE_DISABLE, x87 and SSE on, and no bit but those allowed.

    Args:
        report: The domain's report.
        needed, allowed: Bits of TDATTRIBUTES that must and that may be on.
        xfam_needed, xfam_allowed: Those of XFAM.
        service_tds: Hashes, 48 bytes, of service domains that may be bound; none by default.

    Raises:
        TdDebuggable: Debug or profiling.
        TdAttributesUnaccepted: Another bit is not as it should be.
        ServiceTdUnaccepted: A service domain, which could move the domain to another machine.
    """
    attributes, xfam = report.td_attributes, report.xfam
    if attributes & TD_UNPROTECTED:
        raise TdDebuggable(
            "TD attributes, bits 0 to 7",
            expected="all off",
            found=bits.differing(bits.TD_ATTRIBUTES, off=0, on=attributes & TD_UNPROTECTED),
        )
    # Without SEPT_VE_DISABLE the host may take a page away and have the guest run on with another.
    for field, names, must, may, found in (
        ("TD attributes", bits.TD_ATTRIBUTES, needed, allowed, attributes),
        ("TD XFAM", bits.STATE, xfam_needed, xfam_allowed, xfam),
    ):
        if found & must != must or found & ~(may | must):
            raise TdAttributesUnaccepted(
                field,
                expected=f"the bits {must:#x}, and none but {may | must:#x}",
                found=f"{found:#x}: "
                + bits.differing(names, off=must & ~found, on=found & ~(may | must)),
            )
    bound = report.mr_service_td
    if bound is not None and any(bound) and bound not in service_tds:
        raise ServiceTdUnaccepted(
            "service domain of the trust domain",
            expected=" or ".join(hash_.hex() for hash_ in service_tds) or "none",
            found=bound.hex(),
        )


class EnclaveDebuggable(EnclaveAttributeError):
    """A debug enclave: its host reads and writes all of its memory."""

    code = "enclave-debuggable"
    default_fix = "build, sign and start the enclave without debug"


class EnclaveAttributesUnaccepted(EnclaveAttributeError):
    """The enclave's attributes are not those that are accepted."""

    code = "enclave-attributes-unaccepted"
    default_fix = "start the enclave with the attributes that were agreed on"


def require_attributes(
    report: EnclaveReport,
    *,
    flags: int = 0,
    flags_mask: int = 0,
    xfrm: int = 0,
    xfrm_mask: int = 0,
    misc_select: int = 0,
    misc_select_mask: int = 0,
) -> None:
    """Check an enclave's attributes: the defaults, and what the caller adds.

    Always: DEBUG off, INIT and MODE64BIT on. Where `flags_mask` does not say otherwise: no
    PROVISION_KEY, no EINITTOKEN_KEY, no reserved bit. A bit in a mask must be as in its value.

    Args:
        report: The enclave's report.
        flags, flags_mask: ATTRIBUTES.FLAGS, 64 bits; the 8 bytes of a policy little-endian.
        xfrm, xfrm_mask: ATTRIBUTES.XFRM, 64 bits, likewise.
        misc_select, misc_select_mask: MISCSELECT, 32 bits, likewise.

    Raises:
        EnclaveDebuggable: A debug enclave, which no mask allows.
        EnclaveAttributesUnaccepted: Another bit is not as it should be.
    """
    if report.flags & DEBUG:
        raise EnclaveDebuggable("enclave attribute DEBUG", expected="off", found="on")
    fixed = INIT | MODE64BIT
    wanted = (_DEFAULT_FLAGS & ~flags_mask) | (flags & flags_mask) | fixed
    for field, names, mask, expected, found in (
        ("flags", bits.FLAGS, _DEFAULT_MASK | flags_mask, wanted, report.flags),
        ("xfrm", bits.STATE, xfrm_mask, xfrm, report.xfrm),
        ("misc_select", bits.MISC_SELECT, misc_select_mask, misc_select, report.misc_select),
    ):
        if (found & mask) != (expected & mask):
            raise EnclaveAttributesUnaccepted(
                f"enclave {field} under mask {mask:#x}",
                expected=f"{expected & mask:#x}",
                found=f"{found & mask:#x}: "
                + bits.differing(names, off=expected & mask & ~found, on=found & mask & ~expected),
            )


class TcbRevoked(TcbStatusError):
    """Intel revoked this TCB level: nothing on this platform is protected. Never acceptable."""

    code = "tcb-revoked"
    says = "Intel revoked this TCB level of the platform"
    default_fix = "do not release anything to this platform; no option accepts it"


class TcbStatusUnaccepted(TcbStatusError):
    """The platform is genuine, but its TCB status is not among those accepted."""

    code = "tcb-status-unaccepted"
    default_fix = "update the platform, or accept this status explicitly"


def require_status(tcb: TcbVerdict, statuses: frozenset[TcbStatus]) -> None:
    """The merged status is one of those accepted; `Revoked` never is.

    Raises:
        TcbRevoked, TcbStatusUnaccepted: It is not.
    """
    expected = ", ".join(sorted(statuses))
    if tcb.status is TcbStatus.REVOKED:
        raise TcbRevoked("TCB status", expected=expected, found=tcb.status)
    if tcb.status not in statuses:
        raise TcbStatusUnaccepted("TCB status", expected=expected, found=tcb.status)


class TcbOutOfDateTooLong(TcbStatusError):
    """The platform is out of date, and by an older level than the day that is accepted."""

    code = "tcb-out-of-date-too-long"
    default_fix = "update the platform, or accept `OutOfDate` of levels from an earlier day on"


def require_out_of_date_since(tcb: TcbVerdict, day: date) -> None:
    """What is `OutOfDate` has levels from this day on: the oldest of its parts counts.

    Raises:
        TcbOutOfDateTooLong: It is older.
    """
    if tcb.status is TcbStatus.OUT_OF_DATE and tcb.date.date() < day:
        raise TcbOutOfDateTooLong(
            "TCB status OutOfDate",
            expected=f"of {day.isoformat()} or later",
            found=f"as of {tcb.date:%Y-%m-%d}",
        )


class AdvisoryUnaccepted(TcbStatusError):
    """A security advisory applies to the platform that is not among those accepted."""

    code = "advisory-unaccepted"
    default_fix = "read the advisory; update the platform, or accept the advisory explicitly"


def require_advisories(tcb: TcbVerdict, advisories: frozenset[str] | None) -> None:
    """Every advisory that comes with the status is accepted; for None see `accept`.

    Raises:
        AdvisoryUnaccepted: Names all that are not.
    """
    # What runs now beneath a domain that was launched well may be worse, and so its advisories.
    current = {tcb.status, tcb.current_status or tcb.status}
    if advisories is None and current == {TcbStatus.UP_TO_DATE}:
        return
    missing = [a for a in tcb.advisory_ids if a not in (advisories or frozenset())]
    if missing:
        raise AdvisoryUnaccepted(
            "security advisories",
            expected=", ".join(sorted(advisories or ())) or "none",
            found=", ".join(missing),
        )
