"""A folder's real content against what a signed manifest lists: M05, M13.

    for finding in compare(listed(manifest), entries): …

Gramine looks at every trusted file of a folder when the folder is listed: one that was changed
makes the whole folder look empty to Python. So this is also what to look at before a start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from verifier.gramine.errors import MeasurementError
from verifier.gramine.findings import Finding, Level
from verifier.gramine.signed import SignedManifest


class ImageDiffers(MeasurementError):
    """The files of an image are not those that the manifest lists with their hashes."""

    code = "image-differs"
    default_fix = "build the image again from its locks, or render and sign the manifest again"
    says = "{thing}: expected {expected}, found {found}"


class TreeDiffers(MeasurementError):
    """An image is another one than that whose digest was given."""

    code = "image-tree-differs"
    default_fix = (
        "name the signed manifest with --manifest, or a checkout with --release: "
        "the first file that differs is named"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    path: str  #            of the host, as a manifest names it
    sha256: str | None  #   None: it is no file that could be read
    found: str = "a file"  # for people: what it is
    size: int = 0


def listed(manifest: SignedManifest) -> dict[str, str]:
    """Path and hash of each trusted file; entries of another form are the lint's affair."""
    files = manifest.table("sgx").get("trusted_files")
    return {
        entry["uri"].removeprefix("file:"): entry["sha256"]
        for entry in (files if isinstance(files, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("uri"), str)
        and isinstance(entry.get("sha256"), str)
    }


def measured_files(manifest: SignedManifest) -> dict[str, str]:
    """As `listed`, and Gramine's library OS, which is measured through a key of its own."""
    entry = manifest.table("loader", "entrypoint")
    uri, digest = entry.get("uri"), entry.get("sha256")
    files = listed(manifest)
    if isinstance(uri, str) and isinstance(digest, str):
        files[uri.removeprefix("file:")] = digest
    return files


def compare(wanted: Mapping[str, str], entries: Iterable[Entry]) -> Iterator[Finding]:
    """Every file that differs, that is missing, or that is there and not listed; by path."""
    found = {entry.path: entry for entry in entries}
    for path in sorted(wanted.keys() | found.keys()):
        digest, entry = wanted.get(path), found.get(path)
        if entry is None:
            yield Finding(Level.REFUSE, path, f"sha256 {digest}", "no such file")
        elif digest is None:
            yield Finding(Level.REFUSE, path, "nothing that is not listed", entry.found)
        elif entry.sha256 != digest:
            got = entry.found if entry.sha256 is None else f"sha256 {entry.sha256}"
            yield Finding(Level.REFUSE, path, f"sha256 {digest}", got)


def require_equal(differ: Sequence[Finding]) -> None:
    """Raises: ImageDiffers, with the first file."""
    if differ:
        first, more = differ[0], f" ({len(differ)} files differ)" if len(differ) > 1 else ""
        raise ImageDiffers(first.key, expected=first.expected, found=f"{first.found}{more}")


def tree_digest(entries: Iterable[Entry], above: str = "") -> str:
    """SHA-256 over the lines that `sha256sum` writes about all files, in the order of their paths.

    By hand, in the folder: find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum

    Args:
        above: The folder's own path, which is left out.
    """
    total = hashlib.sha256()
    for path, digest in sorted((f".{e.path[len(above) :]}", e.sha256) for e in entries):
        total.update(f"{digest}  {path}\n".encode())
    return total.hexdigest()


def require_tree(name: str, found: str, expected: str) -> None:
    """Raises: TreeDiffers."""
    if found != expected:
        raise TreeDiffers(name, expected=f"tree {expected}", found=found)
