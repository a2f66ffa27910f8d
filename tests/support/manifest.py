"""What a reviewing party asks of a Gramine manifest, as a pure function over its parsed TOML.

    manifest = render(template_text, {"image": "/opt/ratls/image", …})
    lint(manifest)          # the keys that a party would refuse; empty for a good one

A list of what may be, never of what may not: a key that is not known here is refused, whatever
the Gramine of today does with it (gramine.md 3).
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

AGREEMENT = "/etc/ratls/agreement.json"
WRITABLE = "/tmp"
# Seen in the enclave without a hash: written by the process, by the host, or by Gramine itself.
UNHASHED = (f"{WRITABLE}/", "/etc/ratls/", "/dev/", "/proc/", "/sys/")
ARGUMENTS = ["-I", "-B", "-m", "enclave_app.gramine_main"]
# None of them names code, a library, a certificate, a log or a proxy.
ENVIRONMENT = {
    "LD_LIBRARY_PATH",
    "HOME",
    "MALLOC_ARENA_MAX",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ARROW_IO_THREADS",
    "ARROW_DEFAULT_MEMORY_POOL",
    "JOBLIB_MULTIPROCESSING",
    "GRPC_ENABLE_FORK_SUPPORT",
}
TABLES = {"libos", "loader", "loader.entrypoint", "fs", "sys", "sys.stack", "sgx"}


def render(template: str, values: Mapping[str, str]) -> dict[str, Any]:
    """The manifest with each `{{ expression }}` replaced; the template uses nothing else."""
    text = re.sub(r"\{\{ (.+?) \}\}", lambda found: values[found[1]], template)
    assert not re.search(r"\{[{%#]|[}%#]\}", text), "more of Jinja than substitution"
    return tomllib.loads(text)


def lint(manifest: Mapping[str, Any]) -> set[str]:
    """The dotted keys at fault; those that are missing are at fault too."""
    given = dict(_flat(manifest, ""))
    wrong = {key for key, value in given.items() if key not in RULES or not RULES[key](value)}
    wrong |= RULES.keys() - given.keys()
    return wrong or set(_unprotected(given))


def _flat(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{above}{name}"
        if key in TABLES and isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _is_path(value: Any) -> bool:
    """Absolute, not the root, and spelt in the one way in which Gramine compares it."""
    spelt = isinstance(value, str) and value[:1] == "/" and posixpath.normpath(value) == value
    return spelt and value[1:2] not in {"", "/"}


def _may_hold_code(value: Any) -> bool:
    return _is_path(value) and not f"{value}/".startswith(UNHASHED)


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and value[:5] == "file:" and _is_path(value[5:])


def _is_environment(value: Any) -> bool:
    # A string each: a table would be a passthrough, with which the host chooses.
    if not value.keys() <= ENVIRONMENT or not all(isinstance(v, str) for v in value.values()):
        return False
    return all(map(_may_hold_code, value.get("LD_LIBRARY_PATH", "").split(":")))


def _are_trusted(value: Any) -> bool:
    uris = [uri.removesuffix("/") if isinstance(uri, str) else uri for uri in value]
    return all(map(_is_uri, uris)) and len(set(uris)) == len(uris)


def _is_mount(value: Any) -> bool:
    match value:
        case {"type": "tmpfs", "path": path, **rest}:
            return path == WRITABLE and not rest
        case {"path": path, "uri": uri, **rest}:
            return _is_path(path) and _is_uri(uri) and not rest
    return False


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is(wanted: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(wanted) and value == wanted


RULES: dict[str, Callable[[Any], bool]] = {
    "libos.entrypoint": _may_hold_code,
    "loader.entrypoint.uri": _is_uri,
    "loader.argv": lambda value: isinstance(value, list) and value[1:] == ARGUMENTS,
    "loader.log_level": lambda value: value in {"none", "error"},
    "loader.env": _is_environment,
    "sys.stack.size": lambda value: isinstance(value, str),
    "sys.disallow_subprocesses": _is(True),
    "sys.enable_sigterm_injection": lambda value: isinstance(value, bool),
    "fs.root": lambda value: value.keys() == {"uri"} and _is_uri(value["uri"]),
    "fs.start_dir": _is("/"),
    "fs.mounts": lambda value: all(map(_is_mount, value)),
    "sgx.debug": _is(False),
    "sgx.remote_attestation": _is("dcap"),
    "sgx.edmm_enable": lambda value: isinstance(value, bool),
    "sgx.enclave_size": lambda value: isinstance(value, str),
    "sgx.max_threads": _is_positive,
    "sgx.isvprodid": _is_positive,
    "sgx.isvsvn": _is_positive,
    "sgx.trusted_files": _are_trusted,
    "sgx.allowed_files": _is([f"file:{AGREEMENT}"]),
}


def _unprotected(given: Mapping[str, Any]) -> Iterator[str]:
    """Keys through which a file without a hash would be seen, other than the agreement."""
    agreement, trusted = f"file:{AGREEMENT}", given["sgx.trusted_files"]

    def hashed(uri: str) -> bool:
        return any(f"{uri}/".startswith(t) for t in trusted if t.endswith("/"))

    # Gramine looks at what is allowed first: an overlap would be a trusted file without a hash.
    if hashed(agreement) or agreement in trusted:
        yield "sgx.trusted_files"
    if not hashed(given["fs.root"]["uri"]):
        yield "fs.root"
    seen = {mount["path"]: mount.get("uri") for mount in given["fs.mounts"]}
    twice = len(seen) != len(given["fs.mounts"])
    if (
        twice
        or seen.pop(AGREEMENT, None) != agreement
        or not all(uri is None or hashed(uri) for uri in seen.values())
    ):
        yield "fs.mounts"
