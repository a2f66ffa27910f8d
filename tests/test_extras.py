"""What an installation without extras can do, what each extra adds, and what each command loads.

An environment here holds exactly the packages that one set asks for, with what those ask for:
links to the ones that run this test, in an interpreter that sees nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.refusal import count_refusal
from tests.verifier.world import AT, world

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
SETS = ("", "policy", "provider", "enclave", "scheduler", "measure", "all")
# The roots of what may be imported in an environment of that set.
MODULES = {
    "": ["verifier", "ratls.cli", "ratls.cli_collateral", "ratls.cli_verify_quote"],
    "policy": ["policy", "ratls.offline", "ratls.probe"],
    "provider": ["provider.cli_provider", "provider.release", "provider.agent", "provider.mailbox"],
    "enclave": ["enclave_app.gramine_main", "enclave_app.serving", "enclave_app.compute"],
    "scheduler": ["scheduler.server", "scheduler.store"],
    "measure": ["ratls.cli_measure", "ratls.manifest_template", "verifier.gramine.lint"],
}


def closure(name: str, extras: Iterable[str], seen: set[tuple[str, str]] | None = None) -> set[str]:
    """The distributions that an installer would bring, by name."""
    seen = set() if seen is None else seen
    found = {name}
    for extra in ("", *extras):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in distribution(name).requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                found |= closure(wanted.name, wanted.extras, seen)
    return found


def tops(dist: Distribution) -> set[str]:
    """What the distribution put into site-packages, its metadata too."""
    files = [file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", ".")]
    return set(files) - {"__pycache__"}


class Environment:
    """An interpreter of its own."""

    def __init__(self, folder: Path, extra: str) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        (site,) = (folder / "lib").glob("python*/site-packages")
        self.names = closure("ratls", [extra] if extra else []) - {"ratls"}
        for name in self.names:
            dist = distribution(name)
            for top in tops(dist):
                place = site / top
                if not place.exists():
                    place.symlink_to(Path(str(dist.locate_file(top))))
        own = [distribution("ratls"), distribution("ratls-simulation")]
        for dist in own:
            (info,) = {file.parts[0] for file in dist.files or () if "dist-info" in file.parts[0]}
            (site / info).symlink_to(Path(str(dist.locate_file(info))))
        (site / "ratls.pth").write_text(f"{ROOT}\n")

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        program = "import sys; from ratls.cli import main; sys.argv[0] = 'ratls'; main()"
        command = [self.python, "-I", "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Environment]:
    return {extra: Environment(tmp_path_factory.mktemp("venv"), extra) for extra in SETS}


@pytest.fixture(scope="module")
def quote(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What follows `ratls verify` to have a simulated quote accepted."""
    w, folder = world(), tmp_path_factory.mktemp("quote")
    file, bundle = folder / "quote.bin", folder / "collateral.json"
    file.write_bytes(w.quote())
    bundle.write_bytes(w.collateral().raw)
    root = ["--root", w.intel.anchors().name, "--allow-simulation"]
    return [file, "--collateral", bundle, "--at", int(AT.timestamp()), *root]


def test_the_plain_installation_is_small(environments: dict[str, Environment]) -> None:
    direct = [line for line in distribution("ratls").requires or () if "extra ==" not in line]
    assert len(direct) == 6
    heavy = {"numpy", "pyarrow", "grpcio", "scipy", "sqlalchemy", "cbor2"}
    assert not heavy & environments[""].names
    assert len(environments[""].names) < 25 < len(environments["all"].names)


