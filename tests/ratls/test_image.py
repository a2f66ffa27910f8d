"""The image: the same to the last byte everywhere, from what the locks name and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policy.computations import DECLARED
from ratls.cli import build as build_cli
from ratls.image.build import digest_of
from ratls.image.bytecode import Interpreter, InterpreterFailed
from ratls.image.errors import ListMalformed, PartNotLocked
from ratls.image.fetch import DownloadFailed
from ratls.image.locks import Locked, parse_debs, parse_files, parse_wheels
from ratls.image.make import make
from ratls.image.parts import (
    FileNotInPart,
    LinkOut,
    PartHashDiffers,
    PartMissing,
    PartUnreadable,
    find_deb,
    find_wheel,
)
from ratls.image.release import ComputationUnknown, ReleaseMissing, read_computations, read_release
from ratls.image.rules import broken_rule
from tests.support.images import (
    ALPHA,
    GAMMA,
    HERE,
    LIB,
    LISTED,
    OWN,
    ImageWorld,
    deb_bytes,
    everything,
    wheel_bytes,
)
from tests.support.imports import ROOT
from tests.support.refusal import count_refusal, refused
from verifier.files import FileNotWritten, FileUnreadable

ALPHA_WHEEL, GAMMA_DEB = "wheels/alpha-1.0-py3-none-any.whl", "debs/libgamma_1%3a2.0-1_amd64.deb"
PACKAGES = "usr/local/lib/python3.11/dist-packages"


@pytest.fixture
def world(tmp_path: Path) -> ImageWorld:
    return ImageWorld.create(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "image"


def nothing_left(world: ImageWorld) -> bool:
    """No image, and no part of one."""
    names = {path.name for path in world.top.iterdir()}
    return names == {"release", "wheels", "debs"}


# What is in it.


def test_the_image_has_what_the_list_names(world: ImageWorld, out: Path) -> None:
    made = world.make(out)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "etc/nsswitch.conf",
        f"{LIB}/libgamma.so.1",
        "usr/lib/python3.11/gamma.pyc",
        *(f"{PACKAGES}/alpha/{name}" for name in ("__init__.pyc", "deep/inner.pyc", "_native.so")),
        f"{PACKAGES}/beta.pyc",
        *(f"{PACKAGES}/{name}c" for name in OWN),
    }
    assert (made.files, made.size) == (len(files), sum((out / f).stat().st_size for f in files))
    link = out / LIB / "libgamma.so.1"
    assert not link.is_symlink()
    assert link.read_bytes() == b"\x7fELF gamma"
    assert {p.stat().st_mode & 0o7777 for p in out.rglob("*") if p.is_file()} == {0o644}


def test_only_what_the_named_computations_load_is_in_it(world: ImageWorld, out: Path) -> None:
    made = world.make(out, ["private_set_intersection"])
    assert not (out / PACKAGES / "beta.pyc").exists()
    (world.top / "wheels" / "beta-1.0-py3-none-any.whl").unlink()  # nobody asks for it
    assert world.make(world.top / "again", ["private_set_intersection"]) == made


def test_the_digest_is_that_of_plain_tools(world: ImageWorld, out: Path) -> None:
    """A reviewer needs no program of ours to compare it."""
    made = world.make(out)
    command = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=out, capture_output=True, check=True)
    assert said.stdout.split()[0].decode() == made.digest.hex()
    (out / "etc" / "more").write_bytes(b"")
    assert digest_of(out).digest != made.digest


def test_the_bytecode_runs_and_names_places_inside_the_enclave(
    world: ImageWorld, out: Path
) -> None:
    """A path of the machine that builds would be measured, and differ on the next one."""
    world.make(out)
    where = out / PACKAGES
    code = (
        f"import sys; sys.path.insert(0, {str(where)!r}); import alpha.deep.inner;"
        "print(alpha.ONE, alpha.deep.inner.f.__code__.co_filename)"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"1 /{PACKAGES}/alpha/deep/inner.py\n"
    for path in out.rglob("*.pyc"):
        raw = path.read_bytes()
        assert raw[4:8] == b"\x01\0\0\0", "a hash, never checked, in place of a time"
        assert os.fsencode(world.top) not in raw


BUILD = """
import os, sys
from pathlib import Path
from tests.support.images import ImageWorld
os.umask(int(sys.argv[1], 8))
print(ImageWorld(Path(sys.argv[2])).make(Path(sys.argv[3])).digest.hex())
"""


def test_two_builds_are_equal_to_the_last_byte(world: ImageWorld, tmp_path: Path) -> None:
    """U07: by two users, in two folders, time zones, locales and umasks, with another seed of
    hashes, from files that were downloaded on other days."""
    count_refusal()
    surroundings = [
        ("022", "one", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"}),
        ("077", "other/deeper/two", {"TZ": "Pacific/Apia", "LC_ALL": "tr_TR.UTF-8"}),
        ("002", "x y", {"TZ": "America/St_Johns", "PYTHONHASHSEED": "7", "HOME": "/nowhere"}),
    ]
    seen = []
    for days, (umask, place, variables) in enumerate(surroundings):
        for path in (*world.top.glob("wheels/*"), *world.top.glob("debs/*")):
            os.utime(path, (days * 86_400, days * 86_400))
        folder = tmp_path / place
        folder.parent.mkdir(parents=True, exist_ok=True)
        said = subprocess.run(
            [sys.executable, "-c", BUILD, umask, str(world.top), str(folder)],
            cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.append((said.stdout, everything(folder)))
    assert seen[0] == seen[1] == seen[2]
    world.wheel("alpha", ALPHA | {"alpha/_native.so": b"\x7fELF alphb"})
    world.make(tmp_path / "changed")
    assert everything(tmp_path / "changed") != seen[0][1]


# What comes from elsewhere.


def longer(raw: bytes) -> bytes:
    return raw + b"\0"


def half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def rebuilt(raw: bytes) -> bytes:
    return wheel_bytes(ALPHA | {"alpha/__init__.py": b"import os\n"})


@pytest.mark.parametrize("spoil", [longer, half, rebuilt])
@pytest.mark.parametrize("package", [ALPHA_WHEEL, GAMMA_DEB])
def test_a_package_that_is_not_the_locked_one_is_refused_by_name(
    world: ImageWorld, out: Path, package: str, spoil: Callable[[bytes], bytes]
) -> None:
    """U01: a mirror's, a half downloaded one, another build of the same version."""
    path = world.top / package
    path.write_bytes(spoil(path.read_bytes()))
    with refused(PartHashDiffers) as seen:
        world.make(out)
    assert path.name in str(seen.error)
    assert nothing_left(world)


