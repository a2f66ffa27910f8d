"""Coverage-guided fuzzing: `python -m tests.fuzz --target all --runs 10000000 --workers 2`.

One JSON line of figures per target on stdout. Exit status 1 if there was an exception that is no
refusal, an input over 50 ms, or a growth of memory. Needs `atheris` (requirements/fuzz.in).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

from tests.fuzz.targets import TARGETS

# Between a quarter of the executions and the end: inputs worth keeping take some room.
GROWTH_MIB = 32.0
_COVERAGE = re.compile(rb"cov: (\d+)")


def main(arguments: list[str] | None = None) -> int:
    """Fuzz one target after another, each in all workers at once."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=100_000, help="executions in all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: see requirements/fuzz.in", file=sys.stderr)
        return 3
    names = list(TARGETS) if options.target == "all" else [options.target]
    wrong = 0
    for name, runs in shares(names, options.runs).items():
        print(f"{name}: {runs} executions", file=sys.stderr, flush=True)
        figures = fuzz(name, runs, workers=options.workers, seed=options.seed)
        print(json.dumps(figures), flush=True)
        wrong += bool(figures["problems"])
    return int(bool(wrong))


def shares(names: list[str], runs: int) -> dict[str, int]:
    """How many executions each target gets of all."""
    whole = sum(TARGETS[name].share for name in names)
    return {name: max(1, runs * TARGETS[name].share // whole) for name in names}


def fuzz(name: str, runs: int, *, workers: int, seed: int) -> dict[str, Any]:
    """Fuzz one target; the figures of all its workers together."""
    started = time.monotonic()
    logs: list[IO[bytes]] = []
    processes = []
    for number in range(workers):
        log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read once the process has ended
        logs.append(log)
        command = [sys.executable, "-m", "tests.fuzz.worker", "--target", name]
        command += ["--runs", str(max(1, runs // workers)), "--seed", str(seed + number)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log))
    answers = []
    problems = []
    for process, log in zip(processes, logs, strict=True):
        output, _ = process.communicate()
        log.seek(0)
        said = log.read()
        log.close()
        try:
            answer = json.loads(output)
        except ValueError:
            problems.append(f"a worker ended with {process.returncode}: {_tail(said)}")
            continue
        covered = [int(number) for number in _COVERAGE.findall(said)] or [0]
        answer["coverage"] = (covered[0], covered[-1])
        answers.append(answer)
        if answer["finding"]:
            problems.append(f"{answer['finding']} (input: {answer['input']})")
        elif answer["rss_mib_at_end"] - answer["rss_mib_at_quarter"] > GROWTH_MIB:
            problems.append("memory grows")
    seconds = time.monotonic() - started
    executions = sum(answer["executions"] for answer in answers)
    return {
        "target": name,
        "executions": executions,
        "seconds": round(seconds, 1),
        "executions_per_second": round(executions / seconds),
        "slowest_ms": max((answer["slowest_ms"] for answer in answers), default=None),
        "rss_mib_at_quarter": [answer["rss_mib_at_quarter"] for answer in answers],
        "rss_mib_at_end": [answer["rss_mib_at_end"] for answer in answers],
        "coverage_of_seeds": max((answer["coverage"][0] for answer in answers), default=None),
        "coverage_at_end": max((answer["coverage"][1] for answer in answers), default=None),
        "problems": problems,
    }


def _tail(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip()[-600:]


if __name__ == "__main__":
    sys.exit(main())
