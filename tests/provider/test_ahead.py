"""Working ahead changes neither order nor exceptions, and never takes more than a few items."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.sources.ahead import _DEPTH, THREADS, ahead, mapped
from tests.support.waiting import threads_named


class Wrong(Exception):
    """What an item raises."""


def items(count: int, wrong: int | None = None) -> Generator[int, None, None]:
    for number in range(count):
        if number == wrong:
            raise Wrong(number)
        yield number


def taken(found: Iterator[int]) -> tuple[list[int], str]:
    """All that came, and what was raised after it."""
    came = []
    try:
        for item in found:
            came.append(item)
    except Wrong as error:
        return came, str(error)
    return came, ""


@given(st.integers(0, 12), st.none() | st.integers(0, 12), st.none() | st.integers(0, 12))
def test_order_and_exceptions_are_as_without_threads(
    count: int, wrong_item: int | None, wrong_work: int | None
) -> None:
    def work(item: int) -> int:
        if item == wrong_work:
            raise Wrong(item)
        return item

    plain = taken(map(work, items(count, wrong_item)))
    assert taken(mapped(work, items(count, wrong_item))) == plain
    assert taken(map(work, ahead(items(count, wrong_item)))) == plain
    assert taken(mapped(work, ahead(items(count, wrong_item)))) == plain


def test_only_a_few_are_made_ahead() -> None:
    made: list[int] = []

    def noted() -> Generator[int, None, None]:
        for number in range(100):
            made.append(number)
            yield number

    for wrap in (ahead, lambda found: mapped(lambda item: item, found)):
        made.clear()
        found = wrap(noted())
        for number in range(10):
            assert next(found) == number
            assert len(made) <= number + 2 + _DEPTH
        found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("close", [True, False])
def test_no_thread_is_left(close: bool) -> None:
    closed: list[bool] = []

    def noted() -> Generator[int, None, None]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    found = mapped(lambda item: item, ahead(noted()))
    assert next(found) == 0
    assert threads_named(THREADS)
    if close:
        found.close()  # type: ignore[attr-defined]
    else:
        del found
    assert threads_named(THREADS) == []
    assert closed == [True]
