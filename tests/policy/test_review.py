"""The page for who decides, in a real browser; and how recorded evidence fares."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from policy.difference import differences
from policy.document import Policy, digest_text
from policy.dry_run import Fare, Outcome
from policy.review import RECOMPUTE, review_page, signers
from policy.sentences import sections
from policy.signing import add_signature
from ratls.cli import build
from simulation.intel import root_name
from tests.policy.desk import NOW, Desk
from tests.support.browser import shown, words
from tests.support.intel import World
from tests.support.parties import ROOTS, Consortium, TaskWorld, local_party
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow
INTEL = World.create(NOW)
QUOTE = INTEL.quote(isv_prod_id=0)
WORLD = Consortium.create(NOW, root=root_name(INTEL.intel.root), machines="any genuine platform",
                          mr_enclave="a1" * 32)  # fmt: skip
FIRST = WORLD.complete()


def second(*replace: tuple[str, str]) -> str:
    return WORLD.policy_text(replace, version="2", previous=f'"{digest_text(FIRST.digest)}"')


RAISED = second(("uses = 10", "uses = 30"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_page_in_a_browser_says_what_the_commands_say(desk: Desk) -> None:
    agreement = WORLD.agreement(RAISED, before=FIRST, signers=["alice-clinic"])
    file = desk.write("study.agreement.json", agreement.encode())
    page = desk.folder / "review.html"
    desk.run("policy", "review", file, "--html", page)
    seen = shown(page, desk.folder / "profile")
    new = agreement.policy
    expected = [s for part in sections(new) for s in (part.heading, *part.sentences)]
    expected += [str(d) for d in differences(FIRST.policy, new)]
    expected += [f"{s.party} {s.signed} {s.scheme} {s.key} {s.since}" for s in signers(agreement)]
    expected += [digest_text(new.digest), "ratls simulation measure", "a1" * 32]
    for text in expected:
        assert " ".join(text.split()) in seen
    assert "carol-lab MISSING" in seen
    assert seen == words(page.read_text("utf-8"))


@pytest.mark.parametrize("line", RECOMPUTE)
def test_what_recomputes_the_measurement_are_commands(line: str) -> None:
    """A reader copies each from the page: its name and its options exist."""
    context: Any = typer.main.get_command(build()).make_context("ratls", line.split()[1:])
    while hasattr(context.command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    text = WORLD.policy_text([(f'root = "{WORLD.root}"', 'root = "intel"')])
    page = review_page(WORLD.agreement(text), before=None, fares=[], made=NOW)
    assert f"<code>{line}</code>" in page


def test_the_page_loads_nothing_and_has_no_script(desk: Desk) -> None:
    """Whoever opens it tells nobody, and runs nothing that a file name or a policy brings."""
    count_refusal()
    fare = Fare('<script src="//x">', "task", Outcome("refused", "c", "<b>"), Outcome("accepted"))
    page = review_page(FIRST.agreement, before=None, fares=[fare], made=NOW)
    assert "<script" not in page
    assert "&lt;script src=&#34;//x&#34;&gt;" in page
    assert re.findall(r"(?:src|href)=", page.replace("&#34;", "")) == ["src="]
    assert "default-src 'none'" in page


def test_comments_of_the_author_are_not_on_the_page() -> None:
    text = WORLD.policy_text() + "# uses = 1 only, trust me\n"
    page = review_page(WORLD.agreement(text), before=None, fares=[], made=NOW)
    assert "trust me" not in page


def test_a_key_is_dated_from_the_version_that_brought_it() -> None:
    """Bob's key was changed in version 2, with his old one's consent."""
    world = Consortium.create(NOW)
    first = world.complete()
    new_bob = local_party("bob-hospital", NOW, copy=1)
    text = world.policy_text(
        [(world.bob.public.signing_key.pem, new_bob.public.signing_key.pem)],
        version="2",
        previous=f'"{digest_text(first.digest)}"',
    )
    later = world.agreement(text, before=first, signers=["alice-clinic", "carol-lab"])
    later = add_signature(add_signature(later, world.bob.signing), new_bob.signing)
    since = {s.party: s.since.split(",")[0] for s in signers(later)}
    assert since == {
        "alice-clinic": "version 1",
        "bob-hospital": "version 2",
        "carol-lab": "version 1",
    }


def test_the_version_in_force_is_what_it_is_compared_with(desk: Desk) -> None:
    first = desk.write("first.agreement.json", FIRST.agreement.encode())
    desk.run(
        "policy", "accept", first, "--party", WORLD.alice.folder, "--state", desk.folder / "state",
        *desk.yes(first),
    )  # fmt: skip
    draft, page = desk.write("study-2.toml", RAISED), desk.folder / "r.html"
    told = desk.json("policy", "review", draft, "--html", page, "--state", desk.folder / "state")
    assert told["old"] == digest_text(FIRST.digest)
    assert "train at most 30 times" in words(page.read_text("utf-8"))
    assert desk.json("policy", "review", draft, "--html", page)["old"] is None
    desk.run("policy", "review", draft, "--html", page, "--state", desk.folder / "none", status=3)
    desk.run("policy", "review", draft, "--html", page, "--state", desk.folder / "state",
             "--old", first, status=2)  # fmt: skip


# The dry run.


def files(desk: Desk) -> tuple[Path, Path]:
    """A recorded quote and the collateral for it."""
    bundle = desk.write("bundle.json", INTEL.intel.collateral(INTEL.platform))
    return desk.write("quote.bin", QUOTE), bundle


def fares(desk: Desk, new: str, *more: str | Path) -> dict[str, tuple[str, str]]:
    old, draft = desk.write("old.toml", FIRST.policy.raw), desk.write("new.toml", new)
    told = desk.json("policy", "dry-run", draft, "--old", old, "--allow-simulation", *more)
    return {
        Path(f["file"]).name: (f["old"]["code"] or "accepted", f["new"]["code"] or "accepted")
        for f in told["fares"]
    }


def test_recorded_quotes_fare_otherwise_under_a_stricter_version(desk: Desk) -> None:
    """Before anybody signs: the fleet that works today would be refused tomorrow."""
    quote, bundle = files(desk)
    recorded = ("--quotes", quote, "--collateral", bundle)
    assert fares(desk, RAISED, *recorded) == {"quote.bin": ("accepted", "accepted")}
    stricter = second(("min_isv_svn = 0", "min_isv_svn = 60000"))
    (found,) = fares(desk, stricter, *recorded).values()
    assert found[0] == "accepted"
    assert found[1] != "accepted"


def test_a_version_that_is_not_in_force_yet_is_judged_all_the_same(desk: Desk) -> None:
    later = (NOW + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = WORLD.policy_text(
        version="2", previous=f'"{digest_text(FIRST.digest)}"', not_before=later
    )
    quote, bundle = files(desk)
    found = fares(desk, text, "--quotes", quote, "--collateral", bundle)
    assert found == {"quote.bin": ("accepted", "accepted")}


def test_recorded_tasks_fare_otherwise(desk: Desk) -> None:
    """Carol asked for 200 iterations; version 2 allows at most 100. Hers of then is old by now."""
    tasks = TaskWorld(WORLD, FIRST.policy)
    folder = desk.folder / "tasks"
    folder.mkdir()
    old = WORLD.at - timedelta(days=300)
    (folder / "carol.json").write_bytes(
        tasks.signed(issued_at=old, expires=old + timedelta(hours=1))
    )
    (folder / "mallory.json").write_bytes(tasks.signed(by=WORLD.bob))
    (folder / "none.json").write_bytes(b"{}")
    found = fares(desk, second(("max = 5000", "max = 100")), "--tasks", folder)
    assert found["carol.json"] == ("accepted", "task-parameter-denied")
    # A task that was never good is no reason against a version.
    assert found["mallory.json"][0] == found["mallory.json"][1] != "accepted"
    assert found["none.json"][0] == found["none.json"][1] == "envelope-malformed"
    assert fares(desk, RAISED, "--tasks", folder)["carol.json"] == ("accepted", "accepted")


def test_a_quote_that_is_none_is_an_answer_too(desk: Desk) -> None:
    _, bundle = files(desk)
    other = desk.write("other.bin", b"no quote")
    (found,) = fares(desk, RAISED, "--quotes", other, "--collateral", bundle).values()
    assert found[0] == found[1] != "accepted"


def test_a_simulated_root_needs_its_word(desk: Desk) -> None:
    """X01, X03: a draft cannot say by itself that its simulated root is trusted."""
    quote, bundle = files(desk)
    draft = desk.write("new.toml", RAISED)
    words_ = ("policy", "dry-run", draft, "--quotes", quote, "--collateral", bundle)
    desk.run(*words_, status=6)
    desk.run("policy", "dry-run", draft, status=2)
    desk.run("policy", "dry-run", draft, "--quotes", quote, status=2)
    told = desk.run(*words_, "--allow-simulation")
    assert "quote.bin: accepted" in told


def test_the_dry_run_is_on_the_page(desk: Desk) -> None:
    quote, bundle = files(desk)
    old = desk.write("old.toml", FIRST.policy.raw)
    new = desk.write("new.toml", second(("min_isv_svn = 0", "min_isv_svn = 60000")))
    page = desk.folder / "r.html"
    desk.run("policy", "review", new, "--old", old, "--html", page, "--quotes", quote,
             "--collateral", bundle, "--allow-simulation")  # fmt: skip
    seen = words(page.read_text("utf-8"))
    assert f"quote {quote} accepted refused" in seen


def test_a_draft_that_does_not_lint_has_no_page(desk: Desk) -> None:
    page = desk.folder / "r.html"
    bad = desk.write("bad.toml", RAISED.replace("uses = 30", "uses = 0"))
    desk.run("policy", "review", bad, "--html", page, status=3)
    assert not page.exists()
    assert Policy.parse(RAISED.encode(), known_roots=ROOTS).version == 2
