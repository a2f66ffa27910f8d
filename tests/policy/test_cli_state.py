"""`ratls policy withdraw`, `distrust` and `state`, typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.document import digest_text
from policy.state import StudyState
from tests.policy.desk import WORLD, Desk
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow
STUDY = "breast-cancer-joint-training"
DIGEST = digest_text(WORLD.complete().digest)
ALICE = WORLD.alice.folder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Bob's desk: he accepted version 1."""
    desk = Desk(tmp_path)
    desk.write("study.agreement.json", WORLD.agreement_bytes())
    desk.accept(desk.folder / "study.agreement.json", "bob-hospital")
    return desk


def withdraw(desk: Desk, *more: str | Path, status: int = 0, state: str = "alices") -> str:
    return desk.run(
        "policy", "withdraw", desk.folder / "study.agreement.json", "--party", ALICE,
        "--passphrase-file", desk.pass_file, "--state", desk.folder / state, *more, status=status,
    )  # fmt: skip


def test_a_party_leaves_and_another_hears_of_it(desk: Desk) -> None:
    said = withdraw(desk, "--yes", DIGEST)
    file = desk.folder / f"{STUDY}.alice-clinic.withdrawal.json"
    assert "alice-clinic has withdrawn from" in said
    assert f"ratls policy state receive {file.name}" in said
    state = ("--state", desk.folder / "state")
    desk.run("policy", "state", "receive", file, *state)
    shown = desk.json("policy", "state", "show", *state)
    assert [(w["party"], w["version"]) for w in shown["withdrawn"]] == [("alice-clinic", 1)]
    assert shown["studies"][0]["in_force"]["version"] == 1
    assert "alice-clinic withdrew from version 1" in desk.run("policy", "state", "show", *state)


@pytest.mark.parametrize("more", [(), ("--yes", "sha256:" + "0" * 64)], ids=["none", "another"])
def test_nobody_consented_to_leave(desk: Desk, more: tuple[str, ...]) -> None:
    """No terminal, and no digest or another one: nothing is written (2)."""
    count_refusal()
    before = sorted(desk.folder.rglob("*"))
    assert DIGEST in withdraw(desk, *more, status=2)
    assert sorted(desk.folder.rglob("*")) == before


def test_own_state_ends_before_the_file_is_sent(desk: Desk) -> None:
    desk.accept(desk.folder / "study.agreement.json", "alice-clinic")
    made = withdraw(desk, "--yes", DIGEST, "-o", desk.folder / "gone.json", state="state")
    assert "gone.json" in made
    assert StudyState(desk.folder / "state").withdrawals(STUDY)


def test_withdraw_from_a_version_that_is_over(desk: Desk) -> None:
    count_refusal()
    first = WORLD.complete()
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    second = desk.write("second.agreement.json", WORLD.agreement_bytes(text, before=first))
    desk.accept(second, "alice-clinic")
    said = withdraw(desk, "--yes", DIGEST, state="state", status=6)
    assert "policy-rollback" in said
    assert "policy state export" in said


def test_withdrawal_that_somebody_else_signed_is_not_kept(desk: Desk) -> None:
    count_refusal()
    from policy.withdrawal import Withdrawal

    forged = Withdrawal.of([v.policy for v in WORLD.agreement().versions], "alice-clinic").signed(
        WORLD.bob.signing
    )
    file = desk.write("forged.json", forged)
    state = ("--state", desk.folder / "state")
    assert "signer-unknown" in desk.run("policy", "state", "receive", file, *state, status=6)
    assert desk.json("policy", "state", "show", *state)["withdrawn"] == []


def test_a_stolen_key_is_distrusted_and_by_mistake(desk: Desk) -> None:
    key = f"sha256:{WORLD.alice.public.operation_key.keyid}"
    state = ("--state", desk.folder / "state")
    count_refusal()
    said = desk.run("policy", "distrust", key, *state, status=2)
    assert f"operation_key of alice-clinic in {STUDY}" in said
    assert f"--yes {key}" in said
    desk.run("policy", "distrust", key.removeprefix("sha256:"), *state, "--yes", key)
    shown = desk.json("policy", "state", "show", *state)
    assert shown["distrusted"] == [key]
    assert shown["studies"][0]["error"]["code"] == "distrusted"
    agreement = desk.folder / "study.agreement.json"
    assert "distrusted" in desk.accept(agreement, "bob-hospital", 6)
    desk.run("policy", "distrust", key, *state, "--yes", key, "--lift")
    desk.accept(agreement, "bob-hospital")


