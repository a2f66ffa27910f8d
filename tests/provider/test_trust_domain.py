"""Rows released to a trust domain: the whole way, and what stops it before a row leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy.admission import MachineNotListed
from policy.domain_admission import Rtmr2NotListed, RunTimeEventNotListed
from policy.machines import MachinesFileMissing, digest_of, machines_path, machines_text
from policy.trust_domain import AT_RUN_TIME
from ratls.address import Address
from ratls.offline import verify_with_record
from tests.provider.desk import CANARY, Desk
from tests.support.domains import DomainAttester
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.parties import Consortium
from tests.support.relay import Relay
from verifier.acceptance import TdDebuggable
from verifier.errors import RatlsError
from verifier.text import digest_text

pytestmark = pytest.mark.slow

EVENT = hashlib.sha384(b"the job's container").digest()
RUN_TIME = {"rtmr3": f'"{AT_RUN_TIME}"', "rtmr3_events": f'["{EVENT.hex()}"]'}


class DomainWorld(EnclaveWorld):
    """Parties that agreed on a trust domain."""

    @classmethod
    def of(cls, fields: dict[str, str] | None = None, **overrides: Any) -> DomainWorld:
        """`fields` are TOML, of the `[[enclave]]`."""
        made = cls.create(enclave=Consortium.create(NOW).domain(**fields or {}), **overrides)
        made.runs()
        return made

    def runs(self, **altered: Any) -> DomainAttester:
        """What the host launches."""
        attester = DomainAttester(self.intel.platform, **altered)
        self.attester = attester
        return attester

    @property
    def collateral(self) -> bytes:
        return self.intel.intel.collateral(self.intel.platform, tdx=True)


@contextmanager
def recorded(live: LiveEnclave) -> Iterator[Relay]:
    with Relay(("127.0.0.1", live.server.port)) as relay:
        yield relay


def test_a_job_in_a_trust_domain(tmp_path: Path) -> None:
    """From two releases to a receipt that holds years later."""
    world = DomainWorld.of()
    task = world.task()
    with world.running() as live:
        alice, bob, carol = (
            Desk.of(n, world, tmp_path, live.address) for n in ("alice", "bob", "carol")
        )
        done = alice.push(task)
        bob.push(task)
        carol.fetch(task, wait=True)
    assert done.fresh.admission.enclave.name == "joint-training-td"
    raw, record = carol.outputs.receipt.read_bytes(), carol.outputs.record.read_bytes()
    roots = world.expectation.roots
    verified, _ = verify_with_record(
        raw, record, world.policy, roots, carol.outputs.result.read_bytes()
    )
    assert verified.evidence.admission.enclave.name == "joint-training-td"


@pytest.mark.parametrize(
    ("altered", "leaf", "check"),
    [
        ({"rtmr2": b"\x99" * 48}, Rtmr2NotListed, "measurement"),
        ({"td_attributes": 1 << 28 | 1}, TdDebuggable, "attributes"),
    ],
)
def test_another_guest_gets_nothing(
    tmp_path: Path, altered: dict[str, Any], leaf: type[RatlsError], check: str
) -> None:
    """M01, M08: on the agreed machine, but with another command line, or debuggable."""
    world = DomainWorld.of()
    world.runs(**altered)
    with world.running() as live, recorded(live) as relay:
        alice = Desk.of("alice", world, tmp_path, Address.parse(relay.address))
        with alice.refuses(leaf, check=check):
            alice.push(world.task())
        assert CANARY.encode() not in b"".join(bytes(c.sent) for c in relay.connections)
    world.runs()
    with world.running() as live:
        alice.address = live.address
        alice.push(world.task())


def test_something_is_started_between_two_releases(tmp_path: Path) -> None:
    """M08: the guest measured what nobody agreed on, and the next provider sees it."""
    world = DomainWorld.of(RUN_TIME)
    attester = world.runs(events=[EVENT])
    with world.running() as live:
        alice, bob = (Desk.of(name, world, tmp_path, live.address) for name in ("alice", "bob"))
        alice.push(world.task())
        attester.extend(hashlib.sha384(b"a shell").digest())
        with bob.refuses(RunTimeEventNotListed, check="measurement"):
            bob.push(world.task())


def test_a_fleet_in_a_file(tmp_path: Path) -> None:
    """B09: the machines come out of the state folder, where they were accepted."""
    probe = DomainWorld.of()
    own = probe.intel.platform.tcb.ppid.hex()
    for fleet, leaf in (([f"ppid:{own}"], None), (["ppid:" + "99" * 16], MachineNotListed)):
        raw = machines_text(fleet)
        named = f'machines_file = "{digest_text(digest_of(raw))}"'
        text = probe.consortium.policy_text(
            enclave=probe.consortium.domain(), replace=[(f'machines = ["ppid:{own}"]', named)]
        )
        world = replace(probe, complete=probe.consortium.complete(text))
        folder = tmp_path / str(leaf)
        folder.mkdir()
        with world.running() as live:
            alice = Desk.of("alice", world, folder, live.address)
            task = world.task()
            with alice.refuses(MachinesFileMissing, check="machine"):
                alice.push(task)
            path = machines_path(world.policy, alice.state / "studies")
            assert path is not None
            path.write_bytes(raw)
            if leaf is None:
                alice.push(task)
            else:
                with alice.refuses(leaf, check="machine"):
                    alice.push(task)
