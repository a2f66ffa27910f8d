"""T09, T14: a machine whose certificate was seen revoked is shown with an older, unexpired bundle.

A cache, a mirror or a hand that keeps last week's bundle hides the revocation. Fetches noticed;
releases, collections and `verify server` took any bundle that was still within its window.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policy.document import digest_text
from policy.journal import Journal, JournalMissing
from policy.journal_entries import NotedEntry
from provider.exchange import EnclaveRequest
from ratls.cli import build
from simulation.platform import unaltered
from tests.provider.desk import Desk
from tests.provider.test_cli import code
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.crl import CertificateRevoked
from verifier.errors import CollateralRolledBack
from verifier.marks import CollateralMarksCorrupt, Marks, Subject

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)


def bundle(world: EnclaveWorld, age: timedelta, **altered: Any) -> Collateral:
    """Genuine collateral of the platform, issued that long ago."""
    intel, platform = world.intel.intel, world.intel.platform
    return Collateral.parse(intel.collateral(platform, at=NOW - age, **altered))


def revoking(world: EnclaveWorld, age: timedelta) -> Collateral:
    """The same, with this very machine on the list."""
    serial = world.intel.platform.pck.serial
    return bundle(world, age, pck_crl=lambda form: replace(form, revoked=(serial,)))


def push(desk: Desk, collateral: Collateral) -> int:
    return desk.push(desk.world.task(), collateral=collateral).commit.rows


def see(state: Path, world: EnclaveWorld, seen: Collateral, *, early: bool = False) -> None:
    """What `ratls collateral fetch` notes of a bundle that it got."""
    roots = world.intel.intel.anchors()
    contents = Contents.authenticate(seen, roots)
    Marks(state).advance(Subject(roots, contents.kind, early=early), contents)


def numbered(by: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        number = document["tcbEvaluationDataNumber"]
        return document | {"tcbEvaluationDataNumber": number + by}

    return change


def test_a_revoked_machine_comes_back_with_an_older_bundle(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """Seen by a release that was refused; the older bundle is whole, genuine and in its window."""
    with alice.refuses(CertificateRevoked):
        push(alice, revoking(world, DAY))
    before = len(relay.connections)
    with alice.refuses(CollateralRolledBack):
        push(alice, bundle(world, 2 * DAY))
    assert len(relay.connections) == before
    # A newer list that no longer names the machine is Intel's word, too.
    assert push(alice, bundle(world, timedelta(0))) == 60


def test_the_older_bundle_is_fine_for_who_saw_no_newer(world: EnclaveWorld, alice: Desk) -> None:
    """The twin, and the order of what is seen: only growing."""
    for age in (2 * DAY, 2 * DAY, DAY):
        assert push(alice, bundle(world, age)) == 60
    with Journal.open(alice.state) as journal:
        noted = [r.entry for r in journal.records if isinstance(r.entry, NotedEntry)]
    assert len(noted) == 2


def test_what_was_seen_does_not_go_with_a_file(world: EnclaveWorld, alice: Desk) -> None:
    """D14: the memory of releases is the journal, which cannot be absent."""
    push(alice, bundle(world, DAY))
    for path in alice.state.iterdir():
        if path.is_dir() and path.name != "studies":
            shutil.rmtree(path)
    with alice.refuses(CollateralRolledBack):
        push(alice, bundle(world, 2 * DAY))


@pytest.mark.parametrize("early", [False, True])
def test_a_fetch_saw_the_revocation(
    world: EnclaveWorld, alice: Desk, relay: Relay, early: bool
) -> None:
    """Marks of either edition: the lists are the same for both."""
    see(alice.state, world, revoking(world, DAY), early=early)
    with alice.refuses(CollateralRolledBack):
        push(alice, bundle(world, 2 * DAY))
    assert relay.connections == []
    assert push(alice, bundle(world, DAY)) == 60


def test_a_collection_asks_too(
    world: EnclaveWorld, alice: Desk, bob: Desk, carol: Desk, live: LiveEnclave
) -> None:
    """Results come from a machine as much as rows go to one."""
    task = world.task()
    for desk in (alice, bob):
        desk.push(task)
    see(carol.state, world, revoking(world, DAY))
    from provider.collect import collect

    request: EnclaveRequest = carol.request(task, collateral=bundle(world, 2 * DAY))
    with carol.refuses(CollateralRolledBack):
        collect(request, carol.outputs, wait=HANG_LIMIT)
    assert not carol.outputs.result.exists()
    assert carol.fetch(task, wait=HANG_LIMIT).size > 0


@pytest.fixture
def ask(
    world: EnclaveWorld, live: LiveEnclave, tmp_path: Path
) -> Callable[[Path], tuple[int, str | None]]:
    """`ratls verify server` with a bundle of the day before yesterday, and this state folder."""
    older, agreement = tmp_path / "older.json", tmp_path / "policy.agreement.json"
    older.write_bytes(bundle(world, 2 * DAY).raw)
    agreement.write_bytes(world.complete.agreement.encode())
    line = ["verify", "server", str(live.address), "--agreement", str(agreement)]
    line += ["--collateral", str(older), "--certificate-only", "--allow-simulation", "--json"]
    line += ["--digest", digest_text(world.complete.digest)]

    def asked(state: Path) -> tuple[int, str | None]:
        told = CliRunner().invoke(build(), [*line, "--state", str(state)])
        return told.exit_code, code(told) if told.exit_code else None

    return asked


def test_verify_server_asks_too(
    world: EnclaveWorld, ask: Callable[[Path], tuple[int, str | None]], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    see(seen, world, revoking(world, DAY))
    count_refusal()
    assert ask(seen) == (5, CollateralRolledBack.code)
    assert ask(tmp_path / "none") == (0, None)
    assert not (tmp_path / "none").exists()  # asked, and nothing noted: nobody asked to fetch


def test_verify_server_asks_what_a_release_saw(
    world: EnclaveWorld, ask: Callable[[Path], tuple[int, str | None]], alice: Desk
) -> None:
    """What a refused release noted stands in the journal alone."""
    assert ask(alice.state) == (0, None)
    with alice.refuses(CertificateRevoked):
        push(alice, revoking(world, DAY))
    before = (alice.state / "journal.jsonl").read_bytes()
    assert ask(alice.state) == (5, CollateralRolledBack.code)
    assert (alice.state / "journal.jsonl").read_bytes() == before
    for name in ("journal.jsonl", "journal.head"):
        (alice.state / name).unlink()
    assert ask(alice.state) == (3, JournalMissing.code)


def test_an_early_edition_shuts_no_standard_one_out(world: EnclaveWorld, alice: Desk) -> None:
    """Early documents have a higher number. Whoever fetched them still releases by the standard
    ones, and releasing by early ones leaves no mark that standard ones would have to reach."""
    early = bundle(world, DAY, tcb_info=numbered(1), qe_identity=numbered(1))
    see(alice.state, world, early, early=True)
    see(alice.state, world, bundle(world, 2 * DAY))
    assert push(alice, early) == 60
    standard = bundle(world, DAY, tcb_info=unaltered)
    assert push(alice, standard) == 60
    # The standard edition itself never goes back to a lower number.
    see(alice.state, world, bundle(world, DAY))
    with alice.refuses(CollateralRolledBack):
        push(alice, bundle(world, timedelta(0), tcb_info=numbered(-1)))


def test_a_service_gave_early_documents_for_standard_ones(world: EnclaveWorld, alice: Desk) -> None:
    """Nothing signed tells the editions apart. Honest standard ones are shut out from then on,
    until their number is named in a fetch; then rows leave by them again."""
    see(alice.state, world, bundle(world, DAY, tcb_info=numbered(1), qe_identity=numbered(1)))
    standard = bundle(world, timedelta(0))
    with alice.refuses(CollateralRolledBack):
        push(alice, standard)
    roots = world.intel.intel.anchors()
    contents = Contents.authenticate(standard, roots)
    subject = Subject(roots, contents.kind, early=False)
    number = contents.tcb_info.evaluation_data_number
    Marks(alice.state).advance(subject, contents, accept_evaluation=number)
    assert push(alice, standard) == 60


def test_marks_that_cannot_be_read(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    see(alice.state, world, bundle(world, DAY))
    (mark,) = (alice.state / "collateral").rglob("*.json")
    mark.write_bytes(b"{}")
    with refused(CollateralMarksCorrupt):
        push(alice, bundle(world, DAY))
    assert relay.connections == []
