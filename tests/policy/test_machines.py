"""A fleet in a file that the policy names by its digest, and how machines must be set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.admission import MachineNotListed, admit
from policy.configuration import (
    CachedKeysUnaccepted,
    DynamicPlatformUnaccepted,
    SgxTypeUnaccepted,
    SmtUnaccepted,
)
from policy.document import Policy, PolicyInvalid
from policy.machines import (
    MachinesFileDiffers,
    MachinesFileMalformed,
    MachinesFileMissing,
    digest_of,
    file_name,
    machines_text,
    read_machines,
    require_machines_file,
    with_machines,
)
from policy.state import StudyState
from tests.policy.desk import NOW, WORLD, Desk
from tests.support.intel import World
from tests.support.parties import AT, Consortium
from tests.support.refusal import refused
from verifier.errors import RatlsError
from verifier.text import digest_text
from verifier.verify import VerifiedQuote

INTEL = World.create(AT)
MR_ENCLAVE = bytes(range(32))
PPID = f"ppid:{INTEL.platform.tcb.ppid.hex()}"
AGREED = Consortium.create(
    AT,
    root=f"simulation:sha256:{INTEL.intel.anchors().root_spki_sha256.hex()}",
    mr_enclave=MR_ENCLAVE.hex(),
    machines=[PPID],
)
FLEET = machines_text([PPID, *(f"ppid:{n:032x}" for n in range(1, 1000))])
LISTED = f'machines = ["{PPID}"]'


def evidence(world: World = INTEL) -> VerifiedQuote:
    return world.verify(quote=world.quote(mr_enclave=MR_ENCLAVE, isv_prod_id=0))


def named(raw: bytes = FLEET) -> Policy:
    return AGREED.policy(replace=[(LISTED, f'machines_file = "{digest_text(digest_of(raw))}"')])


def beside(folder: Path, raw: bytes = FLEET, content: bytes | None = None) -> Path:
    path = folder / file_name(digest_text(digest_of(raw)))
    path.write_bytes(raw if content is None else content)
    return path


def test_a_machine_of_the_fleet_by_either_name(tmp_path: Path) -> None:
    """B09: PPID or PIID, out of a thousand."""
    piid = INTEL.platform.tcb.piid
    assert piid is not None
    for name in (PPID, f"piid:{piid.hex()}"):
        fleet = FLEET.replace(PPID.encode(), name.encode())
        beside(tmp_path, fleet)
        admit(with_machines(named(fleet), tmp_path), evidence(), at=AT)


def test_a_genuine_machine_outside_the_fleet(tmp_path: Path) -> None:
    """B09, T24."""
    beside(tmp_path)
    fleet = with_machines(named(), tmp_path)
    with refused(MachineNotListed, check="machine") as refusal:
        admit(fleet, evidence(INTEL.with_platform(ppid=b"\x99" * 16)), at=AT)
    assert len(str(refusal.error)) < 250  # and not a thousand machines
    admit(fleet, evidence(), at=AT)


def test_without_its_file_a_policy_admits_no_machine(tmp_path: Path) -> None:
    """B09: a list that is not there is not a list of all machines."""
    with refused(MachinesFileMissing, check="machine"):
        admit(with_machines(named(), tmp_path), evidence(), at=AT)
    beside(tmp_path)
    admit(with_machines(named(), tmp_path), evidence(), at=AT)


@pytest.mark.parametrize(
    "content",
    [FLEET + b"ppid:" + b"99" * 16 + b"\n", FLEET[:-38], b"", FLEET.replace(b"\n", b"\r\n")],
)
def test_a_file_that_the_parties_did_not_sign(tmp_path: Path, content: bytes) -> None:
    """B09: a machine was added, one was removed, or another program changed the line ends."""
    beside(tmp_path, content=content)
    with refused(MachinesFileDiffers):
        with_machines(named(), tmp_path)
    beside(tmp_path)
    with_machines(named(), tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n# a comment\n",
        b"any genuine platform\n",
        b"ppid:*\n",
        b"ppid:" + b"00" * 16,
        b"ppid:" + b"AB" * 16,
        b"mac:" + b"ab" * 16,
        b"ppid:" + b"ab" * 16 + b" # rack 4\n",
        b"ppid:" + b"ab" * 16 + b"\nppid:" + b"ab" * 16,
        b"\xef\xbb\xbfppid:" + b"ab" * 16,
    ],
)
def test_a_file_that_names_no_fleet(tmp_path: Path, raw: bytes) -> None:
    """Also where all parties signed it."""
    beside(tmp_path, raw)
    with refused(MachinesFileMalformed):
        with_machines(named(raw), tmp_path)
    assert read_machines(b"# rack 4\r\n\nppid:" + b"ab" * 16) == {"ppid:" + "ab" * 16}


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace")))
def test_no_file_crashes_the_reader(raw: bytes) -> None:
    try:
        assert read_machines(raw)
    except RatlsError as refusal:
        assert type(refusal) is MachinesFileMalformed  # noqa: PT017


@pytest.mark.parametrize(
    "lines",
    [
        "",
        f'{LISTED}\nmachines_file = "sha256:{"ab" * 32}"',
        f'machines = "any genuine platform"\nmachines_file = "sha256:{"ab" * 32}"',
        'machines_file = "machines.txt"',
        'machines_file = ""',
    ],
)
def test_one_list_of_machines_and_no_other(lines: str) -> None:
    with refused(PolicyInvalid) as refusal:
        AGREED.policy(replace=[(LISTED, lines)])
    assert isinstance(refusal.error, PolicyInvalid)
    (problem,) = refusal.error.problems
    assert problem.path in ("platform.machines", "platform.machines_file")


# As it is typed.


def test_a_fleet_is_agreed_on(tmp_path: Path) -> None:
    """The file travels beside the policy; nobody signs or accepts without it."""
    desk = Desk(tmp_path)
    fleet = desk.write("fleet.txt", b"# rack 4\nppid:" + b"cd" * 16 + b"\nppid:" + b"ab" * 16)
    made = desk.json("policy", "machines", fleet)
    listed = WORLD.policy_text(
        replace=[
            ('machines = ["ppid:' + "ab" * 16 + '"]', f'machines_file = "{made["machines_file"]}"')
        ]
    )
    toml, file = desk.write("study.toml", listed), Path(made["file"])
    content = file.read_bytes()
    noted = desk.json("policy", "lint", toml)["notes"]["platform.machines_file"]
    assert noted == f"{file.name} has 2 machines"
    file.unlink()
    assert "is missing" in desk.run("policy", "lint", toml)
    assert "machines-file-missing" in desk.run(
        "policy", "sign", toml, "--party", WORLD.alice.folder, "--state", desk.folder / "state",
        "--passphrase-file", desk.pass_file, *desk.yes(toml), "--json", status=3,
    )  # fmt: skip
    assert not (desk.folder / "study.agreement.json").exists()
    file.write_bytes(content)
    for name in ("alice-clinic", "bob-hospital", "carol-lab"):
        desk.sign(toml, name)
    agreement = desk.folder / "study.agreement.json"
    file.write_bytes(content + b"\n")
    desk.accept(agreement, "alice-clinic", status=3)
    file.write_bytes(content)
    desk.accept(agreement, "alice-clinic")
    shown = desk.json("policy", "show", toml)["platform"]
    assert shown["machines_file"] == made["machines_file"]
    assert "machines" not in shown
    # What was accepted is kept with its machines, wherever the policy came from.
    store = StudyState(desk.folder / "state")
    accepted = store.current("breast-cancer-joint-training", NOW).policy
    file.unlink()
    assert require_machines_file(accepted, store.folder) == content
    assert with_machines(accepted, store.folder).fleet == {f"ppid:{b * 16}" for b in ("ab", "cd")}
    with refused(MachinesFileMissing):
        require_machines_file(accepted, desk.folder)


# How the machine is set up. The simulation's: Scalable, dynamic, keys not cached, SMT on.

OPEN = (
    'sgx_types = ["scalable"], allow_smt = true, allow_dynamic_platform = true, '
    "allow_cached_keys = true"
)
CLOSED: list[tuple[str, type[RatlsError]]] = [
    ('sgx_types = ["scalable"], ', SgxTypeUnaccepted),
    ("allow_smt = true, ", SmtUnaccepted),
    ("allow_dynamic_platform = true, ", DynamicPlatformUnaccepted),
    ("allow_cached_keys = true", CachedKeysUnaccepted),
]
WORST = INTEL.with_platform(configuration=(True, True, True), ppid=INTEL.platform.tcb.ppid)


def demanding(table: str) -> Policy:
    return AGREED.policy(replace=[(LISTED, f"{LISTED}\nconfiguration = {{ {table} }}")])


@pytest.mark.parametrize(("dropped", "leaf"), CLOSED, ids=[c[1].__name__ for c in CLOSED])
def test_what_the_table_leaves_out_is_refused(dropped: str, leaf: type[RatlsError]) -> None:
    """B09: the agreed machine, but set up in a way that nobody agreed on."""
    table = OPEN.replace(dropped, "").rstrip(", ")
    with refused(leaf, check="configuration"):
        admit(demanding(table), evidence(WORST), at=AT)
    admit(demanding(OPEN), evidence(WORST), at=AT)


@pytest.mark.parametrize("bit", range(3))
def test_one_setting_at_a_time(bit: int) -> None:
    settings: Any = tuple(n == bit for n in range(3))
    leaf = (DynamicPlatformUnaccepted, CachedKeysUnaccepted, SmtUnaccepted)[bit]
    closed = demanding('sgx_types = ["scalable"]')
    machine = {"ppid": INTEL.platform.tcb.ppid}
    with refused(leaf, check="configuration"):
        admit(closed, evidence(INTEL.with_platform(configuration=settings, **machine)), at=AT)
    strict = INTEL.with_platform(configuration=(False, False, False), **machine)
    admit(closed, evidence(strict), at=AT)


def test_a_certificate_that_does_not_say() -> None:
    """Intel's Processor CA says nothing of the kind: unknown is not fine."""
    machine = INTEL.with_platform(processor=True, ppid=INTEL.platform.tcb.ppid)
    with refused(SmtUnaccepted, check="configuration"):
        admit(demanding('sgx_types = ["standard"]'), evidence(machine), at=AT)
    admit(demanding(OPEN.replace('"scalable"', '"standard"')), evidence(machine), at=AT)


def test_without_the_table_nothing_is_demanded(tmp_path: Path) -> None:
    """And whoever reads the policy is told so."""
    admit(AGREED.policy(), evidence(WORST), at=AT)
    desk = Desk(tmp_path)
    shown = desk.json("policy", "show", desk.write("study.toml", WORLD.policy_text()))
    assert shown["platform"]["configuration"] == "nothing is demanded"


@pytest.mark.parametrize(
    "table", ["sgx_types = []", 'sgx_types = ["Scalable"]', "allow_smt = 1", "smt = true"]
)
def test_a_demand_that_is_none(table: str) -> None:
    with refused(PolicyInvalid):
        demanding(table)
