"""Does this process have the memory and the threads that the enclave's limits promise?

    require_memory(Limits())    # at start, and not in a full house
    require_threads()

The sizes of a manifest are measured, and no party sees from MRENCLAVE that they are too small.
What is refused here would otherwise end the process when the parties' rows are in it.
"""

from __future__ import annotations

import os
import threading

from enclave_app.limits import Limits
from verifier.errors import ConfigError
from verifier.files import MEBIBYTE

# Measured: 92 threads with all calls open, of which this is one, and 14 of the libraries' pools.
THREADS = 105
_STACK = 2 * MEBIBYTE
_INTERPRETER = 512 * MEBIBYTE


class EnclaveMemoryTooSmall(ConfigError):
    """The enclave has less memory than the rows that it may hold, and computing, need."""

    code = "enclave-memory-too-small"
    default_fix = 'set sgx.enclave_size = "16G" in the manifest, as the template has it'


class EnclaveThreadsTooFew(ConfigError):
    """The enclave cannot have as many threads as open calls and computations need."""

    code = "enclave-threads-too-few"
    default_fix = "set sgx.max_threads = 128 in the manifest, as the template has it"


def require_memory(limits: Limits, present: int | None = None) -> None:
    """Rows and computing, half as much again for the gaps between them, stacks, the interpreter.

    Args:
        present: Bytes; None asks the system. Gramine answers with the enclave's heap.

    Raises:
        EnclaveMemoryTooSmall: There are fewer.
    """
    needed = limits.held_bytes * 3 // 2 + (THREADS + 1) * _STACK + _INTERPRETER
    if present is None:
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if present < needed:
        raise EnclaveMemoryTooSmall(
            "memory",
            expected=f"at least {needed // MEBIBYTE} MiB",
            found=f"{present // MEBIBYTE} MiB",
        )


def require_threads(count: int = THREADS) -> None:
    """Start so many at once, and end them: under Gramine nothing else says how many there can be.

    Raises:
        EnclaveThreadsTooFew: One of them cannot be started.
    """
    enough = threading.Event()
    running: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            running.append(thread)
    except RuntimeError as error:
        raise EnclaveThreadsTooFew(
            "threads", expected=f"{count} beside the first", found=str(len(running))
        ) from error
    finally:
        enough.set()
        for thread in running:
            thread.join()
