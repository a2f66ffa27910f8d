"""What a stranger copies works: the programs in `examples/`, the blocks of `docs/api.md`, and the
examples in the docstrings of what `import ratls` gives.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
import runpy
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import ratls
import ratls.api
from policy.domain_admission import Rtmr2NotListed
from ratls import attester_option
from ratls.address import Address
from ratls.http import serve_wsgi
from ratls.identity import EnclaveIdentity
from ratls.log import open_log
from ratls.sockets import AttestedSocket, Listener
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.ratls.test_trust_domain import identity as trust_domain
from tests.ratls.test_trust_domain import study as trust_domain_study
from tests.support.enclave import EnclaveWorld, LiveEnclave, rows
from tests.support.flight_peers import Study
from tests.support.parties import PASSPHRASE
from tests.support.refusal import count_refusal, refused
from tests.support.scheduler import running_scheduler
from tests.support.waiting import HANG_LIMIT
from tests.test_docstrings import example
from verifier.acceptance import EnclaveDebuggable
from verifier.anchors import TrustAnchors

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@dataclass
class Scene:
    """An enclave that listens, and the desks of the parties."""

    world: EnclaveWorld
    live: LiveEnclave
    folder: Path

    def desk(self, who: str) -> Desk:
        return Desk.of(who, self.world, self.folder, self.live.address)


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture
def scene(world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A simulation's root stands in for Intel's where a program names that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrustAnchors, "intel", world.intel.intel.anchors)
    with world.running() as live:
        yield Scene(world, live, tmp_path)


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_there_are_five_and_each_is_short() -> None:
    assert len(EXAMPLES) == 5
    for path in EXAMPLES:
        assert len(path.read_text("utf-8").splitlines()) < 30, path.name
        assert f"run({path.name!r}" in Path(__file__).read_text("utf-8").replace('"', "'")


def test_verify_a_quote(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("quote.bin").write_bytes(scene.world.attester.quote(bytes(range(64))))
    Path("collateral.json").write_bytes(scene.world.collateral)
    asked = ("quote.bin", "collateral.json")
    run("verify_quote.py", *asked, bytes(range(64)).hex(), monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith("UpToDate ")
    count_refusal()
    with pytest.raises(SystemExit, match="report-data-differs"):
        run("verify_quote.py", *asked, bytes(64).hex(), monkeypatch=monkeypatch)


def test_a_notebook_of_a_provider(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = configure(scene.desk("alice"))
    Path("task.json").write_bytes(scene.world.task())
    rows(1).to_pandas().to_csv("visits.csv", index=False)
    asked = (profile, "task.json", "visits.csv", "train_party_1")
    run("notebook_provider.py", *asked, "--allow-simulation", monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith("60 rows, acknowledged: ")


# Web services behind an attested connection.


def model(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A web program that knows nothing of attestation: a page, and an endpoint of a model."""
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["PATH_INFO"] == "/v1/chat/completions":
        asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        said = asked["messages"][0]["content"].upper()
        return [json.dumps({"choices": [{"message": {"content": said}}]}).encode()]
    return [b"hello from inside"]


def files_of(study: Study) -> list[str]:
    """What Alice has in the working folder, as the programs are given it."""
    Path("agreement.json").write_bytes(study.parties.agreement_bytes(study.policy.raw.decode()))
    Path("collateral.json").write_bytes(study.expectation.collateral.raw)
    Path("passphrase").write_bytes(PASSPHRASE + b"\n")
    return ["agreement.json", str(study.parties.alice.folder), "collateral.json", "passphrase"]


@contextmanager
def web(study: Study, identity: EnclaveIdentity) -> Iterator[list[str]]:
    """The service at an enclave or guest; what every program is given: address and own files."""
    mine = files_of(study)
    log = open_log(io.StringIO())
    with Listener(Address("127.0.0.1", 0), identity, lambda: study.policy, log=log) as listener:
        thread = threading.Thread(target=serve_wsgi, args=[listener, model], daemon=True)
        thread.start()
        yield [str(listener.address), *mine]
    thread.join(HANG_LIMIT)


