"""Admission: genuine evidence that is not what was agreed on stops at the check that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from policy.admission import (
    Admission,
    AdmissionCheck,
    CollateralTooOld,
    EnclaveNotInPolicy,
    EvaluationNumberTooLow,
    FmspcNotListed,
    KssIdPresent,
    MachineNotListed,
    MeasurementNotListed,
    ProductDiffers,
    RootDiffers,
    SvnTooLow,
    TcbDateTooOld,
    admit,
)
from policy.agreement import PolicyExpired, PolicyNotYetValid
from policy.document import Policy
from tests.support.intel import World
from tests.support.parties import AT, Consortium
from tests.support.refusal import refused
from verifier.acceptance import (
    AdvisoryUnaccepted,
    EnclaveAttributesUnaccepted,
    EnclaveDebuggable,
    TcbStatusUnaccepted,
)
from verifier.errors import RatlsError
from verifier.verify import VerifiedQuote

INTEL = World.create(AT)
MR_ENCLAVE = bytes(range(32))


def text_of(world: World) -> Consortium:
    root = f"simulation:sha256:{world.intel.anchors().root_spki_sha256.hex()}"
    machines = [f"ppid:{world.verify().platform.ppid.hex()}"]
    return Consortium.create(AT, root=root, mr_enclave=MR_ENCLAVE.hex(), machines=machines)


AGREED = text_of(INTEL)


def policy(*replace_: tuple[str, str]) -> Policy:
    return AGREED.policy(replace=replace_)


def evidence(world: World = INTEL, collateral: Any = None, **quote: Any) -> VerifiedQuote:
    fields: dict[str, Any] = {"mr_enclave": MR_ENCLAVE, "isv_prod_id": 0} | quote
    return world.verify(quote=world.quote(**fields), collateral=collateral)


def test_agreed_enclave_on_the_agreed_machine_is_admitted() -> None:
    admission = admit(policy(), evidence(), at=AT, enclave_name="joint-training-1.0")
    assert admission.enclave.name == "joint-training-1.0"
    checks = [record.check for record in admission.appraisal.records]
    assert checks[-len(AdmissionCheck) :] == [str(check) for check in AdmissionCheck]


# What the policy says instead, and where the genuine evidence then stops.
STRICTER: list[tuple[tuple[str, str], type[RatlsError], str]] = [
    (("min_tcb_evaluation_data_number = 1", "min_tcb_evaluation_data_number = 65000"),
     EvaluationNumberTooLow, "evaluation-number"),  # T19
    (("min_tcb_date = 2020-01-01", "min_tcb_date = 2026-11-25"), TcbDateTooOld, "tcb-date"),  # T19
    ((AGREED.machines[0], "ppid:" + "77" * 16), MachineNotListed, "machine"),  # T24, B09
    ((AGREED.machines[0], "piid:" + "77" * 16), MachineNotListed, "machine"),
    (('root = "simul', 'fmspcs = ["00906ed50000"]\nroot = "simul'), FmspcNotListed, "fmspc"),
    ((MR_ENCLAVE.hex(), "22" * 32), MeasurementNotListed, "measurement"),
    (("isv_prod_id = 0", "isv_prod_id = 7"), ProductDiffers, "product"),  # M06
    (("min_isv_svn = 0", "min_isv_svn = 9"), SvnTooLow, "product"),  # M06
    (("min_isv_svn = 0", 'min_isv_svn = 0\nattributes = { misc_select = "01000000" }'),
     EnclaveAttributesUnaccepted, "attributes"),  # M07
    (("root = \"simulation:", 'root = "intel" # simulation:'), RootDiffers, "root"),  # X05
    (("root = \"simulation:sha256:", 'root = "simulation:sha256:' + "0" * 64 + '" #'),
     RootDiffers, "root"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "leaf", "check"), STRICTER, ids=[f"{s[2]}-{i}" for i, s in enumerate(STRICTER)]
)
def test_genuine_evidence_that_is_not_what_was_agreed(
    change: tuple[str, str], leaf: type[RatlsError], check: str
) -> None:
    with refused(leaf, check=check):
        admit(policy(change), evidence(), at=AT)


@pytest.mark.parametrize("older", ["tcb_info", "qe_identity"])
def test_floor_is_held_against_the_smaller_number(older: str) -> None:
    """T10: genuine pairs differ, so whoever pairs new with old is stopped by the policy's floor."""
    collateral = INTEL.collateral(**{older: lambda d: {**d, "tcbEvaluationDataNumber": 17}})
    number = "min_tcb_evaluation_data_number = "
    admit(policy((f"{number}1", f"{number}17")), evidence(collateral=collateral), at=AT)
    with refused(EvaluationNumberTooLow, check="evaluation-number"):
        admit(policy((f"{number}1", f"{number}18")), evidence(collateral=collateral), at=AT)


