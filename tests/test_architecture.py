"""The house rules that a reader relies on: who may import whom, and what is where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.imports import closure, import_graph, measured_files, sources

ROOT = Path(__file__).parent.parent
# A package may import itself and what stands in its row; nothing else of ours.
MAY_IMPORT = {
    "verifier": set(),
    "policy": {"verifier"},
    "ratls": {"verifier", "policy"},
    "enclave_app": {"verifier", "policy", "ratls"},
    "scheduler": {"verifier", "policy", "ratls"},
    "provider": {"verifier", "policy", "ratls", "scheduler"},
    "simulation": {"verifier", "ratls", "enclave_app"},
}
OURS = set(MAY_IMPORT)
# What decides is pure: these modules hold the network, the clock, the environment or a terminal.
SHELLS = {"batch", "cache", "files", "modes", "output", "pcs_requests", "shell", "user_folder"}


def modules(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if "build" not in path.relative_to(ROOT).parts:
            yield path, ast.parse(path.read_text("utf-8"))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.module or "", node.lineno


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_only_to_the_left(package: str) -> None:
    """An enclave that imported the scheduler would have it measured; a verifier, its opinions."""
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in modules(package)
        for name, line in imported(tree)
        if name.split(".")[0] in OURS - allowed
    ]
    assert wrong == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Import circles: each is found, and then broken at its last import."""
    graph = {name: set(imports) for name, imports in graph.items()}
    found = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            found.append(circle)
            graph[circle[1]].discard(circle[0])
        else:
            return found


def test_no_modules_import_each_other() -> None:
    """Of two modules in a circle neither can be read, moved or measured without the other.

    Imports for type checkers count: a reader follows them too.
    """
    assert circles(import_graph(types=True)) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


# One line of the map in CONTRIBUTING: package, question, what it imports, what to read first.
_MAP_LINE = re.compile(r"\| `(\w+)` \| ([^|]+\?) \| ([^|]+) \| ([^|]+) \|")


def test_the_map_of_packages_is_what_the_code_imports() -> None:
    """A newcomer reads it first: it says neither less nor more than what is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    lines = [match.groups() for match in map(_MAP_LINE.fullmatch, text.splitlines()) if match]
    named = {package: set(re.findall(r"`(\w+)`", imports)) for package, _, imports, _ in lines}
    assert named == MAY_IMPORT
    graph = import_graph(types=True)
    assert {
        package: {
            found.split(".")[0]
            for name, imports in graph.items()
            if name.split(".")[0] == package
            for found in imports
            if found in graph
        }
        - {package}
        for package in MAY_IMPORT
    } == MAY_IMPORT
    for package, _, _, first in lines:
        modules_named = {f"{package}.{name}" for name in re.findall(r"`(\w+)`", first)}
        assert modules_named
        assert modules_named <= sources().keys()
    readme = (ROOT / "README.md").read_text("utf-8")
    short = re.findall(r"^\| `(\w+)` \| ([^|]+\?) \|$", readme, re.MULTILINE)
    assert short == [(package, question) for package, question, _, _ in lines]


# Each module that the enclave imports is measured: a change to it is another MRENCLAVE, and every
# party signs again. So these stay out: the client's end of a connection, what judges quotes and
# collateral, the command line, and what a party keeps on its own disk.
NOT_IN_THE_ENCLAVE = {
    *("ratls.client_stream", "ratls.client_call", "ratls.appraise", "ratls.pin", "ratls.probe"),
    "ratls.offline",
    *("verifier.verify", "verifier.certificate", "verifier.collateral", "verifier.bundles"),
    *("verifier.crl", "verifier.pck", "verifier.qe", "verifier.tcb", "policy.admission"),
    *("verifier.shell", "verifier.modes", "verifier.usage", "enclave_app.cli"),
    *("ratls.attester_option", "policy.agreement_file", "policy.journal", "policy.state"),
    *("policy.sql", "policy.sql_check", "policy.sql_words"),
}
ENCLAVE_LIBRARIES = {
    *("cbor2", "cryptography", "duckdb", "grpc", "highspy", "numpy", "pyarrow", "pydantic"),
    *("securesystemslib", "sklearn", "structlog"),
}


def test_the_enclave_imports_its_own_end_alone() -> None:
    loaded = closure("enclave_app.gramine_main", import_graph(types=False))
    assert loaded >= {"enclave_app.application", "enclave_app.server", "ratls.server_stream"}
    assert sources().keys() >= NOT_IN_THE_ENCLAVE  # a module that was renamed is found as well
    assert loaded & NOT_IN_THE_ENCLAVE == set()
    assert not [name for name in loaded if name.startswith(("scheduler", "provider", "simulation"))]
    assert loaded - sources().keys() - sys.stdlib_module_names == ENCLAVE_LIBRARIES


def conditional_imports(tree: ast.AST, above: str = "") -> Iterator[tuple[int, str]]:
    """Imports that may be left out, and what would hide that one failed: line, and why."""
    absent = re.compile(r"\b(ImportError|ModuleNotFoundError)\b")
    for node in ast.iter_child_nodes(tree):
        inside = above
        if isinstance(node, ast.Import | ast.ImportFrom) and above:
            yield node.lineno, above
        elif isinstance(node, ast.ExceptHandler) and node.type:
            if absent.search(ast.unparse(node.type)):
                yield node.lineno, "except"
        elif isinstance(node, ast.With) and absent.search(ast.unparse(node).partition("\n")[0]):
            yield node.lineno, "with"
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = ""
        if isinstance(node, ast.If | ast.Try | ast.For | ast.While | ast.Match):
            inside = type(node).__name__
        yield from conditional_imports(node, inside)


def test_no_import_of_the_enclave_is_conditional() -> None:
    """M13: the host spoils one file, and the whole folder becomes an ImportError: its switch."""
    wrong = [
        f"{name}:{line} {why}"
        for name in measured_files()
        for line, why in conditional_imports(ast.parse((ROOT / name).read_text("utf-8")))
    ]
    assert wrong == []
    for planted in (
        "try:\n    import a\nexcept OSError:\n    a = None",
        "if b:\n    from a import c",
        "try:\n    g()\nexcept (KeyError, ModuleNotFoundError):\n    h()",
        "with suppress(ImportError):\n    f()",
    ):
        assert list(conditional_imports(ast.parse(planted))), planted


def test_the_enclave_starts_without_a_command_line_library() -> None:
    """An image may leave them out, although a library that it has would use them if it could."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('typer', 'click', 'rich', 'httpx')));"
        "import enclave_app.gramine_main, ratls.environment as e; e.prepare_process();"
        "import enclave_app.server, enclave_app.application"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


