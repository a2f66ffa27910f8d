"""What no policy gets, whoever reads it: each computation's declaration, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from enclave_app.computations import COMPUTATIONS
from policy.agreement import Agreement
from policy.computations import DECLARED
from policy.document import Policy, PolicyInvalid
from policy.show_computations import ComputationUnknown, block, facts, named, page
from policy.show_computations import text as shown
from tests.enclave_app.agreed import computation
from tests.support.error_page import ROOT
from tests.support.parties import ROOTS, Consortium
from tests.support.refusal import refused

COLUMNS = (
    '{ patient = "string", age = { type = "int64", min = 0, max = 120 }, '
    'bmi = { type = "float64", min = 10.0, max = 80.0 }, '
    'region = { type = "string", values = ["north", "south"] }, known = "bool", name = "string", '
    'y = "int64", gaps = "float64?", code = "int64?", day = "date32" }'
)
WORLD = Consortium.create(columns=COLUMNS)
# What each computation is given when nothing is changed: run, parameters, outputs.
GOOD: dict[str, dict[str, Any]] = {
    "logistic_regression": {
        "parameters": {"features": '["age", "bmi"]', "label": '"y"', "max_iter": "200"},
        "outputs": ["model_weights"],
        "minimum": 10,
    },
    "private_set_intersection": {
        "parameters": {"key": '"patient"'},
        "outputs": ["intersection_size"],
    },
    "linear_regression": {
        "parameters": {"features": '["bmi", "region"]', "label": '"age"', "test_share": "0.2"},
        "outputs": ["model_weights", "metrics", "counts"],
        "minimum": 10,
    },
    "k_means": {
        "parameters": {"features": '["age", "bmi"]', "clusters": "4", "max_iter": "300"},
        "outputs": ["model_weights", "counts"],
        "minimum": 10,
    },
    "boosted_trees": {
        "parameters": {
            "features": '["age", "known", "region"]',
            "label": '"y"',
            "predict": '"class"',
            "trees": "50",
            "leaves": "8",
            "bins": "64",
            "learning_rate": "0.1",
        },
        "outputs": ["model_weights"],
        "minimum": 10,
        "digits": 4,
    },
    "summary_statistics": {
        "parameters": {"columns": '["age", "gaps", "known"]', "quantiles": "[0.1, 0.5]"},
        "outputs": ["statistics", "counts"],
    },
}
MODEL, SHARED, LINE, GROUPS, TREES, SUMMARY = GOOD
CODE = "__import__('os').system('id')"


def text(run: str, **change: Any) -> str:
    """The policy with one computation; `change` replaces options, or single parameters."""
    options = GOOD[run] | {k: v for k, v in change.items() if k in ("outputs", "minimum")}
    options |= {k: v for k, v in change.items() if k in ("digits", "inputs")}
    options["run"] = change.get("name", run)
    parameters = options.pop("parameters") | change.get("parameters", {})
    said = ", ".join(f"{n} = {v}" for n, v in parameters.items() if v is not None)
    return WORLD.policy_text(computation=computation(parameters=said, **options))


def problems(run: str, **change: Any) -> list[str]:
    """The paths at which the policy is refused, below its computation."""
    with refused(PolicyInvalid) as seen:
        Policy.parse(text(run, **change).encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert all(problem.line is not None for problem in seen.error.problems)
    return [p.path.removeprefix("computation[0].") for p in seen.error.problems]


@pytest.mark.parametrize(
    ("run", "change"),
    [
        *[(run, {}) for run in GOOD],
        (MODEL, {"digits": 6}),
        (MODEL, {"inputs": ["train_party_1"]}),
        (MODEL, {"parameters": {"features": '["known"]', "label": '"age"'}}),
        (MODEL, {"parameters": {"max_iter": "{ min = 1, max = 100_000 }"}}),
        (MODEL, {"parameters": {"max_iter": "{ choose = [1, 100_000] }"}}),
        (MODEL, {"parameters": {"features": '["region", "bmi"]'}}),
        (MODEL, {"outputs": ["metrics"], "parameters": {"test_share": "0.5"}}),
        (LINE, {"outputs": ["model_weights"], "parameters": {"test_share": None}}),
        (TREES, {"parameters": {"features": '["bmi"]', "predict": '"number"'}}),
        (TREES, {"parameters": {"trees": "{ min = 1, max = 500 }"}}),
        (GROUPS, {"parameters": {"clusters": "{ choose = [2, 3, 4] }"}}),
        (SHARED, {"outputs": ["intersection_ids", "intersection_size"]}),
        (SHARED, {"parameters": {"key": '"age"'}}),
        (SUMMARY, {"parameters": {"quantiles": None}}),
        (SUMMARY, {"parameters": {"quantiles": f"{[i / 100 for i in range(1, 100)]}"}}),
    ],
)
def test_policy_that_asks_for_what_there_is(run: str, change: dict[str, Any]) -> None:
    Policy.parse(text(run, **change).encode(), known_roots=ROOTS)


@pytest.mark.parametrize(
    "name",
    ["logistic_regresion", "Logistic_Regression", "os.system", "summary_statistics.run"],
)
def test_computation_that_is_not_in_the_declared_list(name: str) -> None:
    """R01, D10: a name is looked up in a closed table, never imported."""
    assert problems(MODEL, name=name)[0] == "run"


def test_what_is_declared_is_what_is_built_in() -> None:
    assert set(DECLARED) == set(COMPUTATIONS)


@pytest.mark.parametrize("run", GOOD)
@pytest.mark.parametrize("digits", [7, 17])
def test_policy_that_asks_for_more_digits(run: str, digits: int) -> None:
    """R09, R15: a mean to seventeen digits is a fraction whose denominator is the count; a model
    to seventeen is the row of its only person with some feature."""
    assert problems(run, digits=digits) == ["release.significant_digits"]


def test_trees_have_fewer_digits() -> None:
    """Each leaf is an equation, and there are hundreds of them."""
    assert problems(TREES, digits=5) == ["release.significant_digits"]


@pytest.mark.parametrize(
    ("run", "fewest"),
    [(MODEL, 10), (LINE, 10), (GROUPS, 10), (TREES, 10), (SHARED, 3), (SUMMARY, 3)],
)
def test_policy_that_asks_about_fewer_persons_than_can_hide(run: str, fewest: int) -> None:
    """R05: mean and deviation solve two values, and a model's equations a few persons."""
    assert problems(run, minimum=fewest - 1) == ["release.min_subjects_per_input"]
    assert problems(run, minimum=1) == ["release.min_subjects_per_input"]
    Policy.parse(text(run, minimum=fewest).encode(), known_roots=ROOTS)


