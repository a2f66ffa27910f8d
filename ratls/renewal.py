"""Has the next certificate of a server made in time.

stopped = keep_renewed(identities, clock, log)
stopped.set()
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from datetime import datetime

from ratls.identity import Identities
from ratls.log import Log

_LOOK_SECONDS = 5.0


def keep_renewed(
    identities: Identities, clock: Callable[[], datetime], log: Log | None
) -> threading.Event:
    """In a thread, which ends when the event is set, or `identities` is used no more.

    Args:
        log: What came of it; None for no log.
    """
    stopped, held = threading.Event(), weakref.ref(identities)

    def run() -> None:
        while not stopped.wait(_LOOK_SECONDS):
            if (known := held()) is None:
                return
            known.renew(clock(), log)
            del known

    threading.Thread(target=run, name="renewal", daemon=True).start()
    return stopped
