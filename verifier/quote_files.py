"""Files with one quote each, in whichever form it is: see `verifier.forms`.

received = read_quote_file("quote.hex")
received.quote, received.form
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from verifier.errors import ConfigError
from verifier.files import MEBIBYTE, FileUnreadable, read_file, read_stdin
from verifier.forms import Steps, find_quote
from verifier.received import ReceivedQuote

STDIN = "-"  # in place of a file's name
_CAP = 16 * MEBIBYTE


class StandardInputTwice(ConfigError):
    """Standard input is named more than once, and can be read only once."""

    code = "standard-input-twice"
    default_fix = "name - once; write the others into files"


def read_stdin_once(files: Sequence[object]) -> bytes | None:
    """What is on standard input, if `-` is among these files; None if not.

    Raises:
        StandardInputTwice: It is there twice.
        FileUnreadable: It is too large, or does not come in time.
    """
    times = sum(str(file) == STDIN for file in files)
    if times > 1:
        raise StandardInputTwice("-", expected="one quote on standard input", found=str(times))
    return read_stdin(cap=_CAP) if times else None


def read_quote_file(
    file: str,
    json_path: Steps | None = None,
    *,
    newer_sgx: bool = False,
    stdin: bytes | None = None,
) -> ReceivedQuote:
    """The quote in a file.

    Args:
        file: Its name.
        json_path: Where in JSON the quote is; None: wherever there is one alone.
        newer_sgx: Also read SGX quotes of versions 4 and 5.
        stdin: What the file `-` holds, from `read_stdin_once`.

    Raises:
        FileUnreadable: There is no such file, or it is a folder.
        QuoteFormatError: As `find_quote`.
    """
    content = stdin if file == STDIN and stdin is not None else _read(Path(file))
    return find_quote(content, json_path, name=file).received(newer_sgx=newer_sgx)


def _read(path: Path) -> bytes:
    try:
        return read_file(path, cap=_CAP)
    except FileUnreadable:
        if path.is_dir():  # otherwise its files would be here
            raise FileUnreadable(
                str(path), expected="a folder with files that may be read", found="none"
            ) from None
        raise