@pytest.mark.parametrize("run", [SHARED, SUMMARY])
def test_statistics_of_one_input_alone(run: str) -> None:
    """R09: `counts` of one input is that provider's exact number of rows, which is shown to
    nobody else; and the intersection of one input is all of it."""
    assert problems(run, inputs=["train_party_1"]) == ["inputs"]


@pytest.mark.parametrize(
    ("run", "outputs"),
    [
        (MODEL, ["model_weights", "rows"]),
        (MODEL, ["statistics"]),
        (MODEL, ["counts"]),
        (TREES, ["model_weights", "leaf_sizes"]),
        (GROUPS, ["labels"]),
        (LINE, ["residuals"]),
        (SHARED, ["ids"]),
        (SHARED, ["union_ids"]),
        (SUMMARY, ["minimum"]),
        (SUMMARY, ["statistics", "maximum"]),
        (SUMMARY, ["rows"]),
    ],
)
def test_policy_that_asks_for_another_output(run: str, outputs: list[str]) -> None:
    """R09, R18: extremes, rows, and what another computation gives."""
    assert problems(run, outputs=outputs) == ["release.outputs"]


CHOICES = [
    (MODEL, "features", '{ choose = [["age"], ["age", "bmi"]] }'),
    (MODEL, "label", '{ choose = ["y", "known"] }'),
    (MODEL, "test_share", "{ min = 0.1, max = 0.3 }"),
    (LINE, "features", '{ choose = [["bmi"], ["region"]] }'),
    (LINE, "label", '{ choose = ["age"] }'),
    (LINE, "test_share", "{ min = 0.1, max = 0.3 }"),
    (GROUPS, "features", '{ choose = [["age"], ["bmi"]] }'),
    (TREES, "features", '{ choose = [["age"], ["bmi"]] }'),
    (TREES, "label", '{ choose = ["y"] }'),
    (TREES, "predict", '{ choose = ["class", "number"] }'),
    (TREES, "learning_rate", "{ min = 0.1, max = 0.3 }"),
    (TREES, "test_share", "{ choose = [0.2, 0.2001] }"),
    (SHARED, "key", '{ choose = ["patient", "age"] }'),
    (SUMMARY, "columns", '{ choose = [["age"], ["bmi"]] }'),
    (SUMMARY, "quantiles", "{ choose = [[0.4], [0.5]] }"),
    (SUMMARY, "quantiles", "{ min = 0.1, max = 0.9 }"),
]


