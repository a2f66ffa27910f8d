"""Gramine's own tools beside ours, where they are installed: both must give the same bytes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from verifier.errors import ConfigError
from verifier.gramine.errors import MeasurementError
from verifier.text import cause

_SECONDS = 600


class GramineToolFailed(ConfigError):
    """A tool of Gramine is not installed, or failed."""

    code = "gramine-tool-failed"
    default_fix = "install Gramine 1.9, or leave out --with-gramine"


class GramineDiffers(MeasurementError):
    """Gramine's own tool gave other bytes than ratls."""

    code = "gramine-differs"
    default_fix = "use the Gramine version that this manifest is for (1.9), and report this"


def require_same_manifest(
    raw: bytes, template: Path, names: Mapping[str, str], chroot: Path | None
) -> None:
    """Raises: GramineToolFailed, GramineDiffers."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.manifest"
        defined = [f"-D{name}={value}" for name, value in names.items()]
        below = [] if chroot is None else ["--chroot", str(chroot)]
        _run(["gramine-manifest", *defined, *below, str(template), str(made)])
        _compare("manifest", raw, made.read_bytes())


def require_same_signature(raw: bytes, signed: Path, key: Path, libpal: Path, date: str) -> None:
    """Raises: GramineToolFailed, GramineDiffers."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        arguments = ["--manifest", str(signed), "--output", str(place / "made.manifest.sgx")]
        arguments += ["--sigfile", str(place / "made.sig"), "--libpal", str(libpal)]
        _run(["gramine-sgx-sign", *arguments, "--key", str(key), "--date", date])
        _compare("manifest", signed.read_bytes(), (place / "made.manifest.sgx").read_bytes())
        _compare("SIGSTRUCT", raw, (place / "made.sig").read_bytes())


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - names fixed above, arguments as this user typed them
            command, capture_output=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        found = cause(error) if isinstance(error, OSError) else f"nothing after {_SECONDS} s"
        raise GramineToolFailed(command[0], expected="its answer", found=found) from error
    if done.returncode:
        last = os.fsdecode(done.stderr).strip().splitlines()[-1:] or [""]
        raise GramineToolFailed(
            command[0], expected="exit status 0", found=f"{done.returncode}: {ascii(last[0])[:160]}"
        )


def _compare(thing: str, ours: bytes, theirs: bytes) -> None:
    if ours != theirs:
        at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        at = min(len(ours), len(theirs)) if at is None else at
        raise GramineDiffers(
            thing, expected="the same bytes", found=f"other ones from byte {at} on"
        )
