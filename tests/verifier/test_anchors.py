"""How policies and commands name a root of trust, and that it is one pinned key."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refused
from verifier.anchors import INTEL_ROOT, Mode, RootMalformed, RootName, TrustAnchors
from verifier.certificate import Certificate, RootUntrusted, require_anchor, require_issued_by
from verifier.errors import CertChainError

KEY = bytes(range(32))
SIMULATED = f"simulation:sha256:{KEY.hex()}"


def test_intel_is_the_root_of_production() -> None:
    name = RootName.parse("intel")
    assert (str(name), name.mode, name.anchors) == (
        "intel",
        Mode.PRODUCTION,
        TrustAnchors.intel(),
    )


def test_a_simulated_root_is_named_by_its_key() -> None:
    name = RootName.parse(SIMULATED)
    assert (str(name), name.mode) == (SIMULATED, Mode.SIMULATION)
    assert name.anchors == TrustAnchors(Mode.SIMULATION, KEY, SIMULATED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Intel",
        "intel ",
        "simulation",
        SIMULATED[:-1],
        SIMULATED + "0",
        SIMULATED + "\n",
        SIMULATED.upper(),
        SIMULATED.replace("simulation", "production"),
    ],
)
def test_another_spelling_names_no_root(text: str) -> None:
    """A root that two parties read differently would let one of them accept a simulation."""
    with refused(RootMalformed):
        RootName.parse(text)


# The pinned root is a whole digest: a shorter one would be easy to meet, or never met.


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