def test_attested_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study.create()
    for identity, genuine in ((study.identity(), True), (study.identity(flags=0x7), False)):
        with web(study, identity) as (address, *mine):
            asked = (f"{address}/hello", *mine, "--allow-simulation")
            if genuine:
                run("attested_http.py", *asked, monkeypatch=monkeypatch)
                assert capsys.readouterr().out == "hello from inside\n"
            else:  # a debug enclave
                with refused(EnclaveDebuggable):
                    run("attested_http.py", *asked, monkeypatch=monkeypatch)


@contextmanager
def greeter(study: Study, identity: EnclaveIdentity) -> Iterator[str]:
    """A gRPC service at an enclave: it answers in capitals."""
    import grpc

    from ratls.grpc import Attestation

    def hello(request: bytes, context: Any) -> bytes:
        return request.upper()

    methods = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
    attestation = Attestation(identity, lambda: study.policy)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[attestation.interceptor])
        attestation.add_to(server)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("example.Greeter", methods)]
        )
        port = server.add_secure_port("127.0.0.1:0", attestation.credentials())
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait(HANG_LIMIT)


def test_attested_grpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study.create()
    mine = files_of(study)
    for identity, genuine in ((study.identity(), True), (study.identity(flags=0x7), False)):
        with greeter(study, identity) as address:
            asked = (address, "/example.Greeter/Hello", "hello", *mine, "--allow-simulation")
            if genuine:
                run("attested_grpc.py", *asked, monkeypatch=monkeypatch)
                assert capsys.readouterr().out == "HELLO\n"
            else:  # a debug enclave
                with refused(EnclaveDebuggable):
                    run("attested_grpc.py", *asked, monkeypatch=monkeypatch)


def test_a_tdx_guest_with_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agreement names the guest; one with another command line never sees the prompt."""
    monkeypatch.chdir(tmp_path)
    study = trust_domain_study()
    for altered in ({}, {"rtmr2": b"\x99" * 48}):
        with web(study, trust_domain(study, **altered)) as (address, *mine):
            asked = (address, *mine, "a prompt", "--allow-simulation")
            if not altered:
                run("tdx_inference.py", *asked, monkeypatch=monkeypatch)
                assert capsys.readouterr().out == "A PROMPT\n"
            else:
                with refused(Rtmr2NotListed):
                    run("tdx_inference.py", *asked, monkeypatch=monkeypatch)


# docs/api.md, and the docstrings of what a caller gets


@contextmanager
def listening(world: EnclaveWorld) -> Iterator[Address]:
    """The agreed enclave with an attested socket; it answers each question in capitals."""

    def answer(connection: AttestedSocket) -> None:
        connection.sendall(connection.recv(100).upper())

    with Listener(Address("127.0.0.1", 0), world.identity(), lambda: world.policy) as listener:
        thread = threading.Thread(target=listener.serve, args=[answer], daemon=True)
        thread.start()
        yield listener.address
    thread.join(HANG_LIMIT)


@pytest.fixture
def names(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page and the docstrings speak of, in the working folder."""
    # No machine of tests is a TDX guest.
    monkeypatch.setattr(attester_option, "resolve_attester", lambda *_, **__: scene.world.attester)
    Path("collateral.json").write_bytes(scene.world.collateral)
    Path("policy.agreement.json").write_bytes(scene.world.complete.agreement.encode())
    Path("passphrase").write_bytes(PASSPHRASE + b"\n")
    with ExitStack() as stack:
        queue = stack.enter_context(
            running_scheduler(scene.folder / "scheduler", [scene.world.complete])
        )
        for who in ("alice", "bob", "carol"):
            desk = scene.desk(who)
            (desk.folder / "scheduler.crt").write_bytes(queue.certificate.cert_pem)
            configure(desk, str(queue.address))
            for file in desk.party.folder.iterdir():  # the party's folder, where the page has it
                (desk.folder / file.name).write_bytes(file.read_bytes())
                (desk.folder / file.name).chmod(0o600)
        yield {
            "ratls": ratls,
            "raw": scene.world.attester.quote(bytes(range(64))),
            "mine": bytes(range(64)),
            "address": str(stack.enter_context(listening(scene.world))),
            "frame": rows(1).to_pandas(),
            "table": rows(1),
            "threading": threading,
            "Address": Address,
            "Listener": Listener,
            "enclave_end": partial(ratls.enclave_end, allow_simulation=True),
            "other_frame": rows(2).to_pandas(),
            "new_rows": rows(3).to_pandas()[["age", "bmi"]],
        }


