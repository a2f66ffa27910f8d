"""How a client measures its own work, and says so.

with measured() as answer:
    ...
    answer["rows"] = 3
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.transfer.processes import memory


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Print what the block took, and what it puts into the dictionary."""
    answer: dict[str, Any] = {"base": memory(os.getpid(), "VmRSS")}
    cpu, began = _cpu(), time.perf_counter()
    yield answer
    answer["seconds"], answer["cpu"] = time.perf_counter() - began, _cpu() - cpu
    answer["peak"] = memory(os.getpid(), "VmHWM")
    print(json.dumps(answer))
