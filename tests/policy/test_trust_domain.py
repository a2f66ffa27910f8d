"""A policy for a TDX guest: what it must list, and which genuine guests it then refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.admission import CurrentStatusUnaccepted, MeasurementNotListed, admit
from policy.document import Policy, PolicyInvalid
from policy.domain_admission import (
    MrConfigIdNotListed,
    MrOwnerConfigNotListed,
    MrOwnerNotListed,
    MrSeamNotListed,
    MrTdNotListed,
    Rtmr0NotListed,
    Rtmr1NotListed,
    Rtmr2NotListed,
    Rtmr3NotListed,
    RunTimeEventNotListed,
    RunTimeEventsDiffer,
    RunTimeEventsMissing,
    TeeTcbSvnTooLow,
)
from policy.trust_domain import AT_RUN_TIME, TrustDomain
from simulation.documents import tcb_level
from tests.support.intel import World
from tests.support.parties import AT, REGISTERS, Consortium
from tests.support.refusal import refused
from verifier.acceptance import ServiceTdUnaccepted, TdAttributesUnaccepted, TdDebuggable
from verifier.errors import RatlsError
from verifier.event_log import replay
from verifier.verify import VerifiedQuote

INTEL = World.create(AT)
COLLATERAL = INTEL.collateral(tdx=True)
AGREED = Consortium.create(
    AT,
    root=f"simulation:sha256:{INTEL.intel.anchors().root_spki_sha256.hex()}",
    machines=[f"ppid:{INTEL.verify().platform.ppid.hex()}"],
)
EVENTS = tuple(bytes([n]) * 48 for n in (0xE1, 0xE2, 0xE3))
LISTED = "[" + ", ".join(f'"{event.hex()}"' for event in EVENTS) + "]"
OTHER = f'"{"77" * 48}"'


def policy(*others: str, **fields: str) -> Policy:
    return AGREED.policy(enclave=AGREED.domain(**fields) + "".join(others))


def evidence(**quote: Any) -> VerifiedQuote:
    return INTEL.verify(quote=INTEL.platform.td_quote(**quote), collateral=COLLATERAL)


def problems(*others: str, **fields: str) -> dict[str, str]:
    """Path to what is expected there, of a policy that is refused."""
    with refused(PolicyInvalid) as refusal:
        policy(*others, **fields)
    assert isinstance(refusal.error, PolicyInvalid)
    return {p.path: p.expected for p in refusal.error.problems}


def test_agreed_guest_on_the_agreed_machine_is_admitted() -> None:
    """M08: the twin of all refusals here; TDX 1.0, and 1.5 with what runs now."""
    for quote in ({}, {"version": 5, "tee_tcb_svn_2": bytes((6, 1, 2, *[0] * 13))}):
        admission = admit(policy(), evidence(**quote), at=AT, enclave_name="joint-training-td")
        assert isinstance(admission.enclave, TrustDomain)
        assert admission.appraisal.records[-1].check == "attributes"


@pytest.mark.parametrize(
    "name", [*REGISTERS, "mr_seam", "min_tee_tcb_svn"]
)  # fmt: skip
def test_a_register_that_is_left_out(name: str) -> None:
    """MRTD alone is the firmware: whoever lists no more admits every kernel that it boots."""
    assert problems(**{name: ""}) == {f"enclave[0].{name}": "this field"}


@pytest.mark.parametrize("name", ["mr_td", "rtmr0", "rtmr1", "rtmr2"])
@pytest.mark.parametrize("value", ['"*"', f'"{"00" * 48}"', '""', "[]", f'"{"AB" * 48}"'])
def test_a_register_that_names_no_guest(name: str, value: str) -> None:
    """X06: no wildcard, no zero, no list, one spelling."""
    assert [*problems(**{name: value})] == [f"enclave[0].{name}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"rtmr3": f'"{AT_RUN_TIME}"'},  # without the events it would be any value
        {"rtmr3_events": LISTED},  # events of a value that is fixed
        {"rtmr3": '"extended"'},
        {"rtmr3": "3"},
        {"rtmr3": f'"{AT_RUN_TIME}"', "rtmr3_events": "[]"},
        {"rtmr3": f'"{AT_RUN_TIME}"', "rtmr3_events": f'["{"00" * 48}"]'},
        {"rtmr1": f'"{AT_RUN_TIME}"'},  # the kernel is not measured at run time
        {"rtmr2": f'"{AT_RUN_TIME}"'},
        {"mr_seam": "[]"},
        {"mr_seam": "[3]"},
        {"service_tds": "[3]"},
        {"mr_seam": '"any"'},
        {"mr_seam": f'["{"00" * 48}"]'},
        {"mr_owner": '""'},
        {"min_tee_tcb_svn": '"05"'},
        {"service_tds": "[]"},
        {"service_tds": f'["{"00" * 48}"]'},
        {"td_attributes": '"0100001000000000"'},  # debug
        {"td_attributes": '"0000000000000000"'},  # without SEPT_VE_DISABLE
        {"td_attributes_mask": '"00ffffffffffffff"'},  # debug is not looked at
        {"td_attributes_mask": '"ffffffefffffffff"'},  # nor SEPT_VE_DISABLE
        {"mr_enclave": f'"{"11" * 32}"'},  # of the other technology
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_a_policy_for_guests_that_would_admit_too_much(fields: dict[str, str]) -> None:
    assert len(problems(**fields)) == 1


_VALUES = st.one_of(
    st.sampled_from(['"*"', "[]", "{}", "true", "0", "-1", "1.5", "2026-11-01", "[[1]]", "[{}]"]),
    st.text("0123456789abcdefABG ", max_size=100).map(lambda text: f'"{text}"'),
    st.lists(st.integers() | st.booleans(), max_size=3).map(lambda v: str(v).lower()),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TrustDomain.model_fields)), _VALUES)
def test_no_value_crashes_the_reader(name: str, value: str) -> None:
    """A policy, or a refusal that names the field."""
    try:
        read = policy(**{name: value})
    except RatlsError as refusal:
        assert type(refusal) is PolicyInvalid  # noqa: PT017
    else:
        assert isinstance(read.enclave[0], TrustDomain)


def test_a_tee_that_does_not_exist() -> None:
    enclave = AGREED.sections()["enclave"].replace('"sgx"', '"sev"')
    with refused(PolicyInvalid) as refusal:
        AGREED.policy(enclave=enclave)
    assert isinstance(refusal.error, PolicyInvalid)
    assert [p.path for p in refusal.error.problems] == ["enclave[0].tee"]


def test_one_guest_under_two_names() -> None:
    """A task for one name would run in the other, also where the words cover a fixed value."""
    words = {"rtmr3": f'"{AT_RUN_TIME}"', "rtmr3_events": LISTED}
    for fields in ({}, words):
        twin = AGREED.domain(name='"joint-training-td-2"', **fields)
        assert [*problems(twin)] == ["enclave[1]"]
        assert [*problems(AGREED.domain(name='"joint-training-td-2"'), **fields)] == ["enclave[1]"]
    # Another shape of machine is another entry.
    other = AGREED.domain(name='"joint-training-td-2"', rtmr0=OTHER)
    admitted = admit(policy(other), evidence(rtmr0=b"\x77" * 48), at=AT)
    assert admitted.enclave.name == "joint-training-td-2"


LEAVES: dict[str, type[RatlsError]] = {
    "mr_td": MrTdNotListed,
    "rtmr0": Rtmr0NotListed,
    "rtmr1": Rtmr1NotListed,
    "rtmr2": Rtmr2NotListed,
    "rtmr3": Rtmr3NotListed,
    "mr_config_id": MrConfigIdNotListed,
    "mr_owner": MrOwnerNotListed,
    "mr_owner_config": MrOwnerConfigNotListed,
}


@pytest.mark.parametrize("name", LEAVES)
def test_one_register_differs(name: str) -> None:
    """M08: each has a code of its own, and each is compared, also where it is zero."""
    other = bytearray(REGISTERS[name])
    other[47] ^= 1
    with refused(LEAVES[name], check="measurement"):
        admit(policy(), evidence(**{name: bytes(other)}), at=AT)
    admit(policy(**{name: f'"{other.hex()}"'}), evidence(**{name: bytes(other)}), at=AT)


@given(st.sampled_from(sorted(REGISTERS)), st.integers(0, 383))
def test_no_bit_of_a_register_is_left_unread(name: str, bit: int) -> None:
    """M08."""
    from policy.domain_admission import require_registers
    from simulation.quote import TdReportForm
    from verifier.td import TdReport

    (domain,) = policy_of_one
    value = int.from_bytes(REGISTERS[name], "big") ^ 1 << bit
    form = replace(TdReportForm(), **{name: value.to_bytes(48, "big")})
    with refused(LEAVES[name]):
        require_registers([domain], TdReport(form.encode()))
    assert require_registers([domain], TdReport(TdReportForm().encode())) is domain


policy_of_one = [e for e in policy().enclave if isinstance(e, TrustDomain)]


def test_registers_of_two_entries_are_not_mixed() -> None:
    """The kernel of one agreed guest with the command line of the other is neither."""
    second = AGREED.domain(name='"second"', rtmr1=OTHER, rtmr2=OTHER)
    with refused(Rtmr2NotListed, check="measurement"):
        admit(policy(second), evidence(rtmr1=b"\x77" * 48), at=AT)
    mixed = evidence(rtmr1=b"\x77" * 48, rtmr2=b"\x77" * 48)
    assert admit(policy(second), mixed, at=AT).enclave.name == "second"
    with refused(Rtmr1NotListed, check="measurement"):
        admit(policy(second), mixed, at=AT, enclave_name="joint-training-td")


def test_a_register_is_never_a_measurement_of_the_other_technology() -> None:
    """Q08: MRTD begins with what the policy lists as MRENCLAVE, and the reverse."""
    sgx = AGREED.sections()["enclave"].replace(AGREED.mr_enclave, "32" * 32)
    with refused(MrTdNotListed, check="measurement"):
        admit(AGREED.policy(enclave=sgx), evidence(), at=AT)
    enclave = INTEL.verify(quote=INTEL.quote(mr_enclave=b"\x32" * 32, isv_prod_id=0))
    with refused(MeasurementNotListed, check="measurement"):
        admit(policy(), enclave, at=AT)
    admit(AGREED.policy(enclave=sgx), enclave, at=AT)
    admit(policy(sgx), enclave, at=AT)  # a policy may list both


RUN_TIME = {"rtmr3": f'"{AT_RUN_TIME}"', "rtmr3_events": LISTED}


def test_run_time_events_add_up_to_the_register() -> None:
    """M08: RTMR3 holds the listed events, in the order in which they came, and nothing else."""
    for events in ((), EVENTS[:1], EVENTS, (EVENTS[2], EVENTS[0])):
        genuine = evidence(rtmr3=replay(events))
        admit(policy(**RUN_TIME), genuine, at=AT, rtmr3_events=events)


def test_run_time_events_that_nobody_states() -> None:
    """M08: the words are no wildcard. An empty list is a statement, and must add up too."""
    genuine = evidence(rtmr3=replay(EVENTS))
    with refused(RunTimeEventsMissing, check="measurement"):
        admit(policy(**RUN_TIME), genuine, at=AT)
    with refused(RunTimeEventsDiffer, check="measurement"):
        admit(policy(**RUN_TIME), genuine, at=AT, rtmr3_events=())
    admit(policy(**RUN_TIME), genuine, at=AT, rtmr3_events=EVENTS)


@pytest.mark.parametrize("events", [EVENTS[::-1], EVENTS[:2], (*EVENTS, EVENTS[0])])
def test_run_time_events_of_another_guest(events: tuple[bytes, ...]) -> None:
    """M08: reordered, cut short, or one more than was measured."""
    genuine = evidence(rtmr3=replay(EVENTS))
    with refused(RunTimeEventsDiffer, check="measurement"):
        admit(policy(**RUN_TIME), genuine, at=AT, rtmr3_events=events)
    admit(policy(**RUN_TIME), genuine, at=AT, rtmr3_events=EVENTS)


def test_run_time_event_that_the_policy_does_not_list() -> None:
    """M08: the list is true, but something else was started."""
    events = (EVENTS[0], b"\x66" * 48)
    with refused(RunTimeEventNotListed, check="measurement"):
        admit(policy(**RUN_TIME), evidence(rtmr3=replay(events)), at=AT, rtmr3_events=events)
    admit(policy(**RUN_TIME), evidence(rtmr3=replay(EVENTS)), at=AT, rtmr3_events=EVENTS)


def test_events_do_not_replace_a_listed_register() -> None:
    with refused(Rtmr3NotListed, check="measurement"):
        admit(policy(), evidence(rtmr3=replay(EVENTS)), at=AT, rtmr3_events=EVENTS)
    listed = policy(rtmr3=f'"{replay(EVENTS).hex()}"')
    admit(listed, evidence(rtmr3=replay(EVENTS)), at=AT)


def test_module_that_the_policy_does_not_list() -> None:
    """M08: a genuine TDX module by Intel, but an unknown one."""
    with refused(MrSeamNotListed, check="product"):
        admit(policy(), evidence(mr_seam=b"\x55" * 48), at=AT)
    admit(policy(mr_seam='"any TDX module by Intel"'), evidence(mr_seam=b"\x55" * 48), at=AT)


def svn(*first: int) -> bytes:
    return bytes((*first, *[0] * (16 - len(first))))


@pytest.mark.parametrize(
    ("floor", "quote"),
    [
        (svn(6, 1, 2), {}),  # the module
        (svn(5, 1, 3), {}),  # its microcode
        (svn(1, 2, 2), {}),  # its major version
        (svn(5, 1, 2, 1), {}),
        # What runs now counts like what was launched.
        (svn(6, 1, 2), {"version": 5, "tee_tcb_svn": svn(6, 1, 2), "tee_tcb_svn_2": svn(5, 1, 2)}),
        (svn(6, 1, 2), {"version": 5, "tee_tcb_svn_2": svn(6, 1, 2)}),
    ],
)
def test_module_older_than_agreed(floor: bytes, quote: dict[str, Any]) -> None:
    """M08, T18: Intel may still call it up to date."""
    with refused(TeeTcbSvnTooLow, check="product"):
        admit(policy(min_tee_tcb_svn=f'"{floor.hex()}"'), evidence(**quote), at=AT)
    admit(policy(min_tee_tcb_svn=f'"{svn(3, 1, 1).hex()}"'), evidence(**quote), at=AT)


def test_newer_major_version_counts_its_svn_anew() -> None:
    from policy.domain_admission import _reaches

    assert _reaches(svn(0, 2, 2), svn(5, 1, 2))
    assert not _reaches(svn(9, 0, 2), svn(5, 1, 2))
    assert not _reaches(svn(0, 2, 1), svn(5, 1, 2))


SEPT, MIGRATABLE, PKS, KL, PERFMON = 1 << 28, 1 << 29, 1 << 30, 1 << 31, 1 << 63


@pytest.mark.parametrize(
    ("quote", "leaf"),
    [
        ({"td_attributes": SEPT | 1}, TdDebuggable),  # M01
        ({"td_attributes": SEPT | 1 << 5}, TdDebuggable),
        ({"td_attributes": 0}, TdAttributesUnaccepted),  # SEPT_VE_DISABLE clear
        ({"td_attributes": SEPT | MIGRATABLE}, TdAttributesUnaccepted),
        ({"td_attributes": SEPT | KL}, TdAttributesUnaccepted),
        ({"td_attributes": SEPT | 1 << 40}, TdAttributesUnaccepted),
        ({"xfam": 0x1}, TdAttributesUnaccepted),
        ({"xfam": 0x602E7 | 1 << 10}, TdAttributesUnaccepted),
        ({"version": 5, "mr_service_td": b"\x44" * 48}, ServiceTdUnaccepted),
    ],
)  # fmt: skip
def test_guest_with_other_attributes(quote: dict[str, Any], leaf: type[RatlsError]) -> None:
    """M01, M08: one bit at a time; `test_attributes_that_the_policy_allows` has the twins."""
    with refused(leaf, check="attributes"):
        admit(policy(), evidence(**quote), at=AT)


@pytest.mark.parametrize(
    ("fields", "quote"),
    [
        ({}, {"td_attributes": SEPT | PKS | PERFMON}),
        ({}, {"xfam": 0x3}),
        ({}, {"xfam": 0x6DBE7}),
        ({"td_attributes": '"0000003000000000"'}, {"td_attributes": SEPT | MIGRATABLE}),
        ({"td_attributes_mask": '"ffffff3fffffff7f"'}, {"td_attributes": SEPT | KL}),
        ({"td_attributes_mask": '"ffffff3fffffff7f"'}, {"td_attributes": SEPT}),
        ({"service_tds": f"[{OTHER}]"}, {"version": 5, "mr_service_td": b"\x77" * 48}),
        ({"service_tds": f"[{OTHER}]"}, {"version": 5, "mr_service_td": bytes(48)}),
    ],
)
def test_attributes_that_the_policy_allows(fields: dict[str, str], quote: dict[str, Any]) -> None:
    admit(policy(**fields), evidence(**quote), at=AT)


@pytest.mark.parametrize(
    ("fields", "quote", "leaf"),
    [
        ({"td_attributes": '"0000003000000000"'}, {}, TdAttributesUnaccepted),  # must be on
        ({"xfam": '"e702060000000000"', "xfam_mask": f'"{"ff" * 8}"'}, {"xfam": 0x2E7},
         TdAttributesUnaccepted),
        ({"service_tds": f"[{OTHER}]"}, {"version": 5, "mr_service_td": b"\x44" * 48},
         ServiceTdUnaccepted),
    ],
)  # fmt: skip
def test_attributes_that_the_policy_asks_for(
    fields: dict[str, str], quote: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """M08; the last of these is a service domain other than the one listed."""
    with refused(leaf, check="attributes"):
        admit(policy(**fields), evidence(**quote), at=AT)


def dated(tdx: bytes, status: str) -> dict[str, Any]:
    tcb = INTEL.platform.tcb
    return tcb_level(tcb.components, tcb.pce_svn, status=status, tdx=tuple(tdx), date=AT)


def test_what_runs_now_has_a_status_that_the_policy_does_not_list() -> None:
    """T13, T18: the launch was up to date; the microcode beneath it is not any more."""
    levels = [
        dated(svn(0, 0, 2), "UpToDate"),
        dated(svn(0, 0, 1), "SWHardeningNeeded"),
    ]
    collateral = INTEL.collateral(tdx=True, tcb_info=lambda d: {**d, "tcbLevels": levels})
    quote = INTEL.platform.td_quote(version=5, tee_tcb_svn_2=svn(5, 1, 1))
    verified = INTEL.verify(quote=quote, collateral=collateral)
    low = {"min_tee_tcb_svn": f'"{svn().hex()}"'}
    with refused(CurrentStatusUnaccepted, check="tcb-status"):
        admit(policy(**low), verified, at=AT)
    listed = 'tcb_statuses = ["UpToDate", "SWHardeningNeeded"]'
    both = AGREED.policy(
        enclave=AGREED.domain(**low), replace=[('tcb_statuses = ["UpToDate"]', listed)]
    )
    admit(both, verified, at=AT)
