"""The pinned root is a whole digest: a shorter one would be easy to meet, or never met."""

from __future__ import annotations

import pytest

from verifier.anchors import Mode, TrustAnchors


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_root_is_pinned_by_something_else_than_a_digest(size: int) -> None:
    TrustAnchors(Mode.SIMULATION, bytes(32), "root")
    with pytest.raises(ValueError, match="32"):
        TrustAnchors(Mode.SIMULATION, bytes(size), "root")
