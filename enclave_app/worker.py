"""One computation at a time, beside the exchanges: no acknowledgement waits for a training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Worker:
    """Runs jobs in the order in which they came, in one thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A daemon: the process may end in the middle of a computation, which then releases nothing.
        threading.Thread(target=self._run, name="computations", daemon=True).start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` later. It must not raise: nobody would hear it."""
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            self._jobs.get()()
