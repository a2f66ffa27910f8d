"""What each key of a signed manifest may be: a closed list. Why: docs/gramine.md 3.

A key that is not listed is refused, whatever the Gramine of today does with it.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from verifier.gramine.signed import MOST_THREADS, parse_size

AGREEMENT = "/etc/ratls/agreement.json"
INTERPRETER = "/usr/bin/python3.11"
ARGUMENTS = ["python3.11", "-I", "-B", "-m", "enclave_app.gramine_main"]
# Exactly these names. None names code, a library, a certificate, a log or a proxy.
ENVIRONMENT = {
    "LD_LIBRARY_PATH": "/lib:/usr/lib/x86_64-linux-gnu",
    "HOME": "/tmp",  # noqa: S108 - of the enclave, in its own memory
    "MALLOC_ARENA_MAX": "1",
    # The host's CPUID would choose the kernel otherwise, and with it the last digits of a model.
    "OPENBLAS_CORETYPE": "Haswell",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS")
TABLES = {
    *("libos", "loader", "loader.entrypoint", "loader.env", "fs", "sys", "sys.stack"),
    *("sgx", "sgx.cpu_features"),
}
_COUNT = re.compile(r"[1-9][0-9]?", re.ASCII)
_STACK = re.compile(r"[1-9][0-9]{0,5}[KM]", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one key may be, and how to say it."""

    expected: str
    holds: Callable[[Any], bool]


def is_path(value: Any) -> bool:
    """Absolute, not the root, and spelt in the one way in which Gramine compares it."""
    spelt = isinstance(value, str) and value[:1] == "/" and posixpath.normpath(value) == value
    return spelt and value[1:2] not in {"", "/"}


def is_uri(value: Any) -> bool:
    return isinstance(value, str) and value[:5] == "file:" and is_path(value[5:])


def is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of the known tables with its dotted name."""
    for name, value in table.items():
        key = f"{above}{name}"
        if key in TABLES and isinstance(value, dict):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def _is(wanted: Any) -> Rule:
    def holds(value: Any) -> bool:
        return type(value) is type(wanted) and value == wanted

    return Rule(json.dumps(wanted), holds)


def _one_of(*words: str) -> Rule:
    return Rule(" or ".join(map(json.dumps, words)), lambda value: value in words)


def _number(low: int, high: int) -> Rule:
    # True is an int: the exact type counts.
    return Rule(f"{low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _is_stack(value: Any) -> bool:
    size = parse_size(value) if isinstance(value, str) and _STACK.fullmatch(value) else None
    return size is not None and 256 << 10 <= size <= 8 << 20 and size % 4096 == 0


def _is_enclave_size(value: Any) -> bool:
    size = parse_size(value)
    return (
        size is not None
        and size & (size - 1) == 0
        and not value.startswith("0x")
        and value[-1] in "KMG"
    )


_SWITCH = Rule("true or false", lambda value: type(value) is bool)
_FEATURE = _one_of("unspecified", "disabled", "required")
RULES: dict[str, Rule] = {
    "libos.entrypoint": _is(INTERPRETER),
    "loader.entrypoint.uri": Rule("an absolute file: URI", is_uri),
    "loader.entrypoint.sha256": Rule("64 lower-case hex digits", is_digest),
    "loader.argv": _is(ARGUMENTS),
    "loader.log_level": _one_of("error", "none"),
    **{f"loader.env.{name}": _is(value) for name, value in ENVIRONMENT.items()},
    **{
        f"loader.env.{name}": Rule(
            'a count from "1" to "99"',
            lambda value: isinstance(value, str) and _COUNT.fullmatch(value) is not None,
        )
        for name in THREAD_COUNTS
    },
    "sys.stack.size": Rule('pages from "256K" to "8M"', _is_stack),
    "sys.disallow_subprocesses": _is(True),
    "sys.enable_sigterm_injection": _SWITCH,
    "fs.root": Rule(
        'a table { uri = "file:/…" } and no more',
        lambda value: isinstance(value, dict) and value.keys() == {"uri"} and is_uri(value["uri"]),
    ),
    "fs.start_dir": _is("/"),
    "fs.mounts": Rule("a list", lambda value: isinstance(value, list)),
    "sgx.debug": _is(False),
    "sgx.remote_attestation": _is("dcap"),
    "sgx.edmm_enable": _SWITCH,
    "sgx.enable_stats": _is(False),
    "sgx.use_exinfo": _is(False),
    "sgx.enclave_size": Rule('a power of two, like "16G"', _is_enclave_size),
    "sgx.max_threads": _number(1, MOST_THREADS),
    "sgx.isvprodid": _number(1, 0xFFFF),  # 0 is the product of whoever sets none
    "sgx.isvsvn": _number(1, 0xFFFF),
    "sgx.cpu_features.avx": _FEATURE,
    "sgx.cpu_features.avx512": _FEATURE,
    "sgx.cpu_features.amx": _FEATURE,
    "sgx.cpu_features.mpx": _is("disabled"),
    "sgx.cpu_features.pkru": _is("disabled"),
    "sgx.allowed_files": _is([f"file:{AGREEMENT}"]),
    "sgx.trusted_files": Rule("a list", lambda value: isinstance(value, list)),
}
# Allowed, and rarely meant: the value, and what is better.
WARNED: dict[str, tuple[object, str]] = {
    "sgx.edmm_enable": (True, "false, so that the heap is measured"),
    "sys.enable_sigterm_injection": (False, "true, for an orderly stop"),
}
# For a person: nothing here is wrong, and all of it is a choice.
SHOWN = {
    "fs.root": "all files of the enclave are below it; the path is measured",
    "sys.enable_sigterm_injection": "the host may end the process in order",
    "sgx.edmm_enable": "whether the heap is added later, unmeasured",
    "sgx.enclave_size": "of address space",
    "sgx.max_threads": "threads at most",
    "sgx.cpu_features": "of the processor; what is unspecified, the host's loader sets",
    "sgx.isvprodid": "must be the policy's",
    "sgx.isvsvn": "must be the policy's minimum or higher",
}
