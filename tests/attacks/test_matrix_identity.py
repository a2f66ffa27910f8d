"""I01, I03 to I10, X01, X02, X05 and L01 to L04: at a desk and at an enclave that listens.

Each attacker claims to be somebody, switches something on, or reads or forges what is written; each
is judged by the universal oracle. What a careless operator starts is in test_matrix_operator.py.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import ec

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.application import AttesterModeMismatch, Enclave
from policy.chain import PredecessorNotConsenting
from policy.document import digest_text
from policy.keys import load_private_key
from policy.party import LocalParty
from policy.rows import ColumnTypeDiffers, ValueOutsideDomain
from policy.state import StudyState
from provider.collect import ResultPending
from provider.exchange import DatasetNotOwned
from provider.release_state import TaskAlreadyReleased
from ratls.address import Address
from ratls.certificate import ENCLAVE_NAME
from ratls.cli import build
from ratls.environment import EnvironmentUnsafe, prepare_process
from ratls.errors import CallFailed
from ratls.framing import Kind, write_message
from ratls.log import open_log
from scheduler.certificate import own_certificate
from tests.attacks.conftest import desk_scene
from tests.provider.desk import CANARY, Desk
from tests.provider.test_cli import Terminal, code
from tests.support.channels import Log
from tests.support.enclave import (
    MR_ENCLAVE,
    NOW,
    EnclaveWorld,
    LiveEnclave,
    refused_by_enclave,
    rows,
)
from tests.support.flight_peers import PlatformAttester
from tests.support.oracle import Scene, universal_oracle
from tests.support.parties import PASSPHRASE, local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import Mode
from verifier.errors import Exit, RatlsError
from verifier.modes import SimulationNotAllowed

pytestmark = pytest.mark.slow


def stock_client(live: LiveEnclave, party: LocalParty | None) -> flight.FlightClient:
    shown: dict[str, Any] = {}
    if party is not None:
        channel = live.world.channel(party)
        shown = {"cert_chain": channel.cert_pem, "private_key": channel.key_pem}
    return flight.FlightClient(
        f"grpc+tls://{live.address}",
        tls_root_certs=live.enclave.identity.certificate_pem,
        override_hostname=ENCLAVE_NAME,
        **shown,
    )


def test_a_client_without_a_certificate(scene: Scene, live: LiveEnclave) -> None:
    """I01: the handshake ends before any handler is entered."""
    count_refusal()
    before = len(live.log)
    options = flight.FlightCallOptions(timeout=HANG_LIMIT)
    with (
        universal_oracle(scene),
        stock_client(live, None) as client,
        pytest.raises((flight.FlightError, pa.ArrowException, OSError)),
    ):
        list(client.list_flights(options=options))
    assert "refused" not in [line["event"] for line in live.log[before:]]


@pytest.mark.parametrize("who", [("dora-lab", 0), ("alice-clinic", 1)], ids=["I03", "I05"])
def test_a_certificate_that_the_policy_does_not_list(
    scene: Scene, live: LiveEnclave, who: tuple[str, int]
) -> None:
    """I03, I05: a stranger's, and one with Alice's very name and another key."""
    stranger = local_party(who[0], NOW, copy=who[1])
    with universal_oracle(scene), refused(CallFailed), live.exchange(Kind.ATTEST, stranger):
        pass


def test_a_certificate_of_another_role(scene: Scene, live: LiveEnclave, tmp_path: Path) -> None:
    """I04: the scheduler's own, and the recipient's, in place of a provider's."""
    own = own_certificate(tmp_path, NOW)
    scheduler = flight.FlightClient(
        f"grpc+tls://{live.address}",
        tls_root_certs=live.enclave.identity.certificate_pem,
        override_hostname=ENCLAVE_NAME,
        cert_chain=own.cert_pem,
        private_key=own.key_pem,
    )
    options = flight.FlightCallOptions(timeout=HANG_LIMIT)
    with (
        universal_oracle(scene),  # no handler was entered
        scheduler,
        pytest.raises((flight.FlightError, pa.ArrowException, OSError)),
    ):
        list(scheduler.list_flights(options=options))
    task, carol = live.world.task(), live.world.consortium.carol
    with (
        universal_oracle(scene, enclave=ReleaseNotAuthorized),
        refused_by_enclave(ReleaseNotAuthorized),
        live.exchange(Kind.RELEASE, carol, task=task, dataset="train_party_1"),
    ):
        pass
    [line] = [line for line in live.log if line["event"] == "refused"]
    assert line["party"] == "carol-lab"


