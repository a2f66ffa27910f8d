"""The walk of the README runs as it stands: what a newcomer copies must work."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.support.intel import World
from tests.support.refusal import refused
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


def blocks() -> list[tuple[str, str]]:
    """Each block of the walk with the words of its mark, in the README's order."""
    text = (ROOT / "README.md").read_text("utf-8")
    return BLOCK.findall(text[text.index("## By hand") : text.index("## Is this quote")])


def free_ports() -> tuple[int, int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]


@contextmanager
def staying(script: list[str], folder: Path, env: dict[str, str], word: str) -> Iterator[None]:
    """A terminal whose command goes on; entered once it has said the word."""
    child = subprocess.Popen(
        script, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        said: list[str] = []
        while not said or word not in said[-1].split():
            line = lines.get(timeout=HANG_LIMIT)
            assert line is not None, "".join(said)
            said.append(line)
        yield
    finally:
        child.terminate()
        assert child.wait(timeout=HANG_LIMIT) == Exit.YES
        reader.join(timeout=HANG_LIMIT)


def test_the_walk_by_hand(tmp_path: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    enclave, scheduler = free_ports()
    with ExitStack() as terminals:
        for mark, text in blocks():
            # Ports of the README may be taken on this machine; nothing else is changed.
            text = text.replace("7443", str(enclave)).replace("7444", str(scheduler))
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
    model = json.loads((tmp_path / "model.json").read_text("utf-8"))["model_weights"]
    assert model["features"] == ["age", "marker"]


def test_the_walk_has_everybody_in_it() -> None:
    """A block whose mark was lost would silently not run."""
    assert [mark.split(",")[0] for mark, _ in blocks()] == [
        *["anyone"] * 4,
        "enclave",
        "scheduler",
        "carol",
        "alice",
        "bob",
        "carol",
    ]


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
