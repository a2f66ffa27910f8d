"""The simulated MRENCLAVE covers every file of the enclave, wherever Python would take it from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation import measure as module
from simulation.measure import MEASURED_PACKAGES, MeasuredPackageMissing, measure
from tests.support.refusal import count_refusal, refused

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "an_enclave_of_a_test"


@pytest.fixture
def enclave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package, measured in the place of the real ones."""
    folder = tmp_path / PACKAGE
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_bytes(b"")
    (folder / "a.py").write_bytes(b"x = 1\n")
    (folder / "inner" / "root.der").write_bytes(b"\x30\x00")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "MEASURED_PACKAGES", (PACKAGE,))
    return folder


def test_measurement_is_32_bytes_and_repeats() -> None:
    assert measure() == measure()
    assert len(measure()) == 32


def test_what_an_enclave_imports_is_measured() -> None:
    """A package that runs inside and is not measured could be exchanged unseen."""
    assert set(MEASURED_PACKAGES) == {"verifier", "policy", "ratls", "enclave_app"}


CHANGES: dict[str, Callable[[Path], object]] = {
    "one byte of code": lambda f: (f / "a.py").write_bytes(b"x = 2\n"),
    "a byte of data below": lambda f: (f / "inner" / "root.der").write_bytes(b"\x30\x01"),
    "another file": lambda f: (f / "b.py").write_bytes(b""),
    "a file less": lambda f: (f / "a.py").unlink(),
    "another name": lambda f: (f / "a.py").rename(f / "c.py"),
    "a byte moves to the next file": lambda f: (
        (f / "__init__.py").write_bytes(b"x"),
        (f / "a.py").write_bytes(b" = 1\n"),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_attacker_changes_the_code(enclave: Path, change: Callable[[Path], object]) -> None:
    """The policy's value no longer fits, so admission refuses at the measurement."""
    count_refusal()
    before = measure()
    change(enclave)
    assert measure() != before


def test_what_the_interpreter_caches_is_left_out(enclave: Path) -> None:
    """Otherwise the first run would change the measurement of the second."""
    before = measure()
    (enclave / "__pycache__").mkdir()
    (enclave / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"cache")
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
    monkeypatch.setattr(module, "MEASURED_PACKAGES", ("no_such_package_anywhere",))
    with refused(MeasuredPackageMissing):
        measure()
