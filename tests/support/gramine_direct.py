"""The enclave under a real `gramine-direct`, where RATLS_GRAMINE names an installation of Gramine.

    with serving(require_gramine(), manifest, world) as live:
        live.release(world.consortium.alice, "train_party_1", rows(1), world.task())

Image and manifest are those of production but for one module, the arguments that start it, and the
place of the agreement: `tests.gramine.development_main`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enclave_app.cli import app as enclave_commands
from ratls.address import Address
from ratls.image.build import Sources, build
from ratls.image.release import read_release
from ratls.probe import probe
from tests.gramine.world import TEMPLATE, change
from tests.support.channels import Log
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.image_parts import require_parts
from tests.support.image_run import answer_quotes
from tests.support.imports import ROOT
from tests.support.typed import typed
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.gramine.rules import AGREEMENT, ARGUMENTS
from verifier.gramine.signed import SignedManifest

VARIABLE = "RATLS_GRAMINE"
MODULE = "development_main"


@dataclass(frozen=True)
class Gramine:
    """An installation: what starts it, and the folder of its libraries."""

    start: Path
    libraries: Path


def require_gramine() -> Gramine:
    """What RATLS_GRAMINE names. Absent: skipped aloud; named, and not there: failed."""
    named = os.environ.get(VARIABLE)
    if not named:
        if os.environ.get("RATLS_REQUIRE_GRAMINE") == "1":
            pytest.fail(f"RATLS_REQUIRE_GRAMINE=1 and {VARIABLE} names no installation")
        pytest.skip("GRAMINE ABSENT: set RATLS_GRAMINE to the prefix of an installation")
    start = Path(named).absolute() / "bin" / "gramine-direct"
    found = sorted(start.parent.parent.glob("lib*/**/gramine/libsysdb.so"))
    if not start.is_file() or not found:
        pytest.fail(f"{VARIABLE}={named} has no bin/gramine-direct, or no library OS")
    return Gramine(start, found[0].parent)


def make_image(out: Path) -> Path:
    """A real image, with the development entry point in it."""
    wheels, debs = require_parts()
    release = read_release(ROOT)
    source = ROOT / "tests" / "gramine" / f"{MODULE}.py"
    own = release.own | {source.name: source.read_bytes()}
    build(out, Sources(release.files, release.wheels, release.debs, wheels, debs, own))
    return out


def production(gramine: Gramine, image: Path, out: Path) -> SignedManifest:
    """The manifest of production, as an operator makes it: our template, and no other tool."""
    place = ["-D", f"image={image}", "--gramine", gramine.libraries, "-o", out]
    typed(enclave_commands, ["manifest", TEMPLATE, *place])
    return SignedManifest.parse(out.read_bytes())


def development(made: Mapping[str, Any], agreement: Path, port: int) -> dict[str, Any]:
    """A manifest of production, changed: another entry point, and an agreement elsewhere."""
    mounts = [
        mount | {"uri": f"file:{agreement}"} if mount["path"] == AGREEMENT else mount
        for mount in made["fs"]["mounts"]
    ]
    changed = change(made, "loader.argv", [*ARGUMENTS[:-1], MODULE, str(port)])
    changed = change(changed, "fs.mounts", mounts)
    return change(changed, "sgx.allowed_files", [f"file:{agreement}"])


# Of the host: should it ever reach the enclave, that would refuse to start (L03).
HOST_ENVIRONMENT = {"PATH": os.environ["PATH"], "GRPC_TRACE": "all"}


def start(gramine: Gramine, manifest: Path, *prefix: object) -> subprocess.Popen[bytes]:
    """Start `NAME.manifest`; what it writes goes to `NAME.output` and `NAME.errors`."""
    with (
        manifest.with_suffix(".output").open("wb") as output,
        manifest.with_suffix(".errors").open("wb") as errors,
    ):
        return subprocess.Popen(
            [*map(str, prefix), gramine.start, manifest.stem],
            cwd=manifest.parent,
            env=HOST_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )


def ended(gramine: Gramine, manifest: Path, *prefix: object) -> tuple[int, list[str]]:
    """Start it, and wait for its end: exit status, and the lines of its console."""
    with start(gramine, manifest, *prefix) as process:
        try:
            status = process.wait(HANG_LIMIT)
        finally:
            process.kill()
    return status, manifest.with_suffix(".output").read_text("utf-8").splitlines()


@contextmanager
def quotes_for(world: EnclaveWorld) -> Iterator[int]:
    """The port at which the entry point of development gets its quotes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):  # closed at the end
                stream, _ = listening.accept()
                handle = stream.detach()
                answer_quotes(world, handle, os.dup(handle))

        threading.Thread(target=answer, daemon=True).start()
        yield listening.getsockname()[1]
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(gramine: Gramine, manifest: Path, world: EnclaveWorld) -> Iterator[LiveEnclave]:
    """Started and ready; stopped by SIGTERM at the end, which must end it in order."""
    output = manifest.with_suffix(".output")
    with start(gramine, manifest) as process:
        try:

            def ready() -> str:
                lines = output.read_text("utf-8").splitlines(keepends=True)
                said = [line for line in lines if line.startswith("ready ") and line[-1] == "\n"]
                assert said or process.poll() is None, "".join(lines)
                return said[0].split()[1] if said else ""

            address = eventually(ready)
            der = probe(Address.parse(address), timeout=HANG_LIMIT)
            identity = SimpleNamespace(certificate_der=der)
            stand_in: Any = SimpleNamespace(identity=identity, address=address)
            yield LiveEnclave(world, stand_in, stand_in, Log())
            process.terminate()
            assert process.wait(HANG_LIMIT) == 0, output.read_text("utf-8")
        finally:
            process.kill()