def test_commands_that_read_a_file_know_whom_this_party_distrusts(desk: Desk) -> None:
    """`verify`, `status` and `sign` look into the state folder, and say so where there is none."""
    key = f"sha256:{WORLD.alice.public.operation_key.keyid}"
    state = ("--state", desk.folder / "state")
    agreement = desk.folder / "study.agreement.json"
    verify = ("policy", "verify", agreement, "--digest", DIGEST)
    assert "no state folder is here" in desk.run(*verify, "--state", desk.folder / "none")
    told = desk.json(*verify, *state)
    assert (told["state"], told["withdrawn"]) == (str(desk.folder / "state"), [])
    desk.run("policy", "distrust", key, *state, "--yes", key)
    for command in (verify, ("policy", "status", agreement)):
        assert "distrusted" in desk.run(*command, *state, status=6)
        desk.run(*command, "--state", desk.folder / "none")
    assert "distrusted" in desk.sign(agreement, "bob-hospital", 6)


def test_the_users_own_state_is_asked_without_a_word(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(desk.folder / "home"))
    agreement = desk.folder / "study.agreement.json"
    verify = ("policy", "verify", agreement, "--digest", DIGEST)
    assert desk.json(*verify)["state"] is None
    own = desk.folder / "home/ratls"
    party = WORLD.parties["bob-hospital"].folder
    desk.run("policy", "accept", agreement, "--party", party, "--yes", DIGEST)
    desk.run("policy", "distrust", DIGEST, "--yes", DIGEST)
    assert own.is_dir()
    count_refusal()
    assert "distrusted" in desk.run(*verify, status=6)


def test_verify_says_who_withdrew(desk: Desk) -> None:
    withdraw(desk, "--yes", DIGEST)
    state = ("--state", desk.folder / "state")
    file = desk.folder / f"{STUDY}.alice-clinic.withdrawal.json"
    desk.run("policy", "state", "receive", file, *state)
    verify = ("policy", "verify", desk.folder / "study.agreement.json", "--digest", DIGEST)
    assert desk.json(*verify, *state)["withdrawn"] == ["alice-clinic"]
    assert "alice-clinic has withdrawn from this version" in desk.run(*verify, *state)


@pytest.mark.parametrize("damage", ["gone", "cut", "older"])
def test_lost_agreement_is_restored_from_another_party(desk: Desk, damage: str) -> None:
    """P21: exactly what the journal names comes back, and nothing else."""
    state = ("--state", desk.folder / "state")
    first = WORLD.complete()
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    second = desk.write("second.agreement.json", WORLD.agreement_bytes(text, before=first))
    desk.accept(second, "bob-hospital")
    desk.run("policy", "state", "export", STUDY, "-o", desk.folder / "kept.json", *state)
    assert desk.folder.joinpath("kept.json").read_bytes() == second.read_bytes()
    kept = StudyState(desk.folder / "state").path(STUDY)
    if damage == "gone":
        kept.unlink()
    elif damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-9])
    else:
        kept.write_bytes(WORLD.agreement_bytes())
    count_refusal()
    desk.run("policy", "state", "repair", *state, status=3)
    old = desk.folder / "study.agreement.json"
    desk.run("policy", "state", "repair", old, *state, status=3)
    said = desk.run("policy", "state", "repair", old, desk.folder / "kept.json", *state)
    assert "restored" in said
    assert "good" in desk.run("policy", "state", "repair", *state)
    assert kept.read_bytes() == second.read_bytes()


def test_lost_withdrawal_is_restored(desk: Desk) -> None:
    withdraw(desk, "--yes", DIGEST)
    file = desk.folder / f"{STUDY}.alice-clinic.withdrawal.json"
    state = ("--state", desk.folder / "state")
    desk.run("policy", "state", "receive", file, *state)
    desk.run("policy", "state", "export", STUDY, "-o", desk.folder / "kept.json", *state)
    StudyState(desk.folder / "state").withdrawal_path(STUDY, "alice-clinic").unlink()
    count_refusal()
    desk.run("policy", "state", "repair", *state, status=3)
    assert "restored" in desk.run("policy", "state", "repair", desk.folder / "kept.json", *state)


def test_repair_makes_no_journal(desk: Desk) -> None:
    """P21: who removes it gets no fresh start."""
    (desk.folder / "state" / "journal.jsonl").unlink()
    (desk.folder / "state" / "journal.head").unlink()
    count_refusal()
    said = desk.run(
        "policy", "state", "repair", desk.folder / "study.agreement.json", "--state",
        desk.folder / "state", status=3,
    )  # fmt: skip
    assert "journal-missing" in said


def test_export_of_a_study_that_is_not_there(desk: Desk) -> None:
    count_refusal()
    desk.run(
        "policy", "state", "export", "another", "-o", desk.folder / "x.json", "--state",
        desk.folder / "state", status=3,
    )  # fmt: skip


def test_empty_folder_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert "nothing was accepted" in desk.run("policy", "state", "show", "--state", tmp_path / "s")
