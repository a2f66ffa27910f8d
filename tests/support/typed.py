"""Commands, as a person types them in a folder."""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass
class Folder:
    """A folder with the files that a person names."""

    folder: Path

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return str(path)