FORGED = 'x"}\r\n{"event": "committed", "party": "bob-hospital"}\x1b[2J\u202e\u2028'


def test_a_name_that_would_be_a_line_of_the_log(scene: Scene, live: LiveEnclave) -> None:
    """L04: CR, LF, ANSI and what ends a JSON string, in the name of a dataset. The enclave does not
    write it; and whoever does writes one line."""
    task, alice = live.world.task(), live.world.consortium.alice
    before = len(live.stream.getvalue().split("\n"))
    with universal_oracle(scene, enclave=ReleaseNotAuthorized):
        with (
            refused_by_enclave(ReleaseNotAuthorized),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=FORGED),
        ):
            pass
        assert "bob-hospital" not in live.stream.getvalue()
        open_log(live.stream).info("seen", dataset=FORGED)
        text = live.stream.getvalue()
        assert len(text.split("\n")) == before + 2
        assert text.isascii()
        assert not set(text) & {"\r", "\x1b"}
        assert "committed" not in [line["event"] for line in live.log]


def test_a_party_that_says_it_is_another(
    world: EnclaveWorld, scene: Scene, live: LiveEnclave
) -> None:
    """I06, I07: Bob's certificate, Alice's name in headers and in a token."""
    count_refusal()
    claims = [
        (b"x-forwarded-client-cert", b"URI=urn:ratls:party:alice-clinic"),
        (b"authorization", b"Bearer alice-clinic"),
    ]
    first = write_message(
        "hello", nonce=bytes(32), task=world.task(), dataset="train_party_1", release=b"r" * 16
    )
    with (
        universal_oracle(scene, enclave=ReleaseNotAuthorized),
        stock_client(live, world.consortium.bob) as client,
    ):
        options = flight.FlightCallOptions(timeout=HANG_LIMIT, headers=claims)
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(descriptor, options)
        writer.write_metadata(first)
        with pytest.raises(flight.FlightUnauthorizedError, match=ReleaseNotAuthorized.code):
            reader.read_chunk()
        reader.cancel()


def test_a_dataset_of_another_party(world: EnclaveWorld, scene: Scene, bob: Desk) -> None:
    """I08: Bob offers rows as Alice's; his own side refuses before anybody is connected to."""
    scene.own.add(bob.path)
    scene.records["bob"] = bob.refusals
    with universal_oracle(scene, bob=DatasetNotOwned), bob.refuses(DatasetNotOwned):
        bob.push(world.task(), dataset="train_party_1")


def test_a_known_name_with_another_key(
    world: EnclaveWorld, scene: Scene, live: LiveEnclave, bob: Desk
) -> None:
    """I09: nobody is enrolled; keys change by a version that the old key has signed (P17). Neither
    Bob nor the enclave takes the new one for Alice."""
    namesake = local_party("alice-clinic", NOW, copy=1)
    others = world.consortium.parties | {"alice-clinic": namesake}
    thief = replace(world.consortium, parties=others)
    first = f'"{digest_text(world.policy.digest)}"'
    text = thief.policy_text(version="2", previous=first)
    scene.own.add(bob.path)
    scene.records["bob"] = bob.refusals
    with universal_oracle(scene):
        with refused(PredecessorNotConsenting):
            agreement = thief.agreement(text, before=world.complete)
            StudyState(bob.state).accept(agreement, bob.party, NOW)
        with refused(CallFailed), live.exchange(Kind.ATTEST, namesake):
            pass
        assert bob.push(world.task()).commit.rows == 60  # under the first version, as before


@pytest.mark.parametrize("option", ["--insecure", "--no-verify", "--trust-all"])
def test_an_option_that_somebody_hopes_for(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay, option: str
) -> None:
    """I10: the command ends before it has read anything."""
    count_refusal()
    with universal_oracle(scene):
        typed = Terminal(alice, world.task()).push(option)
        assert typed.exit_code == Exit.USAGE
        assert relay.connections == []


def test_no_option_switches_a_check_off() -> None:
    """I10: what would be typed in a hurry, by the names that other tools have for it."""
    words = ("insecure", "no-verify", "skip", "ignore", "trust-all", "disable", "unsafe")
    todo: list[Any] = [typer.main.get_command(build())]
    options = set()
    while todo:
        command = todo.pop()
        options |= {o for p in command.params for o in p.opts + p.secondary_opts}
        todo += getattr(command, "commands", {}).values()
    assert len(options) > 100
    assert not [option for option in options if any(word in option for word in words)]


