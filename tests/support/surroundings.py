"""Every command of the tree, run in odd surroundings by one process that forks for each.

    python -m tests.support.surroundings help|wrong DIR

Prints, to the file DIR/report, one JSON object a command: its status and whether it showed a
traceback. What it is run in, its parent has arranged: streams, environment, limits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer.main

from ratls import cli
from tests.support.waiting import HANG_LIMIT

WRONG = "report/none"  # below a file: neither there nor to be made
# What commands import when they run: once here, and not in every child.
PRELOADED = ("ratls.appraise", "enclave_app.application", "provider.agent_tasks", "scheduler.store")


def leaves(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command with what is typed before its options."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, below in sorted(inner.items()):
        yield from leaves(below, (*name, word))


def wrongly(command: Any) -> list[str]:
    """Nonsense for all that the command demands."""
    line: list[str] = []
    for parameter in command.params:
        if not parameter.required:
            continue
        if parameter.param_type_name == "argument":
            line.append(WRONG)
        else:
            line += [parameter.opts[0], WRONG]
    return line


def run(line: list[str], complaints: int) -> int:
    """The status of `ratls LINE`, in a process of its own; its stderr goes to `complaints`."""
    child = os.fork()
    if child == 0:
        os.dup2(complaints, 2)
        signal.alarm(int(HANG_LIMIT))  # a command that hangs is ended, and shows in the report
        sys.argv = ["ratls", *line]
        status = 1
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - as the interpreter would
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def report(kind: str, folder: Path) -> None:
    """Run them all."""
    for module in PRELOADED if kind == "wrong" else ():
        import_module(module)
    app = cli.build()
    cli.build = lambda *_: app  # not anew in every child
    tree = typer.main.get_command(app)
    os.chdir(folder)
    with (folder / "report").open("w") as out:
        for name, command in leaves(tree):
            line = ["--help"] if kind == "help" else wrongly(command)
            if name == ("demo",) and kind == "wrong":
                line += ["--keep", WRONG]
            with tempfile.TemporaryFile(dir=folder) as told:
                status = run([*name, *line], told.fileno())
                told.seek(0)
                text = told.read()
            seen = {"command": " ".join(name), "status": status, "traceback": b"Traceback" in text}
            print(json.dumps(seen), file=out, flush=True)


if __name__ == "__main__":
    report(sys.argv[1], Path(sys.argv[2]))