# What the enclave or its platform is instead, under the policy that admits the honest one.
OTHERS: list[tuple[dict[str, Any], type[RatlsError], str]] = [
    ({"mr_enclave": bytes(32)}, MeasurementNotListed, "measurement"),
    ({"flags": 0x07}, EnclaveDebuggable, "attributes"),  # M01
    ({"flags": 0x04}, EnclaveAttributesUnaccepted, "attributes"),
    ({"flags": 0x15}, EnclaveAttributesUnaccepted, "attributes"),  # PROVISION_KEY
    ({"flags": 0x25}, EnclaveAttributesUnaccepted, "attributes"),  # EINITTOKEN_KEY
    ({"flags": 0x0D}, EnclaveAttributesUnaccepted, "attributes"),  # a reserved bit
    ({"flags": 0x05 | 1 << 40}, EnclaveAttributesUnaccepted, "attributes"),
    ({"xfrm": 0x01}, EnclaveAttributesUnaccepted, "attributes"),
    ({"xfrm": 0x03 | 1 << 11}, EnclaveAttributesUnaccepted, "attributes"),
    ({"misc_select": 1}, EnclaveAttributesUnaccepted, "attributes"),
    ({"config_id": b"\1" + bytes(63)}, KssIdPresent, "attributes"),
    ({"config_svn": 1}, KssIdPresent, "attributes"),
    ({"isv_family_id": b"\1" + bytes(15)}, KssIdPresent, "attributes"),
    ({"isv_ext_prod_id": b"\1" + bytes(15)}, KssIdPresent, "attributes"),
]


@pytest.mark.parametrize(("quote", "leaf", "check"), OTHERS, ids=[str(o[0])[:40] for o in OTHERS])
def test_genuine_machine_that_runs_something_else(
    quote: dict[str, Any], leaf: type[RatlsError], check: str
) -> None:
    """M01, M06, M07, B02: every check of the platform has passed by then."""
    with refused(leaf, check=check) as refusal:
        admit(policy(), evidence(**quote), at=AT)
    appraisal = refusal.error.appraisal
    assert appraisal is not None
    passed = {r.check for r in appraisal.records if r.outcome == "passed"}
    assert {"quote-signature", "tcb-status", "machine", "fmspc"} <= passed


@pytest.mark.parametrize("quote", [{"flags": 0xC5}, {"flags": 0x405}, {"xfrm": 0x602E7}])
def test_bits_that_protect_alike_are_free(quote: dict[str, Any]) -> None:
    """CET, KSS, AEX-notify; AVX-512, PKRU, AMX: the accepted twins."""
    admit(policy(), evidence(**quote), at=AT)


def test_second_machine_of_the_same_intel() -> None:
    """B09: diversion to a genuine machine of the attacker's choice."""
    diverted = INTEL.with_platform(ppid=b"\x99" * 16)
    with refused(MachineNotListed, check="machine"):
        admit(policy(), evidence(diverted), at=AT)
    anyone = policy((f'["{AGREED.machines[0]}"]', '"any genuine platform"'))
    admit(anyone, evidence(diverted), at=AT)


def test_agreed_machine_by_its_platform_id() -> None:
    piid = evidence().platform.piid
    assert piid is not None
    admit(policy((AGREED.machines[0], f"piid:{piid.hex()}")), evidence(), at=AT)


