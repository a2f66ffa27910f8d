"""Commands that judge under an agreement: of guests, and of machines in a file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from policy.machines import digest_of, file_name, machines_text
from ratls.cli_verify import app
from ratls.identity import EnclaveIdentity
from simulation.documents import instant
from simulation.intel import root_name
from tests.support.domains import DomainAttester
from tests.support.intel import AT, World
from tests.support.parties import Consortium, known_digest
from tests.support.typed import Folder, typed
from verifier.anchors import Mode
from verifier.event_log import replay
from verifier.text import digest_text

W = World.create()
PPID = f"ppid:{W.platform.tcb.ppid.hex()}"
FLEET = machines_text([PPID, "ppid:" + "ab" * 16])
EVENT = b"\xe1" * 48


@dataclass
class Desk(Folder):
    """A folder with an agreement, a bundle and quotes."""

    def agreed(self, *replace: tuple[str, str], **fields: str) -> str:
        parties = Consortium.create(AT, root=root_name(W.intel.root), machines=[PPID])
        text = parties.policy_text(enclave=parties.domain(**fields), replace=replace)
        return self.file("agreed.json", parties.complete(text).agreement.encode())

    def fleet(self, content: bytes = FLEET) -> str:
        return self.file(file_name(digest_text(digest_of(FLEET))), content)

    def run(self, *words: str, status: int = 0) -> Any:
        """The command's answer; `words` begin with its name and the file that it judges."""
        agreed = str(self.folder / "agreed.json")
        option = "--agreement" if words[0] == "cert" else "--policy"
        bundle = self.file("collateral.json", W.collateral(tdx=True).raw)
        result = typed(
            app,
            (*words, option, agreed, "--digest", known_digest(agreed), "--collateral", bundle,
             "--at", instant(AT), "--allow-simulation", "--json"),
            status,
        )  # fmt: skip
        return json.loads(result.stdout.splitlines()[-1])

    def quote(self, **altered: Any) -> str:
        return self.file("guest.bin", W.platform.td_quote(**altered))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_quote_of_an_agreed_guest(desk: Desk) -> None:
    """M08."""
    desk.agreed()
    assert desk.run("quote", desk.quote())["verdict"] == "accepted"
    refused = desk.run("quote", desk.quote(rtmr1=b"\x99" * 48), status=6)
    assert refused["error"]["code"] == "rtmr1-not-listed"


def test_the_fleet_is_found_beside_the_agreement(desk: Desk) -> None:
    """B09: for each command that judges under an agreement."""
    named = f'machines_file = "{digest_text(digest_of(FLEET))}"'
    desk.agreed((f'machines = ["{PPID}"]', named))
    quote = desk.quote()
    assert desk.run("quote", quote, status=3)["error"]["code"] == "machines-file-missing"
    desk.run("forecast", quote, status=3)
    fleet = desk.fleet()
    assert desk.run("quote", quote)["verdict"] == "accepted"
    desk.run("forecast", quote)
    Path(fleet).write_bytes(FLEET + b"ppid:" + b"99" * 16 + b"\n")
    assert desk.run("quote", quote, status=3)["error"]["code"] == "machines-file-differs"


def test_the_certificate_of_a_guest_states_its_events(desk: Desk) -> None:
    """M08: a quote alone does not, and is refused."""
    listed = {"rtmr3": '"extended at run time"', "rtmr3_events": f'["{EVENT.hex()}"]'}
    desk.agreed(**listed)
    answer = desk.run("quote", desk.quote(rtmr3=replay([EVENT])), status=6)
    assert answer["error"]["code"] == "run-time-events-missing"
    digest = bytes.fromhex(known_digest(desk.folder / "agreed.json").removeprefix("sha256:"))
    attester = DomainAttester(W.platform, events=[EVENT])
    assert attester.mode is Mode.SIMULATION
    start = EnclaveIdentity.create(attester, digest, at=AT)  # type: ignore[arg-type]
    certificate = desk.file("guest.pem", start.certificate_pem)
    assert desk.run("cert", certificate)["rtmr3"] == replay([EVENT]).hex()
    attester.extend(b"\x66" * 48)
    start = EnclaveIdentity.create(attester, digest, at=AT)  # type: ignore[arg-type]
    answer = desk.run("cert", desk.file("other.pem", start.certificate_pem), status=6)
    assert answer["error"]["code"] == "run-time-event-not-listed"
