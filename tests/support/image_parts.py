"""The packages of a real image, downloaded once into `build/image`, or None where they cannot be.

wheels, debs = require_parts()        # skips aloud; under RATLS_REQUIRE_IMAGE=1 it fails
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from ratls.image.build import needed
from ratls.image.errors import ImageError
from ratls.image.fetch import fetch_debs, fetch_wheels
from ratls.image.parts import find_deb, find_wheel
from ratls.image.release import read_release
from tests.support.imports import ROOT
from tests.support.waiting import HANG_LIMIT
from verifier.files import locked

FOLDER = ROOT / "build" / "image"


@cache
def parts() -> tuple[Path, Path] | None:
    """Folders of wheels and of Debian packages, as the locks name them."""
    wheels, debs = FOLDER / "wheels", FOLDER / "debs"
    wheels.mkdir(parents=True, exist_ok=True)
    debs.mkdir(exist_ok=True)
    with locked(FOLDER / "lock", wait=HANG_LIMIT):  # several processes test at once
        if _whole(wheels, debs):
            return wheels, debs
        release = read_release(ROOT)
        try:
            fetch_wheels(wheels, needed(release.files, release.wheels))
            fetch_debs(debs, needed(release.files, release.debs))
        except ImageError:
            return None
        return (wheels, debs) if _whole(wheels, debs) else None


def _whole(wheels: Path, debs: Path) -> bool:
    release = read_release(ROOT)
    try:
        for one in needed(release.files, release.wheels):
            find_wheel(wheels, one)
        for one in needed(release.files, release.debs):
            find_deb(debs, one)
    except ImageError:
        return False
    return True


def require_parts() -> tuple[Path, Path]:
    found = parts()
    if found is None:
        if os.environ.get("RATLS_REQUIRE_IMAGE") == "1":
            pytest.fail("RATLS_REQUIRE_IMAGE=1 and the packages of an image cannot be had")
        pytest.skip("IMAGE ABSENT: pip or apt-get cannot download what the locks name")
    return found
