"""Admission: a genuine quote compared with what the parties agreed on.

    admission = admit(policy, verified, at=now)
    admission.enclave.name        # which of the policy's enclaves this is
    admission.appraisal           # the quote's checks, then these

The platform is checked first and the enclave after it. A refusal at `measurement` therefore means:
the agreed machine, in the agreed state, runs something else.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from policy.agreement import require_window
from policy.configuration import require_configuration
from policy.document import Policy
from policy.domain_admission import (
    require_domain_attributes,
    require_module,
    require_registers,
    require_run_time_events,
)
from policy.errors import MeasurementError, PlatformDeniedError
from policy.fields import little_endian
from policy.machines import MachinesFileMissing, file_name
from policy.sections import Enclave, Platform
from policy.trust_domain import Agreed, TrustDomain
from verifier.acceptance import require_advisories, require_attributes, require_status
from verifier.anchors import RootName, TrustAnchors
from verifier.appraisal import Appraisal
from verifier.appraisal_log import AppraisalLog
from verifier.errors import (
    CollateralStaleError,
    ConfigError,
    EnclaveAttributeError,
    ModeMismatchError,
    TcbStatusError,
)
from verifier.quote import EnclaveReport
from verifier.tcb import TcbStatus, TcbVerdict
from verifier.td import TdReport
from verifier.verify import VerifiedQuote


class AdmissionCheck(StrEnum):
    """What the policy demands of a genuine quote, in the order of the checks."""

    POLICY_WINDOW = "policy-window"
    ROOT = "root"
    TCB_STATUS = "tcb-status"
    ADVISORIES = "advisories"
    EVALUATION_NUMBER = "evaluation-number"
    TCB_DATE = "tcb-date"
    COLLATERAL_AGE = "collateral-age"
    MACHINE = "machine"
    FMSPC = "fmspc"
    CONFIGURATION = "configuration"
    MEASUREMENT = "measurement"
    PRODUCT = "product"  # of a trust domain: the TDX module beneath it
    ATTRIBUTES = "attributes"


_SEAL = object()


@dataclass(frozen=True, slots=True)
class Admission:
    """A quote that the policy admits: only `admit` can make one, after its last check."""

    enclave: Agreed
    appraisal: Appraisal  # of the quote, followed by the policy's checks
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an Admission is made by admit alone")


def admit(
    policy: Policy,
    verified: VerifiedQuote,
    *,
    at: datetime,
    enclave_name: str | None = None,
    rtmr3_events: Sequence[bytes] | None = None,
) -> Admission:
    """Decide whether this enclave or trust domain, on this platform, is one that the policy lists.

    Args:
        policy: The policy in force.
        verified: Genuine evidence, judged at the same instant.
        at: Moment of judgement, aware.
        enclave_name: Admit only the enclave that the policy lists by this name.
        rtmr3_events: Of a trust domain: digests of what it measured at run time, as it states
            them; None where it does not.

    Raises:
        PolicyExpiredError, ModeMismatchError, TcbStatusError, PlatformDeniedError,
            MeasurementError, EnclaveAttributeError: Not as agreed (exit status 6).
        CollateralTooOld: Nothing was decided (5).
        EnclaveNotInPolicy: There is none of that name (3).
    """
    candidates, platform = named_enclaves(policy, enclave_name), policy.platform
    log = AppraisalLog(AdmissionCheck, before=verified.appraisal)
    with log.check(AdmissionCheck.POLICY_WINDOW) as note:
        require_window(policy, at)
        note(f"{policy.study} version {policy.version}")
    with log.check(AdmissionCheck.ROOT) as note:
        _require_root(platform.root, verified.root)
        note(f"{verified.mode}: {platform.root}")
    with log.check(AdmissionCheck.TCB_STATUS) as note:
        statuses = frozenset(map(TcbStatus, platform.tcb_statuses))
        require_status(verified.tcb, statuses)
        _require_current_status(verified.tcb, statuses)
        note(str(verified.tcb.status))
    with log.check(AdmissionCheck.ADVISORIES) as note:
        require_advisories(verified.tcb, frozenset(platform.accepted_advisories))
        note(", ".join(verified.tcb.advisory_ids) or "none")
    with log.check(AdmissionCheck.EVALUATION_NUMBER) as note:
        _require_evaluation_number(platform, verified)
        note(str(verified.tcb.evaluation_data_number))
    with log.check(AdmissionCheck.TCB_DATE) as note:
        _require_tcb_date(platform, verified)
        note(f"{verified.tcb.date:%Y-%m-%d}")
    with log.check(AdmissionCheck.COLLATERAL_AGE):
        _require_collateral_age(platform, verified, at)
    with log.check(AdmissionCheck.MACHINE) as note:
        note(_require_machine(policy, verified))
    with log.check(AdmissionCheck.FMSPC) as note:
        _require_fmspc(platform, verified)
        note(verified.platform.fmspc.hex())
    with log.check(AdmissionCheck.CONFIGURATION) as note:
        note(require_configuration(platform.configuration, verified.platform))
    report = verified.quote.report
    agreed: Agreed
    if isinstance(report, TdReport):
        agreed = _require_domain(log, candidates, report, rtmr3_events)
    else:
        agreed = _require_enclave(log, candidates, report)
    return Admission(agreed, log.close(), _SEAL)


class EnclaveNotInPolicy(ConfigError):
    """The policy lists no enclave of this name."""

    code = "enclave-not-in-policy"
    default_fix = (
        "write the name as it is in the policy, or leave it out: then any of them is meant"
    )
    says = "the policy lists no enclave {found}; it lists {expected}"


def named_enclaves(policy: Policy, name: str | None) -> list[Agreed]:
    """The enclave that the policy lists by this name; all of them, where none is named.

    Raises: EnclaveNotInPolicy.
    """
    found = [e for e in policy.enclave if name in (None, e.name)]
    if not found:
        listed = " and ".join(e.name for e in policy.enclave)
        raise EnclaveNotInPolicy("enclave", expected=listed, found=ascii(name)[:80])
    return found


def _require_enclave(
    log: AppraisalLog, candidates: Sequence[Agreed], report: EnclaveReport
) -> Enclave:
    with log.check(AdmissionCheck.MEASUREMENT) as note:
        enclave = _require_measurement(candidates, report)
        note(f"{enclave.name}, MRENCLAVE {report.mr_enclave}")
    with log.check(AdmissionCheck.PRODUCT):
        _require_product(enclave, report)
    with log.check(AdmissionCheck.ATTRIBUTES):
        _require_attributes(enclave, report)
    return enclave


def _require_domain(
    log: AppraisalLog,
    candidates: Sequence[Agreed],
    report: TdReport,
    events: Sequence[bytes] | None,
) -> TrustDomain:
    with log.check(AdmissionCheck.MEASUREMENT) as note:
        domain = require_registers([e for e in candidates if isinstance(e, TrustDomain)], report)
        note(f"{domain.name}, MRTD {report.mr_td.hex()}")
        note(require_run_time_events(domain, report, events))
    with log.check(AdmissionCheck.PRODUCT) as note:
        note(require_module(domain, report))
    with log.check(AdmissionCheck.ATTRIBUTES):
        require_domain_attributes(domain, report)
    return domain


class RootDiffers(ModeMismatchError):
    """The evidence was verified under another root than the policy names."""

    code = "root-differs"
    default_fix = "verify under the root that the policy names"


def _require_root(named: str, root: TrustAnchors) -> None:
    """X05: the quote was verified under the root in the signed policy."""
    wanted = RootName.parse(named).anchors
    if (root.mode, root.root_spki_sha256) != (wanted.mode, wanted.root_spki_sha256):
        raise RootDiffers("root of trust", expected=named, found=f"{root.mode}: {root.name}")


class CurrentStatusUnaccepted(TcbStatusError):
    """What runs beneath the trust domain now has a status that the policy does not list."""

    code = "current-status-unaccepted"
    default_fix = "have the operator update the TDX module, then launch the guest again"


def _require_current_status(tcb: TcbVerdict, statuses: frozenset[TcbStatus]) -> None:
    """A good launch says nothing about a module that was exchanged since, beneath the domain."""
    now = tcb.current_status
    if now is not None and now is not TcbStatus.UP_TO_DATE and now not in statuses:
        raise CurrentStatusUnaccepted(
            "TCB status of what runs now", expected=", ".join(sorted(statuses)), found=now
        )


class EvaluationNumberTooLow(TcbStatusError):
    """The collateral is from an earlier TCB recovery than the policy demands."""

    code = "policy-evaluation-number"
    default_fix = "fetch current collateral"


def _require_evaluation_number(platform: Platform, verified: VerifiedQuote) -> None:
    floor, found = platform.min_tcb_evaluation_data_number, verified.tcb.evaluation_data_number
    if found < floor:
        raise EvaluationNumberTooLow(
            "TCB evaluation data number", expected=f"{floor} or higher", found=str(found)
        )


class TcbDateTooOld(TcbStatusError):
    """The platform's patch level is older than the policy demands."""

    code = "policy-tcb-date"
    default_fix = "have the operator update the platform"