@pytest.mark.parametrize(("run", "name", "value"), CHOICES)
def test_task_that_chooses_which_facts_leave(run: str, name: str, value: str) -> None:
    """R07, R09: one use for each column, or for each quantile, until nothing is left to ask."""
    assert problems(run, parameters={name: value}) == [f"parameters.{name}"]


def test_nothing_but_a_number_is_ever_left_to_a_task() -> None:
    """The kind: each parameter that names columns or probabilities was tried above."""
    tried = {(run, name) for run, name, _ in CHOICES}
    rows = {r: d for r, d in DECLARED.items() if d.takes_rows}  # the others: test_rounds
    assert {(r, n) for r, d in rows.items() for n in d.parameters} - tried == {
        (MODEL, "max_iter"),
        *((GROUPS, name) for name in ("clusters", "max_iter")),
        *((TREES, name) for name in ("trees", "leaves", "bins")),
        *(("sql", name) for name in ("max_groups", "memory_mebibytes", "seconds")),
        ("sql", "statement"),  # in test_sql
    }


@pytest.mark.parametrize(
    ("run", "name", "value"),
    [
        (MODEL, "max_iter", "0"),
        (MODEL, "max_iter", "true"),
        (MODEL, "max_iter", "1e3"),
        (MODEL, "max_iter", "100_001"),
        (MODEL, "max_iter", f'"{CODE}"'),
        (MODEL, "max_iter", "{ min = 0, max = 10 }"),
        (MODEL, "max_iter", "{ min = 1, max = 1e9 }"),
        (MODEL, "max_iter", "{ choose = [10, 0] }"),
        (MODEL, "max_iter", None),
        (MODEL, "features", '"age"'),
        (MODEL, "features", '["age", "age"]'),
        (MODEL, "features", '["age", "name"]'),
        (MODEL, "features", '["age", "gaps"]'),
        (MODEL, "features", '["age", "day"]'),
        (MODEL, "features", '["age", "patient"]'),
        (MODEL, "features", '["age", "no-such"]'),
        (MODEL, "features", "[1, 2]"),
        (MODEL, "features", None),
        (MODEL, "label", '"age"'),  # a feature
        (MODEL, "label", '"bmi"'),
        (MODEL, "label", '"patient"'),
        (MODEL, "label", '"code"'),
        (MODEL, "label", '["y"]'),
        (MODEL, "solver", '"saga"'),
        (MODEL, "C", "1e9"),
        (MODEL, "test_share", "0.01"),
        (MODEL, "test_share", "0.6"),
        (MODEL, "test_share", "1"),
        (MODEL, "test_share", '"0.2"'),
        (LINE, "features", '["bmi", "name"]'),  # texts without a list
        (LINE, "features", '["bmi", "gaps"]'),
        (LINE, "features", '["patient"]'),
        (LINE, "label", '"known"'),
        (LINE, "label", '"region"'),
        (LINE, "test_share", None),  # with metrics
        (LINE, "solver", '"lsqr"'),
        (GROUPS, "features", '["age", "known"]'),
        (GROUPS, "features", '["age", "region"]'),
        (GROUPS, "features", '["age", "y"]'),  # no range
        (GROUPS, "clusters", "1"),
        (GROUPS, "clusters", "51"),
        (GROUPS, "max_iter", "0"),
        (GROUPS, "seed", "7"),
        (TREES, "features", '["age", "gaps"]'),  # no range
        (TREES, "features", '["age", "name"]'),
        (TREES, "features", '["age", "day"]'),
        (TREES, "label", '"region"'),
        (TREES, "label", '"age"'),  # a feature
        (TREES, "predict", '"both"'),
        (TREES, "trees", "501"),
        (TREES, "leaves", "33"),
        (TREES, "leaves", "1"),
        (TREES, "bins", "251"),
        (TREES, "learning_rate", "1"),
        (TREES, "learning_rate", "0.0"),
        (TREES, "thresholds", "[1.5]"),
        (SHARED, "key", '"bmi"'),  # floats are never quite equal
        (SHARED, "key", '"known"'),
        (SHARED, "key", '"code"'),  # a null is nobody
        (SHARED, "key", '"day"'),
        (SHARED, "key", '"no-such"'),
        (SHARED, "key", '["patient"]'),
        (SHARED, "key", "7"),
        (SHARED, "key", None),
        (SHARED, "where", '"age > 60"'),
        (SHARED, "join", '"outer"'),
        (SUMMARY, "columns", '"age"'),
        (SUMMARY, "columns", '["age", "age"]'),
        (SUMMARY, "columns", '["day"]'),
        (SUMMARY, "columns", '["name"]'),
        (SUMMARY, "columns", '["patient"]'),
        (SUMMARY, "columns", """["age FROM rows; COPY rows TO '/tmp/x'"]"""),
        (SUMMARY, "columns", None),
        (SUMMARY, "quantiles", "0.5"),
        (SUMMARY, "quantiles", "[0.0, 0.5]"),
        (SUMMARY, "quantiles", "[0.5, 1.0]"),
        (SUMMARY, "quantiles", "[0, 1]"),
        (SUMMARY, "quantiles", "[-0.1]"),
        (SUMMARY, "quantiles", '["0.5"]'),
        (SUMMARY, "quantiles", "[0.5, 0.5]"),
        (SUMMARY, "quantiles", "[0.5, 0.1]"),
        (SUMMARY, "quantiles", f"{[i / 101 for i in range(1, 101)]}"),
        (SUMMARY, "min", "true"),
        (SUMMARY, "statistics", '["min", "max"]'),
        (SUMMARY, "expression", f'"{CODE}"'),
    ],
)
def test_parameters_that_do_not_fit(run: str, name: str, value: str | None) -> None:
    """R02, R03, R04, R09: a value is compared with what is expected; nothing ever evaluates it.
    Extremes under another name, columns that name persons, conditions, code."""
    assert set(problems(run, parameters={name: value})) == {f"parameters.{name}"}


