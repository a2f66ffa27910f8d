"""What a policy says of a join: `join = { key = "patient", kind = "inner", … }`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from policy.fields import ONE_OR_MORE, Identifier, Strict


class Join(Strict):
    """Which rows of the inputs belong together. Both shares and sizes are looked at inside."""

    key: str  # a column of every input
    kind: Literal["inner", "left"]  # left: rows of the first input stay without a match
    # Of the keys of each input at most so many may have no match: of guessed ones more have none.
    max_unmatched_share: Annotated[float, Field(ge=0, le=1)]
    # Inputs with several rows of one key, which become their means. Any other is refused for them.
    means_of: Annotated[tuple[Identifier, ...], *ONE_OR_MORE] | None = None
    tells_size: bool = False  # outputs may say how many rows have a match

    def averages(self, dataset: str) -> bool:
        """Do several rows of one key become their means in this input?"""
        return dataset in (self.means_of or ())
