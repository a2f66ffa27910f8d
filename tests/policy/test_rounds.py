"""What a policy may say of federated rounds, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.advice import advices
from policy.document import Policy, PolicyInvalid
from policy.rounds import RUN, RoundsNotAgreed, RowsNotAsked, Series, require_rounds, require_rows
from policy.sentences import computation_sentences, markdown, sections
from policy.show_computations import block, facts, page
from policy.show_computations import text as shown
from tests.policy.desk import Desk
from tests.policy.test_cli import filled
from tests.support.parties import AT, ROOTS, Consortium, instant
from tests.support.refusal import refused
from tests.support.rounds import LOGISTIC, computation, consortium

WORLD = consortium(3, AT)
REASON = '"both owners are one hospital"'


def read(owners: int = 3, **parameters: str | None) -> Policy:
    world = WORLD if owners == 3 else consortium(owners, AT)
    text = world.policy_text(computation=computation(owners, **parameters))
    return Policy.parse(text.encode(), known_roots=ROOTS)


def problems(owners: int = 3, **parameters: str | None) -> set[str]:
    """The names of the parameters that are refused."""
    with refused(PolicyInvalid) as seen:
        read(owners, **parameters)
    assert isinstance(seen.error, PolicyInvalid)
    return {p.path.removeprefix("computation[0].").removeprefix("parameters.") for p in
            seen.error.problems}  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        LOGISTIC,
        LOGISTIC | {"l2": "0.0"},
        LOGISTIC | {"model": '"linear"', "label": '"y"'},
        {"aggregator": '"fedprox"', "mu": "0.5"},
        {"aggregator": '"trimmed_mean"', "trim": "1"},
        {"aggregator": '"median"'},
        {"weights": "[1.0, 2.5, 0.1]"},
        {"weights": "[1, 2, 3]"},
        {"quorum": "2", "reason": REASON},
        {"tensors": '["a 2000000"]'},
        {"tensors": '["layer.1.weight 1000x2x1000"]'},
        {"clip_norm": "1"},
    ],
)
def test_what_may_be_agreed(parameters: dict[str, str | None]) -> None:
    Series.of(read(**parameters).computation[0])


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [
        ({"model": '"forest"'}, {"model"}),
        ({"model": None}, {"model"}),
        ({"aggregator": '"sum"'}, {"aggregator"}),
        ({"rounds": "0"}, {"rounds"}),
        ({"rounds": "1001"}, {"rounds"}),
        ({"rounds": "{ min = 1, max = 5 }"}, {"rounds"}),  # no task chooses
        ({"quorum": "4"}, {"quorum"}),
        ({"quorum": "1"}, {"quorum"}),
        ({"quorum": "2"}, {"quorum"}),
        ({"quorum": "3", "reason": REASON}, {"reason"}),
        ({"quorum": "2", "reason": '"short"'}, {"reason"}),
        ({"seconds": "0"}, {"seconds"}),
        ({"clip_norm": None}, {"clip_norm"}),
        ({"clip_norm": "0"}, {"clip_norm"}),
        ({"clip_norm": "0.0"}, {"clip_norm"}),
        ({"clip_norm": "-1.0"}, {"clip_norm"}),
        ({"clip_norm": "2e6"}, {"clip_norm"}),
        ({"clip_norm": "true"}, {"clip_norm"}),
        ({"weights": '"rows"'}, {"weights"}),  # self-declared
        ({"weights": "[1, 2]"}, {"weights"}),
        ({"weights": "[1, 2, 0]"}, {"weights"}),
        ({"weights": "[1.0, 2.0, -3.0]"}, {"weights"}),
        ({"aggregator": '"median"', "weights": "[1, 2, 3]"}, {"weights"}),
        ({"aggregator": '"fedprox"'}, {"mu"}),
        ({"mu": "0.5"}, {"mu"}),
        ({"aggregator": '"trimmed_mean"'}, {"trim"}),
        ({"aggregator": '"trimmed_mean"', "trim": "2"}, {"trim"}),
        ({"trim": "1"}, {"trim"}),
        ({"tensors": None}, {"tensors"}),
        ({"tensors": '"w 2x2"'}, {"tensors"}),
        ({"tensors": '["w 2x0"]'}, {"tensors"}),
        ({"tensors": '["w"]'}, {"tensors"}),
        ({"tensors": '["w 2x2", "w 3"]'}, {"tensors"}),
        ({"tensors": '["w 2000001"]'}, {"tensors"}),
        ({"tensors": '["w 9999999x9999999"]'}, {"tensors"}),
        ({"features": '["age"]'}, {"features"}),
        ({"epochs": "1"}, {"epochs"}),
        (LOGISTIC | {"features": None}, {"features"}),
        (LOGISTIC | {"epochs": None, "learning_rate": None}, {"epochs", "learning_rate"}),
        (LOGISTIC | {"tensors": '["w 2"]'}, {"tensors"}),
        (LOGISTIC | {"features": '["age", "patient"]'}, {"features"}),
        (LOGISTIC | {"label": '"bmi"', "features": '["age"]'}, {"label"}),
        (LOGISTIC | {"learning_rate": "0.0"}, {"learning_rate"}),
        (LOGISTIC | {"l2": "-0.1"}, {"l2"}),
        ({"solver": '"adam"'}, {"solver"}),
    ],
)
def test_what_nobody_can_sign(parameters: dict[str, str | None], wrong: set[str]) -> None:
    """R02-R04, R07: neither a weight that a party says of itself, nor fewer than three without a
    reason, nor what another aggregator or model would need."""
    assert problems(**parameters) == wrong


def test_all_of_it_is_said_at_once() -> None:
    found = problems(
        rounds="0", quorum="9", clip_norm="0", weights='"rows"', mu="1.0", tensors=None
    )
    assert found == {"rounds", "quorum", "clip_norm", "weights", "mu", "tensors"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('age = { type = "int64", min = 0, max = 120 }', 'age = "int64"'),
        ('age = { type = "int64", min = 0, max = 120 }', 'age = { type = "int64", min = 0 }'),
        (
            'age = { type = "int64", min = 0, max = 120 }',
            'age = { type = "int64", min = 5, max = 5 }',
        ),
        ("min = 0, max = 120", "min = 0, max = 99"),
    ],
)
def test_features_are_scaled_by_their_agreed_domain(old: str, new: str) -> None:
    """Scaled by its rows, each party would train another model, and tell its rows' extremes."""
    text = WORLD.policy_text(computation=computation(**LOGISTIC)).replace(old, new, 1)
    with refused(PolicyInvalid) as seen:
        Policy.parse(text.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert [p.path for p in seen.error.problems] == ["computation[0].parameters.features"]


def test_two_inputs_of_one_owner() -> None:
    """It would count twice in every round, and make a quorum of three out of two."""
    text = WORLD.policy_text(computation=computation())
    doubled = text.replace('owner = "dora-clinic"', 'owner = "bob-hospital"')
    with refused(PolicyInvalid) as seen:
        Policy.parse(doubled.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert "computation[0].inputs" in {p.path for p in seen.error.problems}


def test_a_model_has_as_many_numbers_as_its_parts() -> None:
    series = Series.of(read().computation[0])
    assert series.size == 5
    trained = Series.of(read(**LOGISTIC).computation[0])
    assert (trained.size, [t.name for t in trained.tensors]) == (3, ["coefficients", "intercept"])
    others = Series.of(read(tensors='["w 4", "b 1"]').computation[0])
    assert series.shape_digest != others.shape_digest


def test_what_a_signer_reads() -> None:
    """That no row leaves, how many parties make a round, and what their updates are cut to."""
    policy = read()
    told = " ".join(computation_sentences(policy, policy.computation[0]))
    assert "No row of its inputs is sent" in told
    assert "3 of 3 parties" in told
    whole = markdown(sections(policy))
    assert "alice-clinic sends no row of train_party_1" in whole
    assert "100,000 rows" not in whole


def test_rows_and_rounds_are_not_taken_for_each_other() -> None:
    rounds, rows = read().computation[0], Consortium.create().policy().computation[0]
    assert require_rounds(rounds).rounds == 2
    require_rows(rows)
    with refused(RowsNotAsked):
        require_rows(rounds)
    with refused(RoundsNotAgreed):
        require_rounds(rows)


def test_the_example_of_the_page_is_a_policy() -> None:
    people = 'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\n'
    inputs = '["train_party_1", "train_party_2", "train_party_3"]'
    example = block(RUN, id_="example", inputs=inputs, people=people)
    assert example in page()
    policy = Policy.parse(WORLD.policy_text(computation=example).encode(), known_roots=ROOTS)
    assert Series.of(policy.computation[0]).aggregator == "fedavg"


def test_what_people_and_programs_are_told() -> None:
    told = facts(RUN)["parameters"]
    assert told["weights"]["value"].startswith('"equal"')
    assert not any(one["task_may_choose"] for one in told.values())
    assert max(map(len, shown(RUN).split("\n"))) <= 80


def test_reasons_of_rows_that_never_come() -> None:
    text = WORLD.policy_text(computation=computation())
    given = text.replace('outputs = ["model"],', 'outputs = ["model"], reasons = "own input",')
    with refused(PolicyInvalid) as seen:
        Policy.parse(given.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert [p.path for p in seen.error.problems] == ["computation[0].release.reasons"]


@pytest.mark.parametrize(
    ("owners", "parameters", "unwise"),
    [
        (3, {}, False),
        (3, {"quorum": "2", "reason": REASON}, True),
        (4, {"quorum": "4"}, True),
        (4, {"quorum": "3"}, False),
    ],
)
def test_a_quorum_that_is_legal_and_unwise(
    owners: int, parameters: dict[str, str | None], unwise: bool
) -> None:
    found = [advice.path for advice in advices(read(owners, **parameters))]
    assert ("computation[0].parameters.quorum" in found) is unwise


def test_a_draft_of_rounds_lints_clean_once_its_blanks_are_filled(tmp_path: Path) -> None:
    desk, world = Desk(tmp_path), consortium(3, AT)
    files = [
        str(word)
        for party in world.parties.values()
        for word in ("--party-file", party.folder / "party.toml")
    ]
    draft = tmp_path / "policy.toml"
    year = instant(AT.replace(year=AT.year + 1))
    words = ("policy", "new", "--study", "s", *files, "--expires", year, "--run", RUN)
    desk.run(*words, "-o", draft)
    text = filled(draft.read_text("utf-8"))
    text = text.replace('y = "int64"', 'y = { type = "int64", min = 0, max = 1 }')
    draft.write_text(text, "utf-8")
    assert desk.json("policy", "lint", draft)["problems"] == []