def test_the_plain_installation_verifies(
    environments: dict[str, Environment], quote: list[object]
) -> None:
    plain = environments[""]
    for command in (["verify", "quote"], ["verify", "forecast"]):
        done = plain.run(*command, *quote)
        assert done.returncode == 0, done.stderr
    shown = plain.run("collateral", "show", quote[2], *quote[3:], "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["tee"] == "sgx"
    assert plain.run("--help").returncode == 0
    fetched = plain.run(
        "collateral", "fetch", quote[0], "-o", "x", "--from", "https://127.0.0.1:9",
        "--no-cache", "--timeout", "0.5", *quote[5:],
    )  # fmt: skip
    assert fetched.returncode == 5, fetched.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("policy lint policy.toml", "policy"),
        ("party new alice --dir {new}", "policy"),
        ("verify cert x.pem --agreement a --collateral b", "policy"),
        ("verify quote q --collateral c --policy p.toml", "policy"),
        (
            "provider push --task t --dataset d --source s --enclave 127.0.0.1:9 --collateral c "
            "--party p",
            "provider",
        ),
        ("task list --scheduler 127.0.0.1:9 --scheduler-certificate s --party p", "provider"),
        (
            "enclave serve --agreement a --listen 127.0.0.1:0 --attester simulation:x "
            "--allow-simulation",
            "enclave",
        ),
        ("measure manifest x --libpal x", "measure"),
        ("enclave lint x", "measure"),
        ("enclave manifest x -o {new}", "measure"),
        ("scheduler serve --agreement a --listen 127.0.0.1:0 --state {new}", "scheduler"),
    ],
)
def test_a_command_of_a_set_that_is_not_installed(
    environments: dict[str, Environment], tmp_path: Path, command: str, extra: str
) -> None:
    """It says what to install, and ends as any unusable input; with the set it does not."""
    count_refusal()
    words = [word.replace("{new}", str(tmp_path / "new")) for word in command.split()]
    done = environments[""].run(*words)
    assert done.returncode == 3, done.stderr
    assert "[package-missing]" in done.stderr
    assert f'pip install "ratls[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
    twin = environments[extra].run(*words)
    assert "package-missing" not in twin.stderr
    assert "Traceback" not in twin.stderr


@pytest.mark.parametrize("extra", SETS)
def test_each_set_is_enough(environments: dict[str, Environment], extra: str) -> None:
    wanted = {"": ["", "policy"], "all": list(MODULES)}.get(extra, ["", "policy", extra])
    modules = [m for part in (wanted if extra else [""]) for m in MODULES[part]]
    program = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]"
    command = [environments[extra].python, "-I", "-c", program, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What a command loads that is not of the standard library; ours left out, and what these load.
LOADED = {
    "verify quote": {"cryptography", "pydantic", "rich", "typer"},
    "verify forecast": {"cryptography", "pydantic", "rich", "typer"},
    "collateral show": {"cryptography", "pydantic", "rich", "typer"},
}
HEAVY = {
    "cbor2", "certifi", "cryptography", "google", "grpc", "httpx", "numpy", "OpenSSL", "pandas",
    "platformdirs", "pyarrow", "pydantic", "rich", "scipy", "securesystemslib", "sqlalchemy",
    "structlog", "typer",
}  # fmt: skip


@pytest.mark.parametrize("command", list(LOADED))
def test_a_command_loads_no_more_than_it_needs(
    environments: dict[str, Environment], quote: list[object], command: str
) -> None:
    """typer itself loads pydantic."""
    arguments = [*command.split(), *(quote[2:] if "show" in command else quote)]
    program = (
        "import sys; from ratls.cli import main; sys.argv[0] = 'ratls'\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    call = [environments[""].python, "-I", "-c", program, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(re.findall(r"^LOADED (.*)$", done.stdout, re.MULTILINE)[0].split())
    assert loaded & HEAVY == LOADED[command]


def test_the_sets_name_what_the_packages_import(environments: dict[str, Environment]) -> None:
    """Every module can be imported in the largest set; nothing else is there."""
    program = (
        "import importlib, pkgutil\n"
        "for root in 'verifier policy ratls scheduler provider enclave_app simulation'.split():\n"
        "    package = importlib.import_module(root)\n"
        "    for found in pkgutil.walk_packages(package.__path__, root + '.'):\n"
        "        importlib.import_module(found.name)\n"
    )
    command = [environments["all"].python, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
