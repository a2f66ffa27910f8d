"""Are these our packages? Their names are common words, and pip lets others overwrite them.

    foreign(("policy", "scheduler"))   # () where both are ours

`pip install scheduler` replaces our `scheduler/__init__.py`, and says nothing (U09). So each
package of ours has a line that says whose it is, and this module reads the file without running it:
what was put in its place never runs. It is for accidents; a package that means harm has other ways.
Imports nothing of ours, for the same reason, and little else: the enclave carries it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import NamedTuple

CODE = "foreign-package"
UNUSABLE = 3  # `verifier.errors.Exit.UNUSABLE`
COMMANDS = ("verifier", "policy", "ratls", "enclave_app", "scheduler", "provider")
ENCLAVE = ("verifier", "policy", "ratls", "enclave_app")


class Foreign(NamedTuple):
    """A name of ours under which something else, or nothing, is found."""

    name: str
    place: str  # the file; `nothing`, or the folder, where there is none

    def __str__(self) -> str:
        return f"package {self.name}: expected the one of ratls, found {ascii(self.place)[1:-1]}"


def foreign(names: Iterable[str]) -> tuple[Foreign, ...]:
    """Those that are not ours, by the place where they were found. Loads none of them."""
    found = ((name, _place_of_another(name)) for name in names)
    return tuple(Foreign(name, place) for name, place in found if place is not None)


def _place_of_another(name: str) -> str | None:
    try:
        spec = find_spec(name)
    except ValueError:  # it was loaded by a program that takes no part in imports
        return "a module without a file"
    if spec is None:
        return "nothing"
    read: Callable[[str], bytes] | None = getattr(spec.loader, "get_data", None)
    if spec.origin is None or read is None:
        return ", ".join(spec.submodule_search_locations or ()) or "a module without a file"
    try:
        content = read(spec.origin)
    except OSError:
        return spec.origin
    # Also in bytecode, where there is no source: a string of ASCII stands there as it is.
    return None if f"ratls: {name}".encode() in content else spec.origin


def end_where_foreign(names: Iterable[str]) -> None:
    """End the process, with a refusal on stderr, where one of these packages is not ours."""
    if found := foreign(names):
        fix = "build the image from its locks alone, in an empty folder"
        sys.stderr.write(f"unusable [{CODE}] {'; '.join(map(str, found))}\n  to do: {fix}\n")
        sys.exit(UNUSABLE)
