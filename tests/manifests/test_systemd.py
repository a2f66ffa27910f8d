"""The units of manifests/systemd: what systemd says of them, and of how they are confined."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.refusal import count_refusal
from verifier.errors import Exit

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent.parent / "manifests/systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
TOOLS = "/opt/ratls/tools/bin/ratls"
# What `systemd-analyze security` may count at most, 0 to 100; a unit without any setting has 96.
EXPOSURE = {
    "ratls-agent@.service": 15,
    "ratls-scheduler.service": 15,
    "ratls-enclave.service": 35,
    "ratls-enclave-tdx.service": 40,
}


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Units of the folder come first; those of this machine's systemd are behind them."""
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, as on a machine that has the programs that they start."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("RATLS_REQUIRE_SYSTEMD") == "1":
            pytest.fail("RATLS_REQUIRE_SYSTEMD=1 and there is no systemd-analyze")
        pytest.skip("SYSTEMD ABSENT: apt-get install systemd")
    for name in UNITS:
        text = (FOLDER / name).read_text("utf-8")
        for program in (TOOLS, "/usr/bin/gramine-sgx"):
            text = text.replace(program, sys.executable)
        (tmp_path / name).write_text(text, "utf-8")
    aesmd = f"[Service]\nExecStart={sys.executable}\n"
    (tmp_path / "aesmd.service").write_text(aesmd, "utf-8")
    return tmp_path


def verify(folder: Path, name: str) -> str:
    instance = folder / name.replace("@.", "@my-study.")
    if not instance.exists():
        instance.symlink_to(folder / name)
    done = analyze("verify", "--man=no", str(instance), folder=folder)
    return done.stdout + done.stderr


def test_every_unit_has_its_limit() -> None:
    assert EXPOSURE.keys() == set(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say(installed: Path, name: str) -> None:
    assert verify(installed, name) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ProtectSystem=strict", "ProtectSystem=very"),
        ("Restart=on-failure", "Restrat=on-failure"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@system-servic"),
        (sys.executable, "/opt/ratls/tools/bin/rattles"),
    ],
)
def test_a_unit_with_a_mistake_is_noticed(installed: Path, old: str, new: str) -> None:
    count_refusal()
    unit = installed / "ratls-scheduler.service"
    text = unit.read_text("utf-8")
    assert old in text
    unit.write_text(text.replace(old, new), "utf-8")
    assert verify(installed, unit.name) != ""


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_confined(installed: Path, name: str) -> None:
    """A program that was broken into reaches its own state and the network."""

    def exposed() -> bool:
        return bool(
            analyze(
                "security", "--offline=true", f"--threshold={EXPOSURE[name]}",
                str(installed / name), folder=installed,
            ).returncode
        )  # fmt: skip

    assert not exposed()
    count_refusal()
    text = (installed / name).read_text("utf-8")
    assert "NoNewPrivileges=yes\n" in text
    for line in ("NoNewPrivileges=yes\n", "ProtectSystem=strict\n", "RestrictNamespaces=yes\n"):
        text = text.replace(line, "")
    (installed / name).write_text(text, "utf-8")
    assert exposed()


def test_users_are_made_for_all_units() -> None:
    made = re.findall(r"^u (\S+)", (FOLDER / "ratls-sysusers.conf").read_text("utf-8"), re.M)
    used = {
        user
        for name in UNITS
        for user in re.findall(r"^User=(\S+)", (FOLDER / name).read_text("utf-8"), re.M)
    }
    assert set(made) | {"root"} == used
    assert "User=root" in (FOLDER / "ratls-enclave-tdx.service").read_text("utf-8")


@pytest.mark.parametrize("name", UNITS)
def test_each_command_has_the_options_that_are_there(name: str) -> None:
    """Files are missing here, so a command ends; but not because it does not know an option."""
    text = (FOLDER / name).read_text("utf-8").replace("%i", "my-study")
    for line in re.findall(r"^ExecStart=(.+)$", text, re.M):
        program, *words = shlex.split(line)
        if program == TOOLS:
            ratls = Path(sys.executable).parent / "ratls"
            done = subprocess.run([ratls, *words], capture_output=True, text=True, check=False)
            assert done.returncode not in (Exit.YES, Exit.BUG, Exit.USAGE), done.stderr
        else:
            assert [program, *words] == ["/usr/bin/gramine-sgx", "ratls-enclave"]
