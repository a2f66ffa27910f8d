"""Commands that take quotes, given them as people have them: as text, piped, or not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from ratls.cli_verify import app
from simulation.documents import instant
from simulation.intel import root_name
from tests.support.intel import AT, World
from tests.support.typed import Folder, piped, typed
from tests.verifier.test_collateral_of_others import platform_collaterals, without_chain

W = World.create()
QUOTE = W.quote()
COMMANDS = pytest.mark.parametrize("command", ["quote", "forecast"])

FORMS: list[Any] = [
    pytest.param(lambda raw: raw, "raw", id="raw"),
    pytest.param(lambda raw: raw + bytes(99), "raw, padded with 99 zero bytes", id="padded"),
    pytest.param(lambda raw: raw.hex().encode(), "hexadecimal", id="hex"),
    pytest.param(lambda raw: b"0x" + raw.hex().encode(), "hexadecimal", id="0x"),
    pytest.param(base64.encodebytes, "base64", id="base64"),
    pytest.param(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="), "base64url", id="url"),
    pytest.param(
        lambda raw: b"-----BEGIN X-----\n" + base64.b64encode(raw) + b"\n-----END X-----",
        "PEM of X",
        id="PEM",
    ),
    pytest.param(
        lambda raw: json.dumps({"tdx": {"quote": list(raw)}}).encode(),
        "JSON, tdx.quote: numbers",
        id="JSON",
    ),
]


class Desk(Folder):
    def bundle(self) -> str:
        return self.file("collateral.json", W.collateral().raw)

    def run(
        self, *words: str, status: int = 0, stdin: bytes = b"", collateral: str | None = None
    ) -> Result:
        common = ["--at", instant(AT), "--allow-simulation", "--root", root_name(W.intel.root)]
        with piped(stdin):
            return typed(
                app, [*words, *common, "--collateral", collateral or self.bundle()], status
            )

    def json(self, *words: str, **options: Any) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.run(*words, "--json", **options).stdout)
        return line


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@COMMANDS
@pytest.mark.parametrize(("write", "form"), FORMS)
def test_a_quote_in_each_form_and_what_was_detected(
    desk: Desk, command: str, write: Callable[[bytes], bytes], form: str
) -> None:
    file = desk.file("q", write(QUOTE))
    told = desk.json(command, file)
    assert (told["verdict"], told["form"]) == ("accepted", form)
    assert (form in desk.run(command, file).stdout) is (form != "raw")


@COMMANDS
def test_a_quote_on_standard_input(desk: Desk, command: str) -> None:
    told = desk.json(command, "-", stdin=QUOTE.hex().encode())
    assert (told["file"], told["verdict"], told["form"]) == ("-", "accepted", "hexadecimal")
    desk.run(command, "-", desk.file("q", QUOTE), stdin=QUOTE)


@COMMANDS
def test_standard_input_twice(desk: Desk, command: str) -> None:
    """The second would be empty, and its refusal about another thing."""
    desk.run(command, "-", "-", stdin=QUOTE, status=3)


def test_standard_input_among_very_many(desk: Desk) -> None:
    """It is read before there are other processes, which have none."""
    files = [desk.file(f"{number:03}", QUOTE) for number in range(30)]
    result = desk.run("quote", *files, "-", "--workers", "2", "--json", stdin=QUOTE)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (lines[-1]["file"], {line["verdict"] for line in lines}) == ("-", {"accepted"})


@COMMANDS
def test_a_path_into_json(desk: Desk, command: str) -> None:
    other = W.with_platform().quote().hex()
    file = desk.file("q.json", json.dumps({"a": [QUOTE.hex()], "b": other}).encode())
    told = desk.json(command, file, status=3)
    assert told["error"]["code"] == "quote-member-unclear"
    assert "--json-path a[0]" in told["error"]["fix"]
    told = desk.json(command, file, "--json-path", "a[0]")
    assert told["form"] == "JSON, a[0]: hexadecimal"
    desk.run(command, file, "--json-path", "a[", status=2)


@COMMANDS
def test_what_is_no_quote_is_named_and_the_others_are_judged(desk: Desk, command: str) -> None:
    report = desk.file("a.report", b"\x81\0\1\0" + bytes(1020))
    result = desk.run(command, report, desk.file("b.quote", QUOTE), status=3)
    assert "a TDREPORT" in result.stdout
    assert "ratls attest quote" in result.stdout
    told = desk.json(command, report, status=3)
    assert (told["verdict"], told["form"]) == ("refused", None)
    assert told["error"]["code"] == "not-a-quote"


# Bundles of others


def test_a_bundle_with_the_chain_of_a_quote_that_has_none(desk: Desk) -> None:
    chain = W.platform.pck_chain.decode()
    members = json.loads(W.collateral().raw) | {"pck_certificate_chain": chain}
    bundle = desk.file("theirs.json", json.dumps(members).encode())
    bare = desk.file("bare.bin", without_chain(W))
    for command in ("quote", "forecast"):
        assert desk.json(command, bare, collateral=bundle)["verdict"] == "accepted"
        assert desk.json(command, bare, status=3)["error"]["code"] == "quote-unsupported"
        other = desk.file("other.bin", W.with_platform().quote())
        told = desk.json(command, other, collateral=bundle, status=4)
        assert told["error"]["code"] == "pck-chain-of-another-quote"


def test_a_file_of_intels_admin_tool(desk: Desk) -> None:
    file = desk.file("platform_collaterals.json", json.dumps(platform_collaterals(W)).encode())
    quotes = [desk.file("q", QUOTE), desk.file("td", W.platform.td_quote())]
    for quote in quotes:
        assert desk.json("quote", quote, collateral=file)["verdict"] == "accepted"
    told = json.loads(desk.run("forecast", quotes[0], "--json", collateral=file, status=3).stdout)
    assert told["error"]["code"] == "several-bundles"
    assert f"ratls collateral show {file} --split DIR" in told["error"]["fix"]