def test_simulated_evidence_where_nobody_allowed_it(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X01, X02: the policy names the simulated root, and variables allow it; the caller did not."""
    for name in ("RATLS_ALLOW_SIMULATION", "RATLS_SIMULATION", "ALLOW_SIMULATION", "SGX_MODE"):
        monkeypatch.setenv(name, "1")
    with universal_oracle(scene, alice=SimulationNotAllowed):
        with alice.refuses(SimulationNotAllowed):
            alice.push(world.task(), allow_simulation=False)
        assert relay.connections == []


def test_an_enclave_that_says_it_is_no_simulation(world: EnclaveWorld, scene: Scene) -> None:
    """X05: its attester claims hardware under a policy whose root is simulated."""

    class Claims(PlatformAttester):
        mode = Mode.PRODUCTION

    log = Log()
    scene.places["the log of the start"] = lambda: log.getvalue().encode()
    with universal_oracle(scene), refused(AttesterModeMismatch):
        Enclave.start(world.complete, Claims(world.intel.platform), log=open_log(log))


NUMBER = 7_300_123
BAD: dict[str, tuple[pa.Table, type[RatlsError]]] = {
    "type": (rows(1, age=pa.array([f"{CANARY}-age"] * 60)), ColumnTypeDiffers),
    "domain": (rows(1, age=pa.array([50] * 59 + [NUMBER])), ValueOutsideDomain),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_written_holds_no_cell(
    world: EnclaveWorld, scene: Scene, alice: Desk, bad: str
) -> None:
    """L01: a wrong value is refused; no place that the oracle searches has it."""
    good, (table, leaf) = alice.path.read_bytes(), BAD[bad]
    scene.secrets += (str(NUMBER).encode(),)
    with universal_oracle(scene, alice=leaf):
        alice.write(table)
        with alice.refuses(leaf):
            alice.push(world.task())
        alice.path.write_bytes(good)


class Keeping(PlatformAttester):
    """Every quote that was made."""

    def __init__(self, world: EnclaveWorld, kept: list[bytes]) -> None:
        super().__init__(world.intel.platform, mr_enclave=MR_ENCLAVE)
        self._kept = kept

    def quote(self, report_data: bytes) -> bytes:
        self._kept.append(super().quote(report_data))
        return self._kept[-1]


def private(party: LocalParty) -> list[bytes]:
    """The private halves of its keys, as they would be printed."""
    found = []
    for path in party.folder.glob("*.key"):
        key: Any = load_private_key(path, PASSPHRASE)
        found.append(key.private_bytes_raw() if hasattr(key, "private_bytes_raw") else scalar(key))
    return found


def scalar(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_numbers().private_value.to_bytes(32)


def test_keys_and_nonces_where_everything_is_logged(
    world: EnclaveWorld, looked_at: Scene, tmp_path: Path
) -> None:
    """L02: at DEBUG, over a release and two refusals. Files keep evidence, and no key."""
    kept = looked_at.unsaid

    def random(size: int) -> bytes:
        kept.append(os.urandom(size))
        return kept[-1]

    keeping = replace(world, attester=Keeping(world, kept))
    with keeping.running() as live, Relay(("127.0.0.1", live.server.port)) as relay:
        alice, carol = (
            Desk.of(who, keeping, tmp_path, Address.parse(relay.address))
            for who in ("alice", "carol")
        )
        scene, task = desk_scene(looked_at, alice, live, relay), world.task()
        scene.records["carol"] = carol.refusals
        identity = live.enclave.identity
        scene.secrets += (PASSPHRASE, scalar(identity._tls_key), scalar(identity._receipt_key))
        scene.secrets += tuple(private(alice.party) + private(carol.party))
        kept.append(task)
        scene.places["reprs"] = lambda: repr((alice.party, carol.party, identity)).encode()
        with universal_oracle(scene, alice=TaskAlreadyReleased, carol=ResultPending):
            alice.push(task, random=random)
            with alice.refuses(TaskAlreadyReleased):
                alice.push(task, random=random)
            with carol.refuses(ResultPending):
                carol.fetch(task)
    assert len(kept) > 5
    assert len(scene.secrets) > 8


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_a_variable_that_would_log_what_passes(
    world: EnclaveWorld,
    scene: Scene,
    alice: Desk,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """L03: refused at the start, whatever its value says; without it the process goes on."""
    keys = scene.folder / "keys"
    with universal_oracle(scene):
        with monkeypatch.context() as changed:
            changed.setenv(name, str(keys))
            with refused(EnvironmentUnsafe):
                prepare_process()
            typed = Terminal(alice, world.task()).push("--json")
        assert code(typed) == EnvironmentUnsafe.code
        assert relay.connections == []
        assert not keys.exists()
