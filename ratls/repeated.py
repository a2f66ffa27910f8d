"""Threads that do a small thing again and again, as long as somebody uses what it is for.

stopped = repeated(server, 1.0, lambda server: server.cut(), log)
stopped.set()
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from ratls.identity import Identities
from ratls.log import Log, place_of

_RENEWAL_SECONDS = 5.0
T = TypeVar("T")


def repeated(
    owner: T, seconds: float, step: Callable[[T], object], log: Log | None
) -> threading.Event:
    """Call `step` every so many seconds, until the event is set, or `owner` is used no more.

    Args:
        step: It must not refer to `owner` itself. What it raises is logged as a bug.
        log: None for no log.
    """
    stopped, held = threading.Event(), weakref.ref(owner)

    def run() -> None:
        while not stopped.wait(seconds):
            if (known := held()) is None:
                return
            try:
                step(known)
            except Exception as bug:  # noqa: BLE001 - the thread goes on
                if log is not None:
                    log.error("internal", bug=place_of(bug))
            del known

    threading.Thread(target=run, name="repeated", daemon=True).start()
    return stopped


def keep_renewed(
    identities: Identities, clock: Callable[[], datetime], log: Log | None
) -> threading.Event:
    """Have the next certificate made in time."""
    return repeated(identities, _RENEWAL_SECONDS, lambda known: known.renew(clock(), log), log)
