"""The worlds in which the examples of docstrings run: for each module the names that it needs.

    WORLDS["verifier"](Scene("verifier", folder))     # {"raw": …, "collateral": …, …}

Everything in them is valid; a simulation's root stands in for Intel's.
"""

from __future__ import annotations

import io
import json
import math
import socket
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from onnx.reference import ReferenceEvaluator

from enclave_app.application import Enclave
from enclave_app.gate import Group, Input
from enclave_app.limits import Limits, Need
from enclave_app.server import start_server
from policy.admission import admit
from policy.agreement import Agreement
from policy.document import Policy, digest_text
from policy.domains import Agreed
from policy.envelope import TASK
from policy.journal import Journal, Reading
from policy.journal_entries import RefusedEntry
from policy.keys import KeySigner
from policy.party import LocalParty
from policy.receipt import salted
from policy.rounds import Series
from policy.sections import Dataset
from policy.signing import require_own_signature
from policy.state import StudyState
from policy.task import Task, TaskSignatureInvalid
from policy.withdrawal import Withdrawal
from provider.agent_check import try_all
from provider.agent_config import AgentConfig
from provider.agent_tasks import TaskReleaser
from provider.models import read_model
from provider.release import release
from provider.sources import parse_source
from ratls.address import Address
from ratls.appraise import Challenge, appraise_certificate
from ratls.claims import CertificateClaims, key_hash
from ratls.client_stream import open_exchange
from ratls.doctor.copy import read_copy, write_copy
from ratls.doctor.examine import examine
from ratls.doctor.finding import Role, verdict
from ratls.doctor.live import live_snapshot, system_trust
from ratls.endorsements import encode_endorsements
from ratls.flight_server import FlightServer, Send
from ratls.foreign_formats import FORMATS
from ratls.framing import Kind, rows_frame
from ratls.gramine import GramineAttester
from ratls.identity import EnclaveIdentity, Identities
from ratls.image.build import Sources, build
from ratls.image.release import read_release
from ratls.log import open_log
from ratls.probe import probe_name
from ratls.profile_draft import SAMPLE
from ratls.profile_options import ProfileFinder
from ratls.serving import listen_address
from ratls.session import Verifier
from ratls.tdx_guest import TdxAttester
from scheduler.certificate import own_certificate
from scheduler.database import queue_file
from scheduler.service import Roster
from scheduler.store import Store
from simulation.folder import write
from simulation.intel import Intel
from simulation.measure import measure
from simulation.serve import serving as serving_collateral
from simulation.trust_domain import GuestMeasurement
from tests.gramine import world as gramine
from tests.provider.agents import configure, offer
from tests.provider.desk import Desk
from tests.ratls.test_offline import record
from tests.support.documents import contents
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, room, rows
from tests.support.flight_peers import Script, Study, serving, transcript
from tests.support.foreign_certificates import foreign
from tests.support.gramine import StandInDevice
from tests.support.images import HERE, ImageWorld
from tests.support.intel import World
from tests.support.machines import sgx_machine
from tests.support.parties import PASSPHRASE, ROOTS
from tests.support.tsm import StandInKernel
from verifier import pcs_requests
from verifier.acceptance import accept
from verifier.batch import Answers
from verifier.bits import TD_ATTRIBUTES, differing
from verifier.bundles import Bundles
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.event_log import EventLog
from verifier.forms import find_quote
from verifier.gramine.measurement import measure as measure_manifest
from verifier.gramine.sigstruct import sign, unsigned
from verifier.marks import Subject
from verifier.quote import Quote
from verifier.received import ReceivedQuote
from verifier.verify import verify_quote

Names = dict[str, Any]


