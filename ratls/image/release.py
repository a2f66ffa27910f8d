"""What a release, or a checkout, says of an image: locks, list, and the enclave's own modules.

release = read_release(folder)
release.files, release.wheels, release.debs, release.own
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from policy.computations import DECLARED
from ratls.image.errors import ImageError, ListMalformed
from ratls.image.locks import File, Locked, parse_debs, parse_files, parse_wheels
from ratls.image.parts import LinkOut
from ratls.image.rules import broken_rule
from verifier.files import parse_file, read_file

# Places in a release.
WHEELS = "requirements/enclave.txt"
DEBS = "manifests/gramine/debian.lock"
FILES = "manifests/gramine/files.txt"
OWN = "enclave_app/measured.txt"
_OWN_PACKAGES = ("verifier/", "policy/", "ratls/", "enclave_app/")


class ReleaseMissing(ImageError):
    """The folder that should be a release is none."""

    code = "image-release-missing"
    default_fix = "run the command in a checkout of the release, or name one with --release"


class ComputationUnknown(ImageError):
    """An image is asked for with a computation that no enclave of this release has."""

    code = "image-computation-unknown"
    default_fix = "name computations as a policy does in `run`, with commas between them"


@dataclass(frozen=True, slots=True)
class Release:
    """One release, read."""

    files: tuple[File, ...]
    wheels: tuple[Locked, ...]
    debs: tuple[Locked, ...]
    own: dict[str, bytes]  # place below dist-packages, and bytes


def read_release(folder: Path) -> Release:
    """Raises: ReleaseMissing, FileUnreadable, ListMalformed, LinkOut."""
    for name in (FILES, WHEELS, DEBS, OWN):
        if not (folder / name).exists():
            raise ReleaseMissing(str(folder), expected=f"a release, with {name}", found="none")
    return Release(
        parse_file(folder / FILES, parse_files),
        parse_file(folder / WHEELS, parse_wheels),
        parse_file(folder / DEBS, parse_debs),
        dict(_own(folder)),
    )


def _own(folder: Path) -> Iterator[tuple[str, bytes]]:
    names = parse_file(folder / OWN, lambda raw: raw.decode("ascii", "backslashreplace").split())
    top = folder.resolve()
    for name in names:
        ours = name.startswith(_OWN_PACKAGES) and name.endswith(".py")
        if not ours or broken_rule(name) is not None:
            raise ListMalformed(
                str(folder / OWN), expected="modules of the enclave", found=ascii(name)
            )
        path = folder / name
        if path.resolve() != top / name:
            raise LinkOut(str(path), expected="a file", found="a link, or one above it")
        yield name, read_file(path)


def read_computations(text: str | None) -> tuple[str, ...]:
    """The computations of `--computations a,b`, sorted; all of them for None.

    Raises: ComputationUnknown.
    """
    names = set(DECLARED) if text is None else set(text.split(","))
    for name in sorted(names - set(DECLARED)):
        raise ComputationUnknown(
            "--computations", expected=" or ".join(sorted(DECLARED)), found=ascii(name)
        )
    return tuple(sorted(names))
