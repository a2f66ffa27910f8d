"""Servers and clients in processes of their own, and what each took of the machine.

    with serving([…, "serve"]) as server:         # its first line is `ready HOST:PORT`
        taken = run(server, [sys.executable, "-m", …, server.address])
        taken.seconds, taken.cpu, taken.client_memory, taken.server_memory

A client prints one JSON object: the `seconds` of its work, its `cpu` seconds in them, and the
resident bytes at their beginning (`base`) and at most (`peak`).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class ProcessFailed(Exception):
    """A server or client ended before its time; the text is the end of what it said."""


@dataclass(frozen=True)
class Server:
    """A process that listens."""

    pid: int
    address: str

    def cpu(self) -> float:
        """Seconds so far: the counters of `getrusage`, in steps of 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Taken:
    """What one run took."""

    seconds: float  #        of the work
    process: float  #        seconds of the client from start to exit
    client_cpu: float  #     seconds of the client's work
    server_cpu: float
    client_memory: int  #    bytes over what was resident when the work began
    server_memory: int
    answer: dict[str, Any]

    @property
    def cpu(self) -> float:
        """Of both ends."""
        return self.client_cpu + self.server_cpu


def memory(pid: int | str, field: str) -> int:
    """Bytes of a field of /proc: `VmRSS` is resident now, `VmHWM` was at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


@contextmanager
def serving(command: list[str]) -> Iterator[Server]:
    """Start it, wait until it is ready, and end it with the block."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )
        try:
            assert process.stdout is not None
            ready, _, address = process.stdout.readline().strip().partition(" ")
            if ready != "ready":
                log.seek(0)
                raise ProcessFailed(log.read()[-2000:])
            yield Server(process.pid, address)
        finally:
            process.terminate()
            process.communicate()


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a client."""
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 - our own program, no shell
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a client; what it printed."""
    out, error = process.communicate()
    if process.returncode:
        raise ProcessFailed(error[-2000:])
    answer: dict[str, Any] = json.loads(out)
    return answer


def all_at_once(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Clients that wait until all have started: each says `here`, and begins after a line."""
    clients = [start(command) for command in commands]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    for client in clients:
        assert client.stdin is not None
        with suppress(BrokenPipeError):  # it has failed: `finish` says why
            client.stdin.write("\n")
            client.stdin.flush()
    return [finish(client) for client in clients]


def run(server: Server, command: list[str]) -> Taken:
    """One client after the other: nothing else runs meanwhile."""
    before, resident = server.cpu(), memory(server.pid, "VmRSS")
    began = time.perf_counter()
    answer = finish(start(command))
    process = time.perf_counter() - began
    return Taken(
        seconds=answer["seconds"],
        process=process,
        client_cpu=answer["cpu"],
        server_cpu=server.cpu() - before,
        client_memory=answer["peak"] - answer["base"],
        server_memory=memory(server.pid, "VmHWM") - resident,
        answer=answer,
    )
