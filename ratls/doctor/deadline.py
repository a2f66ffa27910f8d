"""Probes side by side, none of which can hold the doctor.

    within(2.0, {"a": probe_a, "b": probe_b})   # {"a": …}: what did not end in time is missing

Each runs in a thread of its own that ends with the process: a look-up, a pipe or a network file
system that hangs keeps its thread, and nobody waits for it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, probes: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """The answers that came within so many seconds of now, all probes together.

    A probe that raises has no answer.
    """
    answers: queue.SimpleQueue[tuple[str, T] | None] = queue.SimpleQueue()

    def run(name: str, probe: Callable[[], T]) -> None:
        try:
            answers.put((name, probe()))
        except Exception:  # noqa: BLE001 - of one probe; the others go on
            answers.put(None)

    for name, probe in probes.items():
        try:
            threading.Thread(target=run, args=(name, probe), daemon=True).start()
        except RuntimeError:  # this user may have no more of them
            answers.put(None)
    found: dict[str, T] = {}
    end = time.monotonic() + seconds
    for _ in probes:
        try:
            answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if answer is not None:
            found[answer[0]] = answer[1]
    return found
