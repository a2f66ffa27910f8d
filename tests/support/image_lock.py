"""Makes the two locks of an image anew, from what pip and apt-get bring now.

    python -m tests.support.image_lock FOLDER      # leaves wheels and Debian packages in FOLDER

The wheels are of the versions that run here, by the other locks; the Debian packages, those that
the lock names already, are the newest. Then `tests.support.image_list` makes the list.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from ratls.image.fetch import PLATFORM
from ratls.image.locks import parse_debs
from ratls.image.release import DEBS, WHEELS
from tests.support.imports import ROOT

_DEBS = """\
# The Debian 12 packages of an image, for amd64: name, version, SHA-256 of the .deb.
# Made by `make image-lock`.
"""


def main(folder: Path) -> None:
    wheels, debs = folder / "wheels", folder / "debs"
    for made in (wheels, debs):
        made.mkdir(parents=True, exist_ok=True)
        for old in made.iterdir():
            old.unlink()
    project = tomllib.loads((ROOT / "manifests/enclave/pyproject.toml").read_text("utf-8"))
    versions = folder / "versions.txt"
    versions.write_text("".join(map(_versions, ("run.txt", "arrays.txt"))), "ascii")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *PLATFORM]
    wanted = project["project"]["dependencies"]
    subprocess.run([*pip, "-c", str(versions), *wanted], check=True)
    (ROOT / WHEELS).write_text("".join(map(_wheel, sorted(wheels.iterdir()))), "ascii")
    names = [one.name for one in parse_debs((ROOT / DEBS).read_bytes())]
    subprocess.run(["apt-get", "download", "-q", *names], cwd=debs, check=True)
    (ROOT / DEBS).write_text(_DEBS + "".join(map(_deb, sorted(debs.iterdir()))), "ascii")


def _versions(lock: str) -> str:
    """Its lines without hashes: with them pip would ask for one of each package that is named."""
    text = (ROOT / "requirements" / lock).read_text("ascii")
    return "".join(f"{line}\n" for line in re.findall(r"^(\w\S*==[^\\]+)", text, re.MULTILINE))


def _wheel(path: Path) -> str:
    name, version = path.name.split("-")[:2]
    name = re.sub(r"[-_.]+", "-", name).lower()
    return f"{name}=={version} \\\n    --hash=sha256:{_sha256(path)}\n"


def _deb(path: Path) -> str:
    name, version, _ = path.name.split("_")
    return f"{name:22} {version.replace('%3a', ':'):18} {_sha256(path)}\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