def test_the_locked_build_is_found_among_others(world: ImageWorld, out: Path) -> None:
    """A folder for several machines has several wheels of one version, and of other versions."""
    for name in (
        "alpha-1.0-cp311-cp311-win_amd64.whl",
        "alpha-1.0.1-py3-none-any.whl",
        "alpha.whl",
    ):
        (world.top / "wheels" / name).write_bytes(b"another")
    assert world.make(out).files


@pytest.mark.parametrize("package", [ALPHA_WHEEL, GAMMA_DEB])
def test_a_package_that_is_missing(world: ImageWorld, out: Path, package: str) -> None:
    (world.top / package).rename(world.top / f"{package}.part")
    with refused(PartMissing):
        world.make(out)
    assert nothing_left(world)


def test_no_folder_of_packages(world: ImageWorld, out: Path) -> None:
    (world.top / "wheels").rename(world.top / "elsewhere")
    with refused(PartMissing):
        world.make(out)


@pytest.mark.parametrize("kind", ["wheels", "debs"])
def test_a_file_of_a_package_that_no_lock_names(world: ImageWorld, out: Path, kind: str) -> None:
    """U01: whatever a folder holds under that name would be taken."""
    world.locks[kind].pop({"wheels": "alpha", "debs": "libgamma"}[kind])
    if not world.locks[kind]:
        world.locks[kind]["other"] = "0" * 64
    world.write_locks()
    with refused(PartNotLocked):
        world.make(out)
    assert nothing_left(world)


