"""What an agent costs that has 1,000 tasks before it and an enclave that is away.

    python benchmarks/agent.py [--json]

The agent is the real command in a process of its own. `settle`: seconds from its start until it has
judged them all and waits. `idle_cpu`, `idle_memory`: afterwards, while it waits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Run as a file, this folder would come first, and files in it would hide packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scheduler import case, cpu_seconds, memory
from ratls.address import Address
from scheduler.certificate import CERTIFICATE_FILE
from scheduler.limits import Limits
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.support.enclave import EnclaveWorld
from tests.support.scheduler import running_scheduler

QUEUED, IDLE_SECONDS = 1000, 20.0
LIMITS = Limits(open_tasks=10**6, tasks_per_minute=10**6)
NOBODY = Address("127.0.0.1", 1)  # refuses at once


def measure(folder: Path) -> dict[str, Any]:
    world = EnclaveWorld.create()
    alice = Desk.of("alice", world, folder, NOBODY)
    queue = folder / "mailbox"
    queue.mkdir()
    with running_scheduler(queue, [world.complete], limits=LIMITS) as live:
        carol = live.client(world.consortium.carol)
        for number in range(QUEUED):
            carol.submit(world.task(random=lambda size, n=number: n.to_bytes(size, "big")))
        config = configure(alice, str(live.address), queue / CERTIFICATE_FILE)
        command = [str(Path(sys.executable).with_name("ratls")), "provider", "agent"]
        start = time.perf_counter()
        agent = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [*command, "--config", str(config), "--allow-simulation"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            settle = _settled(agent.pid, start)
            before = cpu_seconds(agent.pid)
            time.sleep(IDLE_SECONDS)
            used = cpu_seconds(agent.pid) - before
            resident = memory(agent.pid)
        finally:
            agent.terminate()
            agent.wait()
    percent = max(100 * used / IDLE_SECONDS, 0.01)
    return {
        "settle": case(settle, "s", 30),
        "idle_cpu": case(percent, "% of a core", 2),
        "idle_memory": case(resident, "MiB", 250),
    }


def _settled(pid: int, start: float) -> float:
    """Seconds until it has nothing more to do: a second in which it hardly works."""
    while True:
        before = cpu_seconds(pid)
        time.sleep(1)
        if time.perf_counter() - start > 5 and cpu_seconds(pid) - before < 0.05:
            return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(Path(folder))
    if as_json:
        print(json.dumps(cases))
        return
    for name, one in cases.items():
        print(f"{name:20} {one['ours']:>9} {one['unit']}, goal {one['goal']}")


if __name__ == "__main__":
    main()
