"""The manifest of the production enclave: what it says is what the code needs, and no more."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from enclave_app import gramine_main
from enclave_app.limits import MEBIBYTE, Limits
from tests.support.manifest import AGREEMENT, lint, render
from tests.support.refusal import count_refusal

TEMPLATE = Path(__file__).parent.parent / "manifests/gramine/ratls-enclave.manifest.template"
GRAMINE = "/usr/lib/x86_64-linux-gnu/gramine"
VALUES = {
    "image": "/opt/ratls/image",
    "gramine.libos": f"{GRAMINE}/libsysdb.so",
    "gramine.runtimedir()": f"{GRAMINE}/runtime/glibc",
}
ABSENT = object()


@pytest.fixture
def manifest() -> dict[str, Any]:
    return render(TEMPLATE.read_text("utf-8"), VALUES)


def change(manifest: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The manifest with one key set, added or dropped."""
    changed = copy.deepcopy(manifest)
    *above, name = key.split(".")
    table = changed
    for part in above:
        table = table.setdefault(part, {})
    if value is ABSENT:
        del table[name]
    else:
        table[name] = value
    return changed


def test_a_party_would_accept_it(manifest: dict[str, Any]) -> None:
    assert lint(manifest) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader.log_level", "none"),
        ("sys.enable_sigterm_injection", False),
        ("sgx.edmm_enable", True),
        ("sgx.isvsvn", 2),
        ("sgx.max_threads", 256),
        ("libos.entrypoint", "/usr/bin/python3.12"),
    ],
)
def test_what_may_differ(manifest: dict[str, Any], key: str, value: Any) -> None:
    """Another measurement, yet nothing that a party would have to refuse."""
    assert lint(change(manifest, key, value)) == set()


def test_it_starts_what_exists_and_gives_it_the_file_that_it_reads(
    manifest: dict[str, Any],
) -> None:
    """Constants of the entry point and text of the manifest must not part."""
    module = manifest["loader"]["argv"][-1]
    assert importlib.util.find_spec(module) is not None
    assert module == gramine_main.__name__
    assert str(gramine_main.AGREEMENT) == AGREEMENT
    assert manifest["sgx"]["allowed_files"] == [f"file:{gramine_main.AGREEMENT}"]


def test_there_is_a_thread_for_every_exchange(manifest: dict[str, Any]) -> None:
    """Each open exchange holds one; where they run out, the process ends. Numbers: README.md."""
    env = manifest["loader"]["env"]
    idle, gramine = 9, 4
    pools = int(env["OMP_NUM_THREADS"]) * 2 + int(env["OPENBLAS_NUM_THREADS"])
    pools += int(env["ARROW_IO_THREADS"])
    assert manifest["sgx"]["max_threads"] >= idle + gramine + pools + Limits().calls


def test_there_is_room_for_the_rows_that_may_be_held(manifest: dict[str, Any]) -> None:
    """The rows, with what computing needs; half as much for gaps between them; all the stacks."""
    size, stack = manifest["sgx"]["enclave_size"], manifest["sys"]["stack"]["size"]
    assert (size[-1], stack[-1]) == ("G", "M")
    gibibytes = int(size[:-1])
    assert gibibytes & (gibibytes - 1) == 0, "a power of two"
    stacks = manifest["sgx"]["max_threads"] * int(stack[:-1]) * MEBIBYTE
    interpreter = 512 * MEBIBYTE
    assert gibibytes * 1024 * MEBIBYTE >= 1.5 * Limits().held_bytes + stacks + interpreter


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader.insecure__use_cmdline_argv", True),
        ("loader.insecure__use_cmdline_argv", False),  # not even said: a reader looks once
        ("loader.insecure__use_host_env", True),
        ("loader.argv_src_file", "file:/opt/ratls/argv"),
        ("loader.env_src_file", "file:/opt/ratls/env"),
        ("loader.argv", ABSENT),
        ("loader.argv", ["python3.11", "-B", "-m", "enclave_app.gramine_main"]),
        ("loader.argv", ["python3.11", "-I", "-B", "-c", "print(1)"]),
        ("loader.argv", ["python3.11", "-I", "-B", "-m", "enclave_app.gramine_main", "--x"]),
        ("loader.argv", ["python3.11", "-I", "-B", "-m", "ratls.cli"]),
        ("loader.env", ABSENT),
        *[
            (f"loader.env.{name}", {"passthrough": True})
            for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "OMP_NUM_THREADS")
        ],
        *[
            (f"loader.env.{name}", "x")
            for name in (
                "LD_PRELOAD",
                "LD_AUDIT",
                "PYTHONPATH",
                "PYTHONHOME",
                "PYTHONSTARTUP",
                "SSLKEYLOGFILE",
                "SSL_CERT_FILE",
                "OPENSSL_CONF",
                "GRPC_TRACE",
                "GRPC_VERBOSITY",
                "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
                "HTTPS_PROXY",
                "GLIBC_TUNABLES",
                "RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE",
            )
        ],
    ],
)
def test_m02_the_host_would_choose_arguments_or_environment(
    manifest: dict[str, Any], key: str, value: Any
) -> None:
    """M02: whoever sets one of these runs code of his own, or reads the keys."""
    count_refusal()
    at_fault = "loader.env" if key.startswith("loader.env.") else key
    assert lint(change(manifest, key, value)) == {at_fault}


