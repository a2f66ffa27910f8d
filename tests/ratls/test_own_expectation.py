"""What a connection that lasts is judged by: a party's files as they are at that moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ratls
from policy.agreement import Agreement, PolicyExpired
from policy.document import digest_text
from policy.standing import Distrusted
from policy.state import PolicyRollback, StudyState
from policy.withdrawal import PartyWithdrew, Withdrawal
from ratls.session import Verifier
from simulation.certificates import CrlForm
from tests.support.flight_peers import NOW, Study
from tests.support.parties import PASSPHRASE, instant
from tests.support.refusal import refused
from verifier import modes
from verifier.contents import Contents
from verifier.document import CollateralMalformed
from verifier.errors import CollateralRolledBack
from verifier.marks import Marks, Subject


@pytest.fixture
def files(study: Study, tmp_path: Path) -> dict[str, Any]:
    """Alice's, and a state in which the agreement was accepted."""
    complete = study.parties.complete(study.policy.raw.decode())
    (tmp_path / "agreed.json").write_bytes(complete.agreement.encode())
    (tmp_path / "collateral.json").write_bytes(study.expectation.collateral.raw)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    StudyState(tmp_path / "state").accept(complete.agreement, study.parties.alice, NOW)
    return {
        "policy": tmp_path / "agreed.json",
        "party": study.parties.alice.folder,
        "collateral": tmp_path / "collateral.json",
        "passphrase_file": tmp_path / "passphrase",
        "state": tmp_path / "state",
        "allow_simulation": True,
    }


@pytest.fixture
def verifier(files: dict[str, Any]) -> Verifier:
    """Of a connection that was made before."""
    made = ratls.own_end(**files)[1]
    assert made.expect().policy.version == 1
    return made


def second(study: Study, **overrides: str) -> Any:
    """The next version, signed by all."""
    first = study.parties.complete(study.policy.raw.decode())
    text = study.parties.policy_text(
        version="2", previous=f'"{digest_text(first.digest)}"', **overrides
    )
    return study.parties.complete(text, before=first)


def test_a_new_version_counts_from_then_on(
    study: Study, files: dict[str, Any], verifier: Verifier
) -> None:
    """Its evidence names the new digest; an enclave of the old version is cut off."""
    complete = second(study)
    files["policy"].write_bytes(complete.agreement.encode())
    assert verifier.expect().policy.digest == complete.digest != study.policy.digest


def test_an_agreement_that_was_followed_by_a_newer_one(
    study: Study, files: dict[str, Any], verifier: Verifier
) -> None:
    """P12: accepted here meanwhile; the file is the old one."""
    complete = second(study)
    StudyState(files["state"]).accept(complete.agreement, study.parties.alice, NOW)
    with refused(PolicyRollback):
        verifier.expect()
    files["policy"].write_bytes(complete.agreement.encode())
    assert verifier.expect().policy.version == 2


def test_the_party_withdrew(study: Study, files: dict[str, Any], verifier: Verifier) -> None:
    """P22: what others withdrew is theirs; with its own withdrawal a party sends nothing more."""
    state = StudyState(files["state"])
    for who, leaf in (("bob-hospital", None), ("alice-clinic", PartyWithdrew)):
        gone = Withdrawal.of([study.policy], who)
        state.keep_withdrawal(gone.signed(study.parties.parties[who].signing), NOW)
        if leaf is None:
            assert verifier.expect()
        else:
            with refused(leaf):
                verifier.expect()


def test_the_policy_is_distrusted(study: Study, files: dict[str, Any], verifier: Verifier) -> None:
    """P22: a stolen key, or a policy that was found to be wrong."""
    state, digest = StudyState(files["state"]), digest_text(study.policy.digest)
    state.distrust(digest, NOW)
    with refused(Distrusted):
        verifier.expect()
    state.distrust(digest, NOW, lifted=True)
    assert verifier.expect()


def test_the_agreement_ends(study: Study, files: dict[str, Any], verifier: Verifier) -> None:
    ended = second(study, expires=instant(NOW - timedelta(seconds=1)))
    files["policy"].write_bytes(ended.agreement.encode())
    with refused(PolicyExpired):
        verifier.expect()


def test_older_lists_than_were_seen(
    study: Study, files: dict[str, Any], verifier: Verifier
) -> None:
    """T09: the bundle was current once, and before the machine was revoked."""

    def issued_now(form: CrlForm) -> CrlForm:
        return replace(form, this_update=form.this_update + timedelta(minutes=1))

    bundle = study.world.collateral(pck_crl=issued_now)
    roots = study.expectation.roots
    contents = Contents.authenticate(bundle, roots)
    Marks(files["state"]).advance(Subject(roots, contents.kind, early=False), contents)
    with refused(CollateralRolledBack):
        verifier.expect()
    files["collateral"].write_bytes(bundle.raw)
    assert verifier.expect()


def test_a_file_that_is_half_written(files: dict[str, Any], verifier: Verifier) -> None:
    """Nothing is judged by it, and nothing by what was read before."""
    raw = files["collateral"].read_bytes()
    files["collateral"].write_bytes(raw[:100])
    with refused(CollateralMalformed):
        verifier.expect()
    files["collateral"].write_bytes(raw)
    assert verifier.expect()


def test_what_did_not_change_is_read_once(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection asks three times, each minute of one once more: signatures are checked, and
    the installation is looked through, for new bytes alone."""
    asked: list[str] = []
    parse, look = Agreement.parse, modes.entry_points

    def parsed(*given: Any) -> Agreement:
        asked.append("parsed")
        return parse(*given)

    def looked(**group: str) -> Any:
        asked.append("looked")
        return look(**group)

    monkeypatch.setattr(Agreement, "parse", parsed)
    monkeypatch.setattr(modes, "entry_points", looked)
    for _ in range(5):
        assert verifier.expect().policy.version == 1
    assert asked == ["looked"]
