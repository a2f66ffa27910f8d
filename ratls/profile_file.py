"""Which `ratls.toml` counts: the one that is named, or the nearest one above the working directory.

    found = find_profile(typed=None)   # None: there is none
    found.raw, found.path, found.how

Loads little: most commands are typed where there is none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verifier.errors import ConfigError
from verifier.files import FileUnreadable, read_file
from verifier.text import cause

NAME = "ratls.toml"
VARIABLE = "RATLS_PROFILE"
CAP = 1 << 20
_MOST_FOLDERS = 256  # between the working directory and the root


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """The bytes of a profile, not read yet."""

    path: Path
    raw: bytes
    how: str  # it was found, for people


class ProfileForeign(ConfigError):
    """A profile was found from the working directory upwards that another user could have made."""

    code = "profile-foreign"
    default_fix = (
        "if it is yours, `chmod go-w` the file and its folder; otherwise name your own with "
        "--profile FILE, or work in another folder"
    )


class ProfileUnnamed(ConfigError):
    """The variable that names the profile is set, and empty."""

    code = "profile-unnamed"
    default_fix = f"set {VARIABLE} to the path of a {NAME}, or unset it"


def find_profile(typed: Path | None) -> ProfileFile | None:
    """The profile of this command; None: there is none.

    A file that is named is read as any other. One that is only found may be another user's: a
    command in a folder of /tmp must take neither keys nor addresses from what was planted there.

    Args:
        typed: What `--profile` names. It comes before the variable, and both before the search.

    Raises: FileUnreadable, ProfileForeign, ProfileUnnamed.
    """
    if typed is not None:
        return ProfileFile(typed, read_file(typed, cap=CAP), "named by --profile")
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not named:
            raise ProfileUnnamed(VARIABLE, expected=f"the path of a {NAME}", found="nothing")
        return ProfileFile(Path(named), read_file(Path(named), cap=CAP), f"named by {VARIABLE}")
    for path in _upwards(NAME):
        raw = read_own(path)
        if raw is not None:
            return ProfileFile(path, raw, "found in this folder or above it")
    return None


def read_own(path: Path) -> bytes | None:
    """The bytes of a file that nobody else can have put there, or changed; None: there is none.

    File and folder belong to this user or to root, nobody else can write to them, and the file is
    no link: in a folder like /tmp another user could make one, even to a file of this user.

    Raises: FileUnreadable, ProfileForeign.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise ProfileForeign(str(path), expected="a file, and no link", found="a link")
    try:
        # Non-blocking: a FIFO without a writer would hold the process in `open`.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(handle, "rb") as file:
            # Of what was opened, not of the name: the name may mean another file a moment later.
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ProfileForeign(str(path), expected="a file", found="something else")
            _require_own(str(path), found)
            _require_own(f"the folder of {path}", os.stat(path.parent))
            raw = file.read(CAP + 1)
    except OSError as error:
        raise FileUnreadable(str(path), expected="a readable file", found=cause(error)) from error
    if len(raw) > CAP:
        raise FileUnreadable(str(path), expected=f"at most {CAP} bytes", found="more")
    return raw


def _require_own(place: str, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        owner = f"user {found.st_uid}"
        raise ProfileForeign(place, expected="this user, or root, as its owner", found=owner)
    if found.st_mode & 0o022:
        mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
        raise ProfileForeign(place, expected="only its owner to write to it", found=mode)


def _upwards(name: str) -> Iterator[Path]:
    folder = Path()
    for _ in range(_MOST_FOLDERS):
        yield folder / name
        above = folder / ".."
        if os.path.samefile(folder, above):
            return
        folder = above
