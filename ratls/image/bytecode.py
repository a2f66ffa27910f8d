"""Compiles an image's modules with the image's own interpreter, in one process, in one order.

    compile_modules(tree, ["usr/lib/python3.11/abc.py"], tree_interpreter(tree))

Each `x.py` becomes `x.pyc` in its place. Without bytecode every start of the enclave would compile
all modules. Bytecode depends on the exact interpreter, on what else its process has loaded, and on
the order; so none of them is left to the machine that builds. The header has a hash of the source
that is never checked, in place of a time. Paths in it are those inside the enclave.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratls.image.errors import ImageError
from ratls.image.rules import INTERPRETER, LIBRARIES
from verifier.text import cause

LOADER = f"{LIBRARIES}ld-linux-x86-64.so.2"
# Only built-in modules: what is imported here is being replaced at the same time.
_PROGRAM = """
import sys, _imp, _frozen_importlib_external as external
tree, prefix = sys.argv[1:]
if sys.prefix != prefix or not sys.modules["encodings"].__file__.startswith(prefix + "/"):
    sys.exit("started on the modules of " + sys.prefix)
for path in sys.stdin.read().split():
    with open(tree + "/" + path, "rb") as file:
        source = file.read()
    code = compile(source, "/" + path, "exec", dont_inherit=True, optimize=0)
    stamp = _imp.source_hash(external._RAW_MAGIC_NUMBER, source)
    with open(tree + "/" + path + "c", "xb") as file:
        file.write(external._code_to_hash_pyc(code, stamp, False))
"""


class InterpreterFailed(ImageError):
    """The image's own interpreter does not run here, or does not compile a module."""

    code = "image-interpreter-failed"
    default_fix = "build on x86-64 Linux, in a folder of a file system that is not mounted noexec"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A command that starts Python, and the `sys.prefix` that it must have: where its own modules
    are. With a folder that lacks some it would silently take those of this machine."""

    command: Sequence[str]
    prefix: str


def tree_interpreter(tree: Path) -> Interpreter:
    """Of the image, on its own libraries, started from outside."""
    program = str(tree / INTERPRETER)
    libraries = ("--library-path", str(tree / LIBRARIES), "--argv0", program, program)
    return Interpreter((str(tree / LOADER), *libraries), str(tree / "usr"))


def compile_modules(tree: Path, modules: Sequence[str], interpreter: Interpreter) -> None:
    """Replace these sources by their bytecode. Raises: InterpreterFailed."""
    order = sorted(modules)
    options = ["-I", "-S", "-B", "-W", "ignore", "-X", "utf8", "-c", _PROGRAM]
    command = [*interpreter.command, *options, str(tree), interpreter.prefix]
    names = "\n".join(order).encode()
    try:
        done = subprocess.run(  # noqa: S603
            command, env={}, cwd="/", input=names, capture_output=True, check=False
        )
    except OSError as error:
        raise InterpreterFailed(command[0], expected="to run", found=cause(error)) from error
    if done.returncode:
        last = done.stderr.decode("ascii", "backslashreplace").strip().rpartition("\n")[2]
        found = f"status {done.returncode}: {last}"
        raise InterpreterFailed(command[0], expected="to compile all modules", found=found)
    for path in order:
        (tree / path).unlink()
