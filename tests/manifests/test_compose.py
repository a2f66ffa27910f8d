"""The services of manifests/compose: a file that Compose reads, and commands that do the job.

Its commands run here without containers, from keys to the model, so that a renamed option or a
policy that no longer parses is seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import postgresql
from tests.support.refusal import count_refusal
from tests.support.terminal import free_ports, staying
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent.parent / "manifests/compose"
FILE = FOLDER / "compose.yaml"
COMPOSE = Path(sys.executable).parent / "docker-compose"
IMAGES = dict.fromkeys(("BASE", "DATABASE"), "image@sha256:" + "ab" * 32)


def config(file: Path = FILE, **images: str) -> subprocess.CompletedProcess[str]:
    """The file as Compose would start it: anchors, merged parts and variables resolved."""
    command = [COMPOSE, "-f", file, "--profile", "*", "config", "--format", "json"]
    env = {n: v for n, v in os.environ.items() if n not in IMAGES} | images
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    done = config(**IMAGES)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def services(whole: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = whole["services"]
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    command: [provider", "    comand: [provider"),
        ("pull_policy: never", "pull_policy: sometimes"),
        ("condition: service_healthy}", "condition: service_ready}"),
        ("      - queue:", "      - nowhere:"),
        ("  scheduler:\n", "  mailbox:\n"),
    ],
)
def test_a_file_that_compose_would_not_start_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    """The tests below rest on its word."""
    count_refusal()
    text = FILE.read_text("utf-8")
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new, 1), "utf-8")
    assert config(tmp_path / "compose.yaml", **IMAGES).returncode != 0


@pytest.mark.parametrize("missing", IMAGES)
def test_an_image_that_is_not_named_is_asked_for_by_digest(missing: str) -> None:
    count_refusal()
    done = config(**{name: value for name, value in IMAGES.items() if name != missing})
    assert done.returncode != 0
    assert f"required variable {missing} is missing" in done.stderr
    assert "@sha256:" in done.stderr


def test_no_image_is_named(services: dict[str, Any]) -> None:
    """A registry's name would send everybody there."""
    assert {service["image"] for service in services.values()} == {
        "ratls-simulation",
        IMAGES["DATABASE"],
    }


def test_our_services_are_confined_and_reach_no_other_network(whole: dict[str, Any]) -> None:
    for name, service in whole["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.keys() & {"privileged", "cap_add", "ports", "devices", "pid", "ipc"}
        if name != "database":  # which starts as root, and becomes another user
            assert service["cap_drop"] == ["ALL"], name
            assert service["read_only"], name
            assert service["user"] == "10001:10001", name
    assert whole["networks"]["default"]["internal"] is True


def test_the_services_do_the_job(tmp_path: Path, services: dict[str, Any]) -> None:
    """What the containers would run: the same words, with other places and ports."""
    enclave, scheduler = free_ports()
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    job, scripts = tmp_path / "job", tmp_path / "scripts"
    job.mkdir()
    scripts.mkdir()

    def here(text: str) -> str:
        for listen, port in (("7443", enclave), ("7444", scheduler)):
            text = re.sub(rf"(0\.0\.0\.0|enclave|scheduler):{listen}", f"127.0.0.1:{port}", text)
        return text

    for script in FOLDER.glob("*.sh"):
        (scripts / script.name).write_text(here(script.read_text("utf-8")), "utf-8")

    def run(name: str) -> str:
        entry = [part.replace("/", f"{scripts}/", 1) for part in services[name]["entrypoint"][1:]]
        done = subprocess.run(
            ["sh", *entry], cwd=job, env=env, capture_output=True, text=True,
            timeout=HANG_LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == Exit.YES, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def argv(name: str, database: str = "") -> list[str]:
        words = [here(word) for word in services[name]["command"]]
        # The URL is that of a server of this test, which has no password.
        return ["ratls", *(f"--database={database}" if w.startswith("--database") else w
                           for w in words)]  # fmt: skip

    with ExitStack() as running:
        run("prepare")
        assert "this job is prepared" in run("prepare")  # again: nothing is made anew
        url = running.enter_context(postgresql.cluster())
        for name, word in (
            ("enclave", "ready"),
            ("scheduler", "ready"),
            ("alice", "watching"),
            ("bob", "watching"),
        ):
            running.enter_context(staying(argv(name, url), job, env, word))
        said = run("ask")
    model = json.loads(said[said.index("{") :])
    assert model["model_weights"]["features"] == ["age", "marker"]
