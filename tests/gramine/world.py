"""A made-up Gramine: a loader of few bytes, an image of few files, a key, and their manifest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ratls.manifest_template import render
from verifier.gramine.complete import Trusted, complete, write
from verifier.gramine.known import BUILDS
from verifier.gramine.loader import Loader
from verifier.gramine.signed import SignedManifest
from verifier.gramine.trusted import PACKAGES

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = ROOT / "manifests" / "gramine" / "ratls-enclave.manifest.template"
GRAMINE = "/usr/lib/x86_64-linux-gnu/gramine"
IMAGE, RUNTIME = "/opt/ratls/image", f"{GRAMINE}/runtime/glibc"
ABSENT = object()
# What an image holds, by its path in the enclave.
FILES = {
    "/usr/bin/python3.11": b"\x7fELF interpreter",
    "/usr/lib/x86_64-linux-gnu/libz.so.1": b"\x7fELF z",
    f"{PACKAGES}/enclave_app/__init__.py": b"",
    f"{PACKAGES}/enclave_app/gramine_main.py": b"print('ready')\n",
    f"{PACKAGES}/numpy/__init__.py": b"version = 2\n",
}
LIBRARIES = {"ld-linux-x86-64.so.2": b"\x7fELF ld", "libc.so.6": b"\x7fELF c"}


def elf(
    segments: tuple[tuple[int, int, bytes, int], ...] = ((5, 0, b"", 0x1800),),
    *,
    entry: int = 0x78,
    kind: int = 3,
    machine: int = 62,
) -> bytes:
    """An ELF file of these segments: flags, address, bytes (empty: the headers), size in memory."""
    at = 64 + 56 * len(segments)
    body, headers = b"\xf3\x0f\x1e\xfa", b""
    for flags, address, content, in_memory in segments:
        if content:
            start = at + len(body)
            start += (address - start) % 4096
            body = body.ljust(start - at, b"\0") + content
            size = len(content)
        else:
            start, size = 0, at + 4
        headers += pack("<IIQQQQQQ", 1, flags, start, address, 0, size, in_memory, 4096)
    head = pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", kind, machine, 1, entry, 64, 0, 0, 64, 56,
        len(segments), 0, 0, 0,
    )  # fmt: skip
    return head + headers + body


def loader() -> Loader:
    return Loader.parse(elf())


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(3, 3072)


def key_file(folder: Path, made: Any = None) -> Path:
    path = folder / "enclave-key.pem"
    path.touch(0o600)
    path.write_bytes(
        (made or key()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def listed(image: str = IMAGE, runtime: str = RUNTIME) -> list[Trusted]:
    """What the signer would list, as our template names the folders: Gramine's own first."""
    files = {f"{runtime}/{name}": content for name, content in LIBRARIES.items()}
    files |= {f"{image}{path}": content for path, content in FILES.items()}
    return [Trusted(f"file:{path}", sha256(c).hexdigest()) for path, c in files.items()]


def document(image: str = IMAGE) -> dict[str, Any]:
    """Our own template, as its signed form has it."""
    text = render(TEMPLATE.read_text("utf-8"), {"image": image}, Path(GRAMINE))
    libsysdb = Trusted(f"file:{GRAMINE}/libsysdb.so", BUILDS[0].libsysdb)
    return complete(SignedManifest.parse(text.encode()).document, libsysdb, listed(image))


def change(manifest: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The document with one key set, added or dropped."""
    changed = copy.deepcopy(dict(manifest))
    *above, name = key.split(".")
    table = changed
    for part in above:
        table = table.setdefault(part, {})
    if value is ABSENT:
        del table[name]
    else:
        table[name] = value
    return changed


def signed(manifest: Mapping[str, Any] | None = None) -> SignedManifest:
    return SignedManifest.parse(write(document() if manifest is None else manifest))


@dataclass(frozen=True)
class Machine:
    """A folder in which image and Gramine are installed."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "image"

    @property
    def gramine(self) -> Path:
        return self.folder / "gramine"

    @classmethod
    def installed(cls, folder: Path) -> Machine:
        made = cls(folder)
        for path, content in FILES.items():
            made.put(made.image / path[1:], content)
        for name, content in LIBRARIES.items():
            made.put(made.gramine / "runtime" / "glibc" / name, content)
        made.put(made.gramine / "libsysdb.so", b"library OS")
        made.put(made.gramine / "sgx" / "libpal.so", elf())
        return made

    def put(self, path: Path, content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    @property
    def libpal(self) -> str:
        return sha256((self.gramine / "sgx" / "libpal.so").read_bytes()).hexdigest()

    @property
    def libsysdb(self) -> str:
        return sha256((self.gramine / "libsysdb.so").read_bytes()).hexdigest()
