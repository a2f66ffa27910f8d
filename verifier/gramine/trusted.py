"""Which files an enclave sees, and by which hash: trusted files, root and mounts of a manifest.

Gramine looks at what is allowed before what is trusted, and lists a folder's real content: a file
that is there and not listed is seen, and cannot be opened. So every folder is listed as a whole.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from verifier.gramine.errors import MeasuredFormatError
from verifier.gramine.findings import Finding, refuse
from verifier.gramine.rules import AGREEMENT, INTERPRETER, is_digest, is_uri

MANY_FILES = 3000
MOST_FILES = 6000  # above, the start takes minutes: docs/gramine.md 6
PACKAGES = "/usr/local/lib/python3.11/dist-packages"
MAIN = f"{PACKAGES}/enclave_app/gramine_main"
WRITABLE = "/tmp"  # noqa: S108 - of the enclave, in its own memory
_RUNTIME = ("ld-linux-x86-64.so.2", "libc.so.6")
# Python takes code or paths from these, at its start, without an import.
_STARTUP = ("sitecustomize", "usercustomize")
_STARTUP_NAMES = {"pyvenv.cfg", "python311.zip", "pybuilddir.txt", "ld.so.preload"}


def root_of(document: Mapping[str, Any]) -> str:
    """The image's folder on the host. The rule of `fs.root` holds."""
    return str(document["fs"]["root"]["uri"])[5:]


class ImageNotNamed(MeasuredFormatError):
    """A manifest does not say in which folder its files are."""

    code = "image-not-named"
    default_fix = "name a manifest whose fs.root has an absolute file: URI"


def require_root(document: Mapping[str, Any]) -> str:
    """Raises: ImageNotNamed."""
    folders = image_folders(document)
    if not folders:
        raise ImageNotNamed("manifest: fs.root", expected="an absolute folder", found="none")
    return folders[0]


def image_folders(document: Mapping[str, Any]) -> list[str]:
    """The folders that the enclave sees as a whole: the image, then Gramine's C library."""
    fs = document.get("fs")
    fs = fs if isinstance(fs, dict) else {}
    root, mounts = fs.get("root"), fs.get("mounts")
    uri = root.get("uri") if isinstance(root, dict) else None
    if not is_uri(uri):
        return []
    runtime = runtime_of(mounts) if isinstance(mounts, list) else None
    return [str(uri)[5:], *([runtime] if runtime else [])]


def mount_findings(mounts: list[Any]) -> Iterator[Finding]:
    """A closed list: over `/dev/attestation` or the packages, a mount puts what the host likes."""
    agreement = {"path": AGREEMENT, "uri": f"file:{AGREEMENT}"}
    runtime = _runtime_uri(mounts)
    wanted = [{"path": "/lib", "uri": runtime}, agreement, {"type": "tmpfs", "path": WRITABLE}]
    if runtime is None or mounts != wanted:
        extra = [m for m in mounts if m not in wanted] or mounts
        wanted_text = f"/lib of Gramine's runtime, {AGREEMENT}, tmpfs at {WRITABLE}, and no more"
        yield refuse("fs.mounts", wanted_text, extra)


def runtime_of(mounts: list[Any]) -> str | None:
    """The folder of the C library that comes with Gramine, from the mount at `/lib`."""
    uri = _runtime_uri(mounts)
    return uri[5:] if uri else None


def _runtime_uri(mounts: list[Any]) -> str | None:
    for mount in mounts:
        if isinstance(mount, dict) and mount.get("path") == "/lib" and is_uri(mount.get("uri")):
            return str(mount["uri"])
    return None


def within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def folder_findings(image: str, runtime: str | None) -> Iterator[Finding]:
    """The two folders are apart from each other, and from what has no hash."""
    unhashed = (AGREEMENT, "/etc/ratls", "/dev", "/proc", "/sys")
    for key, folder in (("fs.root", image), ("fs.mounts", runtime)):
        if folder is None:
            continue
        for other in unhashed:
            if f"{folder}/".startswith(f"{other}/") or within(other, folder):
                yield refuse(key, f"a folder apart from {other}", folder)
    if runtime and (image == runtime or within(image, runtime) or within(runtime, image)):
        yield refuse("fs.mounts", f"a folder apart from {image}", runtime)


def trusted_findings(files: list[Any], image: str, runtime: str | None) -> Iterator[Finding]:
    """Each with a hash, in its place, once, and in the signer's order."""
    key = "sgx.trusted_files"
    if not 0 < len(files) <= MOST_FILES:
        yield refuse(key, f"1 to {MOST_FILES} files", len(files))
    folders = [folder for folder in (runtime, image) if folder]
    last: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for number, entry in enumerate(files):
        place = f"{key}[{number}]"
        if not isinstance(entry, dict) or entry.keys() != {"uri", "sha256"}:
            yield refuse(place, "a table of uri and sha256", entry)
            continue
        if not is_uri(entry["uri"]):
            yield refuse(f"{place}.uri", "an absolute file: URI in its one spelling", entry["uri"])
            continue
        path = entry["uri"][5:]
        if not is_digest(entry["sha256"]):
            yield refuse(f"{place}.sha256", "64 lower-case hex digits", entry["sha256"])
        if path in seen:
            yield refuse(f"{place}.uri", "each file once", path)
        seen.add(path)
        folder = next((f for f in folders if within(path, f)), None)
        if folder is None:
            # Also where it is or lies above what is allowed: that would be read without its hash.
            yield refuse(f"{place}.uri", f"a file below {' or '.join(folders)}", path)
            continue
        parts = tuple(path.split("/"))
        if parts < last.get(folder, ()):
            yield refuse(f"{place}.uri", "files in ascending order, as the signer writes", path)
        last[folder] = parts
        if folder == image and (wanted := name_fault(path[len(image) :])):
            yield refuse(f"{place}.uri", wanted, path)
    yield from _twins(seen)
    yield from _missing(seen, image, runtime)


def name_fault(path: str) -> str | None:
    """What is wrong with a file of this path in an image; None where nothing is."""
    name = posixpath.basename(path)
    if name in _STARTUP_NAMES or name.startswith(_STARTUP) or name.endswith(".pth"):
        return "no file from which Python takes code or paths at its start"
    if path.startswith((f"{PACKAGES}/simulation/", f"{PACKAGES}/ratls_simulation")):
        return "no simulation"
    return None


def _twins(paths: set[str]) -> Iterator[Finding]:
    """A `.py` and a `.pyc` in its place: which of them runs is Python's choice, not a reader's."""
    for path in sorted(paths):
        if path.endswith(".pyc") and "__pycache__" not in path and path[:-1] in paths:
            yield refuse("sgx.trusted_files", "one form of each module", path)


def _missing(paths: set[str], image: str, runtime: str | None) -> Iterator[Finding]:
    wanted = [f"{image}{INTERPRETER}", *(f"{runtime}/{name}" for name in _RUNTIME if runtime)]
    missing = [path for path in wanted if path not in paths]
    if not paths & {f"{image}{MAIN}.py", f"{image}{MAIN}.pyc"}:
        missing.append(f"{image}{MAIN}.py")
    for path in missing:
        yield refuse("sgx.trusted_files", path, None)
