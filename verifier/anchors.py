"""The root that is believed without proof: one key, and whether it is Intel's or a simulation's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Mode(StrEnum):
    """What a verdict is worth. It is that of the anchors given, and nothing else changes it."""

    PRODUCTION = "production"
    SIMULATION = "simulation"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The pinned root key.

    The key is pinned and not a certificate: Intel reissued its root, the same name and key with
    other dates, and genuine quotes carry either edition.
    """

    mode: Mode
    root_spki_sha256: bytes  # SHA-256 of the DER SubjectPublicKeyInfo, 32 bytes
    name: str  #               for people: `Intel SGX Root CA`, or the string in the policy

    def __post_init__(self) -> None:
        if len(self.root_spki_sha256) != 32:
            raise ValueError("root_spki_sha256 is a SHA-256 digest: 32 bytes")

    @classmethod
    def intel(cls) -> Self:
        """Intel's production root: the key of `Intel SGX Root CA`, serial 22650cd6…06ac."""
        return cls(
            Mode.PRODUCTION,
            bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"),
            "Intel SGX Root CA",
        )
