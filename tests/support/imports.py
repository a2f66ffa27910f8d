"""Which module imports which, read from the sources: imports inside functions count too.

python -m tests.support.imports > enclave_app/measured.txt   # what the enclave consists of
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation")


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of ours by its dotted name; a package by its own."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = path.relative_to(ROOT).with_suffix("")
            if "build" not in inside.parts:
                name = ".".join(inside.parts).removesuffix(".__init__")
                found[name] = ast.parse(path.read_text("utf-8"))
    return found


def import_graph(*, types: bool) -> dict[str, set[str]]:
    """Module to what it imports: modules of ours by dotted name, libraries by their first name.

    Args:
        types: Also what is imported for type checkers alone.
    """
    return {name: set(_imports(tree, types)) for name, tree in sources().items()}


def _imports(tree: ast.AST, types: bool) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (_module(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield from (_module(f"{node.module}.{alias.name}") for alias in node.names)
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from _imports(node, types)


def _module(name: str) -> str:
    """The module that holds this name: `verifier.quote.Quote` is in `verifier.quote`."""
    if name in sources():
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in sources() else name.partition(".")[0]


def closure(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """All that a process loads which imports `start`: modules, their packages, libraries."""
    found: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [*graph.get(name, ()), *([name.rpartition(".")[0]] if "." in name else ())]
    return found


def measured_files() -> list[str]:
    """Our files that a process loads which runs the enclave's entry point, sorted."""
    loaded = closure("enclave_app.gramine_main", import_graph(types=False)) & sources().keys()
    places = [ROOT / name.replace(".", "/") for name in loaded]
    files = [p / "__init__.py" if p.is_dir() else p.with_suffix(".py") for p in places]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


if __name__ == "__main__":
    print("\n".join(measured_files()))
