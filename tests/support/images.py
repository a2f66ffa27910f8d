"""A small made-up release with its packages: two wheels, one Debian package, two modules of ours.

    world = ImageWorld.create(tmp_path)
    world.wheel("alpha", {"alpha/__init__.py": b"ONE = 2"})      # replaces it, and its lock
    image = world.make(tmp_path / "image")

Its image has no interpreter: the one that runs the tests compiles it.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policy.computations import DECLARED
from ratls.image.build import Image
from ratls.image.bytecode import Interpreter
from ratls.image.make import make

HERE = Interpreter((sys.executable,), sys.base_prefix)
LIB = "usr/lib/x86_64-linux-gnu"
LISTED = f"""\
# made up
start                alpha alpha/__init__.py
start                alpha alpha/deep/inner.py
start                alpha alpha/_native.so
summary_statistics   beta beta.py
start                libgamma {LIB}/libgamma.so.1
start                libgamma usr/lib/python3.11/gamma.py
"""
ALPHA = {
    "alpha/__init__.py": b'"""Alpha."""\nONE = 1\n',
    "alpha/deep/inner.py": b"def f(x):\n    return {'x': x, 'where': __file__}\n",
    "alpha/_native.so": b"\x7fELF alpha",
    "alpha/tests/test_it.py": b"assert False\n",
    "alpha-1.0.dist-info/RECORD": b"",
}
GAMMA: Mapping[str, bytes | str] = {  # bytes, or where a link leads
    "./lib/x86_64-linux-gnu/libgamma.so.1.2": b"\x7fELF gamma",
    "./lib/x86_64-linux-gnu/libgamma.so.1": "libgamma.so.1.2",
    "./usr/lib/python3.11/gamma.py": b"import alpha\n",
}
OWN = {"enclave_app/__init__.py": b"", "enclave_app/gramine_main.py": b"print('ready')\n"}


def wheel_bytes(files: Mapping[str, bytes | str]) -> bytes:
    """A text is where a link leads."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if isinstance(content, str) else 0o100644) << 16
            archive.writestr(info, content)
    return sink.getvalue()


def deb_bytes(files: Mapping[str, bytes | str], *, member: str = "data.tar.xz") -> bytes:
    """A package of Debian, as `ar` lays it out; a text is where a link leads."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    out = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n"), (member, sink.getvalue())):
        out += f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(body):<10}`\n".encode()
        out += body + b"\n" * (len(body) % 2)
    return out


@dataclass
class ImageWorld:
    """Folders of a release and of its packages; each method changes one thing."""

    top: Path
    locks: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"wheels": {}, "debs": {}}
    )  # name to SHA-256

    @classmethod
    def create(cls, top: Path) -> ImageWorld:
        world = cls(top)
        world.wheel("alpha", ALPHA)
        world.wheel("beta", {"beta.py": b"import alpha\n"})
        world.deb("libgamma", GAMMA)
        world.write("release/manifests/gramine/files.txt", LISTED)
        for name, raw in OWN.items():
            world.write(f"release/{name}", raw.decode())
        world.write("release/enclave_app/measured.txt", "\n".join(OWN) + "\n")
        return world

    @property
    def release(self) -> Path:
        return self.top / "release"

    def write(self, place: str, text: str) -> Path:
        path = self.top / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def wheel(self, name: str, content: Mapping[str, bytes | str] | bytes) -> Path:
        """A wheel, version 1.0, and its line in the lock."""
        raw = content if isinstance(content, bytes) else wheel_bytes(content)
        return self._add("wheels", name, f"{name}-1.0-py3-none-any.whl", raw)

    def deb(self, name: str, content: Mapping[str, bytes | str] | bytes) -> Path:
        """A package, version 1:2.0-1, and its line in the lock."""
        raw = content if isinstance(content, bytes) else deb_bytes(content)
        return self._add("debs", name, f"{name}_1%3a2.0-1_amd64.deb", raw)

    def _add(self, kind: str, name: str, file: str, raw: bytes) -> Path:
        path = self.top / kind / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        self.locks[kind][name] = hashlib.sha256(raw).hexdigest()
        self.write_locks()
        return path

    def write_locks(self) -> None:
        wheels = [f"{n}==1.0 \\\n    --hash=sha256:{h}\n" for n, h in self.locks["wheels"].items()]
        debs = [f"{n}  1:2.0-1  {h}\n" for n, h in self.locks["debs"].items()]
        self.write("release/requirements/enclave.txt", "".join(wheels))
        self.write("release/manifests/gramine/debian.lock", "# made up\n" + "".join(debs))

    def list_also(self, line: str) -> None:
        """One line more in the list of files."""
        self.write("release/manifests/gramine/files.txt", f"{LISTED}{line}\n")

    def make(
        self,
        out: Path,
        computations: Collection[str] = tuple(DECLARED),
        interpreter: Interpreter = HERE,
    ) -> Image:
        """The image, offline."""
        return make(
            out,
            self.release,
            computations,
            wheels=self.top / "wheels",
            debs=self.top / "debs",
            say=lambda text: None,
            interpreter=interpreter,
        )


def everything(tree: Path) -> dict[str, tuple[bytes | None, int, int]]:
    """All that a folder is: names, bytes, modes and times, its own too."""
    found: dict[str, tuple[bytes | None, int, int]] = {}
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        raw = path.read_bytes() if path.is_file() else None
        found[path.relative_to(tree).as_posix()] = (raw, status.st_mode, status.st_mtime_ns)
    return found
