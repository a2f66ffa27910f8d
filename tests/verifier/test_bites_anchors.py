"""The pinned root is a whole digest: a shorter one would be easy to meet, or never met."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refused
from verifier.anchors import INTEL_ROOT, Mode, TrustAnchors
from verifier.certificate import Certificate, RootUntrusted, require_anchor, require_issued_by
from verifier.errors import CertChainError


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_root_is_pinned_by_something_else_than_a_digest(size: int) -> None:
    TrustAnchors(Mode.SIMULATION, bytes(32), "root")
    with pytest.raises(ValueError, match="32"):
        TrustAnchors(Mode.SIMULATION, bytes(size), "root")


def test_published_root_is_the_known_one_and_signed_by_its_own_key() -> None:
    """What is read once, and asked for no signature in a verdict, is asked here.

    Digest: that of the certificate that Intel's services publish (DER, 659 bytes).
    """
    root = Certificate.parse(INTEL_ROOT)
    assert sha256(INTEL_ROOT).hexdigest() == (
        "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    )
    assert sha256(root.spki).digest() == TrustAnchors.intel().root_spki_sha256
    require_issued_by(root, root)
    require_anchor(root, TrustAnchors.intel())


@given(st.integers(0, 8 * len(INTEL_ROOT) - 1))
def test_published_root_with_one_bit_changed_is_not_known(bit: int) -> None:
    """Name, key and all the rest are Intel's; this edition, Intel did not sign."""
    altered = bytearray(INTEL_ROOT)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CertChainError):
        require_anchor(Certificate.parse(bytes(altered)), TrustAnchors.intel())


def test_published_root_is_no_root_of_a_simulation() -> None:
    anchors = TrustAnchors(Mode.SIMULATION, bytes(32), "somebody's")
    with refused(RootUntrusted):
        require_anchor(Certificate.parse(INTEL_ROOT), anchors)
