"""What is shipped is what is listed: a stray module in a wheel would be installed, and measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.imports import measured_files
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
LIST = ROOT / "tests" / "vectors" / "wheels.txt"
SOURCES = ["verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the wheels, built from a copy so that no build folder is left in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "manifests", tree / "manifests", ignore=unwanted)
    for project in (tree, tree / "simulation", tree / "manifests" / "enclave"):
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
             "--no-build-isolation", "-w", str(tree / "wheels"), str(project)],
            check=True,
            capture_output=True,
        )  # fmt: skip
    return tree / "wheels"


@pytest.fixture(scope="module")
def shipped(wheels: Path) -> dict[str, set[str]]:
    """The names in each wheel, by distribution."""
    return {
        wheel.name.split("-")[0]: {
            name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name
        }
        for wheel in wheels.glob("*.whl")
    }


def listed(distribution: str) -> set[str]:
    """The lines of one section of the list."""
    sections = LIST.read_text("utf-8").split("# ")
    body = next(s for s in sections if s.startswith(distribution + "\n"))
    return set(body.splitlines()[1:]) - {""}


def measured() -> list[str]:
    """The files that the distribution `ratls-enclave` says it has."""
    return (ROOT / "enclave_app" / "measured.txt").read_text("utf-8").split()


def test_the_enclave_consists_of_what_it_imports_and_of_nothing_else(
    shipped: dict[str, set[str]],
) -> None:
    """U02: each file of it is measured, and a change to any is another MRENCLAVE for all parties.

    After a change: `python -m tests.support.imports > enclave_app/measured.txt`.
    """
    count_refusal()
    assert measured() == measured_files()
    assert shipped["ratls_enclave"] == set(measured())
    assert shipped["ratls_enclave"] < shipped["ratls"]


def test_the_enclave_runs_without_the_other_distributions(wheels: Path, tmp_path: Path) -> None:
    """Outside SGX the production entry point refuses; with a module missing it could not."""
    count_refusal()
    (wheel,) = wheels.glob("ratls_enclave-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in repr(f)];"
        f"sys.path[:] = [{str(tmp_path)!r}, *sys.path]; import enclave_app;"
        f"assert enclave_app.__file__.startswith({str(tmp_path)!r});"
        "import enclave_app.server, enclave_app.application, enclave_app.computations;"
        "from enclave_app.gramine_main import main; sys.exit(main([]))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (3, "")
    assert "[sgx-absent]" in run.stderr


@pytest.mark.parametrize("distribution", ["ratls", "ratls_simulation"])
def test_a_wheel_holds_exactly_what_is_listed(
    shipped: dict[str, set[str]], distribution: str
) -> None:
    """U02: a start-up hook or a forgotten module would ride along. The list is kept by hand."""
    assert shipped[distribution] == listed(distribution)


def test_the_production_wheel_cannot_simulate(
    shipped: dict[str, set[str]], tmp_path: Path, wheels: Path
) -> None:
    """X03, X04: what is absent cannot be switched on, whatever the host does."""
    count_refusal()
    assert not [name for name in shipped["ratls"] if "simulation" in name]
    assert not [n for names in shipped.values() for n in names if n.endswith((".pth", ".so"))]
    (wheel,) = wheels.glob("ratls-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import verifier.modes as m; print(sorted(m.known_roots())); import simulation"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S: nothing of this environment's packages
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "['intel']\n"
    assert "No module named 'simulation'" in run.stderr
