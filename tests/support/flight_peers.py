"""The smallest enclave that speaks the protocol, and those that cheat."""

from __future__ import annotations

from typing import Any

from simulation.intel import Platform
from verifier.anchors import Mode


class PlatformAttester:
    """An attester on a platform in memory; `altered` goes to `Platform.quote`."""

    mode = Mode.SIMULATION

    def __init__(self, platform: Platform, **altered: Any) -> None:
        self._platform, self._altered = platform, altered
        self.instead: bytes | None = None  # report data to quote in place of what was asked

    def quote(self, report_data: bytes) -> bytes:
        return self._platform.quote(self.instead or report_data, **self._altered)
