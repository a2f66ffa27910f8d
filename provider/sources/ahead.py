"""Work a few steps ahead of what is asked for, in threads; order and exceptions stay in place.

    for batch in ahead(decoded): …              # the next ones are being decoded meanwhile
    for batch in mapped(parse, pieces): …       # several at once

Arrow, hashes and ciphers let other threads run. At most `_DEPTH` results wait: memory stays flat.
No thread is left when a generator ends or is closed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_DEPTH = 3
_MOST_THREADS = 4
THREADS = "rows-ahead"  # how the names of these threads begin


def ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """The items, which one thread of their own makes."""

    def pull() -> tuple[Item] | None:
        for item in items:
            return (item,)
        return None

    with ThreadPoolExecutor(1, THREADS) as pool:
        pulls = deque(pool.submit(pull) for _ in range(_DEPTH))
        try:
            while (pulled := pulls.popleft().result()) is not None:
                pulls.append(pool.submit(pull))
                yield pulled[0]
        finally:
            for waiting in pulls:
                waiting.cancel()
            pool.shutdown()
            items.close()


def mapped(work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """`work` of each item, in their order. What `items` raises comes after all that came before."""
    with ThreadPoolExecutor(max(1, min(_MOST_THREADS, os.cpu_count() or 1)), THREADS) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for begun in _begun(pool, work, items):
                running.append(begun)
                if len(running) > _DEPTH:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()


def _begun(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterator[Item]
) -> Iterator[Future[Result]]:
    try:
        for item in items:
            yield pool.submit(work, item)
    except Exception as error:  # noqa: BLE001 - raised again where its turn comes
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed
