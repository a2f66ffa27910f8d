"""The Dockerfiles: built upon an image that somebody names by digest, from locks, for no root."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "manifests/docker"
FILES = ["Dockerfile", "enclave.Dockerfile"]
HADOLINT = Path(sys.executable).parent / "hadolint"


def lint(text: str) -> str:
    """What hadolint says; it looks into the shell commands, too."""
    done = subprocess.run(
        [HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction with what follows it, on one line."""
    text = re.sub(r"\\\n", " ", (FOLDER / name).read_text("utf-8"))
    lines = (line.partition(" ") for line in text.splitlines() if line and line[0] != "#")
    return [(word, rest.strip()) for word, _, rest in lines]


def found(name: str, word: str) -> list[str]:
    return [rest for instruction, rest in instructions(name) if instruction == word]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    assert lint((FOLDER / name).read_text("utf-8")) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FROM ${BASE} AS build\n", "FROM python:latest AS build\n"),
        ("WORKDIR /src", "WORKDIR src"),
        ("FROM build AS build-simulation", "FROM build AS build"),
        ("USER 10001:10001", "USER root"),
        ("COPY verifier verifier", "ADD verifier verifier"),
    ],
)
def test_a_mistake_is_noticed(old: str, new: str) -> None:
    count_refusal()
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    assert old in text
    assert lint(text.replace(old, new)) != ""


@pytest.mark.parametrize("name", FILES)
def test_every_stage_stands_on_the_image_that_was_named(name: str) -> None:
    """A default would name a registry, and a version that nobody chose."""
    assert set(found(name, "ARG")) == {"BASE"}
    stages: set[str] = set()
    for line in found(name, "FROM"):
        base, _, stage = line.partition(" AS ")
        assert base == "${BASE}" or base in stages
        stages.add(stage)
    for line in found(name, "COPY"):
        if line.startswith("--from="):
            assert line.removeprefix("--from=").split()[0] in stages | {"enclave"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("base", "accepted"),
    [
        ("python@sha256:" + "a" * 64, True),
        ("host:5000/python:3.11@sha256:" + "a" * 64, True),
        ("python:3.11", False),
        ("python", False),
        ("", False),
    ],
)
def test_an_image_that_is_named_by_its_tag_ends_the_build(
    name: str, base: str, accepted: bool
) -> None:
    if not accepted:
        count_refusal()
    [check] = [line for line in found(name, "RUN") if "BASE" in line]
    done = subprocess.run(
        ["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == accepted
    assert ("by its digest" in done.stderr) != accepted


@pytest.mark.parametrize("name", FILES)
def test_every_install_compares_hashes_or_fetches_nothing(name: str) -> None:
    """U01: a mirror that serves another wheel under a locked name."""
    installs = [
        command
        for line in found(name, "RUN")
        for command in line.split("&&")
        if "install" in command.split()
    ]
    ours = [command for command in installs if "pip" in command]
    assert len(ours) >= 2
    for command in ours:
        assert "--require-hashes" in command or "--no-index --no-deps" in command


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists_and_is_not_ignored(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {p.split(".")[0] for p in project["tool"]["setuptools"]["packages"]}
    copied = {
        source
        for line in found(name, "COPY")
        if not line.startswith("--from=")
        for source in line.split()[:-1]
    }
    assert packages <= copied
    for source in copied:
        assert (ROOT / source).exists(), source
    kept = {
        line[1:]
        for line in (FOLDER / f"{name}.dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert {source.split("/")[0] for source in copied} == kept


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_as_root(name: str) -> None:
    """The charts say the same number, and a cluster refuses a name here."""
    for line in found(name, "USER"):
        assert line == "10001:10001"
    last = [instruction for instruction, _ in instructions(name)]
    assert last[-2] == "USER"


def test_the_driver_is_the_one_that_is_tested() -> None:
    """The lock of PostgreSQL's driver is not part of the one that tests run on."""
    pins = [
        set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / "requirements" / lock).read_text(), re.M))
        for lock in ("postgresql.txt", "dev.txt")
    ]
    assert pins[0] <= pins[1]
