"""`ratls measure image`: a folder, or the locks of a release, against what a manifest lists."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ratls.cli_measure import measure
from ratls.image.parts import PartHashDiffers
from ratls.manifest_template import render
from tests.gramine.world import GRAMINE, TEMPLATE
from tests.support.images import GAMMA, HERE, LIB, ImageWorld
from tests.support.typed import typed
from verifier.gramine.complete import Trusted, complete, write
from verifier.gramine.known import BUILDS
from verifier.gramine.listing import ImageDiffers, TreeDiffers
from verifier.gramine.signed import SignedManifest

ROOT = "/opt/ratls/image"
MODULE = "/usr/local/lib/python3.11/dist-packages/enclave_app/gramine_main.pyc"


class Desk:
    """A reviewer with a checkout and its packages, an unpacked image and a signed manifest."""

    def __init__(self, top: Path) -> None:
        self.world = ImageWorld.create(top)
        self.image, self.signed = top / "image", top / "enclave.manifest.sgx"
        self.made = self.world.make(self.image)
        self.tree = f"sha256:{self.made.digest.hex()}"
        self.lists(self.image)

    def lists(self, image: Path) -> None:
        """The manifest lists this image, and Gramine's own C library beside it."""
        files = {f"{GRAMINE}/runtime/glibc/libc.so.6": b"\x7fELF c"}
        for path in sorted(image.rglob("*")):
            if path.is_file():
                files[f"{ROOT}/{path.relative_to(image).as_posix()}"] = path.read_bytes()
        trusted = [Trusted(f"file:{p}", sha256(raw).hexdigest()) for p, raw in files.items()]
        text = render(TEMPLATE.read_text("utf-8"), {"image": ROOT}, Path(GRAMINE))
        libsysdb = Trusted(f"file:{GRAMINE}/libsysdb.so", BUILDS[0].libsysdb)
        document = SignedManifest.parse(text.encode()).document
        self.signed.write_bytes(write(complete(document, libsysdb, trusted)))

    @property
    def locks(self) -> list[object]:
        """Build it again, offline."""
        top = self.world.top
        folders = ["--wheels", top / "wheels", "--debs", top / "debs"]
        return ["--release", self.world.release, *folders]

    def says(self, status: int, *words: object) -> Any:
        shown = typed(measure, ["image", *words, "--json"], status).stdout.splitlines()
        return json.loads(shown[-1])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    # The made-up image has no interpreter to compile it.
    monkeypatch.setattr("ratls.image.build.tree_interpreter", lambda tree: HERE)
    return Desk(tmp_path)


