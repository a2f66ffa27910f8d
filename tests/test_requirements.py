"""U01: what is installed is what was locked, byte for byte."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def unlocked(makefile: str) -> list[str]:
    """Lines that install something from elsewhere without comparing hashes."""
    return [
        line.strip()
        for line in makefile.splitlines()
        if re.search(r"\$\(PIP\)|pip install", line)
        and not line.startswith("PIP :=")
        and "--require-hashes -r requirements/" not in line
        and "--no-deps --no-build-isolation -e ." not in line  # our own, with what is there
    ]


def test_every_install_compares_hashes() -> None:
    count_refusal()
    assert unlocked(MAKEFILE) == []
    assert len(re.findall(r"--require-hashes -r requirements/", MAKEFILE)) >= 4
    for planted in (
        "\t$(PIP) -r requirements/run.txt",
        "\t$(PIP) pytest",
        "\t$(BIN)/pip install --no-deps x",
    ):
        assert unlocked(f"{MAKEFILE}\n{planted}\n") == [planted.strip()]


@pytest.mark.parametrize("failing", ["arrays.txt", "run.txt", "./simulation", None])
def test_an_install_that_fails_beside_another_stops_make(
    tmp_path: Path, failing: str | None
) -> None:
    """U01: two run at once, and a refused hash in either must not go by unseen."""
    pip, done = tmp_path / "pip", tmp_path / "venv" / ".runs"
    pip.write_text(f"""#!/bin/sh\ncase "$*" in *"{failing}"*) exit 1;; esac\n""")
    pip.chmod(0o700)
    done.parent.mkdir()
    tools = (f"VENV={done.parent}", f"PIP={pip}", "PYTHON=true", "COMPILE=true")
    make = subprocess.run(["make", "-C", ROOT, *tools, done], capture_output=True, check=False)
    assert (make.returncode == 0) == done.exists() == (failing is None)
    if failing is not None:
        count_refusal()


def wheel(folder: Path, content: str) -> Path:
    """A package of one line."""
    path = folder / "locked_thing-1-py3-none-any.whl"
    info = "locked_thing-1.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("locked_thing.py", content)
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: locked-thing\nVersion: 1\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", "")
    return path


def test_a_package_that_differs_from_its_lock_is_not_installed(tmp_path: Path) -> None:
    """U01: a mirror serves another wheel under the name and version that were locked."""
    count_refusal()
    path = wheel(tmp_path, "honest = True\n")
    lock = tmp_path / "lock.txt"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lock.write_text(f"locked-thing==1 --hash=sha256:{digest}\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-index", "--find-links", str(tmp_path), "--require-hashes", "-r", str(lock)]
    subprocess.run([*install, "--target", tmp_path / "one"], check=True, capture_output=True)
    assert (tmp_path / "one" / "locked_thing.py").exists()
    wheel(tmp_path, "honest = False\n")
    seen = subprocess.run(
        [*install, "--target", tmp_path / "two"], capture_output=True, text=True, check=False
    )
    assert seen.returncode != 0
    assert "DO NOT MATCH THE HASHES" in seen.stderr
    assert not (tmp_path / "two").exists()
