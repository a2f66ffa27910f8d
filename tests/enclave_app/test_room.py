"""An enclave whose manifest has too small sizes says so at its start."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from enclave_app.limits import Limits
from enclave_app.room import (
    THREADS,
    EnclaveMemoryTooSmall,
    EnclaveThreadsTooFew,
    require_memory,
    require_threads,
)
from ratls.manifest_template import render
from tests.gramine.world import TEMPLATE
from tests.support.refusal import refused
from verifier.gramine.lint import THREADS_BESIDE_POOLS
from verifier.gramine.signed import parse_size


@pytest.fixture(scope="module")
def sgx() -> dict[str, Any]:
    """That table of our own manifest."""
    text = render(TEMPLATE.read_text("utf-8"), {"image": "/image"}, Path("/gramine"))
    table: dict[str, Any] = tomllib.loads(text)["sgx"]
    return table


def test_half_the_memory_of_the_manifest_is_too_little(sgx: dict[str, Any]) -> None:
    """Gramine counts the heap alone: what is beside it is much less than is spare."""
    size = parse_size(sgx["enclave_size"])
    assert size is not None
    require_memory(Limits(), size * 15 // 16)
    with refused(EnclaveMemoryTooSmall):
        require_memory(Limits(), size // 2)
    require_memory(Limits(held_bytes=0), 1 << 30)


def test_the_system_is_asked_where_no_number_is_given() -> None:
    require_memory(Limits(held_bytes=-(1 << 30)))
    with refused(EnclaveMemoryTooSmall):
        require_memory(Limits(held_bytes=1 << 60))


def test_threads_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were started end, and the rest was never there."""
    start, left = threading.Thread.start, iter(range(60))
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    require_threads()
    monkeypatch.setattr(threading.Thread, "start", limited)
    with refused(EnclaveThreadsTooFew):
        require_threads()
    assert started
    assert not any(thread.is_alive() for thread in started)


def test_the_manifest_has_them(sgx: dict[str, Any]) -> None:
    """The first one, all of these, and up to four of Gramine's own; as the lint counts them."""
    assert sgx["max_threads"] >= 1 + THREADS + 4
    pools = 2 * 4 + 4 + 2
    assert 1 + THREADS <= THREADS_BESIDE_POOLS + pools <= 1 + THREADS + 4
