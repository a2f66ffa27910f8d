"""`policy lint` advises: what is legal and unwise, with a reason; only `--strict` refuses it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.advice import PolicyUnwise, advices, require_wise
from policy.computations import DECLARED
from policy.document import Policy
from policy.party import create_party
from policy.sections import ANY_MACHINE
from tests.enclave_app.agreed import computation
from tests.policy.desk import Desk
from tests.support.parties import AT, PASSPHRASE, ROOTS, Consortium, instant
from tests.support.refusal import refused

WORLD = Consortium.create()
SUMMARY = "summary_statistics"
COUNT = ("private_set_intersection", 'key = "patient"', ["intersection_size"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def advised(text: str) -> list[str]:
    return [advice.path for advice in advices(Policy.parse(text.encode(), known_roots=ROOTS))]


def changed(old: str, new: str, **sections: str) -> str:
    return WORLD.policy_text([(old, new)], **sections)


def uses(count: int, *section: Any) -> str:
    run, parameters, outputs = section
    made = computation(run, parameters, outputs, minimum=20)
    return WORLD.policy_text(computation=made.replace("uses = 10", f"uses = {count}"))


def test_the_agreement_of_these_tests_is_wise() -> None:
    assert advised(WORLD.policy_text()) == []


ANY = Consortium.create(machines=ANY_MACHINE)
FAMILY = ANY.policy_text([("machines =", 'fmspcs = ["00606a000000"]\nmachines =')])
SECOND = computation(SUMMARY, 'columns = ["age"]', ["statistics"], minimum=20).replace(
    'id = "train"', 'id = "describe"'
)
UNWISE = {
    "any platform": (ANY.policy_text(), ["platform.machines"]),
    "a family for a machine": (FAMILY, ["platform.fmspcs", "platform.machines"]),
    "out of date": (
        changed('["UpToDate"]', '["UpToDate", "OutOfDate"]'), ["platform.tcb_statuses"],
    ),
    "for years": (
        WORLD.policy_text(expires=instant(AT + timedelta(days=700))), ["expires"],
    ),
    "two of three": (changed('threshold = "all"', "threshold = 2"), ["agreement.threshold"]),
    "few persons": (
        WORLD.policy_text(
            computation=computation(
                SUMMARY, 'columns = ["age"]', ["statistics"], minimum=9
            ).replace("uses = 10", "uses = 1")
        ),
        ["computation[0].release.min_subjects_per_input"],
    ),
    "thousands of uses": (changed("uses = 10", "uses = 1000"), ["computation[0].uses"]),
    "two computations over each dataset": (
        WORLD.policy_text() + "\n" + SECOND, ["dataset[0]", "dataset[1]"],
    ),
    "quantiles twice": (
        uses(2, SUMMARY, 'columns = ["age"], quantiles = [0.5]', ["statistics"]),
        ["computation[0].uses"],
    ),
    "intersections twice": (uses(2, *COUNT), ["computation[0].uses"]),
}  # fmt: skip
WISE = {
    "a year": WORLD.policy_text(expires=instant(AT + timedelta(days=365))),
    "all, as a number": changed('threshold = "all"', "threshold = 3"),
    "ten persons": changed("min_subjects_per_input = 20", "min_subjects_per_input = 10"),
    "hundreds of uses": changed("uses = 10", "uses = 999"),
    "an intersection once": uses(1, *COUNT),
    "means often": uses(2, SUMMARY, 'columns = ["age"]', ["statistics"]),
    "a weak status that is no hole": changed('["UpToDate"]', '["UpToDate", "SWHardeningNeeded"]'),
}


@pytest.mark.parametrize("name", UNWISE)
def test_what_is_advised_against(name: str, desk: Desk) -> None:
    """P19: each is legal, with a reason at its line; `--strict` refuses it."""
    text, paths = UNWISE[name]
    policy = Policy.parse(text.encode(), known_roots=ROOTS)
    found = advices(policy)
    assert [advice.path for advice in found] == paths
    assert all(advice.line and advice.why and advice.instead for advice in found)
    with refused(PolicyUnwise):
        require_wise("policy.toml", found)


@pytest.mark.parametrize("name", WISE)
def test_what_is_not(name: str) -> None:
    assert advised(WISE[name]) == []
    require_wise("policy.toml", advices(Policy.parse(WISE[name].encode(), known_roots=ROOTS)))


def test_the_joint_budget_of_a_dataset_is_said() -> None:
    (first, _) = advices(Policy.parse(UNWISE[
        "two computations over each dataset"][0].encode(), known_roots=ROOTS))  # fmt: skip
    assert "20 times together (train 10, describe 10)" in first.found


def test_a_recipient_who_also_provides(tmp_path: Path) -> None:
    """It subtracts its own rows from the result."""
    both = create_party(
        tmp_path / "alice", "alice-clinic", PASSPHRASE, AT, ("provider", "recipient")
    )
    world = replace(WORLD, parties=WORLD.parties | {"alice-clinic": both})
    receives = ('recipients = ["carol-lab"]', 'recipients = ["carol-lab", "alice-clinic"]')
    assert advised(world.policy_text()) == []
    assert advised(world.policy_text([receives])) == ["computation[0].recipients[1]"]
    alone = ('inputs = ["train_party_1", "train_party_2"]', 'inputs = ["train_party_1"]')
    assert advised(world.policy_text([receives, alone])) == []


def test_strict_lint_lists_all_and_ends_with_a_refusal(desk: Desk) -> None:
    toml = desk.write("policy.toml", FAMILY)
    told = desk.json("policy", "lint", toml)
    assert [a["path"] for a in told["advice"]] == ["platform.fmspcs", "platform.machines"]
    assert told["error"] is None
    assert "unwise: platform.machines (line" in desk.run("policy", "lint", toml)
    strict = desk.json("policy", "lint", toml, "--strict", status=3)
    assert strict["advice"] == told["advice"]
    assert strict["error"]["code"] == PolicyUnwise.code
    assert f"[{PolicyUnwise.code}]" in desk.run("policy", "lint", toml, "--strict", status=3)
    desk.json("policy", "lint", desk.write("wise.toml", WORLD.policy_text()), "--strict")


def test_what_an_enclave_can_compute_is_shown(desk: Desk) -> None:
    told = desk.json("policy", "computations")["computations"]
    assert [c["run"] for c in told] == [*DECLARED]
    assert {"logistic_regression", COUNT[0], "sql", SUMMARY} <= {c["run"] for c in told}
    assert "max_iter: an integer from 1" in desk.run(
        "policy", "computations", "logistic_regression"
    )
    desk.json("policy", "computations", "logistic", status=3)