def test_a_file_that_its_package_does_not_have(world: ImageWorld, out: Path) -> None:
    world.list_also("start  alpha alpha/gone.py")
    with refused(FileNotInPart):
        world.make(out)
    assert nothing_left(world)


def without_end(raw: bytes) -> bytes:
    return raw[:-40]


DAMAGED = {
    "wheel without its directory": ("wheel", without_end),
    "wheel that is none": ("wheel", lambda raw: b"PK"),
    "wheel whose content is damaged": (
        "wheel", lambda raw: raw.replace(raw[60:70], bytes(10), 1)
    ),
    "package cut": ("deb", without_end),
    "package that is none": ("deb", lambda raw: b"!<arch"),
    "package compressed otherwise": ("deb", lambda raw: deb_bytes(GAMMA, member="data.tar.zst")),
    "package of something else": ("deb", lambda raw: raw.replace(b"\xfd7zXZ", b"notXZ")),
    "package with a header of its own": ("deb", lambda raw: raw.replace(b"`\n", b"'\n", 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_package_that_was_locked_damaged(world: ImageWorld, out: Path, case: str) -> None:
    kind, spoil = DAMAGED[case]
    if kind == "wheel":
        world.wheel("alpha", spoil(wheel_bytes(ALPHA)))
    else:
        world.deb("libgamma", spoil(deb_bytes(GAMMA)))
    with refused(PartUnreadable):
        world.make(out)
    assert nothing_left(world)


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../../../etc/passwd", "../libdelta.so.1", "/usr/lib/../../etc/passwd", "."],
)
def test_a_link_out_of_its_package(world: ImageWorld, out: Path, target: str) -> None:
    """U07: what it leads to would be the file of the machine that builds, and be measured."""
    world.deb("libgamma", {**GAMMA, "./lib/x86_64-linux-gnu/libgamma.so.1": target})
    with refused(LinkOut):
        world.make(out)
    assert nothing_left(world)


def test_a_link_that_leads_to_itself(world: ImageWorld, out: Path) -> None:
    world.deb("libgamma", {**GAMMA, "./lib/x86_64-linux-gnu/libgamma.so.1": "libgamma.so.1"})
    with refused(PartUnreadable):
        world.make(out)


@pytest.mark.parametrize(
    "target",
    ["/lib/x86_64-linux-gnu/libgamma.so.1.2", "../../usr/lib/x86_64-linux-gnu/libgamma.so.1.2"],
)
def test_links_inside_their_package_are_files(world: ImageWorld, out: Path, target: str) -> None:
    world.deb("libgamma", {**GAMMA, "./lib/x86_64-linux-gnu/libgamma.so.1": target})
    world.make(out)
    assert (out / LIB / "libgamma.so.1").read_bytes() == b"\x7fELF gamma"


def test_a_wheel_with_a_link(world: ImageWorld, out: Path) -> None:
    world.wheel("alpha", ALPHA | {"alpha/_native.so": "/etc/passwd"})  # type: ignore[dict-item]
    with refused(LinkOut):
        world.make(out)


@pytest.mark.parametrize("linked", ["enclave_app/gramine_main.py", "enclave_app"])
def test_an_own_module_that_is_a_link(world: ImageWorld, out: Path, linked: str) -> None:
    """The file elsewhere would be measured as ours."""
    path = world.release / linked
    path.rename(world.top / "elsewhere")
    path.symlink_to(world.top / "elsewhere")
    with refused(LinkOut):
        world.make(out)


@pytest.mark.parametrize("name", ["../secret.py", "/etc/passwd", "provider/agent.py", "ratls/x.so"])
def test_a_list_of_own_modules_with_something_else(world: ImageWorld, out: Path, name: str) -> None:
    world.write("release/enclave_app/measured.txt", "\n".join([*OWN, name]))
    with refused(ListMalformed):
        world.make(out)


def test_one_place_for_two_files(world: ImageWorld, out: Path) -> None:
    """A wheel with a module under our name would replace ours."""
    world.wheel("alpha", ALPHA | {"enclave_app/gramine_main.py": b"evil"})
    world.list_also("start  alpha enclave_app/gramine_main.py")
    with refused(ListMalformed):
        world.make(out)


# What the rules keep out.


@pytest.mark.parametrize(
    "path",
    [
        *("alpha/tests/test_it.py", "alpha/conftest.py", "alpha/test_x.py", "alpha/x.h"),
        *("alpha/lib.a", "alpha/x.pyi", "alpha/py.typed", "distutils-precedence.pth"),
        *("sitecustomize.py", "usr/lib/python3.11/sitecustomize.py", "alpha-1.0.dist-info/RECORD"),
        *("alpha/__pycache__/x.cpython-311.pyc", "alpha/x.pyc", "pip/__init__.py"),
        *(
            "cloudpickle/cloudpickle.py",
            "rich/console.py",
            "typer/main.py",
            "pygments/lexer.py",
            "httpx/_api.py",
        ),
        *("sqlalchemy/engine.py", "simulation/intel.py", "provider/agent.py", "OpenSSL/SSL.py"),
        *("../etc/passwd", "/etc/passwd", "alpha//x.py", "alpha/./x.py", "alpha/../x.py"),
        *("alpha/\N{LATIN SMALL LETTER E WITH ACUTE}.py", 'alpha/"x".py', "alpha/x\\y.py"),
    ],
)
def test_what_no_image_has(world: ImageWorld, out: Path, path: str) -> None:
    """U02: each of them runs unasked, says where and when it was made, or is not the enclave's."""
    assert broken_rule(path) is not None
    world.list_also(f"start  alpha {path}")
    with refused(ListMalformed):
        world.make(out)
    assert broken_rule("alpha/testing/inner.py") is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("manifests/gramine/files.txt", LISTED + "start alpha\n"),
        ("manifests/gramine/files.txt", LISTED + "Start alpha alpha/x.py\n"),
        ("manifests/gramine/files.txt", LISTED + "start alpha alpha/__init__.py\n"),
        ("manifests/gramine/files.txt", "# nothing\n"),
        ("manifests/gramine/debian.lock", "libgamma 1:2.0-1\n"),
        ("manifests/gramine/debian.lock", f"libgamma 1:2.0-1 {'0' * 63}\n"),
        ("manifests/gramine/debian.lock", f"libgamma 1 {'0' * 64}\nlibgamma 2 {'0' * 64}\n"),
        ("manifests/gramine/debian.lock", ""),
        ("requirements/enclave.txt", "alpha==1.0\n"),
        ("requirements/enclave.txt", "alpha>=1.0 --hash=sha256:" + "0" * 64 + "\n"),
        ("requirements/enclave.txt", "alpha==1.0 --hash=md5:" + "0" * 32 + "\n"),
        (
            "requirements/enclave.txt",
            f"alpha==1.0 --hash=sha256:{'0' * 64} --hash=sha256:{'1' * 64}\n",
        ),
        ("requirements/enclave.txt", "-r other.txt\n"),
        ("requirements/enclave.txt", "alpha @ https://example.org/alpha.whl\n"),
    ],
)
def test_a_lock_or_list_in_another_form(world: ImageWorld, out: Path, file: str, text: str) -> None:
    """U01: of two hashes each builder would take another one, and of none whatever comes."""
    world.write(f"release/{file}", text)
    with refused(ListMalformed):
        world.make(out)


