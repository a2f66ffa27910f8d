"""Uses are counted per dataset and what is learnt: no name, version or study starts a fresh budget.

R07: two results of the same computation over slightly other rows are subtracted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy.document import Policy
from policy.journal import Journal
from policy.journal_entries import ReservedEntry, ReturnedEntry
from policy.state import StudyState
from provider.budget import Asked, UsesExhausted, learnt, left, place_digest, require_uses_left
from provider.cli_provider import provider
from provider.sources import source_at
from tests.support.parties import AT, ROOTS, Consortium
from tests.support.refusal import refused
from tests.support.typed import typed
from verifier.errors import Exit

WORLD = Consortium.create()
HOME = "/srv/rows.parquet"


def policy(*swaps: tuple[str, str], **overrides: Any) -> Policy:
    text = WORLD.policy_text([("uses = 10", "uses = 1"), *swaps], **overrides)
    return Policy.parse(text.encode(), known_roots=ROOTS)


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    StudyState(tmp_path, ROOTS).accept(WORLD.agreement(), WORLD.alice, AT)
    return tmp_path


def reserve(state: Path, task: int, of: Policy, computation: str = "train", **fields: Any) -> None:
    found = of.computation_by_id(computation)
    assert found is not None
    entry = {
        "task": digest(task),
        "dataset": "train_party_1",
        "policy": digest(0),
        "study": of.study,
        "computation": computation,
        "learnt": learnt(of, found),
        "instance": "ab" * 16,
        "expires": "2026-11-26T00:00:00Z",
        "place": place_digest(HOME),
        "mode": "simulation",
    }
    with Journal.open(state) as journal:
        journal.append(ReservedEntry(**entry | fields), AT)


def ask(
    state: Path,
    of: Policy,
    computation: str = "train",
    dataset: str = "train_party_1",
    place: str = HOME,
) -> None:
    with Journal.open(state) as journal:
        require_uses_left(journal.records, Asked.of(of, computation, dataset, place), digest(99))


RENAMED = ('id = "train"\n', 'id = "fit"\n')
OTHER_CASE = ('id = "train"\n', 'id = "Train"\n')
OTHER_DATASET = ("train_party_1", "rows_of_2027")


@pytest.mark.parametrize(
    ("of", "computation", "dataset", "place"),
    [
        pytest.param(policy(), "train", "train_party_1", HOME, id="the same"),
        pytest.param(policy(RENAMED), "fit", "train_party_1", HOME, id="renamed computation"),
        pytest.param(policy(OTHER_CASE), "Train", "train_party_1", HOME, id="case variant"),
        pytest.param(policy(study='"another"'), "train", "train_party_1", HOME, id="another study"),
        pytest.param(
            policy(OTHER_DATASET), "train", "rows_of_2027", HOME, id="renamed dataset, same file"
        ),
        pytest.param(
            policy(("train_party_1", "Train_Party_1")), "train", "Train_Party_1", "/srv/copy",
            id="dataset in another case",
        ),
        pytest.param(
            policy(OTHER_DATASET, RENAMED, study='"another"'), "fit", "rows_of_2027", HOME,
            id="everything renamed",
        ),
        pytest.param(
            policy(('["age", "bmi"]', '["bmi", "age"]'), RENAMED), "fit", "train_party_1", HOME,
            id="columns in another order",
        ),
    ],
)  # fmt: skip
def test_another_name_brings_no_new_uses(
    state: Path, of: Policy, computation: str, dataset: str, place: str
) -> None:
    ask(state, of, computation, dataset, place)
    reserve(state, 1, WORLD.policy())
    with refused(UsesExhausted):
        ask(state, of, computation, dataset, place)


@pytest.mark.parametrize(
    ("of", "computation", "dataset", "place"),
    [
        pytest.param(
            policy(('["age", "bmi"]', '["bmi"]'), RENAMED), "fit", "train_party_1", HOME,
            id="other columns",
        ),
        pytest.param(
            policy(OTHER_DATASET), "train", "rows_of_2027", "/srv/other.parquet",
            id="another dataset of another file",
        ),
    ],
)  # fmt: skip
def test_what_is_something_else_has_its_own_budget(
    state: Path, of: Policy, computation: str, dataset: str, place: str
) -> None:
    reserve(state, 1, WORLD.policy())
    ask(state, of, computation, dataset, place)


def test_the_same_task_is_not_another_use(state: Path) -> None:
    reserve(state, 99, WORLD.policy())
    ask(state, policy())


def test_release_that_was_given_back_is_no_use(state: Path) -> None:
    reserve(state, 1, WORLD.policy())
    back = ReturnedEntry(
        task=digest(1), dataset="train_party_1", instance="ab" * 16, reason="no-row-left",
        mode="simulation",
    )  # fmt: skip
    with Journal.open(state) as journal:
        journal.append(back, AT)
    ask(state, policy())


def test_record_of_an_older_version_still_counts(state: Path) -> None:
    """It says neither what was learnt nor where the rows were."""
    reserve(state, 1, WORLD.policy(), learnt=None, place=None)
    with refused(UsesExhausted):
        ask(state, policy())


def test_two_limits_on_the_same(state: Path) -> None:
    """The stricter one holds, whichever name is asked by."""
    one = WORLD.sections()["computation"]
    second = one.replace('id = "train"', 'id = "fit"').replace("uses = 10", "uses = 1")
    both = WORLD.policy(computation=one + second)
    ask(state, both)
    reserve(state, 1, both, "fit")
    for name in ("train", "fit"):
        with refused(UsesExhausted):
            ask(state, both, name)


def test_budget_of_rows_in_memory_goes_by_the_name(state: Path) -> None:
    reserve(state, 1, WORLD.policy(), place=None)
    with refused(UsesExhausted):
        ask(state, policy(), place="")
    ask(state, policy(OTHER_DATASET), dataset="rows_of_2027", place="")


def test_a_link_to_the_file_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"")
    (tmp_path / "again.parquet").symlink_to("rows.parquet")
    one, two = (source_at(tmp_path / name) for name in ("rows.parquet", "again.parquet"))
    assert one.place == two.place != source_at(tmp_path / "other.parquet").place


def test_what_is_left_is_shown(state: Path) -> None:
    reserve(state, 1, WORLD.policy())
    reserve(state, 2, policy(RENAMED, study='"another"'), "fit")
    with Journal.open(state) as journal:
        budget = left(journal.records, Asked.of(WORLD.policy(), "train", "train_party_1"))
    assert (budget.uses, budget.used, budget.left) == (10, 2, 8)
    words = ("budget", "--party", WORLD.alice.folder, "--state", state)
    said = typed(provider, words).stdout
    assert "train_party_1, train (logistic_regression): 8 of 10 left, 0 spent, 2 reserved" in said
    assert "1 of them for another" in said
    assert "train_party_1 in all: 2 tasks" in said
    assert "2 tasks" in typed(provider, (*words, "--dataset", "train_party_1")).stdout
    told = typed(provider, (*words, "--dataset", "none"), Exit.UNUSABLE).stderr
    assert "[dataset-unclear]" in told
    assert "train_party_1" in told
    words = ("budget", "--party", WORLD.carol.folder, "--state", state)
    assert "owns no input" in typed(provider, words).stdout
