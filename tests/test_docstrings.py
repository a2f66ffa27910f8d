"""Examples in docstrings of modules run, in a world where everything is valid.

An example is the first indented block of a module's docstring. It runs in the module's own names
and those that its world gives; a simulation's root stands in for Intel's. What cannot run says why.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest

from tests.support.example_worlds import WORLDS, Names, Scene

ROOT = Path(__file__).parent.parent
PACKAGES = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation")


def _is_code(paragraph: str) -> bool:
    """Indented; or, where nothing else follows the first line, set flush by the formatter."""
    if paragraph.startswith("    "):
        return True
    try:
        ast.parse(paragraph.replace("…", "..."))
    except SyntaxError:
        return False
    return "(" in paragraph


def example(docstring: str) -> str | None:
    """The first indented block; `…` reads as Python's `...`."""
    paragraphs = docstring.split("\n\n")
    first = next((n for n, p in enumerate(paragraphs) if n and _is_code(p)), None)
    if first is None:
        return None
    last = first
    while last + 1 < len(paragraphs) and _is_code(paragraphs[last + 1]):
        last += 1
    return dedent("\n\n".join(paragraphs[first : last + 1])).replace("…", "...")


def examples() -> dict[str, str]:
    """Each module whose docstring has one."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
            if docstring and (text := example(docstring)):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(p for p in parts if p != "__init__")] = text
    return found


EXAMPLES = examples()
NOT_RUN = {
    "enclave_app.answer": "one exchange, as the server has it",
    "enclave_app.application": "starts threads, and answers in an exchange",
    "enclave_app.audit": "tests/enclave_app/test_audit.py runs both on tables",
    "enclave_app.computations.boosted_trees": "shows a result",
    "enclave_app.computations.features": "in the middle of a run",
    "enclave_app.computations.sql": "shows a result",
    "enclave_app.computations.combinations": "in the middle of a run",
    "enclave_app.computations.sql_boxes": "in the middle of a run",
    "enclave_app.computations.sql_first": "in the middle of a run",
    "enclave_app.computations.sql_combined": "in the middle of a run",
    "enclave_app.computations.sql_census": "in the middle of a run",
    "enclave_app.computations.sql_tables": "in the middle of a run",
    "enclave_app.computations.sql_tree": "in the middle of a run",
    "enclave_app.join": "in the middle of a run",
    "policy.parameter_kinds": "tests/policy/test_computations.py says what is wrong",
    "policy.joins": "in the middle of a reading",
    "enclave_app.computations.sql_engine": "an open block",
    "enclave_app.computations.sql_plan": "in the middle of a run",
    "policy.sql": "tests/policy/test_sql.py runs it on the corpus",
    "policy.sql_check": "tests/policy/test_sql.py runs it",
    "policy.sql_shape": "tests/provider/test_sql_budget.py shows it",
    "policy.sql_words": "of a statement that was parsed",
    "enclave_app.computations.tree_grower": "in the middle of a run",
    "enclave_app.collect": "one exchange, as the server has it",
    "enclave_app.exchange": "one exchange, as the server has it",
    "enclave_app.withdraw": "one exchange, as the server has it",
    "enclave_app.worker": "threads without an end",
    "provider.deliver": "one exchange with an enclave that runs",
    "scheduler": "calls of a submitter and of a provider",
    "scheduler.database": "names a database server",
    "enclave_app.receive": "one exchange, as the server has it",
    "enclave_app.serving": "serves until a signal comes",
    "enclave_app.session": "states, no code",
    "policy.configuration": "TOML",
    "policy.signing_source": "asks a token",
    "policy.trust_domain": "TOML",
    "provider.exchange": "its session ends with a commit, which is in provider.release",
    "provider.mailbox": "follows until it is stopped",
    "provider.sources.ahead": "of any iterator",
    "provider.sending": "its session ends with a commit, which is in provider.release",
    "provider.sources.folders": "of files: tests/provider/test_sources_spellings.py",
    "provider.sources.records": "a grammar, no code",
    "provider.sources.spec": "TOML: tests/test_examples.py reads such lines in the README",
    "provider.client": "tests/test_api_examples.py runs it",
    "ratls": "tests/test_api_examples.py runs it",
    "ratls.api": "tests/test_api_examples.py runs it",
    "ratls.address": "asks the resolver of this machine",
    "ratls.attested_socket": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.framed_socket": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.own_expectation": "tests/ratls/test_own_expectation.py runs it",
    "ratls.socket_session": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.grpc": "two ends of one connection: tests/ratls/test_grpc.py",
    "ratls.grpc_server": "two ends of one connection: tests/ratls/test_grpc.py",
    "ratls.http": "two ends of one connection: tests/ratls/test_http.py",
    "ratls.http_server": "serves until it is closed: tests/ratls/test_http.py",
    "ratls.listener": "serves until it is closed: tests/ratls/test_sockets.py",
    "ratls.peer_refusal": "raises what a peer said",
    "ratls.session": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.sockets": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.tls": "two ends of one connection: tests/ratls/test_sockets.py",
    "ratls.tunnel": "serves until it is closed: tests/ratls/test_tunnel.py",
    "ratls.bulk": "two ends of one connection",
    "ratls.client_call": "one call, whose other end is a server",
    "ratls.image_files": "names a folder of an image",
    "ratls.image.fetch": "downloads",
    "ratls.image.make": "downloads",
    "enclave_app.rounds": "states, no code",
    "enclave_app.rounds_exchange": "one exchange, as the server has it",
    "policy.round_receipt": "receipts of several rounds: tests/policy/test_round_receipt.py",
    "provider.rounds": "needs a running enclave: tests/provider/test_rounds.py",
    "provider.training": "trains: tests/provider/test_training.py",
    "ratls.client_rounds": "one exchange, whose other end is a server",
    "ratls.framing": "one stream, as client and server have it",
    "ratls.plain_rows": "one exchange, as the server has it",
    "ratls.server_stream": "one exchange, as the server has it",
    "scheduler.client": "calls of a submitter and of a provider",
    "scheduler.service": "calls of a submitter and of a provider",
    "scheduler.store": "names a database server",
    "simulation": "a call and a command",
    "simulation.demo_agreed": "starts a demonstration",
    "simulation.folder": "names of files, no code",
    "verifier.output": "changes the streams of the process",
    "verifier.responses": "its answers are shortened",
}


@pytest.fixture
def scene(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    made = Scene(module, tmp_path)
    with made.stack:
        yield made


def run(module: str, text: str, world: Names) -> None:
    """In the names of the module, and over them those of the world."""
    if "yield" in text:  # part of a generator
        text = f"def parts():\n{indent(text, '    ')}\nlist(parts())"
    home = importlib.import_module(module)
    names = {name: getattr(home, name) for name in (*vars(home), *getattr(home, "__all__", ()))}
    exec(compile(text, f"<docstring of {module}>", "exec"), names | world)  # noqa: S102


@pytest.mark.parametrize("module", sorted(WORLDS))
def test_an_example_runs(module: str, scene: Scene) -> None:
    run(module, EXAMPLES[module], WORLDS[module](scene))


def test_every_example_runs_or_says_why_not() -> None:
    assert WORLDS.keys() & NOT_RUN.keys() == set()
    assert sorted(EXAMPLES.keys() ^ (WORLDS.keys() | NOT_RUN.keys())) == []


def test_a_stale_example_is_noticed() -> None:
    """A name that is gone, an argument too many."""
    with pytest.raises(AttributeError):
        run("policy.keys", "PublicKey.verify", {})
    with pytest.raises(TypeError):
        run("ratls.cbor", "decode(encode(1), 2)", {})
