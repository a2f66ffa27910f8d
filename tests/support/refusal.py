"""`refused(Leaf)`: the one way in which a test expects a refusal, so that refusals are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from verifier.errors import RatlsError

# The test that is running; `tests/conftest.py` keeps it. Only the count at the end uses it.
current: list[pytest.Item] = []
# For each `tests.support.oracle` that is judging, what `refused` has seen since. Nothing is kept
# for anybody else: a refusal holds on to all that was open where it was raised.
judging: list[list[RatlsError]] = []


def count_refusal() -> None:
    """Mark the running test as one that refuses (for tests that look at exit statuses)."""
    if current and ("refuses", True) not in current[-1].user_properties:
        current[-1].user_properties.append(("refuses", True))


class Refusal:
    """Holds the error once the block has ended."""

    error: RatlsError

    @property
    def check(self) -> str | None:
        return self.error.check


@contextmanager
def refused(leaf: type[RatlsError], *, check: str | None = None) -> Iterator[Refusal]:
    """The block must raise exactly this leaf class; with `check`, stop at exactly that check."""
    count_refusal()
    assert leaf.code, f"{leaf.__name__} is a branch; expect the leaf"
    found = Refusal()
    with pytest.raises(RatlsError) as caught:
        yield found
    found.error = caught.value
    for told in judging:
        told.append(caught.value)
    assert type(caught.value) is leaf, f"{type(caught.value).__name__}: {caught.value}"
    if check is not None:
        assert caught.value.check == check
        assert caught.value.appraisal is not None
        assert caught.value.appraisal.stopped_at == check