def test_every_block_of_the_page_runs(names: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 9
    assert text.count("```") == 2 * len(blocks)
    answers = []
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)  # noqa: S102
        answers.append(names.get("answer"))
    names["server"].close()
    names["listener"].close()
    said = [b"QUESTION", b"QUESTION", b"FROM ONE ENCLAVE TO ANOTHER"]
    assert answers[2:7] == [*said, said[-1], b"60 rows of alice-clinic"]
    assert names["model"].n_features_in_ == 2


def docstring_examples() -> dict[str, str]:
    """Indented blocks of the docstrings of what a caller gets, by name."""
    found = {}
    for name in ratls.__all__:
        thing = getattr(ratls, name)
        members = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else ()
        for label, one in [(name, thing), *((f"{name}.{m}", f) for m, f in members if m[0] != "_")]:
            home = getattr(inspect.unwrap(one), "__module__", "")
            if home not in ("ratls.api", "provider.client"):
                continue  # of other modules: tests/test_docstrings.py
            for block in re.findall(r"\n\n((?:    .*\n?)+)(?:\n|$)", inspect.getdoc(one) or ""):
                found[label] = dedent(block)
    return found


DOCSTRINGS = docstring_examples()
MODULES = ("ratls", "ratls.api", "provider.client")


@pytest.mark.parametrize("module", MODULES)
def test_an_example_of_a_module_runs(module: str, names: dict[str, Any]) -> None:
    """The three whose examples need an enclave that listens; the others: test_docstrings."""
    text = example(importlib.import_module(module).__doc__ or "")
    assert text is not None
    more = 'collateral=bundle, passphrase_file="passphrase", allow_simulation=True'
    text = text.replace("collateral=bundle", more)
    text = text.replace('Client("ratls.toml")', 'Client("ratls.toml", allow_simulation=True)')
    who = "carol" if module == "provider.client" else "alice"
    profile = Path(f"{who}/ratls.toml").read_text("utf-8")
    Path("ratls.toml").write_text(profile.replace('"state"', f'"{who}/state"'), "utf-8")
    for name in ("passphrase", "scheduler.crt"):
        Path(name).write_bytes((Path("alice") / name).read_bytes())
    carol = ratls.Client("carol/ratls.toml", allow_simulation=True)
    named = {"bundle": "collateral.json", "agreement": "policy.agreement.json", "me": "alice"}
    if module == "provider.client":
        text = text.replace("done = client", "client = alice\ndone = client")
        named["alice"] = ratls.Client("alice/ratls.toml", allow_simulation=True)
    given = names | vars(ratls.api) | {"Client": ratls.Client} | named
    given["task"] = carol.ask("train", max_iter=500)
    text = text.replace("visits=", "train_party_1=")
    exec(compile(text, module, "exec"), given)  # noqa: S102


def test_every_docstring_with_a_call_is_found() -> None:
    assert DOCSTRINGS.keys() == {
        *("verify_quote", "connect", "enclave_end", "own_end"),
        *("Client.ask", "Client.release", "Client.result", "Client.run"),
    }


@pytest.mark.parametrize("name", sorted(DOCSTRINGS))
def test_an_example_of_a_docstring_runs(
    name: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation must be allowed, a terminal cannot be asked, and nobody releases meanwhile."""
    world = dict(names)
    carol = ratls.Client("carol/ratls.toml", allow_simulation=True)
    alice = ratls.Client("alice/ratls.toml", allow_simulation=True)
    bob = ratls.Client("bob/ratls.toml", allow_simulation=True)
    task = carol.ask("train", max_iter=500)

    def released(asked: bytes) -> None:
        alice.release(asked, train_party_1=names["frame"])
        bob.release(asked, train_party_2=names["other_frame"])

    text = DOCSTRINGS[name].replace("enclave.example:7443", names["address"])
    text = text.replace("visits=", "train_party_1=")
    more = ', passphrase_file="passphrase", allow_simulation=True'
    text = text.replace('collateral="collateral.json"', f'collateral="collateral.json"{more}')
    if name == "Client.result":
        released(task)
    monkeypatch.setattr(ratls.Client, "submit", lambda self, asked: released(asked))
    client = alice if name == "Client.release" else carol
    world |= vars(ratls.api) | {"client": client, "task": task}
    exec(compile(text, name, "exec"), world)  # noqa: S102