def _require_tcb_date(platform: Platform, verified: VerifiedQuote) -> None:
    if verified.tcb.date.date() < platform.min_tcb_date:
        raise TcbDateTooOld(
            "TCB date",
            expected=f"{platform.min_tcb_date} or later",
            found=f"{verified.tcb.date:%Y-%m-%d}",
        )


class CollateralTooOld(CollateralStaleError):
    """The collateral is older than the policy allows."""

    code = "policy-collateral-age"
    default_fix = "fetch current collateral"


def _require_collateral_age(platform: Platform, verified: VerifiedQuote, at: datetime) -> None:
    """CRLs are not included: those of the root are valid for a year."""
    limit = timedelta(days=platform.max_collateral_age_days)
    for thing, issued in (
        ("TCB info", verified.window.tcb_info_issue),
        ("QE identity", verified.window.qe_identity_issue),
    ):
        if at - issued > limit:
            raise CollateralTooOld(
                f"age of the {thing}",
                expected=f"at most {limit.days} days",
                found=f"{(at - issued).days} days and {(at - issued).seconds // 3600} hours",
            )


class MachineNotListed(PlatformDeniedError):
    """The machine is genuine, but not one that the policy lists."""

    code = "machine-not-listed"
    default_fix = "ask the operator which machine this is; do not release to it"


