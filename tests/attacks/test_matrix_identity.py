"""I01, I03 to I08, I10, X01, X02, X05, L01, L03 and L04: at a desk and at an enclave that listens.

Each attacker claims to be somebody, switches something on, or reads or forges what is written; the
honest party is served afterwards. What a careless operator starts is in test_matrix_operator.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import typer

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.application import AttesterModeMismatch, Enclave
from policy.party import LocalParty
from provider.exchange import DatasetNotOwned
from ratls.certificate import ENCLAVE_NAME
from ratls.cli import build
from ratls.environment import EnvironmentUnsafe, prepare_process
from ratls.errors import CallFailed
from ratls.framing import Kind, write_message
from ratls.log import open_log
from scheduler.certificate import own_certificate
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.flight_peers import PlatformAttester
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import Mode
from verifier.errors import RatlsError
from verifier.modes import SimulationNotAllowed

pytestmark = pytest.mark.slow


@pytest.fixture
def honest(world: EnclaveWorld, alice: Desk) -> Iterator[None]:
    """The party that the attacker wanted to be, or to rob, is served afterwards."""
    yield
    assert alice.push(world.task()).commit.rows == 60


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


@pytest.mark.usefixtures("honest")
def test_a_client_without_a_certificate(live: LiveEnclave) -> None:
    """I01: the handshake ends before any handler is entered."""
    count_refusal()
    before = len(live.log)
    options = flight.FlightCallOptions(timeout=HANG_LIMIT)
    with (
        stock_client(live, None) as client,
        pytest.raises((flight.FlightError, pa.ArrowException, OSError)),
    ):
        list(client.list_flights(options=options))
    assert len(live.log) == before


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize("who", [("dora-lab", 0), ("alice-clinic", 1)], ids=["I03", "I05"])
def test_a_certificate_that_the_policy_does_not_list(
    live: LiveEnclave, who: tuple[str, int]
) -> None:
    """I03, I05: a stranger's, and one with Alice's very name and another key."""
    stranger = local_party(who[0], NOW, copy=who[1])
    with refused(CallFailed), live.exchange(Kind.ATTEST, stranger):
        pass


@pytest.mark.usefixtures("honest")
def test_a_certificate_of_another_role(live: LiveEnclave, tmp_path: Path) -> None:
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
    with scheduler, pytest.raises((flight.FlightError, pa.ArrowException, OSError)):
        list(scheduler.list_flights(options=options))
    assert "refused" not in [line["event"] for line in live.log]  # no handler was entered
    task, carol = live.world.task(), live.world.consortium.carol
    with (
        refused_by_enclave(ReleaseNotAuthorized),
        live.exchange(Kind.RELEASE, carol, task=task, dataset="train_party_1"),
    ):
        pass
    [line] = [line for line in live.log if line["event"] == "refused"]
    assert (line["code"], line["party"]) == (ReleaseNotAuthorized.code, "carol-lab")


FORGED = 'x"}\r\n{"event": "committed", "party": "bob-hospital"}\x1b[2J\u202e\u2028'


@pytest.mark.usefixtures("honest")
def test_a_name_that_would_be_a_line_of_the_log(live: LiveEnclave) -> None:
    """L04: CR, LF, ANSI and what ends a JSON string, in the name of a dataset. The enclave does not
    write it; and whoever does writes one line."""
    task, alice = live.world.task(), live.world.consortium.alice
    before = len(live.stream.getvalue().split("\n"))
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
    assert [line["event"] for line in live.log].count("refused") == 1
    assert "committed" not in [line["event"] for line in live.log]


@pytest.mark.usefixtures("honest")
def test_a_party_that_says_it_is_another(world: EnclaveWorld, live: LiveEnclave) -> None:
    """I06, I07: Bob's certificate, Alice's name in headers and in a token."""
    count_refusal()
    claims = [
        (b"x-forwarded-client-cert", b"URI=urn:ratls:party:alice-clinic"),
        (b"authorization", b"Bearer alice-clinic"),
    ]
    first = write_message(
        "hello", nonce=bytes(32), task=world.task(), dataset="train_party_1", release=b"r" * 16
    )
    with stock_client(live, world.consortium.bob) as client:
        options = flight.FlightCallOptions(timeout=HANG_LIMIT, headers=claims)
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(descriptor, options)
        writer.write_metadata(first)
        with pytest.raises(flight.FlightUnauthorizedError, match=ReleaseNotAuthorized.code):
            reader.read_chunk()
        reader.cancel()


@pytest.mark.usefixtures("honest")
def test_a_dataset_of_another_party(world: EnclaveWorld, bob: Desk) -> None:
    """I08: Bob offers rows as Alice's; his own side refuses before anybody is connected to."""
    with bob.refuses(DatasetNotOwned):
        bob.push(world.task(), dataset="train_party_1")


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
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X01, X02: the policy names the simulated root, and variables allow it; the caller did not."""
    for name in ("RATLS_ALLOW_SIMULATION", "RATLS_SIMULATION", "ALLOW_SIMULATION", "SGX_MODE"):
        monkeypatch.setenv(name, "1")
    with alice.refuses(SimulationNotAllowed):
        alice.push(world.task(), allow_simulation=False)
    assert relay.connections == []
    assert alice.push(world.task()).commit.rows == 60


def test_an_enclave_that_says_it_is_no_simulation(world: EnclaveWorld) -> None:
    """X05: its attester claims hardware under a policy whose root is simulated."""

    class Claims(PlatformAttester):
        mode = Mode.PRODUCTION

    log = open_log(io.StringIO())
    with refused(AttesterModeMismatch):
        Enclave.start(world.complete, Claims(world.intel.platform), log=log)
    with world.running() as live:  # the honest one starts
        assert live.enclave.mode is Mode.SIMULATION


@pytest.mark.usefixtures("honest")
def test_what_is_written_holds_no_cell(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave, relay: Relay
) -> None:
    """L01: a wrong value is refused; neither the wire, nor a log, nor any file has it."""
    good = alice.path.read_bytes()
    alice.write(rows(1, age=pa.array([f"{CANARY}-age"] * 60)))
    with pytest.raises(RatlsError) as caught:
        alice.push(world.task())
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert CANARY not in live.stream.getvalue()
    wire = b"".join(bytes(c.sent + c.received) for c in relay.connections)
    assert CANARY.encode() not in wire
    for path in alice.state.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()
    alice.path.write_bytes(good)


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_a_variable_that_would_log_what_passes(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """L03: refused at the start, whatever its value says; without it the process goes on."""
    with monkeypatch.context() as changed:
        changed.setenv(name, "DEBUG")
        with refused(EnvironmentUnsafe):
            prepare_process()
    prepare_process()
