"""Never accepted here where `dcap-qvl` refuses, but for the divergences that are listed by name.

The short run; the long one is `python -m tests.differential`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import cast

import pytest

from tests.conftest import vectors_folder
from tests.differential import resigned
from tests.differential.bases import mutants, simulated
from tests.differential.compare import Outcome, answer_here, compare
from tests.differential.divergences import ACCEPTED_HERE, ACCEPTED_THERE, OTHER_VERDICT
from tests.differential.layout import regions
from tests.differential.mutants import OPERATORS, Base
from tests.differential.peer import Peer
from tests.differential.question import Answer, Question
from tests.differential.resigned import BUILDERS
from tests.differential.run import run
from tests.support.pages import Page
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

SHORT_RUN = 2000  # mutants, in four parts that can run side by side
SEED = 4


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer() as process:
        yield process


@pytest.mark.parametrize("part", range(4))
def test_no_mutant_is_accepted_here_alone(part: int) -> None:
    """Quotes, collateral and instants, raw and signed again; most are refused by both."""
    count_refusal()
    tally = run(count=SHORT_RUN // 4, seed=SEED + part, vectors=vectors_folder())
    assert tally.violations == []
    assert tally.outcomes[Outcome.NEITHER] > SHORT_RUN // 8
    # Both must also accept, or nothing was compared.
    assert tally.outcomes[Outcome.BOTH] > SHORT_RUN // 80


@pytest.mark.parametrize("base", simulated(), ids=lambda base: str(base.name))
def test_what_the_mutants_are_made_from_is_accepted_by_both(base: Base, peer: Peer) -> None:
    result = compare(base.question(), peer)
    assert (result.outcome, result.ours.reason) == (Outcome.BOTH, "UpToDate")


# Which builder shows which difference; each name in the table must be seen.
WITNESSES = {
    "qe-auth-data-of-any-length": resigned.qe_auth_data,
    "issued-within-the-skew": resigned.tcb_info_member,
    "svns-of-the-components": resigned.cpu_svn_unlike_the_components,
    "qe-levels-by-height": resigned.tcb_levels,
    "qe-configuration-is-outdated": resigned.statuses,
    "module-levels-by-height": resigned.tdx_modules,
    "extended-key-usage-is-no-role": resigned.pck_certificate,
    "pce-svn-of-sixteen-bits": resigned.pck_extension,
    "module-svn-of-sixteen-bits": resigned.tdx_modules,
    "advisories-of-what-runs-now": resigned.td_relaunch,
}


@pytest.mark.parametrize(
    ("name", "outcome"),
    [(d.name, Outcome.ONLY_HERE) for d in ACCEPTED_HERE]
    + [(d.name, Outcome.OTHER_VERDICT) for d in OTHER_VERDICT],
)
def test_each_listed_divergence_exists(name: str, outcome: Outcome, peer: Peer) -> None:
    """A row that no question shows would be an excuse kept for later."""
    for number in range(1500):
        result = compare(WITNESSES[name](Random(f"witness {number}")).question(), peer)  # noqa: S311
        if result.outcome is outcome and result.divergence and result.divergence.name == name:
            return
    pytest.fail(f"never seen: {name}")


def test_each_divergence_names_its_row() -> None:
    for divergence in (*ACCEPTED_HERE, *OTHER_VERDICT, *ACCEPTED_THERE):
        page, section, *_ = divergence.row.replace(",", "").split(" ")
        assert page == "dcap.md", divergence.name
        row = divergence.row.partition(", ")[2]
        known = "\n| " + row + " |" in Page.read("dcap").text if section == "6.1" else row
        assert known, divergence.name


class _Answers:
    """A peer that says the same to everything."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def ask(self, question: Question) -> None:
        pass

    def answer(self) -> Answer:
        return self._answer


def says(answer: Answer) -> Peer:
    return cast(Peer, _Answers(answer))


def test_difference_that_nobody_listed_is_a_violation() -> None:
    """The run itself must bite: a refusal there, another status there, an advisory more there."""
    count_refusal()
    question = simulated()[0].question()
    advisory = frozenset({"INTEL-SA-00001"})
    for answer, outcome in (
        (Answer(False, "Signature is invalid"), Outcome.ONLY_HERE),
        (Answer(True, "OutOfDate"), Outcome.OTHER_VERDICT),
        (Answer(True, "UpToDate", advisories=advisory), Outcome.OTHER_VERDICT),
    ):
        result = compare(question, says(answer))
        assert (result.outcome, result.divergence, result.violation) == (outcome, None, True)


def test_listed_reason_without_its_cause_is_a_violation() -> None:
    """The other verifier's text alone explains nothing; the question must hold the cause."""
    count_refusal()
    question = simulated()[0].question()
    for text in (
        "Invalid QE auth data length",
        "TCBInfo issue date is in the future",
        "No matching TCB level found",
        "RequiredEkuNotFound",
        "PceSvn length mismatch",
        "TCB status is invalid: Revoked",
    ):
        assert compare(question, says(Answer(False, text))).violation, text


def test_exception_that_is_no_refusal_is_a_violation() -> None:
    count_refusal()
    question = replace(simulated()[0].question(), quote=cast(bytes, None))
    assert answer_here(question).crashed
    assert compare(question, says(Answer(False, "refused"))).violation


def test_mutants_are_the_same_for_everybody() -> None:
    """Two numbers reproduce a finding, on any machine that has the same vectors."""
    one, two = mutants(7, None), mutants(7, None)
    assert [one.make(n) for n in range(200)] == [two.make(n) for n in reversed(range(200))][::-1]
    assert one.make(3) != mutants(8, None).make(3)


def test_every_operator_and_builder_gets_its_turn() -> None:
    source = mutants(1, None)
    made = {source.make(n).operator for n in range(2500)}
    missing = {f.__name__ for f in (*OPERATORS, *BUILDERS)} - made
    assert missing == set()


@pytest.mark.parametrize("base", simulated(), ids=lambda base: str(base.name))
def test_regions_cover_a_quote_without_gap(base: Base) -> None:
    """A field that no mutant hits is a check that no mutant reaches."""
    found = regions(base.quote)
    assert found[0].start == 0
    assert found[-1].end == len(base.quote)
    assert all(a.end == b.start for a, b in pairwise(found))
