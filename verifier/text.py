"""Text that somebody else chose, made harmless for whoever reads it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what could forge a line, move the cursor or colour a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
