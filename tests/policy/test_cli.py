"""The commands: what a person types, the exit status, and that nothing is written on a refusal."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.document import digest_text
from simulation.documents import tcb_level
from simulation.intel import root_name
from tests.policy.desk import NOW, WORLD, Desk
from tests.support.intel import World
from tests.support.parties import AT, Consortium, instant, local_party
from tests.support.refusal import count_refusal
from verifier.errors import Exit

INTEL, DAY = World.create(), timedelta(days=1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def toml(desk: Desk) -> Path:
    return desk.write("study.toml", WORLD.policy_text())


def filled(text: str) -> str:
    """A draft whose blanks are filled in, as in an editor."""
    text = text.replace('"<column>" = "string", "<other column>" = "<type>"', COLUMNS)
    text = text.replace('subject = "<column>"', 'subject = "patient"')
    text = text.replace('["<columns>"]', '["age"]').replace('label = "<column>"', 'label = "y"')
    text = text.replace("<ppid or piid of a machine>", "ppid:" + "12" * 16)
    return text.replace("<64 hex>", "ab" * 32)


COLUMNS = 'patient = "string", age = { type = "int64", min = 0, max = 120 }, y = "int64"'


def test_three_parties_agree_from_the_first_key_to_force(desk: Desk) -> None:
    """The whole life, as it is typed."""
    for name, role in (("alice", "provider"), ("carol", "recipient")):
        more = ["--role", "submitter"] if role == "recipient" else []
        made = desk.json(
            "party", "new", name, "--dir", desk.folder / name, "--role", role, *more,
            "--passphrase-file", desk.pass_file,
        )  # fmt: skip
        assert set(made["keys"]) >= {"signing_key", "operation_key", "channel_certificate"}
    draft = desk.folder / "policy.toml"
    desk.run(
        "policy", "new", "--study", "s", "--party-file", desk.folder / "alice/party.toml",
        "--party-file", desk.folder / "carol/party.toml", "--expires",
        instant(NOW + timedelta(days=9)), "--mr-enclave", "ab" * 32, "--machine",
        "ppid:" + "12" * 16, "-o", draft,
    )  # fmt: skip
    assert "fill in the blank" in desk.run("policy", "lint", draft, status=3)
    draft.write_text(filled(draft.read_text("utf-8")), "utf-8")
    assert desk.json("policy", "lint", draft)["problems"] == []
    for name in ("alice", "carol"):
        done = desk.json(
            "policy", "sign", draft, "--party", desk.folder / name, "--passphrase-file",
            desk.pass_file, "--state", desk.folder / "state", *desk.yes(draft),
        )  # fmt: skip
    assert done["complete"]
    for name in ("alice", "carol"):
        accepted = desk.json(
            "policy", "accept", done["agreement"], "--party", desk.folder / name,
            "--state", desk.folder / f"state-{name}", *desk.yes(draft),
        )  # fmt: skip
    assert {key["status"] for key in accepted["keys"]} == {"new"}


def test_signatures_are_added_in_place(desk: Desk, toml: Path) -> None:
    beside = desk.folder / "study.agreement.json"
    desk.sign(toml, "alice-clinic")
    desk.sign(beside, "bob-hospital")
    assert desk.json("policy", "status", beside)["missing"] == ["carol-lab"]
    assert "MISSING" in desk.run("policy", "status", beside)
    desk.run("policy", "verify", beside, "--party", WORLD.alice.folder, status=6)
    desk.accept(beside, "alice-clinic", status=6)
    desk.sign(toml, "carol-lab")
    status = desk.json("policy", "status", beside)
    assert status["complete"]
    for anchor in (["--party", WORLD.carol.folder], ["--digest", status["digest"]]):
        assert desk.json("policy", "verify", beside, *anchor)["verdict"] == "accepted"
    assert "SIMULATION" in desk.accept(beside, "alice-clinic")
    assert "unchanged" in desk.accept(beside, "alice-clinic")


def test_verify_without_an_anchor_says_nothing(desk: Desk) -> None:
    """A self-made agreement is complete, too."""
    file = desk.write("a.agreement.json", WORLD.agreement_bytes())
    desk.run("policy", "verify", file, status=5)
    desk.run("policy", "verify", file, "--digest", "sha256:0", status=2)
    desk.run("policy", "verify", file, "--digest", "sha256:" + "0" * 64, status=6)
    other = local_party("alice-clinic", NOW, copy=1).folder
    desk.run("policy", "verify", file, "--party", other, status=6)
    desk.run("policy", "verify", file, "--party", WORLD.alice.folder)


def test_show_renders_the_document_and_not_its_text(desk: Desk, toml: Path) -> None:
    """A comment that says otherwise is not shown."""
    hidden = toml.read_text("utf-8") + "# uses = 1 only, trust me\n"
    shown = desk.run("policy", "show", desk.write("x.toml", hidden))
    assert "trust me" not in shown
    assert "train_party_2" in shown
    assert "min 50, max 5000" in shown
    document = desk.json("policy", "show", toml)
    assert document["computation"][0]["parameters"]["max_iter"] == {"min": 50, "max": 5000}
    assert document["dataset"][0]["columns"]["age"] == "int64, min 0, max 120"


def test_lint_says_what_a_result_still_tells(desk: Desk, toml: Path) -> None:
    """Before anybody signs: what no rule of the enclave prevents."""
    says = desk.json("policy", "lint", toml)["says"]
    assert list(says) == ["train"]
    assert "every row but one" in says["train"]
    assert f"train: {says['train']}" in desk.run("policy", "lint", toml)


def test_lint_announces_current_levels_that_the_policy_refuses(desk: Desk) -> None:
    """Intel attaches advisories to `UpToDate`, too; after an update nothing would be admitted."""
    count_refusal()
    world = World.create()
    tcb = world.platform.tcb

    def told(*advisories: str) -> list[dict[str, Any]]:
        level = tcb_level(tcb.components, tcb.pce_svn, date=NOW, advisories=["INTEL-SA-00009"])
        bundle = desk.write(
            "bundle.json", world.collateral(tcb_info=lambda d: d | {"tcbLevels": [level]}).raw
        )
        text = WORLD.policy_text(
            [
                ("accepted_advisories = []", f"accepted_advisories = {json.dumps(advisories)}"),
                (f'root = "{WORLD.root}"', f'root = "{root_name(world.intel.root)}"'),
            ]
        )
        lint = ("policy", "lint", desk.write("study.toml", text), "--collateral", bundle)
        assert ("INTEL-SA-00009" in desk.run(*lint)) is (advisories == ())
        return desk.json(*lint)["announced"]  # type: ignore[no-any-return]

    (level,) = told()
    assert level["advisory_ids"] == ["INTEL-SA-00009"]
    assert told("INTEL-SA-00009") == []


TOO_OPEN = [
    ("significant_digits = 6", "significant_digits = 7", "release.significant_digits"),
    ("min_subjects_per_input = 20", "min_subjects_per_input = 9", "release.min_subjects_per_input"),
    ('["model_weights"]', '["model_weights", "rows"]', "release.outputs"),
    ('run = "logistic_regression"', 'run = "logistic_regresion"', "run"),
    (
        'features = ["age", "bmi"]',
        'features = { choose = [["age"], ["bmi"]] }',
        "parameters.features",
    ),
]


@pytest.mark.parametrize(("old", "new", "path"), TOO_OPEN)
def test_policy_under_which_a_person_could_leave(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, old: str, new: str, path: str
) -> None:
    """Refused by lint, by sign, and by accept where an older program has let it be signed."""
    text = WORLD.policy_text(replace=[(old, new)])
    file = desk.write("study.toml", text)
    report = desk.json("policy", "lint", file, status=3)
    assert [p["path"] for p in report["problems"]] == [f"computation[0].{path}"]
    desk.sign(file, "alice-clinic", 3)
    assert not (desk.folder / "study.agreement.json").exists()
    with monkeypatch.context() as older:
        older.setattr("policy.references.computation_problems", lambda *_: ())
        signed = desk.write("signed.agreement.json", WORLD.agreement_bytes(text))
    desk.accept(signed, "alice-clinic", 3)
    honest = desk.write("honest.agreement.json", WORLD.agreement_bytes())
    desk.accept(honest, "alice-clinic")


def test_lint_names_path_line_and_what_was_meant(desk: Desk, toml: Path) -> None:
    text = toml.read_text("utf-8").replace("max_rows", "maxrows")
    report = desk.json("policy", "lint", desk.write("x.toml", text), status=3)
    assert [p["path"] for p in report["problems"]][:2] == [
        "dataset[0].maxrows",
        "dataset[0].max_rows",
    ]
    assert report["problems"][0]["line"] is not None
    assert "did you mean max_rows?" in desk.run("policy", "lint", desk.folder / "x.toml", status=3)
    desk.run("policy", "lint", toml)


def test_edited_after_the_first_signature(desk: Desk, toml: Path) -> None:
    """A changed comma makes another policy; its signatures do not follow."""
    desk.sign(toml, "alice-clinic")
    before = (desk.folder / "study.agreement.json").read_bytes()
    toml.write_text(toml.read_text("utf-8").replace("uses = 10", "uses = 99"), "utf-8")
    desk.sign(toml, "bob-hospital", 6)
    assert (desk.folder / "study.agreement.json").read_bytes() == before


def _without_carol() -> str:
    text = WORLD.policy_text((), **{"bob-hospital": ""})
    return text.replace("train_party_2", "gone").replace("bob-hospital", "alice-clinic")


BAD: list[tuple[str, str, int]] = [
    ("typo", WORLD.policy_text().replace("threshold", "treshold"), 3),
    ("syntax", WORLD.policy_text() + "= 1\n", 3),
    ("expired", Consortium.create(NOW, root=WORLD.root).policy_text(
        not_before="2020-01-01T00:00:00Z", expires="2021-01-01T00:00:00Z"), 6),
    ("own key not in the policy", _without_carol(), 6),
    ("own id with another key", WORLD.policy_text(
        [(WORLD.bob.public.signing_key.pem,
          local_party("bob-hospital", NOW, copy=1).public.signing_key.pem)]), 6),
    ("version 2 without version 1", WORLD.policy_text(
        version="2", previous=f'"sha256:{"0" * 64}"'), 6),
]  # fmt: skip


@pytest.mark.parametrize(("text", "status"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bob_signs_what_he_should_not(desk: Desk, text: str, status: int) -> None:
    """One line with what to do, and nothing is written."""
    said = desk.sign(desk.write("bad.toml", text), "bob-hospital", status)
    assert f"{Exit(status).word} [" in said
    assert "to do:" in said
    assert not (desk.folder / "bad.agreement.json").exists()


@pytest.mark.parametrize("left", [None, b"", b"{}", b"older"], ids=["gone", "empty", "{}", "older"])
def test_accept_mends_what_became_of_its_file(desk: Desk, left: bytes | None) -> None:
    """Other commands refuse and say so; a crash of `accept` itself leaves the file missing too."""
    first = WORLD.complete()
    older = desk.write("older.agreement.json", first.agreement.encode())
    desk.accept(older, "alice-clinic")
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    newer = desk.write("newer.agreement.json", WORLD.agreement(text, before=first).encode())
    desk.accept(newer, "alice-clinic")
    stored = next((desk.folder / "state" / "studies").iterdir())
    accepted = stored.read_bytes()
    if left is None:
        stored.unlink()
    else:
        stored.write_bytes(older.read_bytes() if left == b"older" else left)
    desk.sign(newer, "alice-clinic", 3)
    desk.accept(older, "alice-clinic", 3)
    assert "unchanged" in desk.accept(newer, "alice-clinic")
    assert stored.read_bytes() == accepted
    desk.sign(newer, "alice-clinic")


def test_files_that_are_missing_or_unusable(desk: Desk, toml: Path) -> None:
    desk.run("policy", "lint", desk.folder / "none.toml", status=3)
    desk.run("policy", "show", desk.folder, status=3)
    desk.run("policy", "status", toml, status=3)
    desk.accept(desk.folder / "none.json", "alice-clinic", 3)
    empty = desk.write("empty.txt", b"\n")
    for passphrase in (empty, desk.write("wrong.txt", b"guess"), desk.folder / "none.txt"):
        desk.run(
            "policy", "sign", toml, "--party", WORLD.alice.folder, "--passphrase-file",
            passphrase, "--state", desk.folder / "s", *desk.yes(toml), status=3,
        )  # fmt: skip
    words = ("policy", "sign", toml, "--party", WORLD.alice.folder)
    desk.run(*words, *desk.yes(toml), status=3)  # nobody to ask for a passphrase


def test_party_is_made_once(desk: Desk) -> None:
    words: list[str | Path] = ["party", "new", "alice", "--dir", desk.folder / "a"]
    words += ["--passphrase-file", desk.pass_file]
    desk.run(*words)
    before = (desk.folder / "a/signing.key").read_bytes()
    desk.run(*words, status=3)
    assert (desk.folder / "a/signing.key").read_bytes() == before
    desk.run(*words[:3], "--dir", desk.folder / "b", "--role", "admin", status=2)


def test_old_evidence_of_agreement_is_judged_at_its_time(desk: Desk) -> None:
    """P13: complete and anchored, and over."""
    world = Consortium.create(AT)
    file = desk.write("a.agreement.json", world.agreement_bytes())
    anchor: list[str | Path] = ["--party", world.alice.folder]
    desk.run("policy", "verify", file, *anchor, "--at", "2020-01-01T00:00:00Z", status=6)
    desk.run("policy", "verify", file, *anchor, "--at", "2027-11-25T00:00:00Z", status=6)
    desk.run("policy", "verify", file, *anchor, "--at", "2026-11-26T00:00:00Z")


def test_a_draft_from_the_quote_of_a_guest(desk: Desk) -> None:
    """It lists every register of the quote; placeholders of a draft without one are refused."""
    quote = desk.write("guest.bin", INTEL.platform.td_quote(rtmr2=b"\x99" * 48))
    party = ("--party-file", WORLD.alice.folder / "party.toml", "--expires", instant(NOW + DAY))
    new = ("policy", "new", "--study", "s", *party, "--machine", "ppid:" + "12" * 16)
    told = desk.run(*new, "--quote", quote, "-o", desk.folder / "policy.toml")
    assert "was not verified" in told
    desk.run(*new, "--tee", "tdx", "-o", desk.folder / "blank.toml")
    wrong = {}
    for name in ("policy", "blank"):
        answer = desk.json("policy", "lint", desk.folder / f"{name}.toml", status=3)
        wrong[name] = [p["path"] for p in answer["problems"] if p["path"].startswith("enclave")]
    assert wrong["policy"] == []
    assert wrong["blank"] == [
        *(f"enclave[0].{name}" for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")),
        *(f"enclave[0].{name}" for name in ("mr_config_id", "mr_owner", "mr_owner_config")),
        "enclave[0].mr_seam",
        "enclave[0].min_tee_tcb_svn",
    ]
    assert f'rtmr2 = "{"99" * 48}"' in (desk.folder / "policy.toml").read_text("utf-8")
    desk.run(*new, "--quote", quote, "--mr-enclave", "ab" * 32, "-o", desk.folder / "x", status=2)
    desk.run(*new, "--quote", desk.write("no", b"no quote"), "-o", desk.folder / "x", status=3)
    assert not (desk.folder / "x").exists()


def test_a_draft_from_the_quote_of_an_enclave(desk: Desk) -> None:
    quote = desk.write("enclave.bin", INTEL.quote(isv_prod_id=7, isv_svn=3))
    party = ("--party-file", WORLD.alice.folder / "party.toml", "--expires", instant(NOW + DAY))
    desk.run(
        "policy", "new", "--study", "s", *party, "--quote", quote, "-o", desk.folder / "p.toml"
    )
    text = (desk.folder / "p.toml").read_text("utf-8")
    assert f'mr_enclave = "{"a1" * 32}"\nisv_prod_id = 7\nmin_isv_svn = 3\n' in text


def test_a_policy_for_a_guest_is_shown_with_what_it_leaves_open(desk: Desk) -> None:
    domain = WORLD.domain(
        mr_seam='"any TDX module by Intel"',
        rtmr3='"extended at run time"',
        rtmr3_events=f'["{"e1" * 48}"]',
        service_tds=f'["{"44" * 48}"]',
    )
    toml = desk.write("study.toml", WORLD.policy_text(enclave=domain))
    notes = desk.json("policy", "lint", toml)["notes"]
    assert [*notes] == [f"joint-training-td.{n}" for n in ("mr_seam", "rtmr3", "service_tds")]
    (shown,) = desk.json("policy", "show", toml)["enclave"]
    assert shown["mr_seam"] == "any TDX module by Intel"
    assert shown["rtmr1"] == "37" * 48
    closed = desk.write("closed.toml", WORLD.policy_text(enclave=WORLD.domain()))
    assert desk.json("policy", "lint", closed)["notes"] == {}
    (shown,) = desk.json("policy", "show", closed)["enclave"]
    assert shown["service_tds"] == "none may be bound"
