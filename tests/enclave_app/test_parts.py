"""M13: an image without a part that the policy needs says so before any row comes."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

import pytest

from enclave_app.computations import COMPUTATIONS, PartNotInImage, require_parts
from ratls.image.locks import ALWAYS, parse_files
from tests.enclave_app.agreed import computation
from tests.support.parties import Consortium
from tests.support.refusal import refused

LISTED = Path(__file__).parents[2] / "manifests/gramine/files.txt"
POLICIES = {
    "boosted_trees": (
        'features = ["age"], label = "bmi", predict = "number", trees = 5, leaves = 4, bins = 20, '
        "learning_rate = 0.3",
        "model_weights",
    ),
    "linear_regression": ('features = ["age"], label = "y"', "model_weights"),
    "logistic_regression": ('features = ["age"], label = "y", max_iter = 50', "model_weights"),
    "private_set_intersection": ('key = "patient"', "intersection_size"),
    "sql": (
        'statement = "SELECT a.age, count(*) AS n FROM train_party_1 AS a JOIN train_party_2 AS b '
        'USING (patient) GROUP BY a.age ORDER BY a.age", max_groups = 9, memory_mebibytes = 64, '
        "seconds = 9",
        "table",
    ),
    "summary_statistics": ('columns = ["age"]', "statistics"),
}


def optional(run: str) -> set[str]:
    """The packages that an image has for this computation, and that others lack."""
    found = set()
    for file in parse_files(LISTED.read_bytes()):
        place = PurePosixPath(file.path)
        if run in file.uses and ALWAYS not in file.uses and place.name == "__init__.py":
            found.add(place.parent.as_posix().replace("/", "."))
    return {n for n in found if n.rpartition(".")[0] not in found and "usr." not in n}


# An image has all packages of a computation or none: some of them stand for all.
PARTS = [(run, part) for run, code in COMPUTATIONS.items() for part in code.parts]


def test_parts_that_only_some_images_have() -> None:
    assert {part for _, part in PARTS} >= {"duckdb", "highspy", "numpy.ma", "sklearn"}


@pytest.mark.parametrize("run", COMPUTATIONS)
def test_computation_with_packages_of_its_own_names_some(run: str) -> None:
    named = set(COMPUTATIONS[run].parts)
    assert named <= optional(run)
    assert bool(named) == bool(optional(run))


@pytest.mark.parametrize(("run", "part"), PARTS)
def test_policy_names_a_computation_that_the_image_lacks(
    monkeypatch: pytest.MonkeyPatch, run: str, part: str
) -> None:
    """It names the computation and the part, and its fix is the command that builds the image."""
    parameters, output = POLICIES[run]
    policy = Consortium.create().policy(
        computation=computation(run, parameters, [output], minimum=10, digits=4)
    )
    with monkeypatch.context() as without:
        without.setitem(sys.modules, part, None)
        with refused(PartNotInImage) as seen:
            require_parts(policy)
    assert "'train'" in seen.error.thing
    assert run in seen.error.thing
    assert part in seen.error.expected
    assert f"--computations {run}" in seen.error.fix
    require_parts(policy)


@pytest.mark.parametrize("part", sorted(set().union(*map(optional, COMPUTATIONS))))
def test_image_lacks_what_no_computation_of_the_policy_needs(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    parameters, output = POLICIES["private_set_intersection"]
    section = computation("private_set_intersection", parameters, [output])
    policy = Consortium.create().policy(computation=section)
    monkeypatch.setitem(sys.modules, part, None)
    require_parts(policy)
