"""Admission of a trust domain: each register, its module and its attributes, as agreed.

    replay([])                       # a register before its first event
    replay([first, second])          # and after two of them

A register that differs has a refusal of its own, so that its code says what to look at: the
firmware, the machine's shape, the kernel, or its command line.
"""

from __future__ import annotations

from collections.abc import Sequence

from policy.errors import MeasurementError
from policy.trust_domain import ANY_MODULE, AT_RUN_TIME, REGISTERS, TrustDomain
from verifier.acceptance import require_td_attributes
from verifier.event_log import replay
from verifier.td import TdReport


class MrTdNotListed(MeasurementError):
    """The firmware of the trust domain (MRTD) is not one that the policy lists."""

    code = "mr-td-not-listed"
    default_fix = "launch the guest with the agreed firmware image"


class Rtmr0NotListed(MeasurementError):
    """The virtual hardware of the trust domain (RTMR0) is not that of the policy."""

    code = "rtmr0-not-listed"
    default_fix = (
        "launch the guest with the agreed CPUs, memory and devices; its event log names the event "
        "that differs"
    )


class Rtmr1NotListed(MeasurementError):
    """The kernel or boot loader of the trust domain (RTMR1) is not that of the policy."""

    code = "rtmr1-not-listed"
    default_fix = "boot the agreed kernel; its event log names the event that differs"


class Rtmr2NotListed(MeasurementError):
    """Command line or initial file system of the trust domain (RTMR2) are not the policy's."""

    code = "rtmr2-not-listed"
    default_fix = (
        "boot with the agreed command line and initrd; its event log names the event that differs"
    )


class Rtmr3NotListed(MeasurementError):
    """What the trust domain measured at run time (RTMR3) is not what the policy lists."""

    code = "rtmr3-not-listed"
    default_fix = "start the guest again, and let nothing extend RTMR3 but what was agreed"


class MrConfigIdNotListed(MeasurementError):
    """The configuration id of the trust domain (MRCONFIGID) is not that of the policy."""

    code = "mr-config-id-not-listed"
    default_fix = "launch the guest with the agreed mrconfigid"


class MrOwnerNotListed(MeasurementError):
    """The owner of the trust domain (MROWNER) is not that of the policy."""

    code = "mr-owner-not-listed"
    default_fix = "launch the guest with the agreed mrowner"


class MrOwnerConfigNotListed(MeasurementError):
    """The owner's configuration of the trust domain (MROWNERCONFIG) is not the policy's."""

    code = "mr-owner-config-not-listed"
    default_fix = "launch the guest with the agreed mrownerconfig"


_LEAVES: tuple[type[MeasurementError], ...] = (
    MrTdNotListed,
    Rtmr0NotListed,
    Rtmr1NotListed,
    Rtmr2NotListed,
    Rtmr3NotListed,
    MrConfigIdNotListed,
    MrOwnerNotListed,
    MrOwnerConfigNotListed,
)


def require_registers(candidates: Sequence[TrustDomain], report: TdReport) -> TrustDomain:
    """The first of these that has all registers of the report.

    RTMR3 with the words is judged by `require_run_time_events`.

    Raises:
        MrTdNotListed to MrOwnerConfigNotListed: That of the first register in which none is left.
    """
    left = list(candidates)
    for name, leaf in zip(REGISTERS, _LEAVES, strict=True):
        found = getattr(report, name).hex()
        listed = [getattr(domain, name) for domain in left]
        left = [d for d, text in zip(left, listed, strict=True) if text in (found, AT_RUN_TIME)]
        if not left:
            raise leaf(
                name.replace("_", "").upper(),
                expected=" or ".join(dict.fromkeys(listed)) or "that of a listed trust domain",
                found=found,
            )
    return left[0]


class RunTimeEventsMissing(MeasurementError):
    """RTMR3 was extended at run time, and the evidence does not say by which events."""

    code = "run-time-events-missing"
    default_fix = (
        "use an attester that states the events in RTMR3; a quote alone states none, so judge the "
        "guest's certificate or connection"
    )


