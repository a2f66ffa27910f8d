"""The simulated MRENCLAVE covers every file of the enclave, wherever Python would take it from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulation import measure as module
from simulation.measure import MeasuredPackageMissing, measure
from tests.support.refusal import count_refusal, refused

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def enclave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of the enclave and of everything else, in a folder of the test."""
    for package in ("verifier", "policy", "ratls", "enclave_app"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(module, "find_spec", partial(_found, tmp_path))
    return tmp_path


def _found(folder: Path, package: str) -> SimpleNamespace:
    return SimpleNamespace(submodule_search_locations=[str(folder / package)])


def test_measurement_is_32_bytes_and_repeats(enclave: Path) -> None:
    assert measure() == measure()
    assert len(measure()) == 32


CHANGES: dict[str, Callable[[Path], object]] = {
    "one byte of code": lambda f: append(f / "policy" / "rows.py", "\n"),
    "a byte of another package": lambda f: append(f / "verifier" / "quote.py", "\n"),
    "what the enclave consists of": lambda f: append(
        f / "enclave_app" / "measured.txt", "enclave_app/cli.py\n"
    ),
    "a byte moves to the next file": lambda f: (
        append(f / "policy" / "values.py", "x"),
        cut(f / "policy" / "text.py"),
    ),
}
OUTSIDE: dict[str, Callable[[Path], object]] = {
    "a command": lambda f: append(f / "ratls" / "cli_verify_forecast.py", "\n"),
    "what judges platforms": lambda f: append(f / "verifier" / "tcb.py", "\n"),
    "a client's end": lambda f: append(f / "ratls" / "client_stream.py", "\n"),
    "a new module": lambda f: (f / "policy" / "new.py").write_bytes(b""),
    "what the interpreter caches": lambda f: (
        (f / "policy" / "__pycache__").mkdir(),
        (f / "policy" / "__pycache__" / "rows.cpython-311.pyc").write_bytes(b"cache"),
    ),
}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text("utf-8") + text, "utf-8")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_attacker_changes_the_code(enclave: Path, change: Callable[[Path], object]) -> None:
    """The policy's value no longer fits, so admission refuses at the measurement."""
    count_refusal()
    before = measure()
    change(enclave)
    assert measure() != before


@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE)
def test_a_change_outside_the_enclave_is_no_other_measurement(
    enclave: Path, change: Callable[[Path], object]
) -> None:
    """Otherwise all parties would sign again for a command that never runs inside."""
    before = measure()
    change(enclave)
    assert measure() == before


def test_a_copy_that_shadows_the_installed_package_is_what_is_measured(tmp_path: Path) -> None:
    """PYTHONPATH decides what runs, so it must decide what is measured."""
    count_refusal()
    shutil.copytree(
        ROOT / "verifier", tmp_path / "verifier", ignore=shutil.ignore_patterns("__pycache__")
    )
    command = [
        sys.executable,
        "-B",
        "-c",
        "from simulation.measure import measure; print(measure().hex())",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def shadowed() -> str:
        run = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    assert shadowed() == measure().hex()
    with (tmp_path / "verifier" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nKEEP_A_COPY = True\n")
    assert shadowed() != measure().hex()


def test_a_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with refused(MeasuredPackageMissing):
        measure()


def test_a_file_is_not_installed(enclave: Path) -> None:
    (enclave / "policy" / "rows.py").unlink()
    with refused(MeasuredPackageMissing):
        measure()
