"""Which `ratls.toml` counts, what may stand there, and that no other user can plant one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ratls.profile import Profile, ProfileMalformed, _Document
from ratls.profile_draft import ROLES, SAMPLE, draft_profile
from ratls.profile_file import NAME, VARIABLE, ProfileForeign, ProfileUnnamed, find_profile
from tests.support.refusal import count_refusal, refused
from verifier.files import FileUnreadable

OPERATOR = """\
[serve.enclave]
listen = "127.0.0.1:7443"
attester = "simulation:intel/platform"
spill = "spill"
[serve.scheduler]
listen = "127.0.0.1:7444"
state = "/var/lib/mailbox"
[collateral]
sources = ["https://a.example", "https://b.example"]
ca = ["own.pem", "public"]
"""


def parse(text: str, path: str = "/srv/ratls/ratls.toml") -> Profile:
    return Profile.parse(text.encode(), Path(path))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own with a profile, and the shell in a folder below it."""
    (tmp_path / NAME).write_text('study = "ours"\n')
    (tmp_path / NAME).chmod(0o644)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def found_study() -> str | None:
    found = find_profile(None)
    assert found is not None
    return Profile.parse(found.raw, found.path).study


def test_an_empty_profile_says_nothing() -> None:
    profile = parse("")
    assert (profile.party, profile.state, profile.scheduler, dict(profile.said)) == (
        *(None, None, None),
        {},
    )


def test_paths_start_from_the_folder_of_the_file() -> None:
    profile = parse(OPERATOR)
    assert profile.enclave_attester == "simulation:/srv/ratls/intel/platform"
    assert profile.enclave_spill == Path("/srv/ratls/spill")
    assert profile.scheduler_state == Path("/var/lib/mailbox")
    assert profile.collateral_ca == ("/srv/ratls/own.pem", "public")
    assert parse('serve.enclave.attester = "tdx"').enclave_attester == "tdx"


def test_each_value_is_known_by_its_line() -> None:
    said = parse(SAMPLE).said
    lines = SAMPLE.splitlines()
    for path, (value, line) in said.items():
        assert line is not None
        assert path.rpartition(".")[2] in lines[line - 1]
        if not value.startswith(("{", "[")):
            assert value in lines[line - 1]
    assert {"study", "scheduler.address", "enclave[0].collateral", "dataset[0].source"} <= set(said)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("allow_simulation = true", "--allow-simulation"),
        ('passphrase = "hunter2"', "passphrase_file"),
        ('yes = "sha256:00"', "--yes"),
        ('partie = "keys"', "party"),
    ],
)
def test_a_profile_can_grant_and_consent_to_nothing(text: str, fix: str) -> None:
    """L07, X02: a file in a folder decides no verdict; the refusal says where it is said."""
    with refused(ProfileMalformed) as seen:
        parse(text)
    assert fix in seen.error.fix
    assert "hunter2" not in str(seen.error)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("file", [None, "passphrase"])