class RunTimeEventNotListed(MeasurementError):
    """RTMR3 holds an event that the policy does not list."""

    code = "run-time-event-not-listed"
    default_fix = (
        "let nothing extend RTMR3 but the agreed events, or agree on a policy with this one"
    )


class RunTimeEventsDiffer(MeasurementError):
    """The events that the evidence states do not add up to RTMR3."""

    code = "run-time-events-differ"
    default_fix = "do not release: the list of events is not that of this trust domain"


def require_run_time_events(
    domain: TrustDomain, report: TdReport, events: Sequence[bytes] | None
) -> str:
    """Where RTMR3 is extended at run time: by the listed events alone, and by none that is hidden.

    Args:
        domain: What the policy lists.
        report: The domain's report.
        events: Digests of 48 bytes, the first one first; None: the evidence does not say.

    Returns:
        What was found, for people.

    Raises:
        RunTimeEventsMissing, RunTimeEventNotListed, RunTimeEventsDiffer.
    """
    if domain.rtmr3_events is None:
        return "RTMR3 as listed"
    if events is None:
        raise RunTimeEventsMissing("events in RTMR3", expected="a list of them", found="none")
    for number, event in enumerate(events, start=1):
        if event.hex() not in domain.rtmr3_events:
            raise RunTimeEventNotListed(
                f"event {number} in RTMR3",
                expected=" or ".join(domain.rtmr3_events),
                found=event.hex(),
            )
    if replay(events) != report.rtmr3:
        raise RunTimeEventsDiffer(
            f"RTMR3 after {len(events)} events",
            expected=replay(events).hex(),
            found=report.rtmr3.hex(),
        )
    return f"{len(events)} events in RTMR3"


class MrSeamNotListed(MeasurementError):
    """The TDX module (MRSEAM) is not one that the policy lists."""

    code = "mr-seam-not-listed"
    default_fix = "have the operator load a listed TDX module, or agree on a policy with this one"


class TeeTcbSvnTooLow(MeasurementError):
    """The TDX module or its microcode is older than the policy demands."""

    code = "tee-tcb-svn-too-low"
    default_fix = "have the operator update the TDX module, then launch the guest again"


def require_module(domain: TrustDomain, report: TdReport) -> str:
    """The module is listed, and of at least the agreed security version, at launch and now.

    Returns:
        What was found, for people.

    Raises:
        MrSeamNotListed, TeeTcbSvnTooLow.
    """
    found = report.mr_seam.hex()
    if domain.mr_seam and found not in domain.mr_seam:
        raise MrSeamNotListed("MRSEAM", expected=" or ".join(domain.mr_seam), found=found)
    floor = bytes.fromhex(domain.min_tee_tcb_svn)
    for when, svn in zip(("at launch", "now"), report.svns, strict=False):
        if not _reaches(svn, floor):
            raise TeeTcbSvnTooLow(
                f"TEE_TCB_SVN {when}", expected=f"{floor.hex()} or higher", found=svn.hex()
            )
    return f"MRSEAM {found}" if domain.mr_seam else f"{ANY_MODULE}; this is {found}"


def _reaches(svn: bytes, floor: bytes) -> bool:
    # Byte 0 counts within the major version in byte 1; the others count for themselves.
    if svn[1] != floor[1]:
        return svn[1] > floor[1] and all(a >= b for a, b in zip(svn[2:], floor[2:], strict=True))
    return all(a >= b for a, b in zip(svn, floor, strict=True))


def require_domain_attributes(domain: TrustDomain, report: TdReport) -> None:
    """TDATTRIBUTES, XFAM and service domains as agreed.

    Raises:
        TdDebuggable, TdAttributesUnaccepted, ServiceTdUnaccepted.
    """
    bound = [bytes.fromhex(text) for text in domain.service_tds or ()]
    require_td_attributes(report, **domain.bits, service_tds=bound)
