"""What a client offers in its first message, which TLS sends in the clear."""

from __future__ import annotations

PRE_SHARED_KEY, EARLY_DATA, SUPPORTED_VERSIONS = 41, 42, 43  # RFC 8446, section 4.2


def extensions(sent: bytes) -> set[int]:
    """The numbers of the extensions in it (RFC 8446, section 4.1.2)."""
    assert sent[0] == 22
    assert sent[5] == 1
    at = 5 + 4 + 2 + 32
    at += 1 + sent[at]  # session id
    at += 2 + int.from_bytes(sent[at : at + 2], "big")  # cipher suites
    at += 1 + sent[at]  # compression
    end = at + 2 + int.from_bytes(sent[at : at + 2], "big")
    at += 2
    found = set()
    while at < end:
        found.add(int.from_bytes(sent[at : at + 2], "big"))
        at += 4 + int.from_bytes(sent[at + 2 : at + 4], "big")
    return found