@dataclass
class Scene:
    """One consortium, its enclave and its desks, each made when an example needs it."""

    module: str
    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)
    changed: dict[str, str] = field(default_factory=dict)  # of the policy

    @cached_property
    def world(self) -> EnclaveWorld:
        return EnclaveWorld.create(**self.changed)

    @cached_property
    def study(self) -> Study:
        return Study.create()

    @cached_property
    def live(self) -> LiveEnclave:
        return self.stack.enter_context(self.world.running())

    @cached_property
    def task(self) -> bytes:
        return self.world.task()

    @property
    def intel(self) -> World:
        return self.world.intel

    def desk(self, who: str) -> Desk:
        return Desk.of(who, self.world, self.folder, self.live.address)

    def quote(self) -> bytes:
        return self.world.attester.quote(bytes(64))

    def config(self) -> AgentConfig:
        return AgentConfig.read(configure(self.desk("alice")))

    def write(self, name: str, raw: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(raw)
        return path


WORLDS: dict[str, Callable[[Scene], Names]] = {}
_Give = Callable[[Scene], Names]


def world_of(*modules: str) -> Callable[[_Give], _Give]:
    """The names that the examples of these modules need besides their own."""

    def keep(give: _Give) -> _Give:
        WORLDS.update(dict.fromkeys(modules, give))
        return give

    return keep


@world_of("verifier", "verifier.quote", "verifier.forecast", "verifier.report")
def genuine(scene: Scene) -> Names:
    return {
        "raw": scene.quote(),
        "find_quote": find_quote,
        "collateral": scene.intel.collateral(),
        "now": NOW,
        "TrustAnchors": SimpleNamespace(intel=scene.intel.intel.anchors),
    }


@world_of(
    *("verifier.event_log", "verifier.replay", "ratls.tdx_guest"),
    *("simulation.event_log", "simulation.trust_domain"),
)
def guest(scene: Scene) -> Names:
    platform, measured = scene.intel.platform, GuestMeasurement.of(measure())
    rtmrs = {f"rtmr{number}": value for number, value in enumerate(measured.rtmrs)}
    return {
        "raw": measured.log,
        "log": EventLog.parse(measured.log),
        "quote": Quote.parse(platform.td_quote(bytes(64), **rtmrs)),
        "report_data": bytes(range(64)),
        "TdxAttester": lambda: TdxAttester(StandInKernel(platform).folder),
        "measure": measure,
        "EventLog": EventLog,
    }


@world_of("verifier.bits")
def bits_by_name(scene: Scene) -> Names:
    return {"differing": differing, "TD_ATTRIBUTES": TD_ATTRIBUTES}


@world_of("verifier.parts")
def verified(scene: Scene) -> Names:
    roots = scene.intel.intel.anchors()
    quote = verify_quote(scene.quote(), scene.intel.collateral(), roots=roots, at=NOW)
    return {"verified": quote}


@world_of("verifier.appraisal_log", "verifier.layout", "verifier.shell")
def small(scene: Scene) -> Names:
    one_check = StrEnum("QuoteCheck", {"PCK_CHAIN": "pck-chain"})
    names = {"QuoteCheck": one_check, "dataclass": dataclass}
    return names | {"json_output": True, "digest": "sha256:…", "text": "done"}


@world_of("verifier.cache", "verifier.pcs", "simulation.serve")
def collateral_service(scene: Scene) -> Names:
    folder = scene.folder / "simulation"
    write(scene.intel.intel, scene.intel.platform, folder)
    origin = scene.stack.enter_context(serving_collateral(folder, Address("127.0.0.1", 0)))
    service, trust = pcs_requests.Service.parse(origin), pcs_requests.tls_trust(folder / "pcs.crt")
    return {
        "folder": folder,
        "Address": Address,
        "Service": SimpleNamespace(parse=lambda text: service),
        "INTEL": pcs_requests.INTEL,
        "tls_trust": lambda: trust,
        "raw": scene.quote(),
        "quotes": {"quote.bin": ReceivedQuote(scene.quote())},
        "service": service,
        "trust": trust,
        "roots": scene.intel.intel.anchors(),
        "clock": lambda: NOW,
        "now": lambda: NOW,
        "user_folder": lambda name: scene.folder / name,
        "Path": Path,
    }


@world_of(
    *("ratls.names", "ratls.owners", "ratls.grpc_environment"),
    *("ratls.doctor", "ratls.doctor.examine", "ratls.doctor.copy", "ratls.doctor.deadline"),
    *("ratls.doctor.gather", "ratls.doctor.live", "ratls.doctor.qcnl", "ratls.doctor.snapshot"),
)
def machine(scene: Scene) -> Names:
    snapshot = sgx_machine(scene.folder / "machine").snapshot()
    write_copy(snapshot, scene.folder / "packed.tar.gz")
    with tarfile.open(scene.folder / "packed.tar.gz") as packed:
        packed.extractall(scene.folder, filter="data")
    (scene.folder / "packed").rename(scene.folder / "node7")
    return {
        "snapshot": snapshot,
        "live_snapshot": live_snapshot,
        "system_trust": system_trust,
        "examine": examine,
        "verdict": verdict,
        "Role": Role,
        "Path": Path,
        "raw": b"{}",
        "read_copy": partial(read_copy, seconds=60),
        "probe_a": lambda: 1,
        "probe_b": lambda: 2,
    }


@world_of("verifier.contents", "verifier.marks", "verifier.received")
def bundle(scene: Scene) -> Names:
    roots, collateral = scene.intel.intel.anchors(), scene.intel.collateral()
    pck = ReceivedQuote(scene.quote()).pck(roots)
    contents = Contents.authenticate(collateral, roots)
    return {
        "collateral": collateral,
        "roots": roots,
        "pck": pck,
        "contents": contents,
        "subject": Subject(roots, contents.kind, early=False),
        "user_folder": lambda name: scene.folder / name,
        "path": scene.write("quote.bin", scene.quote()),
        "find_quote": find_quote,
    }


def judged(file: str) -> Answers:
    """Not nested: another process imports it."""
    return Answers.of(file.upper(), 0)


@world_of("verifier.collateral", "verifier.batch")
def files(scene: Scene) -> Names:
    scene.write("collateral.json", scene.world.collateral)
    return {"Path": Path, "files": [f"{n}.bin" for n in range(20)], "judge": judged}


@world_of("policy.machines")
def fleet(scene: Scene) -> Names:
    return {"policy": scene.world.policy, "folder": scene.folder}


@world_of("policy.domain_admission")
def events(scene: Scene) -> Names:
    return {"first": b"1" * 48, "second": b"2" * 48}


@world_of(
    "policy",
    "policy.admission",
    "policy.advice",
    "policy.agreement",
    "policy.agreement_file",
    "policy.computations",
    "policy.show_computations",
)
def agreed(scene: Scene) -> Names:
    alice, policy = scene.world.consortium.alice, scene.world.policy
    raw = scene.world.complete.agreement.encode()
    return {
        "raw": raw,
        "known_roots": lambda: ROOTS,
        "folder": alice.folder,
        "local_party": alice,
        "Agreement": Agreement,
        "LocalParty": LocalParty,
        "admit": admit,
        "require_own_signature": require_own_signature,
        "policy": policy,
        "path": scene.write("agreement.json", raw),
        "verified": scene.intel.verify(quote=scene.quote()),
        "now": NOW,
        "computation": policy.computation[0],
        "inputs": policy.dataset,
    }


@world_of("policy.signing")
def signing(scene: Scene) -> Names:
    complete, party = scene.world.complete, scene.world.consortium.alice
    return {"agreement": complete.agreement, "complete": complete, "party": party}


@world_of(
    "policy.difference", "policy.dry_run", "policy.merging", "policy.review", "policy.sentences"
)
def two_versions(scene: Scene) -> Names:
    complete, consortium = scene.world.complete, scene.world.consortium
    text = consortium.policy_text(
        [("uses = 10", "uses = 30")], version="2", previous=f'"{digest_text(complete.digest)}"'
    )
    new = consortium.agreement(text, before=complete, signers=["alice-clinic"])
    theirs = consortium.agreement(text, before=complete, signers=["bob-hospital"])
    roots = scene.intel.intel.anchors()
    return {
        "old": complete.policy,
        "new": new.policy,
        "policy": new.policy,
        "policy_in_force": complete.policy,
        "agreement": new,
        "fares": [],
        "mine": new,
        "theirs": theirs,
        "raw": new.encode(),
        "roots": ROOTS,
        "raw_task": scene.task,
        "received": find_quote(scene.quote()).received(),
        "bundles": Bundles(((scene.intel.collateral(), None),), roots, NOW),
        "now": NOW,
    }


@world_of("policy.journal_chain")
def journal_chain(scene: Scene) -> Names:
    state = scene.desk("alice").state
    raw, head = (state / f"journal.{end}" for end in ("jsonl", "head"))
    return {"raw": raw.read_bytes(), "torn": False, "head_file": head.read_bytes()}


@world_of("policy.document", "policy.state")
def own_study(scene: Scene) -> Names:
    scene.changed["study"] = '"my-study"'
    return {
        "raw": scene.world.consortium.policy_text().encode(),
        "known_roots": lambda: ROOTS,
        "folder": scene.folder / "state",
        "agreement": scene.world.complete.agreement,
        "party": scene.world.consortium.alice,
        "at": NOW,
        "task": contents(Task, scene.task),
        "policy": scene.world.policy,
        "withdrawal": leaving(scene),
    }


def leaving(scene: Scene) -> bytes:
    bob = scene.world.consortium.bob
    return Withdrawal.of([scene.world.policy], bob.party_id).signed(bob.signing)


@world_of("policy.chain", "policy.withdrawal", "policy.standing", "provider.budget")
def versions(scene: Scene) -> Names:
    complete = scene.world.complete
    with Journal.open(scene.desk("alice").state) as journal:
        records = journal.records
    return {
        "policy": complete.policy,
        "policies": [complete.policy],
        "party": scene.world.consortium.alice,
        "signed": complete.agreement.newest,
        "withdrawn": frozenset(),
        "records": records,
        "place": "/srv/rows.parquet",
        "task": contents(Task, scene.task).digest.hex(),
    }


@world_of("policy.repair")
def repairing(scene: Scene) -> Names:
    state = StudyState(scene.desk("alice").state, ROOTS)
    return {"state": state, "raw": scene.world.complete.agreement.encode()}


@world_of("policy.envelope", "policy.keys", "policy.party")
def keys(scene: Scene) -> Names:
    private, party = ed25519.Ed25519PrivateKey.generate(), scene.world.consortium.carol
    return {
        "raw": scene.task,
        "key": party.operation.public,
        "leaf": TaskSignatureInvalid,
        "text": KeySigner.from_private(private).public.pem,
        "message": b"message",
        "signature": private.sign(b"message"),
        "private": private,
        "folder": party.folder,
        "passphrase": PASSPHRASE,
        "payload_type": TASK,
        "payload": b"{}",
    }


@world_of("policy.journal")
def journal(scene: Scene) -> Names:
    of: Names = dict.fromkeys(("task", "dataset", "check", "mode"))
    refused = RefusedEntry(action="release", code="policy-expired", checks=(), **of)
    return {"folder": scene.desk("alice").state, "refused": refused, "at": NOW}


@world_of("policy.task", "provider.task_signing")
def asked(scene: Scene) -> Names:
    desk = Desk.of("carol", scene.world, scene.folder, scene.live.address)
    return {
        "policy": scene.world.policy,
        "party": desk.party,
        "state": desk.state,
        "policy_for": lambda named: scene.world.policy,
        "now": NOW,
        "lifetime": timedelta(hours=1),
    }


@world_of("policy.receipt", "ratls.offline")
def kept(scene: Scene) -> Names:
    study, identity = scene.study, scene.study.identity()
    file = salted(b"{}", bytes(32))
    receipt = study.receipt(identity, result_digest=sha256(file).digest())
    return {
        "result": b"{}",
        "salt": bytes(32),
        "file": file,
        "receipt": receipt,
        "raw": receipt.seal(identity.receipt_signer),
        "record": record(study, receipt.digest).seal(study.parties.carol.operation),
        "expectation": study.expectation,
        "policy": study.policy,
        "roots": study.expectation.roots,
        "instant": NOW,
    }


@world_of("policy.rounds", "enclave_app.rounds_aggregate")
def rounds(scene: Scene) -> Names:
    from tests.support.rounds import VECTOR, computation, consortium

    text = consortium(3).policy_text(computation=computation(**VECTOR))
    agreed = Policy.parse(text.encode(), known_roots=ROOTS).computation[0]
    series, zero = Series.of(agreed), np.zeros(5, np.float32)
    renamed = replace(series, inputs=("rows-a", "rows-b"), weights=(1.0, 1.0))
    return {
        "computation": agreed,
        "series": renamed,
        "parts": [memoryview(bytes(20))],
        "model": zero,
        "other": zero,
    }


@world_of("verifier.platform_collaterals")
def of_many(scene: Scene) -> Names:
    from tests.verifier.test_collateral_of_others import W, platform_collaterals

    return {"content": json.dumps(platform_collaterals(W)).encode()}


@world_of("verifier.forms", "verifier.no_quotes", "verifier.quote_files")
def quoted(scene: Scene) -> Names:
    content = scene.quote()
    scene.write("quote.hex", content.hex().encode())
    return {"content": content, "require_no_other_text": lambda content, name: None}


@world_of("enclave_app.spill")
def waiting(scene: Scene) -> Names:
    return {"folder": scene.folder, "message": rows(1).to_batches()[0].serialize()}


@world_of("enclave_app.room")
def emptied(scene: Scene) -> Names:
    """An enclave without rows: this machine may have less memory than one needs."""
    return {"Limits": partial(Limits, held_bytes=0)}


@world_of("policy.rows", "enclave_app.intake")
def received(scene: Scene) -> Names:
    batch = rows(1).to_batches()[0]
    return {
        "dataset": scene.world.policy.dataset[0],
        "batch": batch,
        "reader": SimpleNamespace(schema=batch.schema),
        "limits": Limits(),
        "budgets": room(1 << 20, 1 << 20),
        "task": bytes(32),
        "need": Need(0),
        "until": math.inf,
        "release": bytes(16),
        "message": batch.serialize(),
        "tag": bytes(16),
        "salt": bytes(32),
    }


@world_of("ratls.arrow_header", "ratls.flight_data", "ratls.sealing")
def on_the_wire(scene: Scene) -> Names:
    batch = rows(1).to_batches()[0]
    message = batch.serialize()
    start = 8 + int.from_bytes(memoryview(message).cast("B")[4:8], "little")
    return {
        "hello": b"hello",
        "buffer": message,
        "message": message,
        "header": memoryview(message).cast("B")[8:start],
        "body": message.slice(start),
        "schema": batch.schema,
        "transcript": transcript(bytes(32), bytes(16), b"task"),
        "salt": bytes(32),
        "schema_digest": bytes(32),
    }


@world_of("ratls.foreign_certificate", "ratls.foreign_formats", "ratls.endorsements")
def of_others(scene: Scene) -> Names:
    format = FORMATS["gramine"]
    bundle = encode_endorsements(scene.intel.collateral())
    stapled = scene.module == "ratls.endorsements"
    ours = EnclaveIdentity.create(
        scene.world.attester, scene.world.policy.digest, at=NOW, endorsements=bundle
    )
    return {
        "der": ours.certificate_der if stapled else foreign(scene.intel, format).der,
        "FORMATS": FORMATS,
        "bundle": scene.intel.collateral(),
        "collateral": scene.intel.collateral(),
        "accept": accept,
        "roots": scene.intel.intel.anchors(),
        "now": NOW,
    }


@world_of("ratls.flight_server")
def listening(scene: Scene) -> Names:
    study = scene.study
    identity = study.identity()

    def serve(requests: object, context: object, send: Send) -> None:
        send(None)

    def made(*given: Any, **options: Any) -> FlightServer:
        server = FlightServer(*given, **options)
        scene.stack.callback(server.stop, 5.0)
        return server

    return {
        "FlightServer": made,
        "address": Address("127.0.0.1", 0),
        "identity": lambda: identity.pair,
        "roots": lambda: study.channel().cert_pem,
        "serve": serve,
        "refuse": serve,
    }


@world_of("ratls.flight", "ratls.flight_service", "ratls.flight_rows", "ratls.repeated")
def own_flight(scene: Scene) -> Names:
    study, identity = scene.study, scene.study.identity()
    return {
        "table": rows(1),
        "batch": rows(1).to_batches()[0],
        "enclave": identity,
        "identities": Identities(identity),
        "policy": study.policy,
        "identity": study.channel(),
        "verifier": Verifier(lambda: study.expectation),
        "send": len,
        "server": type("Cutting", (), {"cut": repr})(),
        "rows_frame": rows_frame,
        "number": 0,
        "clock": lambda: NOW,
        "log": open_log(io.StringIO()),
    }


@world_of("ratls.probe", "ratls.appraise", "ratls.pin", "ratls.client_stream")
def connected(scene: Scene) -> Names:
    study, identity = scene.study, scene.study.identity()
    channel, batch = study.channel(), rows(1).to_batches()[0]
    challenge = Challenge(bytes(32), channel.spki_sha256, sha256(b"task").digest())
    script = Script(identity, channel.spki_sha256, plain=False)
    address = scene.stack.enter_context(serving(script, channel)).address
    held: Names = {"expectation": study.expectation, "clock": lambda: NOW, "timeout": 20}
    held |= {"random": bytes}  # a nonce of zeros, which the transcript has, too
    asked: Names = {"task": b"task", "task_digest": challenge.task_digest, "dataset": "one"}
    return {
        "Address": SimpleNamespace(parse=lambda text: address),
        "address": address,
        "admitted": study.admitted(identity),
        "channel": channel,
        "identity": channel,
        "expectation": study.expectation,
        "der": identity.certificate_der,
        "challenge": challenge,
        "evidence": identity.answer_challenge(
            challenge.nonce, challenge.peer_spki_sha256, challenge.task_digest
        ),
        "now": NOW,
        "held": held,
        "asked": asked | held,
        "task": b"task",
        "digest": challenge.task_digest,
        "batch": batch,
        "envelope": b"commit",
        "transcript": transcript(bytes(32), identity.instance, b"task"),
        "salt": bytes(32),
        "schema_digest": bytes(32),
        "Kind": Kind,
        "probe_name": probe_name,
        "appraise_certificate": appraise_certificate,
        "open_exchange": open_exchange,
    }


@world_of(
    "ratls.call_thread",
    "ratls.cbor",
    "ratls.environment",
    "ratls.log",
    "ratls.memory",
    "enclave_app.deadline",
)
def alone(scene: Scene) -> Names:
    log = partial(open_log, io.StringIO())
    names = {"socket": socket, "host": "127.0.0.1", "port": 0, "open_log": log}
    return names | {"check": lambda: None}


@world_of(
    *("ratls.image.build", "ratls.image.bytecode", "ratls.image.locks", "ratls.image.parts"),
    *("ratls.image.release", "ratls.image.rules"),
)
def image(scene: Scene) -> Names:
    world = ImageWorld.create(scene.folder)
    world.wheel("numpy", {"numpy/__init__.py": b""})
    world.write("tree/usr/lib/python3.11/abc.py", "")
    read = read_release(world.release)
    wheels = scene.folder / "wheels"
    return {
        "folder": wheels if scene.module == "ratls.image.parts" else world.release,
        "sources": Sources(
            read.files, read.wheels, read.debs, wheels, scene.folder / "debs", read.own
        ),
        "locked": read.wheels[-1],
        "Path": world.release.joinpath,
        "out": scene.folder / "image",
        "tree": scene.folder / "tree",
        # Its image has no interpreter.
        "tree_interpreter": lambda tree: HERE,
        "build": partial(build, interpreter=HERE),
    }


@world_of("ratls.evidence", "ratls.gramine", "ratls.identity", "ratls.turns")
def attested(scene: Scene) -> Names:
    claims = CertificateClaims(
        pubkey_hash=key_hash(b"key"),
        context=CertificateClaims.CONTEXT,
        role=b"server",
        mode=b"simulation",
        policy_hash=bytes(32),
        instance=bytes(16),
        receipt_key_hash=bytes(32),
    )
    device = StandInDevice(scene.intel.platform)
    return {
        "attester": scene.world.attester,
        "claims": claims,
        "GramineAttester": lambda: GramineAttester(device.files),
        "report_data": bytes(64),
        "policy": scene.world.policy,
        "now": NOW,
        **dict.fromkeys(("nonce", "peer", "peer_spki_sha256", "task_digest"), bytes(32)),
    }


@world_of("scheduler.certificate", "scheduler.server")
def scheduler(scene: Scene) -> Names:
    store = Store.open(queue_file(scene.folder / "queue.sqlite"))
    scene.stack.callback(store.close)
    certificate = own_certificate(scene.folder, NOW)
    return {
        "roster": Roster([scene.world.complete]),
        "store": store,
        "certificate": certificate,
        "log": open_log(io.StringIO()),
        "folder": scene.folder,
        "at": NOW,
        "pem": certificate.cert_pem,
    }


@world_of("provider", "provider.release", "provider.sources.memory")
def provider(scene: Scene) -> Names:
    desk = scene.desk("alice")
    scene.write("rows.parquet", desk.path.read_bytes())
    table = pq.read_table(desk.path)
    return {"request": desk.request(scene.task), "release": release, "Path": Path, "table": table}


@world_of("provider.collect", "provider.source_check", "provider.reason")
def released(scene: Scene) -> Names:
    section = scene.world.consortium.sections()["computation"]
    scene.changed["computation"] = section.replace(
        "release = {", 'release = { reasons = "own input",'
    )
    del scene.world  # made anew, with reasons
    alice, bob, carol = (scene.desk(who) for who in ("alice", "bob", "carol"))
    alice.push(scene.task)
    bob.push(scene.task)
    scene.live.wait(carol.party, scene.task)  # the outcome is there
    return {
        "request": (carol if scene.module == "provider.collect" else alice).request(scene.task),
        "outputs": carol.outputs,
        "state": alice.state,
        "reading": Reading.of(alice.state),
        "source": parse_source({"kind": "parquet", "path": "rows.parquet"}, alice.folder),
    }


@world_of("provider.agent", "provider.agent_check", "provider.agent_config", "provider.agent_tasks")
def at_work(scene: Scene) -> Names:
    config = scene.config()
    allowed: Names = {"allow_simulation": True}

    def opened(config: AgentConfig, **options: Any) -> Any:
        return TaskReleaser.open(config, **options | allowed)

    agent = scene.module == "provider.agent"
    opening: Names = {"timeout": 20, "clock": lambda: NOW}
    return {
        "config": config,
        "TaskReleaser": SimpleNamespace(open=opened),
        "try_all": lambda config, **options: try_all(config, **options | allowed),
        "now": lambda: NOW,
        "envelope": scene.task,
        "queued": offer(scene.task),
        **({"releaser": scene.stack.enter_context(opened(config, **opening))} if agent else {}),
        "client": SimpleNamespace(report=lambda *report: None),
        "say": lambda line: None,
        "Path": lambda name: scene.folder / "alice" / name,
    }


@world_of("ratls.profile", "ratls.profile_file", "ratls.profile_options", "ratls.profile_draft")
def profile(scene: Scene) -> Names:
    text = SAMPLE.replace("enclave.example", "localhost").encode()
    scene.write("ratls.toml", text).chmod(0o600)
    return {"finder": ProfileFinder(None)}


@world_of("enclave_app.computations.private_set_intersection")
def overlapping(scene: Scene) -> Names:
    table = pa.table({"national_id": ["11", "47"]})
    return {"alice": table, "bob": table}


@world_of(
    "provider.describe",
    "provider.dry_run",
    "provider.full_check",
    "provider.identifying",
    "provider.sources",
    "provider.sources.base",
    "provider.sources.survey",
    "provider.stamps",
)
def source(scene: Scene) -> Names:
    pc.write_csv(rows(1), scene.folder / "rows.csv")
    alice, dataset = scene.desk("alice"), scene.world.policy.dataset[0]
    spec = parse_source({"kind": "csv", "path": "rows.csv"}, scene.folder)
    names: Names = {"dataset": dataset, "parse_source": parse_source, "spec": spec}
    if scene.module == "provider.sources.base":
        names["source"] = scene.stack.enter_context(spec.open(dataset))
    if scene.module == "provider.dry_run":
        return {"request": alice.request(scene.task), "Path": lambda name: alice.folder / name}
    return names | {
        "Path": lambda text: scene.folder,
        "state": alice.state,
        "send": lambda message: None,
    }


@world_of("enclave_app", "enclave_app.server")
def enclave(scene: Scene) -> Names:
    log = open_log(io.StringIO())

    def started(*given: Any, **options: Any) -> Enclave:
        made = Enclave.start(*given, **options)
        scene.stack.callback(made.stop)
        return made

    def served(*given: Any) -> Any:
        server = start_server(*given)
        scene.stack.callback(server.stop)
        return server

    return {
        "agreement": scene.world.complete,
        "attester": scene.world.attester,
        "log": log,
        "Enclave": SimpleNamespace(start=started),
        "enclave": started(scene.world.complete, scene.world.attester, log=log),
        "start_server": served,
        "listen_address": listen_address,
    }


@world_of(
    "enclave_app.compute",
    "enclave_app.computations.groups",
    "enclave_app.computations.linear_regression",
    "enclave_app.computations.logistic_regression",
    "enclave_app.computations.split",
    "enclave_app.computations.summary_statistics",
    "enclave_app.gate",
)
def computing(scene: Scene) -> Names:
    tables = [rows(1, 600), rows(2, 600)]
    people = np.arange(600)
    table = tables[0].append_column("ill", tables[0]["y"])
    table = table.append_column("national_id", table["patient"])
    table = table.append_column("pressure", pa.array(np.arange(600.0)))
    rule = SimpleNamespace(
        outputs=("model_weights",), min_subjects_per_input=100, significant_digits=6
    )
    return {
        "policy": scene.world.policy,
        "task": contents(Task, scene.task),
        "tables": tables,
        "check": lambda: None,
        "thing": "train_party_1.age",
        "values": pd.Series(np.arange(600.0)),
        "people": people,
        "squares": np.ones(600),
        "matrix": np.ones((600, 1)),
        "alice": Input(table, "patient"),
        "bob": Input(table, "patient"),
        "subjects": table["patient"],
        "inputs": {"train_party_1": Input(table, "patient")},
        "declared": [Group("train_party_1.age", people)],
        "outputs": {"model_weights": {}},
        "ids": {"computation": "train", "run": "logistic_regression"},
        "rule": rule,
        "size": 1000,
        "parameters": {"test_share": 0.2, "agreed": Agreed("study", {})},
    }


@world_of(
    "enclave_app.computations.k_means",
    "enclave_app.computations.metrics",
    "policy.domains",
    "policy.row_texts",
    "provider.estimators",
    "provider.models",
    "provider.onnx_file",
)
def modelling(scene: Scene) -> Names:
    half = np.arange(40) / 40
    columns = {"region": {"type": "string", "values": ["north", "south"]}}
    dataset = scene.world.policy.dataset[0]
    tree = {"feature": [0, -1, -1], "bin": [0, 0, 0], "left": [1, 0, 0], "right": [2, 0, 0]}
    tree |= {"missing": [False] * 3, "value": [0.0, -1.0, 1.0]}
    return {
        "np": np,
        "ReferenceEvaluator": ReferenceEvaluator,
        "read_model": read_model,
        "matrix": half[:, None],
        "truth": np.arange(40) % 2,
        "likely": half,
        "predicted": half,
        "policy": scene.world.policy,
        "inputs": [
            dataset.model_copy(
                update={
                    "columns": Dataset.model_validate(
                        {
                            "id": "d",
                            "owner": "o",
                            "subject": "region",
                            "columns": columns,
                            "max_rows": 1,
                        }
                    ).columns
                }
            )
        ],
        "values": pa.array(["north", None, "east"]),
        "frame": pd.DataFrame({"age": [30.0, 60.0], "region": ["north", "south"]}),
        "model": {
            "features": ["age"],
            "bins": 2,
            "ranges": [["0.0", "120.0"]],
            "predict": "class",
            "classes": [0, 1],
            "baseline": 0.5,
            "trees": [tree],
        },
        "weights": {
            "features": ["age", "region=south"],
            "coefficients": [0.5, 1.0],
            "intercept": 2.0,
            "categories": {"region": ["north", "south"]},
        },
    }


@world_of("simulation.intel", "simulation.platform", "simulation.certificates")
def simulated(scene: Scene) -> Names:
    forms: list[Any] = []
    Intel.create(NOW, platform_ca=lambda form: forms.append(form) or form)
    return {
        "intel": scene.intel.intel,
        "at": NOW,
        "SECOND": timedelta(seconds=1),
        "yesterday": NOW - timedelta(days=1),
        "replace": replace,
        "x509": x509,
        "form": forms[0],
        "Collateral": Collateral,
        "verify_quote": verify_quote,
    }


@world_of(
    "verifier.gramine.signed",
    "verifier.gramine.loader",
    "verifier.gramine.measurement",
    "verifier.gramine.sigstruct",
    "verifier.gramine.lint",
    "verifier.gramine.complete",
    "verifier.gramine.listing",
    "verifier.gramine.difference",
    "policy.measured",
)
def measured(scene: Scene) -> Names:
    manifest, loader = gramine.signed(), gramine.loader()
    found = measure_manifest(manifest, loader)
    sigstruct = sign(unsigned(manifest, found.mr_enclave, None), gramine.key())
    raw = {"loader": gramine.elf(), "sigstruct": sigstruct.raw}
    enclave = scene.study.policy.enclave[0].model_copy(
        update={"mr_enclave": str(found.mr_enclave), "isv_prod_id": 1}
    )
    policy = scene.study.policy
    return {
        "raw": raw.get(scene.module.rpartition(".")[2], manifest.raw),
        "manifest": manifest,
        "loader": loader,
        "measurement": found,
        "sigstruct": sigstruct,
        "policy": SimpleNamespace(enclave=(enclave,), platform=policy.platform),
        "document": manifest.document,
        "uri": "file:/usr/lib/libsysdb.so",
        "sha256": "0" * 64,
        "files": gramine.listed(),
        "entries": (),
        "old": manifest,
        "new": manifest,
    }


@world_of("ratls.manifest_template")
def template(scene: Scene) -> Names:
    return {"template": gramine.TEMPLATE.read_text("utf-8")}
