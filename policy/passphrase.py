"""Where a passphrase comes from: a file, or the person at the terminal. Never argv or environment.

Both of those show in process lists and crash dumps (L07).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path

from policy.errors import PassphraseMissing
from verifier.files import read_file

_CAP = 4096


def passphrase_source(file: Path | None, prompt: str = "passphrase: ") -> Callable[[], bytes]:
    """A function that gets the passphrase when a key is first needed.

    It raises: FileUnreadable, PassphraseMissing.
    """

    def source() -> bytes:
        if file is not None:
            return _from_file(file)
        if not sys.stdin.isatty():
            raise PassphraseMissing("passphrase", expected="a file or a terminal", found="neither")
        return getpass(prompt).encode("utf-8")

    return source


def new_passphrase(file: Path | None) -> bytes:
    """A passphrase for new keys; typed twice at a terminal.

    Raises: FileUnreadable, PassphraseMissing.
    """
    first = passphrase_source(file, "new passphrase: ")()
    if file is None and passphrase_source(None, "the same again: ")() != first:
        raise PassphraseMissing("passphrase", expected="the same twice", found="two that differ")
    return first


def _from_file(file: Path) -> bytes:
    content = read_file(file, cap=_CAP)
    passphrase = content.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise PassphraseMissing(str(file), expected="a passphrase", found="an empty file")
    return passphrase
