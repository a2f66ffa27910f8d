"""The root of trust: one pinned key, and whether it is Intel's or a simulation's."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from verifier.errors import ConfigError

# The edition that Intel's services publish, SHA-256 44a0196b…74d3. Every chain of today contains
# it, so it is read once, and a test verifies its signature, which no verdict does.
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
    """Whether a verdict is about hardware. It follows from the anchors given alone."""

    PRODUCTION = "production"
    SIMULATION = "simulation"


class RootMalformed(ConfigError):
    """The name of a root of trust has neither of the two forms."""

    code = "root-malformed"
    default_fix = "use intel, or what `ratls simulation new` printed"


_INTEL = "intel"
_SIMULATED = re.compile(r"simulation:sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RootName:
    """How policies and commands name a root: `intel` or `simulation:sha256:<64 hex>`."""

    simulated: bytes | None  # SHA-256 of the simulated root's SubjectPublicKeyInfo; None: Intel's

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read either form.

        Raises:
            RootMalformed: Neither.
        """
        if text == _INTEL:
            return cls(None)
        match = _SIMULATED.fullmatch(text)
        if match is None:
            raise RootMalformed(
                "root of trust",
                expected=f"{_INTEL} or simulation:sha256:<64 hex>",
                found=ascii(text)[:120],
            )
        return cls(bytes.fromhex(match[1]))

    def __str__(self) -> str:
        return _INTEL if self.simulated is None else f"simulation:sha256:{self.simulated.hex()}"

    @property
    def mode(self) -> Mode:
        return Mode.PRODUCTION if self.simulated is None else Mode.SIMULATION

    @property
    def anchors(self) -> TrustAnchors:
        """The anchors that are named. `modes.anchors_for` asks first whether they are allowed."""
        if self.simulated is None:
            return TrustAnchors.intel()
        return TrustAnchors(self.mode, self.simulated, str(self))


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