def test_the_locks_give_what_the_manifest_lists(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M05: nothing of an operator is needed but the manifest, and nothing stays behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    said = desk.says(0, *desk.locks, "--manifest", desk.signed)
    assert (said["folder"], said["tree"], said["files"]) == (None, desk.tree, desk.made.files)
    assert said["built"] == {"files": desk.made.files, "bytes": desk.made.size, "tree": desk.tree}
    assert (said["differ"], said["error"]) == ([], None)
    assert list((tmp_path / "temporary").iterdir()) == []


def own_module(desk: Desk) -> str:
    """The operator signs an enclave of another source than the release's."""
    (desk.world.release / "enclave_app" / "gramine_main.py").write_bytes(b"print('other')\n")
    return MODULE


def library(desk: Desk) -> str:
    desk.world.deb("libgamma", {**GAMMA, "./lib/x86_64-linux-gnu/libgamma.so.1.2": b"\x7fELF x"})
    return f"/{LIB}/libgamma.so.1"


def one_more(desk: Desk) -> str:
    desk.world.list_also("start  alpha alpha/more.py")
    desk.world.wheel("alpha", {**_alpha(), "alpha/more.py": b""})
    return "/usr/local/lib/python3.11/dist-packages/alpha/more.pyc"


def _alpha() -> dict[str, bytes]:
    from tests.support.images import ALPHA

    return dict(ALPHA)


@pytest.mark.parametrize("change", [own_module, library, one_more])
def test_the_first_file_that_the_locks_give_otherwise_is_named(
    desk: Desk, change: Callable[[Desk], str]
) -> None:
    """M05: the manifest is signed over something else than the release."""
    path = f"{ROOT}{change(desk)}"
    said = desk.says(6, *desk.locks, "--manifest", desk.signed)
    assert said["error"]["code"] == ImageDiffers.code
    assert said["error"]["message"].startswith(f"{path}: ")
    assert [finding["key"] for finding in said["differ"]] == [path]
    # The twin: a manifest of what the locks give now.
    desk.lists(_made_again(desk))
    assert desk.says(0, *desk.locks, "--manifest", desk.signed)["error"] is None


def _made_again(desk: Desk) -> Path:
    out = desk.world.top / "again"
    desk.world.make(out)
    return out


@pytest.mark.parametrize("what", ["changed", "added", "gone", "empty folder"])
def test_a_folder_against_what_the_locks_give(desk: Desk, what: str) -> None:
    """M13: an unpacked image, before there is any manifest."""
    assert desk.says(0, desk.image, *desk.locks)["differ"] == []
    place = desk.image / MODULE.lstrip("/")
    match what:
        case "changed":
            place.write_bytes(place.read_bytes()[:-1])
        case "added":
            place = place.with_name("more.pyc")
            place.write_bytes(b"")
        case "gone":
            place.unlink()
        case _:
            place = place.with_name("more")
            place.mkdir()
    said = desk.says(6, desk.image, *desk.locks)
    assert said["error"]["code"] == ImageDiffers.code
    assert [finding["key"] for finding in said["differ"]] == [str(place)]
    assert said["built"]["tree"] == desk.tree != said["tree"]


def test_a_folder_and_locks_against_a_manifest(desk: Desk) -> None:
    """Each is compared with the manifest: the folder may be right, and the release another."""
    words = [desk.image, *desk.locks, "--manifest", desk.signed]
    assert desk.says(0, *words)["differ"] == []
    own_module(desk)
    said = desk.says(6, *words)
    assert [finding["key"] for finding in said["differ"]] == [f"{ROOT}{MODULE}"]
    assert said["tree"] == desk.tree != said["built"]["tree"]


def test_the_digest_that_others_say(desk: Desk) -> None:
    """M05: parties compare one number; where it is another, the remedy names the file."""
    for words in ([desk.image], desk.locks, [desk.image, *desk.locks]):
        assert desk.says(0, *words, "--expect-tree", desk.tree)["error"] is None
        said = desk.says(6, *words, "--expect-tree", "sha256:" + "0" * 64)
        assert said["error"]["code"] == TreeDiffers.code
    typed(measure, ["image", desk.image, "--expect-tree", "0" * 64], 2)


def test_an_image_for_fewer_computations(desk: Desk) -> None:
    few = desk.world.top / "few"
    desk.world.make(few, ["private_set_intersection"])
    desk.lists(few)
    words = [*desk.locks, "--manifest", desk.signed]
    assert len(desk.says(6, *words)["differ"]) == 1
    said = desk.says(0, *words, "--computations", "private_set_intersection")
    assert said["differ"] == []


def test_a_package_that_is_another(desk: Desk) -> None:
    """U01: refused by name before anything is built of it."""
    (wheel,) = desk.world.top.glob("wheels/alpha-*")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    said = desk.says(3, *desk.locks, "--manifest", desk.signed)
    assert said["error"]["code"] == PartHashDiffers.code
    assert wheel.name in said["error"]["message"]


def test_what_people_see(desk: Desk) -> None:
    shown = typed(measure, ["image", desk.image, *desk.locks]).stdout.splitlines()
    assert len(shown) == 5
    assert shown[1] == shown[4] == f"  tree {desk.tree}"
    assert shown[2].endswith(", 0 differ")


@pytest.mark.parametrize("words", [[], ["{image}", "--wheels", "x"], ["x", "--computations", ""]])
def test_what_cannot_be_asked(desk: Desk, words: list[str]) -> None:
    typed(measure, ["image", *(word.format(image=desk.image) for word in words)], 2)
