"""A folder in which a person works with `ratls party` and `ratls policy`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from policy.cli_party import party
from policy.cli_policy import policy
from tests.support.parties import PASSPHRASE, Consortium
from tests.support.typed import typed

NOW = datetime.now(UTC).replace(microsecond=0)
WORLD = Consortium.create(NOW)
APP = typer.Typer()
APP.add_typer(party, name="party")
APP.add_typer(policy, name="policy")


class Desk:
    """A folder in which a person works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pass_file = self.write("pass.txt", PASSPHRASE + b"\n")

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, *words: str | Path, status: int = 0) -> str:
        """Run one command; its stdout, and stderr after a line of its own."""
        result = typed(APP, words, status)
        return f"{result.stdout}\n---\n{result.stderr}"

    def json(self, *words: str | Path, status: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", status=status).split("\n---\n")[0])

    def sign(self, file: Path, name: str, status: int = 0, *more: str) -> str:
        return self.run(
            "policy", "sign", file, "--party", WORLD.parties[name].folder, "--state",
            self.folder / "state", "--passphrase-file", self.pass_file,
            *(more or self.yes(file)), status=status,
        )  # fmt: skip

    def accept(self, file: Path, name: str, status: int = 0, *more: str) -> str:
        return self.run(
            "policy", "accept", file, "--party", WORLD.parties[name].folder, "--state",
            self.folder / "state", *(more or self.yes(file)), status=status,
        )  # fmt: skip

    def yes(self, file: Path) -> tuple[str, ...]:
        """What somebody types who has read the file; nothing where it is no policy."""
        command = ("policy", "status" if file.suffix == ".json" else "lint", str(file), "--json")
        found = CliRunner().invoke(APP, command)
        return ("--yes", json.loads(found.stdout)["digest"]) if found.exit_code == 0 else ()
