"""A real image: built twice, and each computation and refusal run on exactly its files.

Missing files are what breaks an enclave under Gramine, and an image has only those of a list.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.image_jobs import RUNS, entry_point_refuses, whole_job
from tests.support.image_parts import require_parts
from tests.support.image_run import run_in
from tests.support.images import everything
from tests.support.imports import ROOT, measured_files
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

DIST = "usr/local/lib/python3.11/dist-packages"
Built = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def type_command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """`ratls enclave image`, as it is typed; the folder, and what it says."""
    wheels, debs = require_parts()
    top = tmp_path_factory.mktemp("images")

    def typed(name: str, *options: str, umask: int = 0o22, **variables: str) -> Built:
        command = [Path(sys.executable).with_name("ratls"), "enclave", "image", "--json"]
        folders = ["--wheels", str(wheels), "--debs", str(debs), "--release", str(ROOT)]
        said = subprocess.run(
            [*command, *folders, "--out", name, *options], cwd=top, umask=umask,
            env=os.environ | variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return top / name, json.loads(said.stdout)

    return typed


@pytest.fixture(scope="module")
def built(type_command: Callable[..., Built]) -> Built:
    return type_command("one")


def test_a_real_image_is_the_same_twice_and_small(
    built: Built, type_command: Callable[..., Built]
) -> None:
    """U07: with real packages, compiled by the interpreter in them."""
    count_refusal()
    tree, said = built
    variables = {"TZ": "Pacific/Apia", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    other, again = type_command("two", umask=0o77, **variables)
    assert said | {"image": ""} == again | {"image": ""}
    assert everything(tree) == everything(other)
    # Without the SQL engine and scikit-learn: 600 files, 210 MB. See below.
    assert said["files"] <= 1600
    assert said["bytes"] <= 410_000_000
    assert said["computations"] == sorted(RUNS)
    files = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()}
    assert files >= {f"{DIST}/{name}c" for name in measured_files()}
    assert not [name for name in files if name.endswith((".py", ".pth", ".a", ".h"))]
    assert not [path for path in tree.rglob("*") if path.is_symlink()]
    assert not [path for path in tree.rglob("*") if path.is_dir() and not any(path.iterdir())]


@pytest.mark.parametrize("run", RUNS)
def test_a_computation_on_the_files_of_its_image(
    type_command: Callable[..., Built], run: str
) -> None:
    """By its own interpreter, which sees nothing else: a result, and refusals."""
    tree, said = type_command(f"for-{run}", "--computations", run)
    assert said["computations"] == [run]
    most = {"boosted_trees": 330, "sql": 300}.get(run, 230)
    assert said["bytes"] <= most * 1_000_000
    whole_job(tree, run)
    entry_point_refuses(tree)
    ended = run_in(tree, "-c", JOIN_TWO)
    assert ended.stdout == "5\n", ended.stderr


# Before any computation inputs may be joined, in both ways and with means.
JOIN_TWO = """
import pyarrow as pa
from enclave_app.gate import Input
from enclave_app.join import joined
from policy.join import Join

def rows(name):
    columns = [pa.array(["a", "b", "a", "c", "d", "e"]), pa.array([1, 2, 3, 4, 5, 6])]
    batch = pa.RecordBatch.from_arrays(columns, names=["k", name])
    return Input(pa.Table.from_batches([batch]), "k")

for kind in ("inner", "left"):
    join = Join(key="k", kind=kind, max_unmatched_share=1.0, means_of=("a", "b"))
    joint = joined(join, {"a": rows("x"), "b": rows("y")})
print(joint.views[0]["joined"].table.num_rows)
"""

IMPORT_ALL = """
import importlib, sys
from ratls.environment import prepare_process
prepare_process()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1)
"""


def imports(tree: ast.AST) -> Iterator[str]:
    """All that a module imports when it runs, also later, inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports(node)


def test_every_import_of_ours_finds_its_module(built: Built) -> None:
    """Those on ways that no job takes, too: a bug that is logged, an attester that is refused."""
    sources = [ast.parse((ROOT / name).read_text("utf-8")) for name in measured_files()]
    names = sorted({name for source in sources for name in imports(source)})
    ended = run_in(built[0], "-c", IMPORT_ALL, *names)
    assert ended.stdout == f"{len(names)}\n", ended.stderr
    assert len(names) > 100


def test_what_is_not_in_the_image_is_not_there(built: Built) -> None:
    """With one module less nothing starts: the same module of this machine is not taken."""
    count_refusal()
    tree, _ = built
    module = tree / DIST / "numpy" / "linalg" / "_linalg.pyc"
    raw = module.read_bytes()
    module.unlink()
    try:
        ended = run_in(tree, "-m", "enclave_app.gramine_main")
    finally:
        module.write_bytes(raw)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "ImportError" in ended.stderr
    entry_point_refuses(tree)
