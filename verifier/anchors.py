"""The root that is believed without proof: one key, and whether it is Intel's or a simulation's."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

# The edition that Intel's services publish, SHA-256 44a0196b…74d3. It stands in every chain of
# today, so it is read once, and its signature by itself was verified once: by a test.
INTEL_ROOT = b64decode(
    """
    MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJv
    b3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
    BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0Ex
    GjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
    AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL
    0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
    MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRl
    cjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
    KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZ
    UGOdRQ7cvqRXaqI=
    """
)


class Mode(StrEnum):
    """What a verdict is worth. It is that of the anchors given, and nothing else changes it."""

    PRODUCTION = "production"
    SIMULATION = "simulation"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The pinned root key.

    The key is pinned and not a certificate: Intel reissued its root, the same name and key with
    other dates, and genuine quotes carry either edition (docs/dcap.md 2.3). What is pinned is the
    trust anchor of RFC 5280, section 6.1.1.
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
