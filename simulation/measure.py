"""MRENCLAVE of a simulated enclave: what `ratls enclave serve` would run on this machine.

A real one is computed by the processor over every page that it loads. Here the process measures
itself, and a changed program could claim any value.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from verifier.errors import ConfigError

MEASURED_PACKAGES = ("enclave_app", "policy", "ratls", "verifier")


def measure() -> bytes:
    """SHA-256, 32 bytes, over names and bytes of all files of the measured packages, sorted.

    Name and content each follow their length (8 bytes, big-endian), so that no byte can move
    from one file to the next unseen. What the interpreter itself caches is left out.

    Raises:
        MeasuredPackageMissing: A package is not installed.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_measured_files()):
        for part in (name.encode(), path.read_bytes()):
            digest.update(struct.pack(">Q", len(part)) + part)
    return digest.digest()


def _measured_files() -> Iterator[tuple[str, Path]]:
    for package in MEASURED_PACKAGES:
        folder = _package_folder(package)
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            if path.is_file() and "__pycache__" not in inside.parts:
                yield f"{package}/{inside.as_posix()}", path


class MeasuredPackageMissing(ConfigError):
    """A package that a simulated enclave consists of is not installed."""

    code = "measured-package-missing"
    default_fix = "install the whole ratls distribution, at the same version as ratls-simulation"


def _package_folder(package: str) -> Path:
    # As the interpreter finds it: a copy that shadows the installed one is what runs.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MeasuredPackageMissing(package, expected="an installed package", found="none")
    return Path(spec.submodule_search_locations[0])