FORBIDDEN = {"pickle", "cPickle", "joblib", "cloudpickle", "marshal", "shelve", "dill"}


@pytest.mark.parametrize("package", sorted(OURS))
def test_no_code_is_loaded_from_data(package: str) -> None:
    """R02: one call of the pickle family or of eval would run what a peer sends."""
    wrong = []
    for path, tree in modules(package):
        wrong += [f"{path}:{n}" for name, n in imported(tree) if name.split(".")[0] in FORBIDDEN]
        wrong += [
            f"{path}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"eval", "exec", "compile", "__import__"}
        ]
    assert wrong == []


def test_the_verifier_has_no_clock_network_or_environment() -> None:
    """A verdict that depended on any of these could not be repeated in ten years."""
    sources = {"time", "socket", "ssl", "os", "random", "secrets", "httpx", "urllib", "requests"}
    wrong = [
        f"{path.name}:{line} imports {name}"
        for path, tree in modules("verifier")
        if path.stem not in SHELLS
        for name, line in imported(tree)
        if name.split(".")[0] in sources
    ]
    wrong += [
        f"{path.name}:{node.lineno} asks the clock"
        for path, tree in modules("verifier")
        if path.stem not in SHELLS
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "environ"}
    ]
    assert wrong == []


def test_help_loads_nothing_heavy() -> None:
    """`ratls --help` answers at once only while no command module imports the heavy libraries."""
    heavy = ["pyarrow", "cryptography", "pydantic", "numpy", "sklearn", "OpenSSL", "cbor2"]
    code = (
        "import sys; from ratls.cli import build; build();"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("wanted", "others"), [("verify", False), ("--help", True), ("verifi", True), (None, True)]
)
def test_a_command_loads_no_other_one(wanted: str | None, others: bool) -> None:
    """Most of what a command takes is its start. Help and misspellings need all of them."""
    code = (
        f"import sys; from ratls.cli import build; build({wanted!r});"
        "wanted = ('ratls.cli_verify', 'provider.cli_provider', 'scheduler.cli');"
        "print([m in sys.modules for m in wanted])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == str([True, others, others])


def test_locks_name_no_host_and_no_machine() -> None:
    """A lock that names an index would send every installer there; hashes are enough."""
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text("utf-8")
        assert not re.search(r"https?://|--index-url|--find-links|file:|(^|\s)/\w", text)
        pins = re.findall(r"^[a-z0-9][\w.\[\],-]*==", text, re.MULTILINE)
        assert len(pins) > 2
        for block in re.split(r"\n(?=\S)", text.strip()):
            if "==" in block.split("\n")[0] and not block.startswith("#"):
                assert "--hash=sha256:" in block, block.split("\n")[0]


def _names(lines: list[str]) -> set[str]:
    return {re.split(r"[\[>=< ]", line)[0] for line in lines if re.match(r"[a-z]", line)}


def test_the_demo_installs_what_runs_and_no_test_tool() -> None:
    """Two lists of one thing: what the package asks for, and the lock that the demo installs."""
    listed = [
        line
        for name in ("run.in", "arrays.in")
        for line in (ROOT / "requirements" / name).read_text("utf-8").splitlines()
    ]
    ours, simulation = (
        tomllib.loads((ROOT / place / "pyproject.toml").read_text("utf-8"))["project"]
        for place in (".", "simulation")
    )
    extras = [line for lines in ours["optional-dependencies"].values() for line in lines]
    asked = _names(ours["dependencies"] + extras + simulation["dependencies"])
    assert _names(listed) == asked - {"ratls", "psycopg", "onnx"} | {"setuptools"}
    run, arrays, dev = (
        set(re.findall(r"^[a-z0-9].*==[^\\]+", (ROOT / "requirements" / name).read_text(), re.M))
        for name in ("run.txt", "arrays.txt", "dev.txt")
    )
    assert run | arrays < dev  # tests run on the very versions that users install
    # Two processes install them at once, each its own.
    assert not _names(sorted(run)) & _names(sorted(arrays))
    tools = {"pytest", "mypy", "ruff", "hypothesis", "dcap-qvl", "pandas", "polars"}
    assert not _names(sorted(run | arrays)) & tools


def test_production_lists_its_packages_and_simulation_is_not_among_them() -> None:
    """X04: what is not in the wheel cannot be switched on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "simulation" not in project["tool"]["setuptools"]["packages"]
    listed = set(project["tool"]["setuptools"]["packages"])
    assert {name.split(".")[0] for name in listed} == OURS - {"simulation"}
    assert listed >= {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in OURS - {"simulation"}
        for path in (ROOT / package).rglob("*.py")
    }
    assert "ratls.simulation" not in project["project"]["entry-points"]


# Besides the standard library, and where each may be imported.
LIBRARIES = {
    "certificate": {"cryptography"},
    "complete": {"tomli_w"},
    "ecdsa": {"cryptography"},
    "qe": {"cryptography"},
    "user_folder": {"platformdirs"},
    "lint": {"tomli_w"},
    "modes": {"typer"},
    "pcs_requests": {"certifi", "httpx"},
    "shell": {"rich", "typer"},
    "sigstruct": {"cryptography"},
    "usage": {"typer"},
}


def test_the_verifier_needs_no_more_libraries_than_these() -> None:
    """Whatever reads an attacker's bytes is read by the auditor too, so there is little of it."""
    used: dict[str, set[str]] = {}
    for path, tree in modules("verifier"):
        roots = {name.split(".")[0] for name, _ in imported(tree)}
        if foreign := roots - OURS - sys.stdlib_module_names:
            used[path.stem] = foreign
    assert used == LIBRARIES


_CHANGERS = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}


