"""Three clinics train with the real Flower, and every byte between them goes through ratls.

ratls demo --study federated --tee tdx --keep study
python examples/federated/flower/through_tunnel.py study FLOWER/bin [--rounds N]

FLOWER/bin is of an environment that has Flower: pip install --require-hashes -r requirements.txt.
The SuperLink stands in the guest and listens on 127.0.0.1 alone; `ratls tunnel server` proves the
guest to each clinic. Each SuperNode knows nothing of that: it connects to its own `ratls tunnel
client`, which lets no byte out before the guest has proved that it is the agreed one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATLS = str(Path(sys.executable).with_name("ratls"))
CLINICS = ("alice", "bob", "dora")
SECONDS = 300  # for the whole training


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Program:
    """A process that runs until the example ends, and what it printed."""

    def __init__(self, *command: str, folder: Path, env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._said = threading.Condition()
        self.child = subprocess.Popen(  # noqa: S603 - the commands below
            command,
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """The first group of the first line that has it."""

        def found() -> re.Match[str] | None:
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self._said:
            match = self._said.wait_for(found, seconds)
        if match is None:
            raise SystemExit(f"{pattern!r} did not come:\n" + "\n".join(self.lines[-20:]))
        return match.group(1)

    def end(self) -> None:
        """Itself and what it started."""
        for number in (15, 9):
            try:
                os.killpg(self.child.pid, number)
                self.child.wait(5)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def main(study: Path, flower: Path, rounds: int) -> float:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flower-")))
        inside = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{flower}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }
        app = home / "app"
        shutil.copytree(HERE, app, ignore=shutil.ignore_patterns("__pycache__", "*.txt", "*.in"))

        def start(*command: str, folder: Path = home, env: dict[str, str] = inside) -> Program:
            program = Program(*command, folder=folder, env=env)
            stack.callback(program.end)
            return program

        def ratls(*command: str) -> Program:
            # Flower's settings are none of ratls's business, and gRPC's are refused by it.
            return start(RATLS, *command, folder=study, env={**os.environ})

        port = free_port()
        superlink = start(
            str(flower / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port",
            str(port), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        superlink.wait_for(r"(running on|startup complete)")
        agreement = ("--agreement", "policy.agreement.json", "--allow-simulation")
        server = ratls(
            "tunnel", "server", *agreement, "--attester", "simulation:intel/trust-domain", "--to",
            f"127.0.0.1:{port}",
        )  # fmt: skip
        guest = server.wait_for(r"^ready (\S+)")
        print(f"the guest proves itself at {guest}, and leads to the SuperLink", flush=True)
        for number, who in enumerate(CLINICS):
            tunnel = ratls(
                "tunnel", "client", guest, *agreement, "--collateral", "intel/collateral.tdx.json",
                "--party", f"{who}/keys", "--passphrase-file", f"{who}/passphrase", "--state",
                f"{who}/state",
            )  # fmt: skip
            own = tunnel.wait_for(r"^ready (\S+)")
            print(f"{who}: the guest is the agreed one; SuperNode -> {own} -> tunnel", flush=True)
            start(
                str(flower / "flower-supernode"), "--insecure", "--superlink", own, "--port",
                str(free_port()), "--node-config", f"clinic={number}",
            )  # fmt: skip
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
            "insecure = true\n"
        )
        run = start(
            str(flower / "flwr"), "run", str(app), "here", "--stream", "--run-config",
            f"num-server-rounds={rounds}",
        )  # fmt: skip
        accuracy = float(run.wait_for(r"ACCURACY ([0-9.]+)", SECONDS))
        print(f"{rounds} rounds of FedAvg by Flower: accuracy {accuracy:.1%}", flush=True)
        return accuracy


if __name__ == "__main__":
    study, flower, *more = sys.argv[1:]
    main(
        Path(study).resolve(),
        Path(flower).resolve(),
        int(more[1]) if more[:1] == ["--rounds"] else 2,
    )
