"""How a long-running command is told to stop, and what it leaves behind."""

from __future__ import annotations

import signal

import pytest

from enclave_app.errors import ListenAddressUnusable
from ratls.serving import stop_signals
from tests.support.refusal import refused

BOTH = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_either_signal_ends_the_wait(number: signal.Signals, status: int) -> None:
    before = handlers()
    with stop_signals() as stop:
        signal.raise_signal(number)
        assert stop() == status
    assert handlers() == before


def test_server_that_cannot_start_leaves_the_signals_as_they_were() -> None:
    """Whoever asked for it could not be stopped with Ctrl-C any more."""
    before = handlers()
    with refused(ListenAddressUnusable), stop_signals():
        assert handlers() != before
        raise ListenAddressUnusable("port", expected="a free one", found="one in use")
    assert handlers() == before
