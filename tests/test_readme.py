"""The walk of the README runs as it stands: what a newcomer copies must work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.intel import World
from tests.support.refusal import refused
from tests.support.terminal import free_ports, staying
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.errors import Exit
from verifier.quote import Quote
from verifier.verify import QuoteCheck

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- walk: (.*?) -->\n```\n(.*?)```\n", re.DOTALL)
SAMPLE = re.compile(r"<!-- sample: Python -->\n```\n(.*?)```\n", re.DOTALL)


QUOTES = re.compile(r"<!-- quotes -->\n```\n(.*?)```\n", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """Each block of the walk with the words of its mark, in the README's order."""
    text = (ROOT / "README.md").read_text("utf-8")
    return BLOCK.findall(text[text.index("## By hand") : text.index("## Is this quote")])


def test_the_walk_by_hand(tmp_path: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    enclave, scheduler = free_ports()
    with ExitStack() as terminals:
        for mark, text in blocks():
            # Ports of the README may be taken on this machine; nothing else is changed.
            text = text.replace("7443", str(enclave)).replace("7444", str(scheduler))
            text = f"umask 022\n{text}"  # as every terminal of the walk does
            where, *stays = mark.split(", ")
            if stays:
                # `exec`: the last command is the process that is stopped in the end.
                *before, last = re.split(r"\n(?=ratls )", "\n" + text)
                script = ["bash", "-ec", "\n".join([*before, f"exec {last}"])]
                word = stays[-1].removeprefix("says ")
                terminals.enter_context(staying(script, tmp_path, env, word))
            else:
                done = subprocess.run(
                    ["bash", "-ec", text],
                    cwd=tmp_path,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=HANG_LIMIT,
                    check=False,
                )
                assert done.returncode == Exit.YES, f"{where}:\n{text}\n{done.stdout}{done.stderr}"
    model = json.loads((tmp_path / "carol-lab" / "result.json").read_text("utf-8"))["model_weights"]
    assert model["features"] == ["age", "marker"]


def test_the_walk_has_everybody_in_it() -> None:
    """A block whose mark was lost would silently not run."""
    assert [mark.split(",")[0] for mark, _ in blocks()] == [
        *["anyone"] * 7,
        "enclave",
        "scheduler",
        "carol",
        "alice",
        "bob",
        "carol",
    ]


def typed_commands() -> list[str]:
    """Each command of the walk, as often as it stands there, without the files it writes."""
    text = "\n".join(block for _, block in blocks()).replace("\\\n", " ")
    text = re.sub(r"<<'END'\n.*?\nEND\n", "\n", text, flags=re.DOTALL)
    inside = re.findall(r"\$\((ratls [^)|]*)", text)
    text = re.sub(r"\$\([^)]*\)", "", text)
    return inside + re.findall(r"(?:^|; )(ratls .*?)(?=$|\)$| \|)", text, re.MULTILINE)


def test_the_walk_says_nothing_twice() -> None:
    """Who I am and where things are stands in the profile; what is typed is the job itself."""
    commands = typed_commands()
    options = [word for line in commands for word in re.findall(r"(?<= )--?[a-z][\w-]*", line)]
    assert len(commands) <= 19, commands
    assert len(options) <= 23, options
    asked = {"--party", "--state", "--enclave", "--collateral", "--scheduler"}
    assert not asked & set(options)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, World]:
    """The sample in Python, in a folder with the files that it names."""
    world = World.create(datetime.now(UTC))
    (tmp_path / "quote.bin").write_bytes(world.quote())
    (tmp_path / "bundle.json").write_bytes(world.intel.collateral(world.platform))
    monkeypatch.chdir(tmp_path)
    (code,) = SAMPLE.findall((ROOT / "README.md").read_text("utf-8"))
    return code, world


def test_the_sample_in_python(
    sample: tuple[str, World],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, world = sample
    monkeypatch.setattr(TrustAnchors, "intel", world.intel.anchors)
    exec(code, {})  # noqa: S102
    code_of_enclave = Quote.parse(world.quote()).report.mr_enclave
    assert capsys.readouterr().out == f"{code_of_enclave} UpToDate\n"


def test_the_sample_believes_no_root_but_intels(sample: tuple[str, World]) -> None:
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        exec(sample[0], {})  # noqa: S102


def test_the_section_on_quotes_begins_with_one(tmp_path: Path) -> None:
    """Nobody without such a machine had a quote to begin with."""
    (text,) = QUOTES.findall((ROOT / "README.md").read_text("utf-8"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    domain = text.replace("collateral.json", "collateral.tdx.json").replace("-o", "--tee tdx -o")
    for number, script in enumerate((text, domain)):
        (folder := tmp_path / str(number)).mkdir()
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
