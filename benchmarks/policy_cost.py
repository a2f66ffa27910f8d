"""What the costliest policies, agreements and tasks within the size caps cost to read.

    python benchmarks/policy_cost.py [--json] [--only WORD] [--all]

Each document is read in a process of its own; none has a valid signature, so this is what anybody
can make a reader spend (P24). The goal: at most 1 s of CPU and 200 MB each. `tests.support.costly`
fills every list of the schema. Without --all only the five slowest and those over the goal are
shown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

# Run as a file, this folder would come first, and files in it would hide packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scheduler import case
from policy.agreement import Agreement
from policy.document import Policy
from policy.task import Task
from tests.support.costly import WORLD, costly_agreements, costly_policies, costly_tasks
from tests.support.parties import AT, ROOTS
from verifier.errors import RatlsError

GOAL_SECONDS, GOAL_MEGABYTES = 1.0, 200.0


def documents() -> Iterator[tuple[str, bytes, Callable[[bytes], object]]]:
    policy = WORLD.policy()
    for name, raw in costly_policies():
        yield f"policy: {name}", raw, lambda raw: Policy.parse(raw, known_roots=ROOTS)
    for name, raw in costly_agreements():
        yield f"agreement: {name}", raw, lambda raw: Agreement.parse(raw, ROOTS)
    for name, raw in costly_tasks():
        yield f"task: {name}", raw, lambda raw: Task.open(raw, policy, AT)


def measured(raw: bytes, read: Callable[[bytes], object]) -> tuple[float, float, str]:
    """CPU seconds and megabytes of one reading, in a child; and how it ended."""
    source, sink = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        before, began = _peak(), time.process_time()
        try:
            read(raw)
            end = "accepted"
        except RatlsError as refusal:
            end = refusal.code
        except BaseException as bug:  # noqa: BLE001 - told to the parent
            end = f"BUG {type(bug).__name__}"
        line = json.dumps([time.process_time() - began, _peak() - before, end])
        os.write(sink, line.encode())
        os._exit(0)
    os.close(sink)
    os.waitpid(child, 0)
    with os.fdopen(source) as pipe:
        seconds, megabytes, end = json.loads(pipe.read() or '[1e9, 1e9, "killed"]')
    return seconds, megabytes, end


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    found = [
        (*measured(raw, read), name, len(raw))
        for name, raw, read in documents()
        if options.only in name
    ]
    found.sort(reverse=True)
    shown = [
        (seconds, megabytes, end, name, size)
        for place, (seconds, megabytes, end, name, size) in enumerate(found)
        if options.all or place < 5 or seconds > GOAL_SECONDS or megabytes > GOAL_MEGABYTES
    ]
    if options.json:
        print(json.dumps({n: case(s, "s", GOAL_SECONDS) for s, _, _, n, _ in shown}))
        return
    for seconds, megabytes, end, name, size in shown:
        print(f"{seconds:7.3f} s {megabytes:7.1f} MB  {size / 1000:7.0f} kB  {end:24} {name}")
    print(f"{len(found)} documents")


if __name__ == "__main__":
    main()
