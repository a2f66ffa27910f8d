"""A signature that was given must not vanish (read, wait, write), nor a shared file become another.

`ratls policy sign` wrote what it had read before its question: what others signed while somebody
read and answered was gone, with exit status 0 for both.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from policy import cli_sign
from tests.policy.desk import WORLD, Desk
from tests.support.parties import PASSPHRASE
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from verifier.files import FileNotWritten, rewrite, write_atomically

pytestmark = pytest.mark.slow

CAP = 1 << 20


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def toml(desk: Desk) -> Path:
    return desk.write("study.toml", WORLD.policy_text())


@pytest.fixture
def beside(desk: Desk) -> Path:
    return desk.folder / "study.agreement.json"


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Somebody is at the terminal and says yes, after something else has happened."""

    def confirm(*_: object, **__: object) -> bool:
        act()
        return True

    monkeypatch.setattr(cli_sign, "can_ask", lambda: True)
    monkeypatch.setattr(cli_sign.typer, "confirm", confirm)


def asked(desk: Desk, file: Path, status: int = 0) -> str:
    """Alice signs, and is asked."""
    return desk.run(
        "policy", "sign", file, "--party", WORLD.alice.folder, "--state", desk.folder / "state",
        "--passphrase-file", desk.pass_file, status=status,
    )  # fmt: skip


@pytest.mark.parametrize(("by", "begun"), [("toml", True), ("toml", False), ("agreement", True)])
def test_bob_signs_while_alice_reads(
    desk: Desk, toml: Path, beside: Path, monkeypatch: pytest.MonkeyPatch, by: str, begun: bool
) -> None:
    """Also the very first signature: both begin an agreement on the same policy.toml."""
    if begun:
        desk.sign(toml, "carol-lab")
    meanwhile(monkeypatch, lambda: desk.sign(toml, "bob-hospital"))
    asked(desk, toml if by == "toml" else beside)
    expected = ["alice-clinic", "bob-hospital"] + ["carol-lab"] * begun
    assert desk.json("policy", "status", beside)["signed"] == expected


def test_the_agreement_becomes_another_while_alice_reads(
    desk: Desk, toml: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Her consent was to what she was shown: the new text stays as it is, without her."""
    desk.sign(toml, "carol-lab")
    other = WORLD.agreement_bytes(WORLD.policy_text(replace=[("uses = 10", "uses = 99")]))
    meanwhile(monkeypatch, lambda: beside.write_bytes(other))
    asked(desk, beside, status=6)
    assert beside.read_bytes() == other


def test_the_agreement_is_moved_away_while_alice_reads(
    desk: Desk, toml: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody begins anew: signatures on the old file must not come back with hers."""
    desk.sign(toml, "carol-lab")
    meanwhile(monkeypatch, beside.unlink)
    asked(desk, beside, status=6)
    assert not beside.exists()


def test_many_sign_in_the_same_moment(desk: Desk, toml: Path, beside: Path) -> None:
    """Processes, not turns: each has its signature in the file."""
    pass_file = desk.write("pass", PASSPHRASE)
    program = "from ratls.cli import main; main()"
    children = [
        subprocess.Popen(
            [
                sys.executable, "-c", program, "policy", "sign", str(toml),
                "--party", str(party.folder), "--passphrase-file", str(pass_file),
                "--state", str(desk.folder / "state"), *desk.yes(toml),
            ],
            stdout=subprocess.DEVNULL,
        )
        for party in (WORLD.alice, WORLD.bob, WORLD.carol)
    ]  # fmt: skip
    assert [child.wait(timeout=HANG_LIMIT) for child in children] == [0, 0, 0]
    assert desk.json("policy", "status", beside)["complete"]


@pytest.mark.parametrize("mode", [0o664, 0o600, 0o640])
def test_a_shared_agreement_stays_the_shared_one(
    desk: Desk, toml: Path, beside: Path, mode: int
) -> None:
    """A symbolic link became a private copy: what was signed there nobody else saw."""
    desk.sign(toml, "carol-lab")
    shared = desk.folder / "shared"
    shared.mkdir()
    target = shared / "of-all.agreement.json"
    beside.rename(target)
    target.chmod(mode)
    beside.symlink_to(target)
    desk.sign(beside, "bob-hospital")
    assert beside.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert desk.json("policy", "status", target)["signed"] == ["bob-hospital", "carol-lab"]
    assert [p.name for p in shared.iterdir()] == [target.name]


def test_a_link_that_leads_nowhere_yet(desk: Desk, toml: Path, beside: Path) -> None:
    """The first signature is made where the link leads."""
    (desk.folder / "shared").mkdir()
    beside.symlink_to(desk.folder / "shared" / "a.agreement.json")
    desk.sign(toml, "carol-lab")
    assert beside.is_symlink()
    assert desk.json("policy", "status", beside)["signed"] == ["carol-lab"]


def test_an_agreement_with_two_names(desk: Desk, toml: Path, beside: Path) -> None:
    """Replacing one name would leave the other behind: refused, both stay as they are."""
    desk.sign(toml, "carol-lab")
    other = desk.folder / "other.agreement.json"
    os.link(beside, other)
    before = other.read_bytes()
    desk.sign(beside, "bob-hospital", 3)
    assert beside.samefile(other)
    assert other.read_bytes() == before
    other.unlink()
    desk.sign(beside, "bob-hospital")


# The kind: every file that a command rewrites for a person.


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """The second reads what the first wrote, though it came while the first was writing."""
    file = tmp_path / "file"
    file.write_bytes(b"0")
    inside, go_on = threading.Event(), threading.Event()

    def first(content: bytes | None) -> bytes:
        inside.set()
        assert go_on.wait(HANG_LIMIT)
        return (content or b"") + b"1"

    def second(content: bytes | None) -> bytes:
        return (content or b"") + b"2"

    threads = [threading.Thread(target=rewrite, args=(file, first), kwargs={"cap": CAP})]
    threads[0].start()
    assert inside.wait(HANG_LIMIT)
    threads.append(threading.Thread(target=rewrite, args=(file, second), kwargs={"cap": CAP}))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(HANG_LIMIT)
    assert file.read_bytes() == b"012"


def test_what_a_person_named_keeps_its_link_and_mode(tmp_path: Path) -> None:
    """`collateral fetch -o`, `simulation serve`: a new bundle in the place of the old one."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o640)


def test_a_file_of_our_own_takes_the_place_of_a_link(tmp_path: Path) -> None:
    """The twin: nobody leads what the state folder holds to another place."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"of somebody else")
    link.symlink_to(file)
    write_atomically(link, b"state", mode=0o600)
    assert not link.is_symlink()
    assert file.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "too large"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A FIFO would hold the command for ever."""
    path = tmp_path / "it"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(bytes(CAP + 1))
    with refused(FileNotWritten):
        rewrite(path, lambda content: content or b"", cap=CAP)


def test_a_change_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def refuse(content: bytes | None) -> bytes:
        raise FileNotWritten("x", expected="y", found="z")

    with refused(FileNotWritten):
        rewrite(file, refuse, cap=CAP)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
