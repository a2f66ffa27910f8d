"""A refusal that the other side sent: a code and an id, and never more.

raise PeerRefused(peer_code=slug(told["code"]), correlation_id=slug(told["id"]))
"""

from __future__ import annotations

import re

from ratls.errors import TransportError

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def slug(text: object) -> str:
    """A name that the peer chose, harmless to print."""
    return text if isinstance(text, str) and _SLUG.fullmatch(text) else "unreadable"


class PeerRefused(TransportError):
    """The other side refused, and gave its reason as a code."""

    code = "peer-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"
    says = "the enclave refused: {peer_code} (id {correlation_id})"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the enclave's answer",
            expected="the next message",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id
