"""For demonstrations: a folder, a terminal, and child processes, which it ends.

Each step is the command that a person would type, shown as typed and run as a process of its
own. Each call names the exit status that is expected; another one ends the demonstration with the
command's last lines. Commands that do not need each other may run at the same time; each is shown
with what it printed, one after the other.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from verifier.errors import Exit

COMMAND_SECONDS = 60


class DemoFailed(Exception):
    """A step did not end as it must; the message holds the child's last lines."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A command that was typed, as yet unseen: it runs, or has ended already."""

    who: str
    line: str
    child: subprocess.Popen[str]


class Server:
    """A command that keeps running. Its lines are kept; `wait_for` reads them as they come."""

    def __init__(self, who: str, line: str, child: subprocess.Popen[str]) -> None:
        self.who, self.line, self._child = who, line, child
        self._lines: list[str] = []
        self._ready: str | None = None
        self._come: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            threading.Thread(target=self._drain, args=(stream,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_for(self, word: str) -> str:
        """The next line whose words include this one.

        Raises:
            DemoFailed: It did not come in time, or the process ended before.
        """
        ended = 0
        try:
            while ended < 2:
                line = self._come.get(timeout=COMMAND_SECONDS)
                ended += line is None
                if line is not None and word in line.split():
                    return line.strip()
        except queue.Empty:
            pass  # raised below, as for a process that ended
        raise DemoFailed(f"no word `{word}` from {self.who}:\n{self.last_lines()}")

    def ready(self) -> str:
        """The line in which it says `ready` and its address.

        Raises: as `wait_for`.
        """
        if self._ready is None:
            self._ready = self.wait_for("ready")
        return self._ready

    def last_lines(self) -> str:
        """The end of its output, to explain a failure."""
        return last_lines("".join(self._lines))

    def end(self) -> None:
        """Ask it to stop, by its process id."""
        end([self._child])

    def kill(self) -> None:
        """kill -9, without any chance to clean up."""
        self._child.kill()
        self._child.wait()

    def _drain(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.append(line)
            self._come.put(line)
        self._come.put(None)


class Stage:
    """The folder, the terminal and the child processes of one demonstration."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self._steps = folder, steps
        self.console = Console(highlight=False)
        self.commands: list[str] = []
        self._children: list[subprocess.Popen[str]] = []
        self._step = 0

    def title(self, text: str) -> None:
        """Open the next step."""
        self._step += 1
        self.console.print()
        self.console.rule(
            f"[bold]{self._step}/{self._steps} {escape(text)}[/]  [black on yellow] SIMULATION [/]"
        )

    def tell(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, soft_wrap=True)

    def run(self, who: str, *arguments: str, expect: Exit = Exit.YES, quiet: bool = False) -> str:
        """Type one `ratls` command as `who`, and `show` it: what it printed."""
        return self.show(self.type(who, *arguments), expect=expect, quiet=quiet)

    def type(self, who: str, *arguments: str, code: Path | None = None) -> Typed:
        """Start one `ratls` command as `who`; it runs while others do, until `show`.

        Args:
            code: A folder whose packages shadow the installed ones.
        """
        child = self._start(arguments, code=code, stderr=subprocess.STDOUT)
        return Typed(who, _line(arguments, code), child)

    def show(self, typed: Typed, *, expect: Exit = Exit.YES, quiet: bool = False) -> str:
        """Show a command and, when it has ended, what it printed; insist on its exit status.

        Raises:
            DemoFailed: Another exit status, or no end in time.
        """
        child = typed.child
        self._show_line(typed.who, typed.line)
        try:
            output, _ = child.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired as late:
            child.kill()
            output, _ = child.communicate()
            raise DemoFailed(f"no answer in {COMMAND_SECONDS} s:\n{last_lines(output)}") from late
        if child.returncode != expect:
            raise DemoFailed(
                f"`{typed.line}` ended with exit status {child.returncode}, "
                f"expected {int(expect)}:\n{last_lines(output)}"
            )
        if not quiet:
            self._show_output(output)
        if expect is not Exit.YES:
            self.console.print(f"  [green]refused, as it must be[/] (exit status {int(expect)})")
        return output

    @contextmanager
    def serve(self, who: str, *arguments: str, code: Path | None = None) -> Iterator[Server]:
        """Run a command in the background until the block ends. `ready` or `enter` show it.

        Args:
            code: As for `type`.
        """
        server = Server(
            who, _line(arguments, code), self._start(arguments, code=code, stderr=subprocess.PIPE)
        )
        try:
            yield server
        except DemoFailed as failure:
            raise DemoFailed(
                f"{failure}\nlast lines of {who}'s process:\n{server.last_lines()}"
            ) from failure
        finally:
            server.end()

    def enter(self, server: Server) -> None:
        """Show the command of a server."""
        self._show_line(server.who, server.line)

    def ready(self, server: Server) -> tuple[str, int]:
        """Show the command of a server; its address, once it says `ready`."""
        self.enter(server)
        line = server.ready()
        self.console.print(f"  {escape(line)}   (process {server.pid})", soft_wrap=True)
        host, _, port = line.split()[1].rpartition(":")
        return host, int(port)

    def close(self) -> None:
        """End every child that is still there, by its own process id."""
        end(self._children)

    def _start(
        self, arguments: tuple[str, ...], *, stderr: int, code: Path | None = None
    ) -> subprocess.Popen[str]:
        environment = dict(os.environ)
        if self.console.is_terminal and not self.console.no_color:
            environment["FORCE_COLOR"] = "1"
        # The children's tables fit, although their lines are indented by two blanks.
        environment["COLUMNS"] = str(self.console.width - 2)
        if code is not None:
            environment["PYTHONPATH"] = str(code)
        # A session of its own: Ctrl-C reaches this process alone, which then ends its children.
        child = subprocess.Popen(  # noqa: S603 - the program beside this interpreter, no shell
            [str(Path(sys.executable).with_name("ratls")), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def _show_line(self, who: str, line: str) -> None:
        self.commands.append(f"# {who}\n{line}")
        self.console.print(f"[bold cyan]{escape(who)}[/] [bold]$[/] {escape(line)}", soft_wrap=True)

    def _show_output(self, output: str) -> None:
        passed: list[str] = []
        for line in output.rstrip().splitlines():
            text = Text.from_ansi("  " + line)
            words = text.plain.split()
            # Thirty checks that passed are one line here; typed by hand, each has its own.
            if words[:1] == ["passed"]:
                passed.append(words[1])
                continue
            if passed:
                self.console.print(
                    f"    [green]{len(passed)} checks passed[/], {passed[0]} to {passed[-1]}"
                )
                passed = []
            self.console.print(text, soft_wrap=True)


def _line(arguments: tuple[str, ...], code: Path | None = None) -> str:
    line = shlex.join(("ratls", *arguments))
    return line if code is None else f"PYTHONPATH={shlex.quote(code.name)} {line}"


def last_lines(output: str, count: int = 12) -> str:
    """The last lines that a process printed, indented."""
    return "\n".join("  | " + line for line in output.rstrip().splitlines()[-count:])


def end(children: list[subprocess.Popen[str]]) -> None:
    """SIGTERM to all that still run, then SIGKILL to those that do not end."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(signal.SIGTERM)
    for child in running:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
