"""Builds of Gramine whose bytes were measured: a version number alone does not name a loader.

The places of areas and fields are those of 1.9. A loader that is not listed may have others.
"""

from __future__ import annotations

from dataclasses import dataclass

from verifier.gramine.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Build:
    """One build: SHA-256 of its loader and of its library OS, as they are installed."""

    name: str
    libpal: str
    libsysdb: str


BUILDS = (
    Build(
        "Gramine 1.9, release build of its tag v1.9 with GCC 12 for Debian 12",
        libpal="559ca57e5bdeb6790dcf47953583e91ab2f2d425d4de24db2447c3e9f4baa588",
        libsysdb="0b37deb592ae4b28068708dc8a18613f9518e45f69a2be22065858a06c1d4c40",
    ),
)
LIBSYSDBS = frozenset(build.libsysdb for build in BUILDS)


class LoaderUnknown(MeasurementError):
    """The loader is none of a known build of Gramine, so its layout may differ from 1.9's."""

    code = "loader-unknown"
    default_fix = (
        "compare its SHA-256 with that of the package which Gramine's distributor signed; "
        "if it is the same, name it with --expect-libpal"
    )


def require_known_loader(sha256: bytes, expected: str | None = None) -> str:
    """The build that this loader belongs to.

    Args:
        expected: SHA-256 in hex that the caller vouches for; no other one will do then.

    Raises: LoaderUnknown.
    """
    found = sha256.hex()
    if expected is not None:
        if expected == found:
            return "named by the caller"
        raise LoaderUnknown("libpal.so", expected=f"sha256 {expected}", found=found)
    for build in BUILDS:
        if build.libpal == found:
            return build.name
    raise LoaderUnknown("libpal.so", expected="that of a known build of Gramine", found=found)