@pytest.mark.parametrize(
    "file",
    ["manifests/gramine/files.txt", "manifests/gramine/debian.lock", "requirements/enclave.txt",
     "enclave_app/measured.txt"],
)  # fmt: skip
def test_a_folder_that_is_no_release(world: ImageWorld, out: Path, file: str) -> None:
    (world.release / file).unlink()
    with refused(ReleaseMissing):
        world.make(out)
    (world.release / file).mkdir()
    with refused(FileUnreadable):
        world.make(out)


# Where it is made, and by what.


@pytest.mark.parametrize("what", ["a folder", "a file", "a link"])
def test_what_exists_is_never_replaced(world: ImageWorld, out: Path, what: str) -> None:
    if what == "a folder":
        out.mkdir()
    elif what == "a file":
        out.touch()
    else:
        out.symlink_to("/nowhere")
    with refused(FileNotWritten):
        world.make(out)
    assert os.path.lexists(out)


def test_no_folder_to_make_it_in(world: ImageWorld) -> None:
    with refused(FileNotWritten):
        world.make(world.top / "no" / "image")


@pytest.mark.parametrize(
    "interpreter",
    [
        Interpreter(("/nowhere/python",), "/nowhere"),
        Interpreter(HERE.command, "/usr/elsewhere"),  # it would compile, on foreign modules
        Interpreter(("/bin/false",), HERE.prefix),
    ],
)
def test_an_interpreter_that_is_not_the_image_s_own(
    world: ImageWorld, out: Path, interpreter: Interpreter
) -> None:
    """U07: another one writes other bytecode."""
    with refused(InterpreterFailed):
        world.make(out, interpreter=interpreter)
    assert nothing_left(world)