@pytest.mark.parametrize(
    ("days", "leaf"), [(-2, PolicyNotYetValid), (30, PolicyExpired), (400, PolicyExpired)]
)
def test_policy_outside_its_window(days: int, leaf: type[RatlsError]) -> None:
    """P13: the evidence is good; the agreement is over."""
    with refused(leaf, check="policy-window"):
        admit(policy(), evidence(), at=AT + timedelta(days=days))


def test_collateral_older_than_agreed() -> None:
    """Still within Intel's own window: nothing is known about what Intel published since."""
    later = AT + timedelta(days=3)
    tight = policy(("max_collateral_age_days = 30", "max_collateral_age_days = 2"))
    with refused(CollateralTooOld, check="collateral-age"):
        admit(tight, evidence(), at=later)
    admit(policy(), evidence(), at=later)


def test_only_the_qe_identity_is_older_than_agreed() -> None:
    """Mix and match (T10): fresh TCB info beside an old identity of the quoting enclave."""
    day = timedelta(days=1)
    genuine = evidence()
    window = replace(genuine.window, qe_identity_issue=AT - 31 * day)
    with refused(CollateralTooOld, check="collateral-age"):
        admit(policy(), Doctored(genuine, genuine.tcb, window), at=AT)  # type: ignore[arg-type]


def test_enclave_of_another_name_in_the_same_policy() -> None:
    """A task for one release must not run in the other, though both are agreed on."""
    second = (
        '[[enclave]]\nname = "joint-training-0.9"\ntee = "sgx"\n'
        f'mr_enclave = "{"33" * 32}"\nisv_prod_id = 0\nmin_isv_svn = 0\n\n[platform]'
    )
    both = policy(("[platform]", second))
    with refused(MeasurementNotListed, check="measurement"):
        admit(both, evidence(), at=AT, enclave_name="joint-training-0.9")
    assert admit(both, evidence(), at=AT).enclave.name == "joint-training-1.0"


def test_a_name_that_the_policy_does_not_have() -> None:
    """It says nothing about what runs there."""
    with refused(EnclaveNotInPolicy) as seen:
        admit(policy(), evidence(), at=AT, enclave_name="joint-training-1.1")
    assert seen.error.expected == "joint-training-1.0"
    assert seen.error.appraisal is None


@dataclass(frozen=True)
class Doctored:
    """Genuine evidence with another verdict on the patch level, for `admit` alone."""

    of: VerifiedQuote
    tcb: Any
    window: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


def with_tcb(**fields: Any) -> Any:
    genuine = evidence()
    return Doctored(genuine, replace(genuine.tcb, **fields), genuine.window)


def _statuses() -> Mapping[str, Any]:
    from verifier.tcb import TcbStatus

    return {str(s): s for s in TcbStatus if s is not TcbStatus.UP_TO_DATE}


@pytest.mark.parametrize("status", sorted(_statuses()))
def test_patch_level_that_the_policy_does_not_name(status: str) -> None:
    """T13."""
    from verifier.acceptance import TcbRevoked

    leaf = TcbRevoked if status == "Revoked" else TcbStatusUnaccepted
    with refused(leaf, check="tcb-status"):
        admit(policy(), with_tcb(status=_statuses()[status]), at=AT)


@pytest.mark.parametrize("status", ["UpToDate", "SWHardeningNeeded"])
def test_advisory_that_nobody_accepted(status: str) -> None:
    """T17: also those that come with an up-to-date platform; the policy lists each."""
    from verifier.tcb import TcbStatus

    doctored = with_tcb(status=TcbStatus(status), advisory_ids=("INTEL-SA-00615",))
    listed = ('tcb_statuses = ["UpToDate"]', f'tcb_statuses = ["{status}"]')
    with refused(AdvisoryUnaccepted, check="advisories"):
        admit(policy(listed), doctored, at=AT)
    accepted = ("accepted_advisories = []", 'accepted_advisories = ["INTEL-SA-00615"]')
    admit(policy(listed, accepted), doctored, at=AT)


def test_an_admission_cannot_be_made_without_its_checks() -> None:
    admitted = admit(policy(), evidence(), at=AT)
    with pytest.raises(TypeError):
        Admission(admitted.enclave, admitted.appraisal, object())
    with pytest.raises((TypeError, ValueError)):
        replace(admitted, enclave=admitted.enclave)
