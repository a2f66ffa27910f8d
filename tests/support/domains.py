"""An attester of a simulated trust domain whose RTMR3 may be extended while it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from simulation.platform import Platform
from verifier.anchors import Mode
from verifier.event_log import replay


class DomainAttester:
    """Quotes with `Platform.td_quote`; a test may have it state other events than it measured."""

    mode = Mode.SIMULATION

    def __init__(
        self, platform: Platform, events: Sequence[bytes] | None = None, **altered: Any
    ) -> None:
        self._platform, self._altered = platform, altered
        self.stated = tuple(events or ())
        self.register = replay(self.stated)
        if events is not None:
            self.rtmr3_events = lambda: self.stated

    def extend(self, event: bytes) -> None:
        """As the guest's kernel does."""
        self.register = hashlib.sha384(self.register + event).digest()
        self.stated = (*self.stated, event)

    def quote(self, report_data: bytes) -> bytes:
        return self._platform.td_quote(report_data, **{"rtmr3": self.register} | self._altered)