def test_an_image_without_an_interpreter_is_none(world: ImageWorld, out: Path) -> None:
    with refused(InterpreterFailed):
        make(
            out, world.release, ["summary_statistics"],
            wheels=world.top / "wheels", debs=world.top / "debs", say=lambda text: None,
        )  # fmt: skip


def test_a_module_that_does_not_compile(world: ImageWorld, out: Path) -> None:
    world.wheel("beta", {"beta.py": b"def f(:\n"})
    with refused(InterpreterFailed):
        world.make(out)
    assert nothing_left(world)


@pytest.mark.parametrize("text", ["nope", "", "summary_statistics,", "summary_statistics, x"])
def test_computations_that_there_are_not(text: str) -> None:
    with refused(ComputationUnknown):
        read_computations(text)


def test_computations_that_there_are() -> None:
    assert read_computations(None) == tuple(sorted(DECLARED))
    two = "summary_statistics,private_set_intersection"
    assert read_computations(two) == ("private_set_intersection", "summary_statistics")


# Downloads: by programs of the user, which are stood in for.


def a_program(folder: Path, name: str, lines: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that are found before those of the machine."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("ratls.image.fetch.sys.executable", str(folder / "python"))
    return folder


def download(world: ImageWorld, out: Path) -> None:
    make(
        out, world.release, tuple(DECLARED),
        wheels=None, debs=None, say=lambda text: None, interpreter=HERE,
    )  # fmt: skip


def test_what_is_downloaded_is_what_the_locks_name(
    world: ImageWorld, out: Path, programs: Path
) -> None:
    """pip is given versions with their hashes, apt-get versions; the hashes are compared after."""
    asked = world.top / "asked"
    a_program(programs, "python", f"cat lock.txt > {asked}; cp {world.top}/wheels/* .")
    a_program(programs, "apt-get", f'echo "$@" >> {asked}; cp {world.top}/debs/* .')
    download(world, out)
    assert asked.read_text().splitlines() == [
        *(f"{n}==1.0 --hash=sha256:{h}" for n, h in world.locks["wheels"].items()),
        "download -q libgamma:amd64=1:2.0-1",
    ]


@pytest.mark.parametrize("failing", ["python", "apt-get", "none"])
def test_a_download_that_fails(
    world: ImageWorld, out: Path, programs: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_program(programs, "python", f"cp {world.top}/wheels/* .")
    a_program(programs, "apt-get", f"cp {world.top}/debs/* .")
    if failing == "none":
        (programs / "apt-get").unlink()
        monkeypatch.setenv("PATH", f"{programs}")
        a_program(programs, "python", f"/bin/cp {world.top}/wheels/* .")
    else:
        a_program(programs, failing, "echo no such version >&2; exit 100")
    with refused(DownloadFailed):
        download(world, out)
    assert not out.exists()


def test_a_download_of_something_else(world: ImageWorld, out: Path, programs: Path) -> None:
    """U05: a mirror that answers with another file, and a tool that does not look."""
    a_program(programs, "python", f"cp {world.top}/wheels/* .")
    name = "libgamma_1%3a2.0-1_amd64.deb"
    a_program(programs, "apt-get", f"cp {world.top}/debs/* .; echo more >> {name}")
    with refused(PartHashDiffers):
        download(world, out)


# Bytes of any kind.


@given(st.binary(max_size=300))
@example(b"start alpha alpha/x.py\r\n")
@example(b"start alpha alpha/x.py\n\xff")
@pytest.mark.parametrize("parse", [parse_files, parse_wheels, parse_debs])
def test_lists_of_any_bytes(parse: Callable[[bytes], object], raw: bytes) -> None:
    with suppress(ListMalformed):
        assert parse(raw)


@given(st.binary(max_size=60), st.integers(0, 400), st.binary(max_size=60))
@pytest.mark.parametrize("kind", ["wheel", "deb"])
def test_packages_of_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, new: bytes, at: int, end: bytes
) -> None:
    whole = wheel_bytes(ALPHA) if kind == "wheel" else deb_bytes(GAMMA)
    raw = whole[:at] + new + whole[at + len(new) :] + end
    folder = tmp_path_factory.getbasetemp()
    name, find = {
        "wheel": ("alpha-1.0-x.whl", find_wheel),
        "deb": ("alpha_1.0_amd64.deb", find_deb),
    }[kind]
    (folder / name).write_bytes(raw)
    locked = Locked("alpha", "1.0", hashlib.sha256(raw).hexdigest())
    with suppress(PartUnreadable):
        part = find(folder, locked)
        for path in part.names:
            with suppress(PartUnreadable, LinkOut):
                part.read(path)


# The release itself.


def test_locks_and_list_of_this_release() -> None:
    """U01, U02: every file comes from a locked package, and none from a library of commands."""
    release = read_release(ROOT)
    locked = {one.name for one in (*release.wheels, *release.debs)}
    assert {file.part for file in release.files} <= locked
    assert {name for file in release.files for name in file.uses} <= {"start", *DECLARED}
    # What scikit-learn needs is in images with trees alone.
    heavy = {"scipy", "scikit-learn", "joblib", "narwhals", "threadpoolctl"}
    others = [file for file in release.files if set(file.uses) != {"boosted_trees"}]
    assert not {file.part for file in others} & heavy
    tops = {file.path.split("/")[0] for file in others}
    never = {"typer", "click", "rich", "pygments", "httpx", "sqlalchemy", "OpenSSL", "platformdirs"}
    never |= {"scipy", "sklearn", "pandas", "joblib", "pip", "setuptools", "pycparser"}
    assert not tops & never
    assert not locked & (never - {"pycparser"} - heavy | {"pyopenssl", "skops"})
    assert len([file for file in others if "openblas" in file.path]) == 1
    paths = {file.path for file in release.files}
    assert paths >= {
        "usr/bin/python3.11", "usr/lib/python3.11/os.py", "usr/lib/python3.11/encodings/utf_8.py",
        f"{LIB}/ld-linux-x86-64.so.2", f"{LIB}/libc.so.6",
    }  # fmt: skip
    assert len(others) + len(release.own) < 900
    assert len(release.files) < 1600


def test_the_image_has_the_versions_that_are_tested() -> None:
    """Another version of a library would run in the enclave than in any test."""
    tested = "\n".join((ROOT / "requirements" / n).read_text() for n in ("run.txt", "arrays.txt"))
    for one in read_release(ROOT).wheels:
        line = rf"^{re.escape(one.name)}=={re.escape(one.version)}\b"
        assert re.search(line, tested, re.MULTILINE), one
        assert one.sha256 in tested, one


# The command.


def test_the_command_says_what_differs(world: ImageWorld, out: Path) -> None:
    count_refusal()
    path = world.top / "wheels" / "alpha-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes() + b"x")
    typed = ["enclave", "image", "--out", str(out), "--release", str(world.release), "--json"]
    folders = ["--wheels", str(world.top / "wheels"), "--debs", str(world.top / "debs")]
    said = CliRunner().invoke(build_cli(), [*typed, *folders])
    assert said.exit_code == 3
    error = json.loads(said.stdout)["error"]
    assert error["code"] == PartHashDiffers.code
    assert path.name in error["message"]
    assert not out.exists()
