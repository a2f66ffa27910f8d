"""Commands, as a person types them in a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from tests.support.refusal import count_refusal


def typed(app: typer.Typer, words: Iterable[object], status: int = 0) -> Result:
    """Run a command, which must end with this status and without a traceback."""
    if status:
        count_refusal()
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@contextmanager
def piped(content: bytes) -> Iterator[None]:
    """This is on standard input, as commands read it: by its descriptor."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        before = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


@dataclass
class Folder:
    """A folder with the files that a person names."""

    folder: Path

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return str(path)