@pytest.mark.parametrize(
    ("run", "old", "new", "path"),
    [
        (MODEL, "bmi = {", "weight = {", "parameters.features"),
        (
            MODEL,
            'type = "float64", min = 10.0, max = 80.0',
            'type = "string"',
            "parameters.features",
        ),
        (SUMMARY, "age = {", "years = {", "parameters.columns"),
        (SHARED, 'patient = "string"', 'patient = "int64"', "parameters.key"),
        (LINE, '["north", "south"]', '["south", "north"]', "parameters.features"),
        (LINE, '["north", "south"]', '["north", "south", "west"]', "parameters.features"),
        (GROUPS, "max = 120", "max = 100", "parameters.features"),
        (TREES, "max = 120", "max = 100", "parameters.features"),
    ],
)
def test_column_that_only_one_input_has(run: str, old: str, new: str, path: str) -> None:
    """Or has in another type: the text 1 and the number 1 would never meet."""
    raw = text(run).replace(old, new, 1)
    with refused(PolicyInvalid) as seen:
        Policy.parse(raw.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert [p.path for p in seen.error.problems] == [f"computation[0].{path}"]


def test_all_of_it_is_said_at_once() -> None:
    found = problems(SUMMARY, digits=17, minimum=1, inputs=["train_party_1"], outputs=["maximum"])
    assert len(found) == 4


def test_what_no_enclave_can_run_is_said_at_once_with_line_key_and_fix() -> None:
    """A name that is nearly one is read as that one, so that the author sees all in one run."""
    raw = text(
        MODEL,
        name="logistic",
        outputs=["weights"],
        digits=17,
        parameters={"label": '"name"', "max_iter": None, "max_itr": "200"},
    )
    with refused(PolicyInvalid) as seen:
        Policy.parse(raw.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    found = {p.path.removeprefix("computation[0]."): p for p in seen.error.problems}
    assert set(found) == {
        "run", "release.outputs", "release.significant_digits", "parameters.label",
        "parameters.max_itr", "parameters.max_iter",
    }  # fmt: skip
    assert all(problem.line is not None for problem in found.values())
    del found["parameters.max_iter"]  # it is the misspelt one, which has the hint
    assert all(problem.fix for problem in found.values())
    meant = {"run": MODEL, "parameters.max_itr": "max_iter", "release.outputs": "model_weights"}
    assert {path: f"did you mean {name}?" for path, name in meant.items()} == {
        path: found[path].fix for path in meant
    }
    Policy.parse(text(MODEL).encode(), known_roots=ROOTS)


def test_hints_cost_nothing_where_there_are_many_names() -> None:
    """To compare a name with thousands of others takes seconds; then there is no hint."""
    many = ", ".join(f'c{i} = "int64"' for i in range(40))
    world = Consortium.create(columns=f'{{ patient = "string", y = "int64", {many} }}')
    raw = world.policy_text(
        computation=computation(
            MODEL, 'features = ["c4O"], label = "y", max_iter = 9', ["model_weights"], minimum=10
        )
    )
    with refused(PolicyInvalid) as seen:
        Policy.parse(raw.encode(), known_roots=ROOTS)
    assert isinstance(seen.error, PolicyInvalid)
    assert {p.fix for p in seen.error.problems if p.path.endswith("features")} == {""}


def test_the_page_is_made_from_the_declarations() -> None:
    """After a change: `make computations`."""
    assert (ROOT / "docs" / "computations.md").read_text("utf-8") == page()


@pytest.mark.parametrize("run", GOOD)
def test_each_example_of_the_page_is_a_policy(run: str) -> None:
    people = 'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\n'
    inputs = '["train_party_1", "train_party_2"]'
    example = block(run, id_="example", inputs=inputs, people=people)
    assert example in page()
    Policy.parse(WORLD.policy_text(computation=example).encode(), known_roots=ROOTS)


@pytest.mark.parametrize("run", GOOD)
def test_what_people_and_programs_are_told_of_a_computation(run: str) -> None:
    told = facts(run)
    assert set(told["parameters"]) == set(DECLARED[run].parameters)
    assert DECLARED[run].says == told["tells"]
    assert max(map(len, shown(run).split("\n"))) <= 80


def test_a_computation_that_there_is_not() -> None:
    with refused(ComputationUnknown):
        named("os.system")
    assert named(None) == tuple(DECLARED)
    assert named(MODEL) == (MODEL,)


@pytest.mark.parametrize(
    "change", [{"digits": 17}, {"minimum": 2}, {"inputs": ["train_party_1"]}, {"outputs": ["rows"]}]
)
def test_nobody_can_sign_it_and_no_enclave_reads_it(change: dict[str, Any]) -> None:
    """The kind: whoever reads an agreement reads its policy; signing, accepting, releasing and
    starting an enclave need it. So no row is ever sent for what will not leave."""
    signed = WORLD.agreement_bytes(text(SUMMARY))
    Agreement.parse(signed, ROOTS).require_complete()
    with refused(PolicyInvalid):
        Agreement.draft(text(SUMMARY, **change).encode(), ROOTS, None)
