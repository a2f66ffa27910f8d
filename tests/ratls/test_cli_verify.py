"""`ratls verify`, as it is typed: what it prints and which exit status it gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from policy.document import digest_text
from policy.record import Record
from ratls.appraise import presented_quote
from ratls.certificate import build_certificate, check_certificate
from ratls.claims import KeyUnbound
from ratls.cli_collateral import collateral
from ratls.cli_verify import app
from ratls.evidence import Evidence
from tests.support.flight_peers import (
    NOW,
    PlainEnclave,
    Script,
    Study,
    serving,
    silent_server,
)
from tests.support.parties import PASSPHRASE
from tests.support.refusal import refused
from tests.support.typed import Folder, typed
from tests.verifier.pcs_peer import peer
from verifier.appraisal import Appraisal
from verifier.collateral import Collateral


@dataclass
class Desk(Folder):
    """A folder with what a person has there, and the command."""

    study: Study
    server: PlainEnclave

    def run(self, *arguments: str, exit_status: int = 0, simulation: bool = True) -> Any:
        allowed = ["--allow-simulation"] if simulation else []
        return typed(app, [*arguments, *allowed], exit_status)

    def json(self, *arguments: str, exit_status: int = 0, **options: Any) -> dict[str, Any]:
        result = self.run(*arguments, "--json", exit_status=exit_status, **options)
        found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
        return found

    def refused(self, code: str, *arguments: str, exit_status: int, **options: Any) -> None:
        told = self.json(*arguments, exit_status=exit_status, **options)
        assert told["error"]["code"] == code

    @property
    def common(self) -> list[str]:
        return ["--agreement", self.agreement, "--collateral", self.collateral, *self.known]

    @property
    def known(self) -> list[str]:
        """The agreement is the one that its reader means."""
        return ["--digest", digest_text(self.study.policy.digest)]

    @property
    def collateral(self) -> str:
        return self.file("collateral.json", self.study.expectation.collateral.raw)

    @property
    def agreement(self) -> str:
        text = self.study.policy.raw.decode()
        return self.file("agreed.json", self.study.parties.agreement_bytes(text))

    @property
    def party(self) -> list[str]:
        passphrase = self.file("passphrase", PASSPHRASE + b"\n")
        folder = str(self.study.parties.alice.folder)
        return ["--party", folder, "--passphrase-file", passphrase]

    @property
    def address(self) -> str:
        return str(self.server.address)


@pytest.fixture(scope="module")
def enclave(study: Study) -> Iterator[PlainEnclave]:
    script = Script(study.identity(), study.channel().spki_sha256)
    with serving(script, study.channel()) as server:
        yield server


@pytest.fixture
def desk(study: Study, enclave: PlainEnclave, tmp_path: Path) -> Desk:
    return Desk(tmp_path, study, enclave)


# ratls verify server


def test_enclave_that_proves_itself_now(desk: Desk) -> None:
    told = desk.json("server", desk.address, *desk.common, *desk.party)
    assert (told["verdict"], told["fresh"], told["mode"]) == ("accepted", True, "simulation")
    assert told["instance"] == desk.server.script.identity.instance.hex()
    assert {"check": "measurement", "outcome": "passed"}.items() <= {
        k: v for c in told["checks"] if c["check"] == "measurement" for k, v in c.items()
    }.items()
    people = desk.run("server", desk.address, *desk.common, *desk.party)
    assert "proved just now" in people.output
    assert "SIMULATION" in people.output


def test_without_a_party_nothing_is_decided(desk: Desk) -> None:
    """A certificate can be a copy: it says nothing about who holds its key tomorrow."""
    told = desk.json("server", desk.address, *desk.common, exit_status=5)
    assert (told["verdict"], told["fresh"]) == ("undecided", False)
    assert told["error"]["code"] == "no-fresh-proof"
    told = desk.json("server", desk.address, *desk.common, "--certificate-only")
    assert (told["verdict"], told["fresh"], told["error"]) == ("accepted", False, None)


def test_a_new_operator_gets_from_an_address_to_collateral(desk: Desk, tmp_path: Path) -> None:
    """On new hardware there is no quote at hand, and without one no collateral can be fetched."""
    saved, bundle = desk.folder / "quote.bin", desk.folder / "fetched.json"
    without = ["--agreement", desk.agreement, "--save-quote", str(saved)]
    desk.refused("collateral-not-named", "server", desk.address, *without, exit_status=5)
    expectation = desk.study.expectation
    root = ["--root", expectation.roots.name, "--allow-simulation"]
    options = ["--cache", str(tmp_path / "cache"), "--state", str(tmp_path / "state"), *root]
    with peer(tmp_path, expectation.collateral) as place:
        options += ["--from", place.origin, "--ca", str(place.certificate), "-o", str(bundle)]
        for quote in (["--enclave", desk.address], [str(saved)]):
            typed(collateral, ["fetch", *quote, *options])
    assert Collateral.parse(bundle.read_bytes()).tcb_info == expectation.collateral.tcb_info
    again = ["--agreement", desk.agreement, *desk.known, "--collateral", str(bundle)]
    again += ["--certificate-only"]
    assert desk.json("server", desk.address, *again)["verdict"] == "accepted"


def test_quote_of_another_key_is_not_taken(study: Study) -> None:
    """B01: a quote that is not about this certificate says nothing about who listens here."""
    genuine = study.identity()
    evidence = check_certificate(genuine.certificate_der, NOW).evidence
    key = ec.generate_private_key(ec.SECP256R1())
    forged = build_certificate(key, evidence, genuine.instance, 1, NOW).public_bytes(Encoding.DER)
    with refused(KeyUnbound):
        presented_quote(forged, at=NOW)
    assert presented_quote(genuine.certificate_der, at=NOW) == Evidence.parse(evidence).quote


def test_party_that_the_enclave_does_not_know(desk: Desk) -> None:
    bob = ["--party", str(desk.study.parties.bob.folder), *desk.party[2:]]
    desk.refused("call-failed", "server", desk.address, *desk.common, *bob, exit_status=7)


def test_nobody_is_there(desk: Desk) -> None:
    with silent_server() as address:
        gone = str(address)
    desk.refused("peer-unreachable", "server", gone, *desk.common, *desk.party, exit_status=7)


def test_peer_that_never_answers(desk: Desk) -> None:
    with silent_server() as address:
        words = ["server", str(address), *desk.common, *desk.party, "--timeout", "0.2"]
        desk.refused("deadline-exceeded", *words, exit_status=7)


def test_another_enclave_is_listening(desk: Desk) -> None:
    study = desk.study
    script = Script(study.identity(mr_enclave=b"\xa2" * 32), bytes(32))
    with serving(script, study.channel()) as other:
        arguments = ["server", str(other.address), *desk.common, *desk.party]
        told = desk.json(*arguments, exit_status=6)
        people = desk.run(*arguments, exit_status=6)
    error = told["error"]
    assert (error["code"], error["check"]) == ("measurement-not-listed", "measurement")
    assert "FAILED" in people.output
    assert script.hellos == 0


@pytest.mark.parametrize("arguments", [["--party", "x", "--certificate-only"], ["--timeout", "0"]])
def test_contradictions_are_usage_errors(desk: Desk, arguments: list[str]) -> None:
    desk.run("server", desk.address, *desk.common, *arguments, exit_status=2)


@pytest.mark.parametrize("address", ["nonsense", "grpc://127.0.0.1:1", "127.0.0.1:0"])
def test_address_of_another_form(desk: Desk, address: str) -> None:
    desk.refused("address-malformed", "server", address, *desk.common, exit_status=3)


def test_simulated_policy_without_the_third_lock(desk: Desk) -> None:
    """X05: signed by everybody, installed, and still not allowed by the one who types."""
    words = ["server", desk.address, *desk.common]
    desk.refused("simulation-not-allowed", *words, exit_status=6, simulation=False)


def test_agreement_that_lacks_a_signature(desk: Desk) -> None:
    text, signers = desk.study.policy.raw.decode(), ["alice-clinic", "carol-lab"]
    incomplete = desk.study.parties.agreement_bytes(text, signers=signers)
    words = ["--agreement", desk.file("incomplete.json", incomplete)]
    words += ["--collateral", desk.collateral]
    desk.refused("agreement-incomplete", "server", desk.address, *words, exit_status=6)


# ratls verify cert


def test_certificate_file_in_both_forms(desk: Desk) -> None:
    identity = desk.server.script.identity
    for name, content in (("c.der", identity.certificate_der), ("c.pem", identity.certificate_pem)):
        told = desk.json("cert", desk.file(name, content), *desk.common)
        assert (told["verdict"], told["fresh"]) == ("accepted", False)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\n",
    ],
)
def test_certificate_file_that_is_none(desk: Desk, content: bytes) -> None:
    words = ["cert", desk.file("c", content), *desk.common]
    desk.refused("enclave-certificate-malformed", *words, exit_status=3)


def test_certificate_of_a_party_is_no_enclaves(desk: Desk) -> None:
    words = ["cert", desk.file("c", desk.study.parties.alice.channel_certificate_pem)]
    desk.refused("evidence-missing", *words, *desk.common, exit_status=4)


def test_two_certificates_in_one_file(desk: Desk) -> None:
    """Which of two is judged must not be a matter of chance."""
    words = ["cert", desk.file("c.pem", desk.server.script.identity.certificate_pem * 2)]
    desk.refused("enclave-certificate-malformed", *words, *desk.common, exit_status=3)


def test_certificate_that_had_expired_by_then(desk: Desk) -> None:
    file = desk.file("c.pem", desk.server.script.identity.certificate_pem)
    words = ["cert", file, *desk.common, "--at", f"{int(NOW.timestamp()) + 5 * 86400}"]
    desk.refused("enclave-certificate-not-current", *words, exit_status=5)


# ratls verify receipt


def receipt_files(desk: Desk) -> tuple[str, str]:
    identity = desk.server.script.identity
    document = desk.study.receipt(identity)
    record = Record(
        holder="carol-lab",
        document_digest=document.digest,
        collateral=desk.study.expectation.collateral.raw,
        appraisal=Record.checks(Appraisal()),
        at=NOW,
        mode="simulation",
    ).seal(desk.study.parties.carol.operation)
    return (
        desk.file("receipt.json", document.seal(identity.receipt_signer)),
        desk.file("record.json", record),
    )


def test_receipt_with_its_record_names_the_clock(desk: Desk) -> None:
    receipt, record = receipt_files(desk)
    arguments = ["receipt", receipt, "--agreement", desk.agreement, *desk.known, "--record", record]
    told = desk.json(*arguments)
    assert (told["verdict"], told["recipient"]) == ("accepted", "carol-lab")
    assert "carol-lab" in told["clock"]
    assert "the clock of carol-lab" in desk.run(*arguments).output


def test_receipt_with_collateral_of_ones_own(desk: Desk) -> None:
    receipt, _ = receipt_files(desk)
    assert desk.json("receipt", receipt, *desk.common)["clock"] == "this machine's clock"
    late = f"{int(NOW.timestamp()) + 40 * 86400}"
    told = desk.json("receipt", receipt, *desk.common, "--at", late, exit_status=5)
    assert told["error"]["code"]


def test_acknowledgement_is_shown_like_a_receipt(desk: Desk) -> None:
    identity = desk.server.script.identity
    document = desk.study.acknowledgement(identity).seal(identity.receipt_signer)
    told = desk.json("receipt", desk.file("ack.json", document), *desk.common)
    shown = told["document"], told["rows"], told["provider"]
    assert shown == ("acknowledgement", 3, "alice-clinic")


@pytest.mark.parametrize("extra", [[], ["--record", "x", "--collateral", "y"]])
def test_receipt_needs_one_source_of_collateral(desk: Desk, extra: list[str]) -> None:
    receipt, _ = receipt_files(desk)
    desk.run("receipt", receipt, "--agreement", desk.agreement, *extra, exit_status=2)


def test_receipt_at_an_instant_beside_its_record(desk: Desk) -> None:
    receipt, record = receipt_files(desk)
    words = ["receipt", receipt, "--agreement", desk.agreement, "--record", record]
    desk.run(*words, "--at", "0", exit_status=2)


def test_receipt_that_was_altered(desk: Desk) -> None:
    receipt, record = receipt_files(desk)
    raw = Path(receipt).read_bytes()
    altered = desk.file("altered.json", raw[:-40] + b"AAAA" + raw[-36:])
    words = ["receipt", altered, "--agreement", desk.agreement, "--record", record]
    told = desk.json(*words, exit_status=4)
    assert told["error"]["check"] is None or told["error"]["check"].startswith("document")


# ratls verify quote


def quotes(desk: Desk) -> tuple[str, str]:
    genuine = desk.study.world.quote(isv_prod_id=0)
    forged = genuine[:100] + bytes([genuine[100] ^ 1]) + genuine[101:]
    return desk.file("genuine.bin", genuine), desk.file("forged.bin", forged)


def test_quotes_alone_and_under_a_policy(desk: Desk) -> None:
    genuine, _ = quotes(desk)
    root = desk.study.policy.platform.root
    told = desk.json("quote", genuine, "--collateral", desk.collateral, "--root", root)
    assert (told["verdict"], told["authentic"], told["mode"]) == ("accepted", True, "simulation")
    draft = desk.file("policy.toml", desk.study.policy.raw)
    for policy in (desk.agreement, draft):
        told = desk.json(
            "quote", genuine, "--collateral", desk.collateral, "--policy", policy, *desk.known
        )
        assert told["verdict"] == "accepted"
        assert any(check["check"] == "measurement" for check in told["checks"])


def test_worst_of_several_files_is_the_status_and_each_has_its_line(desk: Desk) -> None:
    genuine, forged = quotes(desk)
    other = desk.file("other.bin", desk.study.world.quote(mr_enclave=b"\xa2" * 32))
    short = desk.file("short.bin", b"\3\0")
    base = ["--collateral", desk.collateral, "--policy", desk.agreement, *desk.known]

    def status(*files: str, exit_status: int) -> list[str]:
        result = desk.run("quote", *files, *base, "--json", exit_status=exit_status)
        return [json.loads(line)["verdict"] for line in result.stdout.splitlines()]

    assert status(genuine, exit_status=0) == ["accepted"]
    assert status(genuine, short, exit_status=3) == ["accepted", "refused"]
    assert status(short, "/nowhere", exit_status=3) == ["refused", "refused"]
    assert status(other, short, exit_status=6) == ["refused", "refused"]
    assert status(other, forged, genuine, short, exit_status=4)[2] == "accepted"


def test_quote_of_a_simulation_is_nothing_to_intels_root(desk: Desk) -> None:
    """S11: without its root named, a simulated chain ends nowhere."""
    genuine, _ = quotes(desk)
    told = desk.json(
        "quote", genuine, "--collateral", desk.collateral, exit_status=4, simulation=False
    )
    assert (told["mode"], told["authentic"]) == ("production", False)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--accept-status", "Perfect"], 2),
        (["--policy", "p", "--accept-status", "OutOfDate"], 2),
        (["--policy", "p", "--root", "intel"], 2),
        (["--policy", "p", "--accept-out-of-date-since", "2026-01-01"], 2),
        (["--accept-out-of-date-since", "last year"], 2),
        (["--accept-out-of-date-since", "2026-02-30"], 2),
        (["--accept-out-of-date-since", "20260101"], 2),
        (["--root", "elsewhere"], 3),
        (["--root", "simulation:sha256:zz"], 3),
        (["--at", "yesterday"], 3),
    ],
)
def test_options_that_mean_nothing(desk: Desk, arguments: list[str], status: int) -> None:
    genuine, _ = quotes(desk)
    desk.run("quote", genuine, "--collateral", desk.collateral, *arguments, exit_status=status)


def test_revoked_can_never_be_accepted(desk: Desk) -> None:
    words = ["quote", quotes(desk)[0], "--collateral", desk.collateral]
    words += ["--root", desk.study.policy.platform.root, "--accept-status", "Revoked"]
    desk.refused("status-never-acceptable", *words, exit_status=3)


def test_collateral_that_is_missing(desk: Desk) -> None:
    words = ["quote", quotes(desk)[0], "--collateral", "/nowhere"]
    desk.refused("file-unreadable", *words, exit_status=3)