def _require_machine(policy: Policy, verified: VerifiedQuote) -> str:
    """B09: an attacker may run the right enclave on a machine of its own."""
    machine, machines = verified.platform, policy.platform.machines
    ids = [f"ppid:{machine.ppid.hex()}"]
    if machine.piid is not None:
        ids.append(f"piid:{machine.piid.hex()}")
    if machines == ():
        return f"any genuine platform; this is {ids[0]}"
    listed, expected = _fleet(policy) if machines is None else (machines, " or ".join(machines))
    for name in ids:
        if name in listed:
            return name
    raise MachineNotListed("machine", expected=expected, found=" / ".join(ids))


def _fleet(policy: Policy) -> tuple[Container[str], str]:
    """The machines of the file, and what to call them."""
    named = str(policy.platform.machines_file)
    if policy.fleet is None:
        raise MachinesFileMissing(
            f"{file_name(named)}, beside the policy",
            expected=f"a file with digest {named}",
            found="none",
        )
    return policy.fleet, f"one of the {len(policy.fleet)} in {file_name(named)}"


class FmspcNotListed(PlatformDeniedError):
    """The policy does not list the CPU family of this machine."""

    code = "fmspc-not-listed"
    default_fix = "ask the operator which machine this is; do not release to it"


def _require_fmspc(platform: Platform, verified: VerifiedQuote) -> None:
    found = verified.platform.fmspc.hex()
    if platform.fmspcs is not None and found not in platform.fmspcs:
        raise FmspcNotListed("FMSPC", expected=" or ".join(platform.fmspcs), found=found)


class MeasurementNotListed(MeasurementError):
    """The enclave's code is not one that the policy lists."""

    code = "measurement-not-listed"
    default_fix = "start the agreed release of the enclave, or agree on a policy with this one"


def _require_measurement(candidates: Sequence[Agreed], report: EnclaveReport) -> Enclave:
    """The enclave that the policy lists with this measurement.

    Q08: a measurement is only compared with those of the same technology.
    """
    enclaves = [e for e in candidates if isinstance(e, Enclave)]
    for enclave in enclaves:
        if bytes.fromhex(enclave.mr_enclave) == report.mr_enclave.value:
            return enclave
    raise MeasurementNotListed(
        "MRENCLAVE",
        expected=" or ".join(f"{e.mr_enclave} ({e.name})" for e in enclaves)
        or "that of a listed enclave",
        found=str(report.mr_enclave),
    )


class ProductDiffers(MeasurementError):
    """The enclave has another product id than the policy lists."""

    code = "product-differs"
    default_fix = "sign the enclave with the agreed product id"


class SvnTooLow(MeasurementError):
    """The enclave's security version is lower than the policy demands."""

    code = "svn-too-low"
    default_fix = "start a release of the enclave with at least the agreed security version"


def _require_product(enclave: Enclave, report: EnclaveReport) -> None:
    if report.isv_prod_id != enclave.isv_prod_id:
        raise ProductDiffers(
            "ISVPRODID", expected=str(enclave.isv_prod_id), found=str(report.isv_prod_id)
        )
    if report.isv_svn < enclave.min_isv_svn:
        raise SvnTooLow(
            "ISVSVN", expected=f"{enclave.min_isv_svn} or higher", found=str(report.isv_svn)
        )


class KssIdPresent(EnclaveAttributeError):
    """The enclave uses key separation (KSS) ids, which must be zero."""

    code = "kss-id-present"
    default_fix = "build the enclave without KSS ids"


def _require_attributes(enclave: Enclave, report: EnclaveReport) -> None:
    listed = {name: little_endian(text) for name, text in enclave.attributes}
    require_attributes(report, **listed)
    # M07: compared even when the KSS bit is off.
    ids = (report.isv_ext_prod_id, report.config_id, report.isv_family_id)
    if any(map(any, ids)) or report.config_svn:
        raise KssIdPresent("KSS ids", expected="all zero", found="a value that is not zero")