FILES = [f"file:{AGREEMENT}"]
IMAGE = ["file:/opt/ratls/image/", f"file:{GRAMINE}/runtime/glibc/"]
LIB = {"path": "/lib", "uri": f"file:{GRAMINE}/runtime/glibc"}
HERE = {"path": AGREEMENT, "uri": FILES[0]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sgx.allowed_files", [*FILES, "file:/opt/ratls/image/usr/lib/python3.11/site.py"]),
        ("sgx.allowed_files", [*FILES, "file:/opt/ratls/native.so"]),
        ("sgx.allowed_files", [*FILES, "file:/etc/ssl/certs/ca.pem"]),
        ("sgx.allowed_files", ["file:/etc/ratls/"]),
        ("sgx.allowed_files", ["file:/opt/../etc/ratls/agreement.json"]),
        ("sgx.allowed_files", []),
        ("sgx.allowed_files", ABSENT),
        ("sgx.allowed_files", FILES[0]),
        ("sgx.trusted_files", [*IMAGE, "file:/etc/"]),
        ("sgx.trusted_files", [*IMAGE, FILES[0]]),
        ("sgx.trusted_files", [*IMAGE, IMAGE[0]]),
        ("sgx.trusted_files", [*IMAGE, "file:relative"]),
        ("sgx.trusted_files", [*IMAGE, "file:/opt/ratls/image/../other/"]),
        ("sgx.trusted_files", [*IMAGE, "dev:/dev/null"]),
        ("sgx.file_check_policy", "allow_all_but_log"),
        ("fs.root", {"uri": "file:/"}),
        ("fs.root", {"uri": "file:/opt/ratls"}),
        ("fs.root", {"type": "tmpfs"}),
        ("fs.root", {"type": "encrypted", "uri": "file:/opt/ratls/image"}),
        ("fs.root", ABSENT),
        ("fs.start_dir", "/tmp"),
        ("fs.start_dir", ABSENT),
        ("fs.mounts", [LIB]),
        ("fs.mounts", [LIB, {"path": AGREEMENT, "uri": "file:/opt/ratls/image/a.json"}]),
        ("fs.mounts", [LIB, HERE, {"path": "/usr/lib/python3.11", "uri": "file:/srv/code"}]),
        ("fs.mounts", [LIB, HERE, {"path": "/lib", "uri": "file:/opt/ratls/image/lib"}]),
        ("fs.mounts", [LIB, HERE, {"path": "/usr/lib/python3.11", "type": "tmpfs"}]),
        ("fs.mounts", [LIB, HERE, {"path": "/s", "type": "encrypted", "uri": "file:/srv/s"}]),
        ("loader.env.LD_LIBRARY_PATH", "/tmp:/lib"),
        ("loader.env.LD_LIBRARY_PATH", "/lib::/usr/lib/x86_64-linux-gnu"),
        ("loader.env.LD_LIBRARY_PATH", "/lib:/etc/ratls"),
        ("loader.env.LD_LIBRARY_PATH", ABSENT),
        ("libos.entrypoint", "/tmp/python3.11"),
        ("libos.entrypoint", "python3.11"),
    ],
)
def test_m03_code_that_is_not_hashed(manifest: dict[str, Any], key: str, value: Any) -> None:
    """M03: an allowed file, or one that can be written, in a place from which code is taken."""
    count_refusal()
    at_fault = "loader.env" if key.startswith("loader.env.") else key
    assert lint(change(manifest, key, value)) == {at_fault}


