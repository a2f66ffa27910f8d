"""The job under a real `gramine-direct`: RATLS_GRAMINE=DIR make test.

The image is a real one, and the manifest that of production; a development entry point stands in
it for the processor, which gramine-direct has not. `GRAMINE ABSENT` in the last lines: not run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policy.receipt import Acknowledgement, Receipt
from ratls.client_stream import Result
from ratls.offline import verify_document
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld, rows
from tests.support.gramine_direct import (
    Gramine,
    development,
    ended,
    make_image,
    production,
    quotes_for,
    require_gramine,
    serving,
)
from tests.support.image_jobs import ONE, TWO, refusals
from tests.support.image_run import image_world
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal
from verifier.errors import Exit
from verifier.gramine.complete import write
from verifier.gramine.signed import SignedManifest

pytestmark = pytest.mark.slow

RUN = "logistic_regression"


@dataclass
class Place:
    """A folder with a manifest of production and its image, and a world for its parties."""

    gramine: Gramine
    folder: Path
    image: Path
    signed: SignedManifest
    world: EnclaveWorld

    def manifest(self, port: int, agreement: bytes | None = None) -> Path:
        """That of development, for an agreement that the host wrote."""
        place = self.folder / "agreement.json"
        place.write_bytes(agreement or self.world.complete.agreement.encode())
        made = self.folder / "development.manifest"
        made.write_bytes(write(development(self.signed.document, place, port)))
        return made

    def refused(self, agreement: bytes) -> tuple[int, str]:
        """How a start with this agreement ends: exit status, and the one line before the fix."""
        count_refusal()
        with quotes_for(self.world) as port:
            status, lines = ended(self.gramine, self.manifest(port, agreement))
        assert len(lines) == 2, lines
        assert lines[1].startswith("  to do: ")
        return status, lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    gramine, folder = require_gramine(), tmp_path_factory.mktemp("gramine")
    image = make_image(folder / "image")
    signed = production(gramine, image, folder / "enclave.manifest.sgx")
    return Place(gramine, folder, image, signed, image_world(RUN))


def test_the_whole_job_under_gramine(place: Place) -> None:
    """Two providers release, receipts hold, the recipient reads the model, SIGTERM ends it."""
    world = place.world
    people, task = world.consortium, world.task(parameters={})
    with quotes_for(world) as port:
        manifest = place.manifest(port)
        with serving(place.gramine, manifest, world) as live:
            refusals(live)
            for number, (party, dataset) in enumerate(((people.alice, ONE), (people.bob, TWO)), 1):
                raw = live.release(party, dataset, rows(number, 400), task)
                taken = verify_document(raw, world.expectation, at=datetime.now(UTC)).document
                assert isinstance(taken, Acknowledgement)
                assert (taken.dataset, taken.rows) == (dataset, 400)
            result = live.wait(people.carol, task)
            assert isinstance(result, Result)
            model = live.opened(people.carol, task, result)
        checked = verify_document(
            result.receipt, world.expectation, at=datetime.now(UTC), result=model
        )
    assert isinstance(checked.document, Receipt)
    assert checked.document.mode == "simulation"
    assert json.loads(model)["model_weights"]
    console = manifest.with_suffix(".output").read_text("utf-8").splitlines()
    ready = [line for line in console if line.startswith("ready ")]
    events = [json.loads(line) for line in console if line not in ready]
    assert len(ready) == 1, "stdout and stderr are one console"
    assert {"listening", "committed"} <= {event["event"] for event in events}


def test_the_manifest_of_production_serves_nothing_outside_sgx(place: Place) -> None:
    """X07: the unmodified file, which gramine-direct starts as gladly as gramine-sgx."""
    count_refusal()
    manifest = place.folder / "enclave.manifest"
    manifest.write_bytes((place.folder / "enclave.manifest.sgx").read_bytes())
    agreement = place.folder / "production.json"
    agreement.write_bytes(hardware(place.world).agreement_bytes())
    status, lines = ended(place.gramine, manifest, *with_agreement(agreement))
    assert status == Exit.UNUSABLE
    assert len(lines) == 2, lines
    assert lines[0].startswith("unusable [sgx-absent] /dev/attestation/report: ")


def with_agreement(file: Path) -> list[str]:
    """Starts what follows where this file is the host's agreement, and /etc has nothing else."""
    if shutil.which("unshare") is None:
        pytest.skip("GRAMINE ABSENT: unshare is not there, which puts an agreement into /etc")
    script = (
        'keep=$(cat "$0"); PATH=$PATH:/usr/sbin:/sbin; mount -t tmpfs none /etc'
        ' && mkdir /etc/ratls && printf %s "$keep" > /etc/ratls/agreement.json && exec "$@"'
    )
    return ["/usr/bin/env", "unshare", "--mount", "--map-root-user", "sh", "-c", script, str(file)]


def hardware(world: EnclaveWorld) -> Consortium:
    """The same parties under a policy that demands hardware."""
    machines = [f"ppid:{world.intel.platform.tcb.ppid.hex()}"]
    return Consortium.create(NOW, root="intel", mr_enclave=MR_ENCLAVE.hex(), machines=machines)


def test_an_agreement_of_production_under_a_development_manifest(place: Place) -> None:
    """X05: its attester says that it simulates; what it said otherwise, no quote would bear out."""
    status, line = place.refused(hardware(place.world).agreement_bytes())
    assert status == Exit.NOT_ADMITTED
    assert line.startswith("refused [attester-mode-mismatch] ")


def test_an_agreement_for_another_manifest(place: Place) -> None:
    """M03: the host starts what it has with what it finds; no party would release to it."""
    people = replace(place.world.consortium, mr_enclave="ab" * 32)
    status, line = place.refused(people.agreement_bytes())
    assert status == Exit.NOT_ADMITTED
    assert line.startswith("refused [agreement-of-another-enclave] MRENCLAVE of this enclave: ")


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda raw: raw[:-9], Exit.UNUSABLE, "envelope-malformed"),
        (lambda raw: raw.replace(b'"sig": "', b'"sig": "AAAA'), Exit.NOT_ADMITTED, "signature-inv"),
    ],
)
def test_an_agreement_that_the_host_spoiled(
    place: Place, spoil: Callable[[bytes], bytes], status: Exit, code: str
) -> None:
    """M09: a line and an exit status, as outside Gramine."""
    found, line = place.refused(spoil(place.world.complete.agreement.encode()))
    assert (found, f"[{code}" in line) == (status, True), line


def test_a_trusted_file_that_the_host_changed(place: Place) -> None:
    """M08: one bit of one module, and no line says ready."""
    count_refusal()
    module = next(place.image.rglob("enclave_app/gate.pyc"))
    raw = module.read_bytes()
    with quotes_for(place.world) as port:
        manifest = place.manifest(port)
        module.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        try:
            status, lines = ended(place.gramine, manifest)
        finally:
            module.write_bytes(raw)
    assert status not in (Exit.YES, None)
    assert not [line for line in lines if line.startswith("ready")]
