"""Makes the list of an image's files anew: what the jobs open in a tree that has everything.

    python -m tests.support.image_list WHEELS DEBS > manifests/gramine/files.txt

Needs root and strace, and folders with the packages of the locks. Opens are watched, of the
interpreter, its modules and its libraries alike.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ratls.image.bytecode import LOADER
from ratls.image.locks import ALWAYS, Locked, parse_debs, parse_wheels
from ratls.image.parts import LinkOut, Part, PartUnreadable, find_deb, find_wheel
from ratls.image.rules import INTERPRETER, PACKAGES, STDLIB, broken_rule
from tests.support.image_jobs import RUNS, whole_job
from tests.support.imports import ROOT, measured_files

# Whether it succeeded stands on another line where threads interleave; only files that are there
# count.
_OPENED = re.compile(r'\b(?:openat|open|execve)\((?:AT_FDCWD, )?"/([^"]+)"')
_HEAD = """\
# The files of an image, by what loads them: in every image (start), or for these computations.
# In a wheel a path is as in the wheel; of a Debian package, as in the image.
# Made by `make image-list`; never changed by hand.
"""
# Looked at and never opened: the file by which the interpreter knows its own folder. Without it
# that would be the one of the machine.
_ALSO = {INTERPRETER, LOADER, f"{STDLIB}os.py"}


def packages(wheels: Path, debs: Path) -> Iterator[tuple[Locked, Part, str]]:
    """Each locked package, opened, and where its files go."""
    for one in parse_wheels((ROOT / "requirements/enclave.txt").read_bytes()):
        yield one, find_wheel(wheels, one), PACKAGES
    for one in parse_debs((ROOT / "manifests/gramine/debian.lock").read_bytes()):
        yield one, find_deb(debs, one), ""


def main(wheels: Path, debs: Path) -> None:
    owners: dict[str, tuple[str, str]] = {}  # place in the image: package, path in the list
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        for one, part, below in packages(wheels, debs):
            for path in part.names:
                if broken_rule(path) is None and path.startswith(("usr/", "etc/")) == (not below):
                    _unpack(tree / below / path, part, path)
                    owners[below + path] = one.name, path
        for path in measured_files():
            place = tree / PACKAGES / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / path).read_bytes())
        uses: dict[str, set[str]] = defaultdict(set)
        for run in RUNS:
            trace = Path(folder, run)
            strace = (
                "/usr/bin/strace",
                "-D",
                "-f",
                "-e",
                "trace=open,openat,execve",
                "-o",
                str(trace),
            )
            whole_job(tree, run, prefix=strace)
            for place in _places(trace, owners):
                uses[place].add(run)
    for place in _ALSO:
        uses[place] = set(RUNS)
    print(_HEAD, end="")
    lines = []
    for place, runs in uses.items():
        part, path = owners[place]
        use = ALWAYS if len(runs) == len(RUNS) else ",".join(sorted(runs))
        lines.append((part, path, f"{use:8} {part} {path}"))
    print("\n".join(line for *_, line in sorted(lines)))


def _unpack(place: Path, part: Part, path: str) -> None:
    try:
        raw = part.read(path)
    except (LinkOut, PartUnreadable):
        return  # what the trace opens all the same is missed by the test of the list
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw)
    place.chmod(0o755)


def _places(trace: Path, owners: dict[str, tuple[str, str]]) -> Iterator[str]:
    for line in trace.read_text("utf-8", "replace").splitlines():
        found = _OPENED.search(line)
        place = posixpath.normpath(found[1]) if found else ""
        if place in owners:
            yield place


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
