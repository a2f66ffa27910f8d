"""MRENCLAVE of a simulated enclave: what a real one would carry of ours.

A real one is computed by the processor over every page that it loads. Here the process measures
itself, and a changed program could claim any value.
"""

from __future__ import annotations

import hashlib
import struct
from importlib.util import find_spec
from pathlib import Path

from verifier.errors import ConfigError

LIST = "measured.txt"  # of `enclave_app`: the files of the distribution `ratls-enclave`


def measure() -> bytes:
    """SHA-256, 32 bytes, over names and bytes of the files that the enclave consists of, sorted.

    Name and content each follow their length (8 bytes, big-endian), so that no byte can move
    from one file to the next unseen.

    Raises:
        MeasuredPackageMissing: A file is not installed.
    """
    digest = hashlib.sha256()
    for name in measured_files():
        package, _, inside = name.partition("/")
        for part in (name.encode(), _read(package, inside)):
            digest.update(struct.pack(">Q", len(part)) + part)
    return digest.digest()


def measured_files() -> list[str]:
    """The files by their places, sorted. Raises: MeasuredPackageMissing."""
    return sorted(_read("enclave_app", LIST).decode().split())


class MeasuredPackageMissing(ConfigError):
    """A part of what a simulated enclave consists of is not installed."""

    code = "measured-package-missing"
    default_fix = "install the whole ratls distribution, at the same version as ratls-simulation"


def _read(package: str, inside: str) -> bytes:
    # As the interpreter finds it: a copy that shadows the installed one is what runs.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MeasuredPackageMissing(package, expected="an installed package", found="none")
    path = Path(spec.submodule_search_locations[0]) / inside
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeasuredPackageMissing(str(path), expected="a file", found="none") from error
