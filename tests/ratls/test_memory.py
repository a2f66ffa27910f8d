"""Memory of messages is kept for the next ones, where the C library can."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from ratls.memory import keep_freed_memory


@pytest.mark.parametrize("answer", [1, 0])
def test_each_setting_is_given_once_whatever_the_library_answers(
    monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    given: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        assert given.setdefault(parameter, value) == value > 0
        return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert sorted(given) == [-3, -2, -1]


def test_a_library_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()
