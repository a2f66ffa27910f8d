"""One process of the harness: one target, a number of executions, one line of JSON at the end.

    python -m tests.fuzz.worker --target crl --runs 10000 --seed 1

Inputs come from libFuzzer, guided by the coverage of `verifier` (its own mutations and ours in
turn). Stops at the first exception that is no refusal, and at the first input that is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from random import Random
from typing import Any

from tests.conftest import vectors_folder
from tests.fuzz.targets import TARGETS, Parse, Target

LIMIT_MS = 50.0  # of thread CPU time; no input may take longer
_MEASURED_AGAIN = 3


class Judge:
    """Runs inputs through a parser, and keeps what was seen of them."""

    def __init__(self, parse: Parse, refusal: type[Exception]) -> None:
        self._parse, self._refusal = parse, refusal
        self.executions = 0
        self.slowest_ms = 0.0
        self.finding: str | None = None

    def run(self, data: bytes) -> None:
        """A value or a refusal, within the limit; anything else is kept as the finding."""
        self.executions += 1
        taken = self._timed(data)
        if taken > LIMIT_MS:
            # The machine is shared: a slow input is slow each time, with nothing remembered.
            taken = min(self._timed(data, fresh=True) for _ in range(_MEASURED_AGAIN))
            if taken > LIMIT_MS:
                self.finding = f"{taken:.0f} ms"
        self.slowest_ms = max(self.slowest_ms, taken)

    def _timed(self, data: bytes, *, fresh: bool = False) -> float:
        if fresh:
            _forget()
        started = time.thread_time()
        try:
            self._parse(data)
        except self._refusal as refusal:
            if not getattr(refusal, "code", ""):
                self.finding = f"a refusal without a code: {refusal!r}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self.finding = f"{type(error).__name__}: {error}"
        return (time.thread_time() - started) * 1000


def _forget() -> None:
    """Empty what the verifier remembers, so that an input is measured as when first seen."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "verifier":
            for value in list(vars(module).values()):
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def mutator(target: Target, byte_level: Any) -> Any:
    """Our mutation and libFuzzer's in turn; both start from what coverage found worth keeping."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)  # noqa: S311 - repeatable, and no secret
        if rng.random() < 0.5:
            return bytes(byte_level(data, max_size))
        return target.mutate(rng, bytes(data))[:max_size]

    return mutate


def main() -> None:
    """Fuzz; never returns, since libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.worker")
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    import atheris  # needed here alone: the suite does without

    target = TARGETS[options.target]
    with atheris.instrument_imports(include=["verifier", "ratls.doctor"]):
        parse = target.load()
    from verifier.errors import RatlsError

    warnings.simplefilter("error")  # whoever runs with -W error must see refusals too
    judge = Judge(parse, RatlsError)
    corpus = Path(tempfile.mkdtemp(prefix="ratls-fuzz-"))
    for number, seed in enumerate(target.seeds(vectors_folder())):
        if len(seed) <= target.max_size:
            (corpus / f"seed-{number:04}").write_bytes(seed)
    started = time.monotonic()
    memory = {"rss_mib_at_quarter": 0.0}

    def one(data: bytes) -> None:
        judge.run(bytes(data))
        if judge.executions == max(1, options.runs // 4):
            memory["rss_mib_at_quarter"] = rss_mib()
        if judge.finding is None and judge.executions < options.runs:
            return
        kept = ""
        if judge.finding is not None:
            kept = str(corpus.with_name(f"{corpus.name}-{target.name}-finding.bin"))
            Path(kept).write_bytes(bytes(data))
        figures = {
            "executions": judge.executions,
            "seconds": round(time.monotonic() - started, 1),
            "slowest_ms": round(judge.slowest_ms, 2),
            **memory,
            "rss_mib_at_end": rss_mib(),
            "finding": judge.finding,
            "input": kept,
        }
        print(json.dumps(figures), flush=True)
        for path in corpus.iterdir():
            path.unlink()
        corpus.rmdir()
        os._exit(1 if judge.finding else 0)  # libFuzzer would end it without a word of ours

    flags = [
        *("-rss_limit_mb=0", "-timeout=0", "-detect_leaks=0", "-len_control=0"),
        *(f"-max_len={target.max_size}", f"-seed={options.seed}"),
    ]
    atheris.Setup(
        [sys.argv[0], *flags, str(corpus)],
        one,
        # Looked up at each call: `Fuzz` replaces the function.
        custom_mutator=mutator(target, lambda data, size: atheris.Mutate(data, size)),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
