"""From a release to an image: downloads what no folder is given for, and builds.

made = make(out, release, ["summary_statistics"], wheels=None, debs=None, say=print)
made.digest
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from ratls.image.build import Image, Sources, build, needed, require_absent
from ratls.image.bytecode import Interpreter
from ratls.image.fetch import fetch_debs, fetch_wheels
from ratls.image.locks import chosen
from ratls.image.release import read_release


def make(
    out: Path,
    release: Path,
    computations: Collection[str],
    *,
    wheels: Path | None,
    debs: Path | None,
    say: Callable[[str], None],
    interpreter: Interpreter | None = None,
) -> Image:
    """The image in the new folder `out`.

    Args:
        wheels, debs: Folders with the packages; None downloads them, and keeps none.
        say: Told what is done meanwhile.
        interpreter: As in `build`.

    Raises:
        RatlsError: As `read_release`, `fetch_wheels`, `fetch_debs` and `build`.
    """
    require_absent(out)
    read = read_release(release)
    files = chosen(read.files, computations)
    with tempfile.TemporaryDirectory(prefix="ratls-image-") as top:
        if wheels is None:
            wheels = Path(top, "wheels")
            wheels.mkdir()
            say("pip downloads the wheels …")
            fetch_wheels(wheels, needed(files, read.wheels))
        if debs is None:
            debs = Path(top, "debs")
            debs.mkdir()
            say("apt-get downloads the Debian packages …")
            fetch_debs(debs, needed(files, read.debs))
        say("reads the packages, compiles the modules …")
        sources = Sources(files, read.wheels, read.debs, wheels, debs, read.own)
        return build(Path(os.path.abspath(out)), sources, interpreter)
