"""What the mailbox costs: tasks per second, and a scheduler that waits.

    python benchmarks/scheduler.py [--json]

`submit`: signed tasks handed in through mutual TLS, verified and committed to SQLite with a sync
to the disk, one client after the other and four at once. The peer is the bare store in the same
process: the same commits without TLS, signatures and gRPC.
`watch`: milliseconds from the submission of a task to its arrival at an idle agent.
`idle`: memory and CPU of a scheduler with 1,000 queued tasks and two agents that watch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Run as a file, this folder would come first, and this file would hide the package of its name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policy.agreement import Agreement
from ratls.address import Address
from ratls.log import open_log
from scheduler.certificate import own_certificate
from scheduler.client import SchedulerClient
from scheduler.database import queue_file
from scheduler.limits import Limits
from scheduler.server import start_server
from scheduler.service import Roster
from scheduler.store import NewTask, Store
from tests.support.parties import ROOTS, Consortium, TaskWorld
from tests.support.scheduler import NOW, channel

TASKS, CLIENTS, QUEUED, IDLE_SECONDS, ROUNDS = 600, 4, 1000, 10.0, 50
LIMITS = Limits(open_tasks=10**6, tasks_per_minute=10**6)
Case = dict[str, Any]


def serve(folder: Path, agreement: bytes, pipe: Connection) -> None:
    """A scheduler in a process of its own, without quotas, until the pipe closes."""
    complete = Agreement.parse(agreement, ROOTS).require_complete()
    store = Store.open(queue_file(folder / "queue.sqlite"))
    certificate = own_certificate(folder, NOW)
    server = start_server(
        Roster([complete]), store, certificate, Address("127.0.0.1", 0), open_log(), limits=LIMITS
    )
    pipe.send(server.address)
    pipe.recv()
    server.stop()
    os._exit(0)


def case(ours: float, unit: str, goal: float, *, peer: float | None = None) -> Case:
    """Ratios are such that larger is better: to the peer, or else of the goal to what we need."""
    ratio = ours / peer if peer else goal / ours
    return {
        "ours": round(ours, 2),
        "peer": None if peer is None else round(peer, 2),
        "ratio": round(ratio, 2),
        "goal": goal,
        "unit": unit,
    }


def per_second(count: int, seconds: float) -> float:
    return count / seconds


def bare_store(folder: Path) -> float:
    """Tasks per second that the store commits."""
    store = Store.open(queue_file(folder / "bare.sqlite"))
    inputs = (("train_party_1", "alice-clinic"), ("train_party_2", "bob-hospital"))
    start = time.perf_counter()
    for n in range(TASKS):
        digest = n.to_bytes(32, "big")
        expires = NOW + timedelta(hours=1)
        store.add(
            NewTask(digest, bytes(700), b"p" * 32, b"s" * 32, expires, inputs), NOW, LIMITS.admit
        )
    rate = per_second(TASKS, time.perf_counter() - start)
    store.close()
    return rate


def submit_all(client: SchedulerClient, tasks: list[bytes], clients: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client.submit, tasks))
    return per_second(len(tasks), time.perf_counter() - start)


def watch_latency(
    watcher: SchedulerClient, submitter: SchedulerClient, tasks: list[bytes]
) -> float:
    """Milliseconds, median."""
    latencies: list[float] = []
    came, watch = threading.Event(), watcher.watch(seconds=600)
    total = len(watcher.list())

    def run() -> None:
        for seen, _ in enumerate(watch, 1):
            if seen >= total:
                came.set()

    thread = threading.Thread(target=run)
    thread.start()
    came.wait()
    for task in tasks:
        came.clear()
        start = time.perf_counter()
        submitter.submit(task)
        came.wait()
        latencies.append((time.perf_counter() - start) * 1000)
    watch.cancel()
    thread.join()
    return statistics.median(latencies)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident MiB."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    )


def idle(pid: int, agents: list[SchedulerClient]) -> tuple[float, float]:
    """CPU in percent of one core, and resident MiB, while two agents watch and nothing comes."""
    watches = [agent.watch(seconds=600) for agent in agents]
    caught_up = threading.Barrier(len(agents) + 1)

    def run(watch: Any) -> None:
        for seen, _ in enumerate(watch, 1):
            if seen == QUEUED:
                caught_up.wait()

    threads = [threading.Thread(target=run, args=[watch]) for watch in watches]
    for thread in threads:
        thread.start()
    caught_up.wait()
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    used = cpu_seconds(pid) - before
    resident = memory(pid)
    for watch in watches:
        watch.cancel()
    for thread in threads:
        thread.join()
    return 100 * used / IDLE_SECONDS, resident


def measure(folder: Path) -> dict[str, Case]:
    world = Consortium.create(NOW)
    signed = TaskWorld(world).signed
    tasks = [signed(id=f"{n:032x}") for n in range(2 * TASKS + ROUNDS)]
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(folder, world.agreement_bytes(), theirs)
    )
    process.start()
    address = ours.recv()
    assert process.pid is not None
    pin = (folder / "scheduler.crt").read_bytes()
    carol, alice, bob = (
        SchedulerClient(address, pin, channel(p)) for p in (world.carol, world.alice, world.bob)
    )
    peer = bare_store(folder)
    cases = {
        "submit_one_client": case(submit_all(carol, tasks[:TASKS], 1), "tasks/s", 0.5, peer=peer),
        "submit_four_at_once": case(
            submit_all(carol, tasks[TASKS : QUEUED - ROUNDS], CLIENTS), "tasks/s", 0.5, peer=peer
        ),
        "watch_latency": case(
            watch_latency(alice, carol, tasks[QUEUED - ROUNDS : QUEUED]), "ms", 50
        ),
    }
    percent, resident = idle(process.pid, [alice, bob])
    cases["idle_cpu"] = case(max(percent, 0.01), "% of a core", 2)
    cases["idle_memory"] = case(resident, "MiB", 200)
    for client in (carol, alice, bob):
        client.close()
    ours.send(None)
    process.join()
    return cases


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
        peer = f", peer {one['peer']}" if one["peer"] else ""
        print(f"{name:20} {one['ours']:>9} {one['unit']}{peer}, ratio {one['ratio']}")


if __name__ == "__main__":
    main()
