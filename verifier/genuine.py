"""A quote of which every link holds; how current its platform is has yet to be said.

`verifier.verify` makes one, to be shown, beside a `VerifiedQuote` and beside the refusal of a quote
below every level. It accepts nothing: for that there must be a `VerifiedQuote`.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from verifier.contents import Contents
from verifier.errors import BelowEveryLevelError, RatlsError
from verifier.pck import PckChain
from verifier.quote import Quote


class GenuineQuote(NamedTuple):
    """What was authenticated: the quote, its platform's certificates, and what Intel says."""

    quote: Quote
    pck: PckChain
    contents: Contents

    @classmethod
    def behind(cls, refusal: RatlsError | None) -> Self | None:
        """What was authenticated before this refusal; None unless that is all that is wrong."""
        found = refusal.genuine if isinstance(refusal, BelowEveryLevelError) else None
        return found if isinstance(found, cls) else None