def changed_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of a module that something inside a function changes."""
    own = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield from ((name, node.lineno) for name in node.names)
            changed: ast.expr | None = None
            if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(
                node.ctx, ast.Load
            ):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                changed = node.func.value if node.func.attr in _CHANGERS else None
            if isinstance(changed, ast.Name) and changed.id in own:
                yield changed.id, node.lineno


def test_what_decides_has_no_state_of_its_own() -> None:
    """A verdict that depended on the one before could not be repeated; `lru_cache` is no state."""
    wrong = [
        f"{path.name}:{line} changes {name}"
        for path, tree in modules("verifier")
        if path.stem not in SHELLS
        for name, line in changed_names(tree)
    ]
    assert wrong == []
    planted = ast.parse("seen = set()\ndef decide(x):\n    seen.add(x)\n    return x in seen")
    assert list(changed_names(planted)) == [("seen", 3)]


# Where frames, sealed rows and Arrow's messages are made and opened, and where calls are.
_ONE_PLACE = {
    ("FlightData", "parse"): {"ratls/framing.py"},
    ("", "encode_metadata"): {"ratls/framing.py"},
    ("", "AESGCM"): {"ratls/sealing.py"},
    ("Suite", ""): {"ratls/sealing.py"},
    ("channel", "stream_stream"): {"ratls/client_call.py"},
    ("grpc", "stream_stream_rpc_method_handler"): {"ratls/flight_server.py"},
}


def test_rows_and_messages_are_framed_in_one_module() -> None:
    """Rows are sealed there, and judged before they are opened: a second place would do neither."""

    def calls() -> Iterator[tuple[str, str, str]]:
        for package in ("ratls", "provider", "enclave_app"):
            for path, tree in modules(package):
                for node in ast.walk(tree):
                    if isinstance(node, ast.Call):
                        of, _, name = ast.unparse(node.func).rpartition(".")
                        yield str(path.relative_to(ROOT)), of, name

    found = list(calls())
    for (of, name), places in _ONE_PLACE.items():
        wanted = (of, name) if name else ("", of)
        assert {path for path, *called in found if tuple(called) == wanted} == places, wanted


def test_nothing_but_columns_is_read_by_arrows_own_reader_of_messages() -> None:
    """F01, F04, F05: it follows numbers of the other side, and unpacks what is compressed."""
    readers = {"read_record_batch", "open_stream", "open_file", "read_message", "MessageReader"}
    used = {
        (str(path.relative_to(ROOT)), ast.unparse(node.func))
        for package in ("ratls", "enclave_app")
        for path, tree in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and "ipc" in ast.unparse(node.func)
        and not ast.unparse(node.func).endswith("IpcWriteOptions")
    }
    assert used == {("ratls/arrow_header.py", "pa.ipc.read_schema")}
    assert not any(name.split(".")[-1] in readers for _, name in used)


def test_another_reader_of_cbor_is_nowhere() -> None:
    """B15: a general decoder takes what ours refuses; the library only writes."""
    used = {
        (str(path.relative_to(ROOT)), node.attr)
        for package in OURS
        for path, tree in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cbor2"
    }
    assert used == {("ratls/cbor.py", "dumps"), ("ratls/cbor.py", "CBORTag")}
    assert not [
        path
        for package in OURS
        for path, tree in modules(package)
        for name, _ in imported(tree)
        if name.startswith("cbor2") and path.name != "cbor.py"
    ]


def calls_of(tree: ast.Module) -> dict[str, set[str]]:
    """For each function of a module, the functions of it that it calls, by name."""
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return {
        name: {
            called
            for node in ast.walk(function)
            if isinstance(node, ast.Call)
            for called in [getattr(node.func, "id", getattr(node.func, "attr", ""))]
            if called in functions
        }
        for name, function in functions.items()
    }


def test_certificates_are_read_without_recursion_and_without_a_library() -> None:
    """B16: bytes that nobody signed reach this reader; depth is theirs to choose."""
    for path, tree in modules("verifier"):
        assert not [n for n, _ in imported(tree) if n.startswith("cryptography.x509")], path
        assert not [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom)
            and n.module == "cryptography"
            and any(alias.name == "x509" for alias in n.names)
        ], path
        if path.stem in {"der", "extensions"}:
            calls = calls_of(tree)
            while leaves := [name for name, called in calls.items() if not called]:
                calls = {n: c - set(leaves) for n, c in calls.items() if n not in leaves}
            assert calls == {}, f"{path.name} calls itself: {sorted(calls)}"
    planted = ast.parse("def a(x):\n    return b(x)\ndef b(x):\n    return a(x)")
    assert calls_of(planted) == {"a": {"b"}, "b": {"a"}}


def test_no_command_stands_in_the_verifier() -> None:
    """It knows nothing of TLS; what fetches collateral may ask an enclave for its quote."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    commands = project["entry-points"]["ratls.commands"].values()
    assert {place.split(".")[0] for place in commands} == {
        "policy",
        "ratls",
        "enclave_app",
        "provider",
        "scheduler",
    }


