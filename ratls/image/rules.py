"""What an image never has, whatever its list says: the rules by which it is pruned.

    broken_rule("numpy/tests/test_abc.py")       # "tests"
    broken_rule("numpy/_core/multiarray.py")     # None

The list names each file that is in, so these rules prune nothing by themselves. They hold a list
that was made anew, or by hand, to what a reviewer relies on.
"""

from __future__ import annotations

import posixpath
import re

PYTHON = "python3.11"  # Debian 12's; what the manifest starts
INTERPRETER = f"usr/bin/{PYTHON}"
STDLIB = f"usr/lib/{PYTHON}/"
PACKAGES = f"usr/local/lib/{PYTHON}/dist-packages/"
LIBRARIES = "usr/lib/x86_64-linux-gnu/"

# Each alone is enough. A name in the middle is a folder.
_RULES = {
    # They load more than the enclave does, and none of it is looked at when it is reviewed.
    "tests": r"(^|/)(tests?|conftest\.py|idlelib|test_[^/]*\.py)(/|$)",
    "headers and static libraries": r"\.(h|hpp|hh|c|cc|cpp|a|la|pc|cmake|f90|pxd|pyx|pxi)$",
    "types": r"\.pyi$|(^|/)py\.typed$",
    # Each is code that runs, or a folder that is searched, without an import that names it.
    "start-up hooks": r"\.(pth|egg-link)$|(^|/)((site|user)customize\.py|pyvenv\.cfg)$",
    # Of an installation: where, when and by which tool. DuckDB reads its own version from one text.
    "metadata": r"^(?!duckdb-[0-9.]+\.dist-info/METADATA$).*\.(dist|egg)-info(/|$)",
    "bytecode": r"(^|/)__pycache__(/|$)|\.py[co]$",
    # joblib asks for it where there are child processes; Arrow loads it wherever it is found.
    "what pickles code": r"(^|/)cloudpickle(/|$)",
    "what installs": r"(^|/)(pip|setuptools|wheel|ensurepip|distutils|lib2to3)(/|$)",
    "terminals and command lines": r"(^|/)(typer|click|rich|pygments|shellingham)(/|$)"
    r"|(^|/)(curses|tkinter|readline[^/]*\.so)(/|$)",
    "clients, databases and simulation": r"(^|/)(httpx|httpcore|h11|anyio|sqlalchemy|OpenSSL"
    r"|platformdirs|provider|scheduler|simulation)(/|$)",
}
_COMPILED = {name: re.compile(pattern, re.ASCII) for name, pattern in _RULES.items()}
# What the signer and a C program read alike: no quoting, no second spelling of one place.
_NAME = re.compile(r"[A-Za-z0-9_+.@-]+(/[A-Za-z0-9_+.@-]+)*", re.ASCII)


def broken_rule(path: str) -> str | None:
    """The name of the first rule that keeps this file out; None for one that may be in."""
    if not _NAME.fullmatch(path) or posixpath.normpath(path) != path or path.startswith(".."):
        return "plain relative paths"
    return next((name for name, found in _COMPILED.items() if found.search(path)), None)
