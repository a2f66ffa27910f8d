"""Where a passphrase comes from: a file, standard input (`-`), or the person at the terminal.

Never from argv or the environment, which process lists and crash dumps show (L07).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from getpass import getpass
from pathlib import Path

from policy.errors import PassphraseMissing
from verifier.files import read_file, read_stdin

_CAP = 4096
_STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """Gets a passphrase when a key is first needed.

    Args:
        file: `-` for standard input; None for the terminal.
        prompt: What a person at the terminal is asked for.
    """

    file: Path | None
    prompt: str

    def __call__(self) -> bytes:
        """Raises: FileUnreadable, PassphraseMissing."""
        if not _typed(self.file):
            return _read(self.file or _STDIN)
        if not _at_terminal():
            raise PassphraseMissing("passphrase", expected="a file or a terminal", found="neither")
        return getpass(self.prompt).encode("utf-8")

    def asking_for(self, secret: str) -> PassphraseSource:
        """The same source; a person is asked for this."""
        return replace(self, prompt=f"{secret}: ")


def passphrase_source(file: Path | None, prompt: str = "passphrase: ") -> PassphraseSource:
    """The passphrase in a file, `-` for standard input; None: a person types it."""
    return PassphraseSource(file, prompt)


def new_passphrase(file: Path | None) -> bytes:
    """A passphrase for new keys; typed twice at a terminal.

    Raises: FileUnreadable, PassphraseMissing.
    """
    first = passphrase_source(file, "new passphrase: ")()
    if _typed(file) and passphrase_source(None, "the same again: ")() != first:
        raise PassphraseMissing("passphrase", expected="the same twice", found="two that differ")
    return first


def _typed(file: Path | None) -> bool:
    return file is None or (file == _STDIN and _at_terminal())


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _read(file: Path) -> bytes:
    content = read_stdin(cap=_CAP) if file == _STDIN else read_file(file, cap=_CAP)
    passphrase = content.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise PassphraseMissing(str(file), expected="a passphrase", found="an empty file")
    return passphrase