def test_what_init_writes_is_a_profile(role: str, file: str | None) -> None:
    text = draft_profile(role, study="s", party="keys", passphrase_file=file)  # type: ignore[arg-type]
    profile = parse(text)
    assert profile.study == "s"
    assert profile.party == Path("/srv/ratls/keys")
    assert (profile.passphrase_file is None) == (file is None)
    # What is in comments is valid, too, once somebody takes the marks away.
    begun = "\n".join(
        line.removeprefix("#") if line[1:2] not in ("", " ") else line for line in text.splitlines()
    )
    assert parse(begun).agreement is not None


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field that a profile may have, as the page writes it."""
    for name, field in model.model_fields.items():
        parts = [field.annotation, *get_args(field.annotation)]
        parts += [inner for part in parts for inner in get_args(part)]
        inner = [p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)]
        listed = any(get_origin(part) is tuple for part in parts)
        if inner:
            yield from fields(inner[0], f"{path}{name}{'[]' if listed else ''}.")
        else:
            yield path + name


def test_the_page_lists_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "profile.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z_.\[\]]+)` \|", page, re.MULTILINE) == list(fields(_Document))


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_says_nothing(raw: bytes) -> None:
    try:
        assert Profile.parse(raw, Path(NAME)).said == {}
    except ProfileMalformed:
        count_refusal()


# Which one counts


def test_the_nearest_one_above_counts(home: Path) -> None:
    assert found_study() == "ours"
    (home / "a" / NAME).write_text('study = "nearer"\n')
    (home / "a" / NAME).chmod(0o600)
    assert found_study() == "nearer"


def test_none_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_profile(None) is None


def test_what_is_named_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "one.toml").write_text('study = "one"\n')
    (home / "two.toml").write_text('study = "two"\n')
    monkeypatch.setenv(VARIABLE, str(home / "one.toml"))
    assert found_study() == "one"
    named = find_profile(home / "two.toml")
    assert named is not None
    assert (named.raw, named.how) == (b'study = "two"\n', "named by --profile")


def test_a_named_one_that_is_missing_is_not_replaced_by_another(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(FileUnreadable):
        find_profile(home / "none.toml")
    monkeypatch.setenv(VARIABLE, str(home / "none.toml"))
    with refused(FileUnreadable):
        find_profile(None)


def test_a_variable_that_was_not_filled_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RATLS_PROFILE=$WHERE` with a WHERE that nobody set must not mean the nearest one."""
    monkeypatch.setenv(VARIABLE, "")
    with refused(ProfileUnnamed):
        find_profile(None)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_to(home: Path, mode: int) -> None:
    """P25: they could name other keys for a command to compare an agreement with."""
    (home / NAME).chmod(mode)
    with refused(ProfileForeign) as seen:
        find_profile(None)
    assert "chmod go-w" in seen.error.fix
    named = find_profile(home / NAME)  # its user says that it counts
    assert named is not None


@pytest.mark.parametrize("mode", [0o770, 0o1777, 0o777])
def test_a_folder_that_others_can_write_to(home: Path, mode: int) -> None:
    """/tmp: whoever came first made the file, perhaps as a hard link to one of this user."""
    home.chmod(mode)
    try:
        with refused(ProfileForeign):
            find_profile(None)
    finally:
        home.chmod(0o700)
    assert found_study() == "ours"


def test_a_link_is_not_followed(home: Path) -> None:
    """A link leads to a file of this user, and another user chose which."""
    (home / NAME).rename(home / "another-study.toml")
    (home / NAME).symlink_to(home / "another-study.toml")
    with refused(ProfileForeign):
        find_profile(None)
    (home / NAME).unlink()
    (home / NAME).symlink_to("nowhere")
    with refused(ProfileForeign):
        find_profile(None)


@pytest.mark.parametrize("of", ["the file", "the folder"])
def test_another_users_file(home: Path, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if both belonged to somebody else: this user's number is asked for, and differs."""
    owner = os.stat(home / NAME).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        # Root's files count for everybody; given away, they are another user's.
        os.chown(home / NAME if of == "the file" else home, 12345, -1)
    with refused(ProfileForeign):
        find_profile(None)
    os.chown(home, owner, -1)


def test_roots_file_counts_for_everybody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator puts one profile above the folders of several users."""
    real = os.fstat

    def as_roots(found: os.stat_result) -> os.stat_result:
        parts = list(found)
        parts[4] = 0
        return os.stat_result(parts)

    stat = os.stat
    monkeypatch.setattr(os, "fstat", lambda handle: as_roots(real(handle)))
    monkeypatch.setattr(os, "stat", lambda path, **more: as_roots(stat(path, **more)))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert found_study() == "ours"


def test_a_pipe_in_its_place(home: Path) -> None:
    (home / NAME).unlink()
    os.mkfifo(home / NAME, 0o600)
    with refused(ProfileForeign):
        find_profile(None)
