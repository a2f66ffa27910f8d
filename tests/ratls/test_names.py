"""Another package takes the name of one of ours: nothing of it runs, and the refusal says whose."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from ratls.attester_option import resolve_attester
from ratls.cli import build
from ratls.foreign_package import ForeignPackage, require_own
from ratls.names import CODE, COMMANDS, ENCLAVE, UNUSABLE, Foreign, foreign
from ratls.owners import fix, owners, refusal
from tests.support.refusal import count_refusal, refused
from verifier.errors import Exit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
# What would show that the foreign code ran.
FOREIGN = "import sys\nsys.stderr.write('FOREIGN CODE RAN')\nraise RuntimeError\n"


def overwrite(site: Path, name: str, owner: str = "scheduler", version: str = "0.8.2") -> Path:
    """What `pip install OWNER` leaves in a folder that comes first on the path."""
    package = site / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FOREIGN)
    info = site / f"{owner}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {owner}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    return package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on the path; what was loaded before does not count."""
    for name in (*COMMANDS, "simulation"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [*COMMANDS, "simulation"])
def test_a_package_is_ours(name: str) -> None:
    """Loaded or not, from a folder or from an installation."""
    assert foreign((name,)) == ()
    require_own(name)


@pytest.mark.parametrize("name", [*COMMANDS, "simulation"])
def test_a_package_was_overwritten(site: Path, name: str) -> None:
    """U09: pip says nothing, and the next import runs what another distribution brought."""
    package = overwrite(site, name)
    assert foreign((name,)) == (Foreign(name, str(package / "__init__.py")),)
    with refused(ForeignPackage) as seen:
        require_own(name)
    assert "scheduler 0.8.2" in str(seen.error)
    assert "pip uninstall scheduler" in seen.error.fix


def test_a_package_is_gone_with_the_one_that_overwrote_it(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip uninstall` takes our file along: what is left is a folder, or nothing."""
    (site / "scheduler").mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    found = foreign(("scheduler", "policy"))
    assert found == (Foreign("scheduler", str(site / "scheduler")), Foreign("policy", "nothing"))


def test_one_module_has_the_name(site: Path) -> None:
    (site / "policy.py").write_text(FOREIGN)
    count_refusal()
    assert foreign(("policy",)) == (Foreign("policy", str(site / "policy.py")),)


@pytest.mark.parametrize("name", ["verifier", "scheduler"])
def test_an_image_has_bytecode_alone(site: Path, name: str) -> None:
    """The line is found there, too; in that of another package it is not."""
    folder = site / name
    folder.mkdir()
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    source = str(ROOT / name / "__init__.py")
    py_compile.compile(source, str(folder / "__init__.pyc"), invalidation_mode=mode)
    assert foreign((name,)) == ()
    other = site / "other.py"
    other.write_text(FOREIGN)
    py_compile.compile(str(other), str(folder / "__init__.pyc"), invalidation_mode=mode)
    assert [one.name for one in foreign((name,))] == [name]


def command(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`ratls WORDS` in an environment in which this folder comes first."""
    program = "import sys; from ratls.start import main; sys.argv[0] = 'ratls'; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=site,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("scheduler", ["verify", "quote", "x"]), ("verifier", ["--help"]), ("verifier", ["doctor"])],
)
def test_a_command_is_not_run(tmp_path: Path, name: str, words: list[str]) -> None:
    """U09: refused before anything of that package runs, whichever command needs it."""
    count_refusal()
    overwrite(tmp_path, name)
    done = command(tmp_path, *words)
    assert done.returncode == UNUSABLE == Exit.UNUSABLE
    assert done.stderr.startswith(f"unusable [{CODE}] package {name}: ")
    assert "scheduler 0.8.2" in done.stderr
    assert "FOREIGN CODE RAN" not in done.stderr
    assert done.stdout == ""


def test_a_command_runs_where_all_is_ours(tmp_path: Path) -> None:
    """Another distribution with a package of its own beside ours is nobody's concern."""
    overwrite(tmp_path, "schedule", owner="schedule")
    done = command(tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "")


def enclave(site: Path) -> subprocess.CompletedProcess[str]:
    """The enclave's entry point, in an image that is this folder."""
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import runpy;"
        "sys.argv = ['x']; runpy.run_module('enclave_app.gramine_main', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["policy", "verifier"])
def test_the_enclave_does_not_start(tmp_path: Path, name: str) -> None:
    """U09: an image that was built beside another package is measured, and still not ours."""
    count_refusal()
    overwrite(tmp_path, name)
    done = enclave(tmp_path)
    assert done.returncode == UNUSABLE
    assert done.stderr.startswith(f"unusable [{CODE}] package {name}: ")
    assert "FOREIGN CODE RAN" not in done.stderr


def test_the_enclave_starts_beside_a_package_that_it_does_not_carry(tmp_path: Path) -> None:
    """It goes as far as it does anywhere outside SGX."""
    overwrite(tmp_path, "scheduler")
    assert "scheduler" not in ENCLAVE
    assert "[sgx-absent]" in enclave(tmp_path).stderr


def test_looking_loads_nothing() -> None:
    """It is paid for at each start: no metadata is read, and no package is loaded."""
    program = (
        "import sys; from ratls.names import COMMANDS, foreign; print(foreign(COMMANDS));"
        "print([m for m in (*COMMANDS, 'importlib.metadata', 'typer') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "()\n['ratls']\n"


def test_a_simulation_of_somebody_else_is_not_loaded(site: Path) -> None:
    """X09: the entry point is ours, and the package that it names was overwritten since."""
    overwrite(site, "simulation", owner="simulation")
    with refused(ForeignPackage):
        build("simulation")
    with refused(ForeignPackage):
        resolve_attester("simulation:x", allow_simulation=True)


def test_owners_are_named_from_their_metadata(site: Path) -> None:
    """Also those that came first, and whose file ours replaced. Broken metadata names nobody."""
    assert owners("scheduler") == ()
    overwrite(site, "scheduler")
    shutil.copytree(site / "scheduler-0.8.2.dist-info", site / "no_name-1.dist-info")
    (site / "no_name-1.dist-info" / "METADATA").write_text("Name: \x1b[31m$(reboot)\n\n")
    assert owners("scheduler") == ("a distribution of no name", "scheduler 0.8.2")
    assert owners("provider") == ()


def test_the_remedy_fits_what_was_found(site: Path) -> None:
    assert fix(["scheduler 0.8.2", "x 1"]).count("pip uninstall scheduler x &&") == 1
    assert "PYTHONPATH" in fix([])
    (site / "policy").mkdir()
    (site / "policy" / "__init__.py").write_text(FOREIGN)
    sentence, remedy = refusal(foreign(("policy",)))
    assert str(site) in sentence
    assert "uninstall" not in remedy
    assert json.dumps(sentence)