@pytest.mark.parametrize(
    ("trusted", "at_fault"),
    [(IMAGE[1:], "fs.root"), (IMAGE[:1], "fs.mounts"), ([], "fs.root")],
)
def test_m03_folder_that_is_seen_and_not_hashed(
    manifest: dict[str, Any], trusted: list[str], at_fault: str
) -> None:
    """What is mounted and not listed cannot be opened; what a later edit allows then can."""
    count_refusal()
    assert at_fault in lint(change(manifest, "sgx.trusted_files", trusted))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sgx.debug", True),
        ("sgx.debug", 0),
        ("sgx.remote_attestation", "none"),
        ("sgx.remote_attestation", "epid"),
        ("sgx.remote_attestation", ABSENT),
        ("sgx.insecure__rpc_thread_num", 8),
        ("sgx.insecure__allow_memfaults_without_exinfo", True),
        ("sgx.enable_stats", True),
        ("sgx.vtune_profile", True),
        ("sgx.profile", {"enable": "all"}),
        ("sgx.seal_key", {"flags_mask": "0x0"}),
        ("sgx.thread_num", 64),  # a name of old: unknown is refused, whatever it would do
        ("fs.insecure__keys", {"default": "00" * 16}),
        ("fs.mounts", [LIB, HERE, {"path": "/s", "type": "untrusted_shm", "uri": "dev:s"}]),
        ("loader.insecure__disable_aslr", True),
        ("loader.log_level", "debug"),
        ("loader.log_file", "/tmp/log"),
        ("loader.preload", "file:/opt/ratls/hook.so"),
        ("libos.check_invalid_pointers", False),
        ("sys.insecure__allow_eventfd", True),
        ("sys.experimental__enable_flock", True),
        ("sys.debug__mock_syscalls", [{"name": "getrandom", "return": 0}]),
        ("sys.allowed_ioctls", [{"request_code": 1}]),
        ("sys.enable_extra_runtime_domain_names_conf", True),
        ("sys.disallow_subprocesses", False),
        ("sys.disallow_subprocesses", ABSENT),
    ],
)
def test_m04_other_insecure_switches(manifest: dict[str, Any], key: str, value: Any) -> None:
    """M04: each has one name, and each opens one door."""
    count_refusal()
    assert lint(change(manifest, key, value)) == {key}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader.entrypoint", {"uri": "dev:libsysdb"}),
        ("loader.entrypoint", {"uri": "file:libsysdb.so"}),
        ("sys.stack.size", 2),
        ("sys.enable_sigterm_injection", "true"),
        ("sgx.edmm_enable", 0),
        ("sgx.enclave_size", 16),
        ("sgx.max_threads", 0),
        ("sgx.isvprodid", 0),  # the product of whoever sets none
        ("sgx.isvprodid", True),
        ("sgx.isvsvn", -1),
    ],
)
def test_value_of_another_kind(manifest: dict[str, Any], key: str, value: Any) -> None:
    """What Gramine makes of it is its own affair: a party reads one form only."""
    count_refusal()
    at_fault = "loader.entrypoint.uri" if key == "loader.entrypoint" else key
    assert lint(change(manifest, key, value)) == {at_fault}


@pytest.mark.parametrize(
    "image", ["", "/", "/etc", "/etc/ratls", "//opt", "/opt/ratls/../..", "relative"]
)
def test_image_that_would_hold_the_agreement(image: str) -> None:
    """Allowed wins over trusted: a file that is both has no hash. Relative: another, elsewhere."""
    count_refusal()
    assert lint(render(TEMPLATE.read_text("utf-8"), VALUES | {"image": image})) != set()
