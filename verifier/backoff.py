"""How long to wait before trying again: doubling, capped, and never in step with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MOST_DOUBLINGS = 32  # a float has no 2 to the power of 2000


@dataclass(frozen=True, slots=True)
class Backoff:
    """The bound of a pause doubles with each failure; the pause is drawn below that bound.

    So many who were turned away together do not come back together.
    """

    first: float = 1.0  #  seconds: the bound of the first pause
    most: float = 300.0
    least: float = 0.5  #  part of the bound below which no pause is drawn

    def seconds(self, failures: int, random: Callable[[], float]) -> float:
        """The pause before another try.

        Args:
            failures: Tries that failed before, from 0.
            random: Gives numbers from 0 up to 1.
        """
        bound = min(self.most, self.first * 2.0 ** min(failures, _MOST_DOUBLINGS))
        return bound * (self.least + (1 - self.least) * random())
