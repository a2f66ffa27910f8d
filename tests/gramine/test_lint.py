"""The signed manifest of the production enclave: what it says is what the code needs, no more."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from enclave_app import gramine_main
from enclave_app.limits import MEBIBYTE, Limits
from tests.gramine.world import (
    ABSENT,
    GRAMINE,
    IMAGE,
    RUNTIME,
    change,
    document,
    listed,
    signed,
)
from tests.support.refusal import count_refusal, refused
from verifier.gramine.findings import Level, refusals
from verifier.gramine.known import BUILDS
from verifier.gramine.lint import (
    THREADS_BESIDE_POOLS,
    ManifestRefused,
    lines_of,
    lint,
    require_acceptable,
)
from verifier.gramine.rules import AGREEMENT, THREAD_COUNTS
from verifier.gramine.signed import SignedManifest
from verifier.gramine.trusted import PACKAGES


@pytest.fixture
def manifest() -> dict[str, Any]:
    return document()


def at_fault(manifest: dict[str, Any]) -> set[str]:
    """The keys that a party would refuse, without the number of an entry."""
    found = refusals(lint(signed(manifest)))
    return {re.sub(r"\[.*", "", finding.key) for finding in found}


def test_a_party_would_accept_it(manifest: dict[str, Any]) -> None:
    findings = lint(signed(manifest))
    assert refusals(findings) == []
    require_acceptable(findings)
    assert {f.key for f in findings if f.level is Level.SHOW} >= {
        *("sys.enable_sigterm_injection", "sgx.edmm_enable", "sgx.enclave_size"),
        *("sgx.max_threads", "sgx.cpu_features", "fs.root", "sgx.trusted_files"),
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader.log_level", "none"),
        ("sys.enable_sigterm_injection", False),
        ("sgx.edmm_enable", True),
        ("sgx.isvsvn", 2),
        ("sgx.max_threads", 256),
        ("sgx.enclave_size", "32G"),
        ("sgx.cpu_features.avx", "required"),
        ("sys.stack.size", "256K"),
        ("loader.env.OMP_NUM_THREADS", "8"),
    ],
)
def test_what_may_differ(manifest: dict[str, Any], key: str, value: Any) -> None:
    """Another measurement, yet nothing that a party would have to refuse."""
    assert at_fault(change(manifest, key, value)) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sgx.edmm_enable", True),
        ("sys.enable_sigterm_injection", False),
        (
            "sgx.trusted_files",
            [file.as_table() for file in listed()]
            + [{"uri": f"file:{IMAGE}/zz/{n:05}", "sha256": "0" * 64} for n in range(3000)],
        ),
    ],
)
def test_what_is_allowed_and_rarely_meant(manifest: dict[str, Any], key: str, value: Any) -> None:
    def warned(manifest: dict[str, Any]) -> list[str]:
        return [f.key for f in lint(signed(manifest)) if f.level is Level.WARN]

    assert warned(manifest) == []
    assert warned(change(manifest, key, value)) == [key]
    assert at_fault(change(manifest, key, value)) == set()


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
    """Each open exchange holds one; where they run out, the process ends."""
    idle, gramine = 9, 4
    assert idle + gramine + Limits().calls == THREADS_BESIDE_POOLS
    env = manifest["loader"]["env"]
    openmp, blas, arrow = (int(env[name]) for name in THREAD_COUNTS)
    least = THREADS_BESIDE_POOLS + 2 * openmp + blas + arrow
    count_refusal()
    assert at_fault(change(manifest, "sgx.max_threads", least)) == set()
    assert at_fault(change(manifest, "sgx.max_threads", least - 1)) == {"sgx.max_threads"}
    more = change(manifest, "loader.env.OMP_NUM_THREADS", "32")
    assert at_fault(more) == {"sgx.max_threads"}


def test_there_is_room_for_the_rows_that_may_be_held(manifest: dict[str, Any]) -> None:
    """The rows, with what computing needs; half as much for gaps between them; all the stacks."""
    size, stack = manifest["sgx"]["enclave_size"], manifest["sys"]["stack"]["size"]
    assert (size[-1], stack[-1]) == ("G", "M")
    stacks = manifest["sgx"]["max_threads"] * int(stack[:-1]) * MEBIBYTE
    interpreter = 512 * MEBIBYTE
    assert int(size[:-1]) * 1024 * MEBIBYTE >= 1.5 * Limits().held_bytes + stacks + interpreter


def test_m01_debug(manifest: dict[str, Any]) -> None:
    """M01: the host reads the memory of an enclave that runs with it."""
    count_refusal()
    assert at_fault(change(manifest, "sgx.debug", True)) == {"sgx.debug"}


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
        ("loader.argv", ["/bin/evil", "-I", "-B", "-m", "enclave_app.gramine_main"]),
        ("loader.argv", "python3.11"),
        ("libos.entrypoint", "/usr/local/evil"),
        ("libos.entrypoint", "/usr/bin/python3.12"),
        *[
            (f"loader.env.{name}", {"passthrough": True})
            for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "OMP_NUM_THREADS")
        ],
        *[
            (f"loader.env.{name}", "x")
            for name in (
                *("LD_PRELOAD", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
                *("SSLKEYLOGFILE", "SSL_CERT_FILE", "OPENSSL_CONF", "GRPC_TRACE"),
                *("GRPC_VERBOSITY", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPS_PROXY"),
                *("GLIBC_TUNABLES", "RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE"),
            )
        ],
        ("loader.env.HOME", "/etc/ratls"),
        ("loader.env.MALLOC_ARENA_MAX", "8"),
        ("loader.env.OPENBLAS_CORETYPE", "Nehalem"),
        ("loader.env.OPENBLAS_CORETYPE", ABSENT),
        ("loader.env.OMP_NUM_THREADS", "0"),
        ("loader.env.OMP_NUM_THREADS", "4\n"),
    ],
)
def test_m02_the_host_would_choose_arguments_or_environment(
    manifest: dict[str, Any], key: str, value: Any
) -> None:
    """M02: whoever sets one of these runs code of his own, or reads the keys."""
    count_refusal()
    assert at_fault(change(manifest, key, value)) == {key}


def test_m02_environment_that_is_not_complete(manifest: dict[str, Any]) -> None:
    """M02: what the manifest leaves open, a library takes from the machine."""
    count_refusal()
    found = at_fault(change(manifest, "loader.env", ABSENT))
    assert found == {f"loader.env.{name}" for name in manifest["loader"]["env"]}


FILES = [f"file:{AGREEMENT}"]
TRUSTED = [file.as_table() for file in listed()]
LIB = {"path": "/lib", "uri": f"file:{RUNTIME}"}
HERE = {"path": AGREEMENT, "uri": FILES[0]}
TMP = {"type": "tmpfs", "path": "/tmp"}


def trusted(uri: str, sha256: str = "0" * 64) -> dict[str, str]:
    return {"uri": uri, "sha256": sha256}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sgx.allowed_files", [*FILES, f"file:{IMAGE}/usr/lib/python3.11/site.py"]),
        ("sgx.allowed_files", [*FILES, "file:/opt/ratls/native.so"]),
        ("sgx.allowed_files", [*FILES, "file:/etc/ssl/certs/ca.pem"]),
        ("sgx.allowed_files", ["file:/etc/ratls/"]),
        ("sgx.allowed_files", ["file:/opt/../etc/ratls/agreement.json"]),
        ("sgx.allowed_files", []),
        ("sgx.allowed_files", ABSENT),
        ("sgx.allowed_files", FILES[0]),
        ("sgx.trusted_files", [*TRUSTED, trusted("file:/etc/hosts")]),
        ("sgx.trusted_files", [*TRUSTED, trusted("file:/etc/")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(FILES[0])]),
        ("sgx.trusted_files", [*TRUSTED, TRUSTED[-1]]),
        ("sgx.trusted_files", [*TRUSTED, trusted("file:relative")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/../other/x")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}//x")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/zz/")]),
        ("sgx.trusted_files", [*TRUSTED, trusted("dev:/dev/null")]),
        ("sgx.trusted_files", [*TRUSTED, f"file:{IMAGE}/zz"]),
        ("sgx.trusted_files", [*TRUSTED, {"uri": f"file:{IMAGE}/zz"}]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/zz", "0" * 63)]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/zz", "A" * 64)]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/zz") | {"x": "y"}]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/a")]),  # not in order
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/zz.pth")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/usr/zz/sitecustomize.py")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/usr/zz/usercustomize.pyc")]),
        ("sgx.trusted_files", [*TRUSTED, trusted(f"file:{IMAGE}/usr/pyvenv.cfg")]),
        (
            "sgx.trusted_files",
            [*TRUSTED, trusted(f"file:{IMAGE}{PACKAGES}/simulation/__init__.py")],
        ),
        ("sgx.trusted_files", []),
        ("sgx.trusted_files", TRUSTED[1:]),
        ("sgx.trusted_files", TRUSTED[:2] + TRUSTED[3:]),
        ("sgx.trusted_files", [t for t in TRUSTED if "gramine_main" not in t["uri"]]),
        ("sgx.trusted_files", "file:/opt/ratls/image/"),
        ("sgx.file_check_policy", "allow_all_but_log"),
        ("fs.root", {"uri": "file:/"}),
        ("fs.root", {"uri": f"file:{IMAGE}/"}),
        ("fs.root", {"type": "tmpfs"}),
        ("fs.root", {"type": "encrypted", "uri": f"file:{IMAGE}"}),
        ("fs.root", ABSENT),
        ("fs.start_dir", "/tmp"),
        ("fs.start_dir", ABSENT),
        ("fs.mounts", [LIB]),
        ("fs.mounts", [LIB, HERE]),
        ("fs.mounts", [HERE, LIB, TMP]),
        ("fs.mounts", {"path": "/lib"}),
        ("fs.mounts", ABSENT),
        ("fs.mounts", [LIB, {"path": AGREEMENT, "uri": f"file:{IMAGE}/a.json"}, TMP]),
        ("fs.mounts", [LIB, HERE, TMP, {"path": "/lib", "uri": f"file:{IMAGE}/lib"}]),
        ("fs.mounts", [LIB, HERE, TMP, {"path": "/s", "type": "encrypted", "uri": "file:/srv/s"}]),
        *[
            ("fs.mounts", [LIB, HERE, TMP, {"path": path, "uri": f"file:{IMAGE}/x"}])
            for path in (
                *("/dev/attestation", "/dev", "/proc", "/sys", "/usr/lib/python3.11", "/etc"),
                *("/tmp/x", "/"),
            )
        ],
        ("fs.mounts", [LIB, HERE, TMP, {"path": "/usr/lib/python3.11", "type": "tmpfs"}]),
        ("loader.env.LD_LIBRARY_PATH", "/tmp:/lib"),
        ("loader.env.LD_LIBRARY_PATH", "/lib::/usr/lib/x86_64-linux-gnu"),
        ("loader.env.LD_LIBRARY_PATH", "/lib:/etc/ratls"),
        ("loader.env.LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu:/lib"),
        ("loader.env.LD_LIBRARY_PATH", ABSENT),
        ("libos.entrypoint", "/tmp/python3.11"),
        ("libos.entrypoint", "python3.11"),
    ],
)
def test_m03_code_that_is_not_hashed(manifest: dict[str, Any], key: str, value: Any) -> None:
    """M03: an allowed file, or one that can be written, in a place from which code is taken."""
    count_refusal()
    assert at_fault(change(manifest, key, value)) == {key}


@pytest.mark.parametrize(
    ("mounts", "faults"),
    [
        ([{"path": "/lib", "uri": "file:/etc/ratls/lib"}, HERE, TMP], {"fs.mounts"}),
        ([{"path": "/lib", "uri": f"file:{IMAGE}/lib"}, HERE, TMP], {"fs.mounts"}),
        ([{"path": "/lib", "uri": "file:/dev/shm"}, HERE, TMP], {"fs.mounts"}),
        ([{"path": "/lib", "uri": "file:/srv/lib"}, HERE, TMP], set()),
    ],
)
def test_m03_c_library_from_elsewhere(
    manifest: dict[str, Any], mounts: list[Any], faults: set[str]
) -> None:
    """M03: its files are trusted one by one, so that none is listed for another folder."""
    count_refusal()
    assert at_fault(change(manifest, "fs.mounts", mounts)) == faults | {"sgx.trusted_files"}


def test_m03_a_root_above_the_image(manifest: dict[str, Any]) -> None:
    """M03: what is seen and not listed cannot be opened; what a later edit allows then can."""
    count_refusal()
    assert at_fault(change(manifest, "fs.root", {"uri": "file:/opt/ratls"})) == {
        "sgx.trusted_files"
    }


def test_m03_two_forms_of_one_module(manifest: dict[str, Any]) -> None:
    """Bytecode beside its source, in the place of a source: Python would choose."""
    count_refusal()
    main = f"file:{IMAGE}{PACKAGES}/enclave_app/gramine_main.py"
    at = TRUSTED.index(next(t for t in TRUSTED if t["uri"] == main))
    both = [*TRUSTED[: at + 1], trusted(f"{main}c"), *TRUSTED[at + 1 :]]
    assert at_fault(change(manifest, "sgx.trusted_files", both)) == {"sgx.trusted_files"}
    alone = [trusted(f"{main}c") if t["uri"] == main else t for t in TRUSTED]
    assert at_fault(change(manifest, "sgx.trusted_files", alone)) == set()


def test_m03_more_files_than_a_start_can_hash(manifest: dict[str, Any]) -> None:
    count_refusal()
    many = [*TRUSTED, *(trusted(f"file:{IMAGE}/zz/{n:05}") for n in range(6000))]
    assert at_fault(change(manifest, "sgx.trusted_files", many)) == {"sgx.trusted_files"}
    assert at_fault(change(manifest, "sgx.trusted_files", many[:6000])) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sgx.debug", 0),
        ("sgx.remote_attestation", "none"),
        ("sgx.remote_attestation", "epid"),
        ("sgx.remote_attestation", ABSENT),
        ("sgx.insecure__rpc_thread_num", 8),
        ("sgx.insecure__allow_memfaults_without_exinfo", True),
        ("sgx.enable_stats", True),
        ("sgx.use_exinfo", True),
        ("sgx.vtune_profile", True),
        ("sgx.profile", {"enable": "all"}),
        ("sgx.seal_key", {"flags_mask": "0x0"}),
        ("sgx.thread_num", 64),  # a name of old: unknown is refused, whatever it would do
        ("fs.insecure__keys", {"default": "00" * 16}),
        ("loader.insecure__disable_aslr", True),
        ("loader.log_level", "debug"),
        ("loader.log_level", ["error"]),
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
        ("sys.fds", {"limit": 100}),
        ("sgx.cpu_features.pkru", "required"),
        ("sgx.cpu_features.cet", "required"),
        ("sgx.cpu_features.mpx", ABSENT),
        ("key", "value"),
    ],
)
def test_m04_other_insecure_switches(manifest: dict[str, Any], key: str, value: Any) -> None:
    """M04: each has one name, and each opens one door."""
    count_refusal()
    assert at_fault(change(manifest, key, value)) == {key}


def test_m04_memory_that_the_host_shares(manifest: dict[str, Any]) -> None:
    count_refusal()
    shared = {"path": "/s", "type": "untrusted_shm", "uri": "dev:s"}
    assert at_fault(change(manifest, "fs.mounts", [LIB, HERE, TMP, shared])) == {"fs.mounts"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader.entrypoint.uri", "dev:libsysdb"),
        ("loader.entrypoint.uri", "file:libsysdb.so"),
        ("loader.entrypoint.sha256", "00"),
        ("loader.entrypoint.sha256", ABSENT),
        ("sys.stack.size", 2),
        ("sys.stack.size", "128K"),
        ("sys.stack.size", "16M"),
        ("sys.stack.size", "257K"),
        ("sys.enable_sigterm_injection", "true"),
        ("sgx.edmm_enable", 0),
        ("sgx.enclave_size", 16),
        ("sgx.enclave_size", "12G"),
        ("sgx.enclave_size", "16g"),
        ("sgx.enclave_size", "0x400000000"),
        ("sgx.enclave_size", "17179869184"),
        ("sgx.enclave_size", "32M"),  # less than its own stacks
        ("sgx.enclave_size", "2048G"),
        ("sgx.max_threads", 0),
        ("sgx.max_threads", 5000),
        ("sgx.isvprodid", True),
    ],
)
def test_value_of_another_kind(manifest: dict[str, Any], key: str, value: Any) -> None:
    """What Gramine makes of it is its own affair: a party reads one form only."""
    count_refusal()
    assert at_fault(change(manifest, key, value)) == {key}


@pytest.mark.parametrize("key", ["sgx.isvprodid", "sgx.isvsvn"])
@pytest.mark.parametrize("value", [0, -1, 65536, "1"])
def test_m06_product_and_version_are_said(manifest: dict[str, Any], key: str, value: Any) -> None:
    """M06: 0 is the product and the version of whoever sets none."""
    count_refusal()
    assert at_fault(change(manifest, key, value)) == {key}


def test_m07_attributes_are_shown_and_compared(manifest: dict[str, Any]) -> None:
    """M07: what the host's loader may set, a person sees; the policy's masks decide."""
    count_refusal()
    shown = {f.key: f.found for f in lint(signed(manifest)) if f.level is Level.SHOW}
    assert "unspecified" in shown["sgx.cpu_features"]
    assert at_fault(change(manifest, "sgx.cpu_features.avx", "any")) == {"sgx.cpu_features.avx"}


def test_m09_another_library_os(manifest: dict[str, Any]) -> None:
    """M09: the library OS reads the manifest; one that is not known may read it otherwise."""
    count_refusal()
    other = change(manifest, "loader.entrypoint.sha256", "0" * 64)
    assert at_fault(other) == {"loader.entrypoint.sha256"}
    assert refusals(lint(signed(other), libsysdbs=frozenset({"0" * 64}))) == []
    known = frozenset({"0" * 64})
    assert BUILDS[0].libsysdb not in known
    assert len(refusals(lint(signed(manifest), libsysdbs=known))) == 1


# M12: the text


@pytest.mark.parametrize("character", ["\0", "\x7f", "\n", "\t", "\u00e4", "\u202e", "\U0001f600"])
def test_m12_a_character_that_readers_take_differently(
    manifest: dict[str, Any], character: str
) -> None:
    """M12: Gramine ends a string at NUL, and `/lib:/tmp` is where anyone may write."""
    count_refusal()
    text = f"/lib:/tmp{character}/x"
    found = refusals(lint(signed(change(manifest, "loader.env.LD_LIBRARY_PATH", text))))
    assert {f.expected for f in found} >= {"printable ASCII"}
    root = change(manifest, "fs.root", {"uri": f"file:{IMAGE}{character}/elsewhere"})
    assert "printable ASCII" in {f.expected for f in refusals(lint(signed(root)))}
    keyed = change(manifest, "loader.env", {**manifest["loader"]["env"], f"X{character}": "1"})
    assert "printable ASCII" in {f.expected for f in refusals(lint(signed(keyed)))}


def test_m12_both_readings_are_shown(manifest: dict[str, Any]) -> None:
    count_refusal()
    changed = signed(change(manifest, "loader.env.LD_LIBRARY_PATH", "/lib:/tmp\0/x"))
    first = refusals(lint(changed))[0]
    assert first.found == '"/lib:/tmp\\u0000/x", which Gramine reads as "/lib:/tmp"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[loader]\n", "[loader]\n\n"),
        ("[loader]\n", "[loader]  # a comment\n"),
        ('log_level = "error"', "log_level = 'error'"),
        ('log_level = "error"', 'log_level = "\\u0065rror"'),
        ("max_threads = 128", "max_threads = 1_2_8"),
        ("max_threads = 128", "max_threads = +128"),
        ("max_threads = 128", "max_threads = 0x80"),
        ("debug = false\n", ""),
        ("\n", "\r\n"),
    ],
)
def test_m12_a_text_in_another_form(manifest: dict[str, Any], old: str, new: str) -> None:
    """M12: of one meaning there is one text; in any other, two readers may see two meanings."""
    count_refusal()
    text = signed(manifest).text
    assert old in text
    changed = text.replace(old, new)
    if old == "debug = false\n":  # the same keys in another order
        changed += "\n[sgx.more]\n"
    found = refusals(lint(SignedManifest.parse(changed.encode())))
    assert found


@pytest.mark.parametrize(
    "image", ["", "/", "/etc", "/etc/ratls", "//opt", "/opt/ratls/../..", "relative", "/dev/shm"]
)
def test_image_that_would_hold_the_agreement(image: str) -> None:
    """Allowed wins over trusted: a file that is both has no hash. Relative: another, elsewhere."""
    count_refusal()
    assert at_fault(document(image)) != set()


def test_the_first_finding_is_named_with_its_line(manifest: dict[str, Any]) -> None:
    changed = signed(change(manifest, "sgx.debug", True))
    (finding,) = refusals(lint(changed))
    assert finding.line is not None
    assert changed.text.splitlines()[finding.line - 1] == "debug = true"
    with refused(ManifestRefused):
        require_acceptable(lint(changed))


def test_each_key_has_its_line(manifest: dict[str, Any]) -> None:
    text = signed(manifest).text
    lines = lines_of(text)
    shown = text.splitlines()
    assert shown[lines["sgx.trusted_files[3].sha256"] - 1].startswith("sha256 = ")
    assert shown[lines["sys.stack.size"] - 1] == 'size = "2M"'
    assert shown[lines["loader.argv"] - 1] == "argv = ["


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted(
    {
        f"{table}.{name}"
        for table in ("libos", "loader", "fs", "sys", "sgx")
        for name in document()[table]
    }
)


@given(key=st.sampled_from(KEYS), value=VALUES)
def test_whatever_a_key_is_given(key: str, value: Any) -> None:
    """Findings, and never an error: what is not the expected value is named."""
    count_refusal()
    manifest = document()
    table, name = key.split(".")
    changed = change(manifest, key, value)
    found = lint(SignedManifest.parse(tomli_w.dumps(changed).encode("utf-8", "surrogatepass")))
    if value != manifest[table][name]:
        assert refusals(found) or value in ("none", True, False) or isinstance(value, int)


def test_where_gramine_is_installed_is_measured_text() -> None:
    assert document()["loader"]["entrypoint"]["uri"] == f"file:{GRAMINE}/libsysdb.so"