# Where folders are (XDG), what would make gRPC log keys, and which profile counts (RATLS_PROFILE, a
# path that could be typed as well): names that are fixed in the code. The grower of trees only
# writes: no child processes for joblib.
_READ_THE_ENVIRONMENT = {
    "enclave_app/computations/tree_grower.py",
    "verifier/user_folder.py",
    "ratls/grpc_environment.py",
    "ratls/environment.py",
    "ratls/profile_file.py",
}


def test_no_secret_comes_from_the_environment() -> None:
    """S31: children inherit it, `/proc` shows it, and crash reports carry it along."""
    words = {"environ", "environb", "getenv", "envvar", "auto_envvar_prefix"}
    readers = {
        str(path.relative_to(ROOT))
        for package in OURS - {"simulation"}
        for path, tree in modules(package)
        for node in ast.walk(tree)
        if (node.attr if isinstance(node, ast.Attribute) else getattr(node, "arg", None)) in words
        or (isinstance(node, ast.alias) and node.name in words)
    }
    assert readers <= _READ_THE_ENVIRONMENT


MOST_LINES = 450


@pytest.mark.parametrize("package", sorted(OURS))
def test_no_module_is_long(package: str) -> None:
    """Who reads one has all of it in mind."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path, _ in modules(package)
        if (lines := len(path.read_text("utf-8").splitlines())) > MOST_LINES
        and not path.stem.endswith(("_pb2", "_pb2_grpc"))  # made by a tool
    }
    assert long == {}
