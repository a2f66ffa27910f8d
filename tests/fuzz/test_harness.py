"""The coverage-guided harness, as far as it goes without `atheris`."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from tests.conftest import vectors_folder
from tests.fuzz.__main__ import shares
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Judge, mutator
from tests.support.refusal import count_refusal
from verifier.document import CollateralMalformed
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PARSERS = pytest.mark.parametrize("name", TARGETS)


def test_every_parser_of_foreign_bytes_is_a_target() -> None:
    demanded = {"quote", "pck-extension", "tcb-info", "qe-identity", "crl", "bundle"}
    assert demanded <= TARGETS.keys()
    assert sum(target.share for target in TARGETS.values()) == 100


@PARSERS
def test_harness_runs_each_target_on_its_seeds(name: str) -> None:
    """Simulated ones are all read; of the genuine ones, some are damaged and refused."""
    target = TARGETS[name]
    judge = Judge(target.load(), RatlsError)
    for seed in target.seeds(vectors_folder()):
        judge.run(seed)
    assert judge.finding is None
    assert judge.executions >= 2
    parse = target.load()
    for seed in target.seeds(None):
        try:
            parse(seed)
        except RatlsError as refusal:
            # The list of an authority that is not the one of this target was read all the same.
            assert (name, refusal.code) == ("crl", "crl-of-another-issuer")  # noqa: PT017


@PARSERS
def test_mutations_are_repeatable_and_fit(name: str) -> None:
    target = TARGETS[name]
    mutate = mutator(target, lambda data, size: data[:size])
    for number, seed in enumerate(target.seeds(None) * 20):
        one, two = (mutate(seed, target.max_size, number) for _ in range(2))
        assert one == two
        assert len(one) <= target.max_size


def test_exception_that_is_no_refusal_is_found() -> None:
    count_refusal()

    def parse(data: bytes) -> object:
        return data[9]

    judge = Judge(parse, RatlsError)
    judge.run(b"0123456789")
    assert judge.finding is None
    judge.run(b"short")
    assert judge.finding == "IndexError: index out of range"


def test_refusal_is_an_answer() -> None:
    count_refusal()

    def parse(data: bytes) -> object:
        raise CollateralMalformed("x", expected="y", found="z")

    judge = Judge(parse, RatlsError)
    judge.run(b"")
    assert (judge.finding, judge.executions) == (None, 1)


def test_slow_input_is_found_only_if_it_is_slow_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that others use makes any input slow once; the clock here is ours."""
    times: list[float] = []
    monkeypatch.setattr(time, "thread_time", lambda: times.pop(0))
    judge = Judge(lambda data: data, RatlsError)
    times[:] = [0, 0.2, 1, 1.2, 2, 2.001, 3, 3.2]  # slow, slow, quick, slow
    judge.run(b"")
    assert judge.finding is None
    assert round(judge.slowest_ms) == 1
    times[:] = [0, 0.2, 1, 1.2, 2, 2.06, 3, 3.2]
    judge.run(b"")
    assert judge.finding == "60 ms"


def test_executions_are_shared_out() -> None:
    parts = shares(list(TARGETS), 10_000_000)
    assert sum(parts.values()) == 10_000_000
    assert shares(["crl"], 1000) == {"crl": 1000}


def test_suite_does_not_need_the_fuzzer() -> None:
    """Its package is installed for `make fuzz` alone."""
    assert "atheris" in (ROOT / "requirements" / "fuzz.in").read_text("utf-8")
    assert "atheris" not in (ROOT / "requirements" / "dev.in").read_text("utf-8")


@pytest.mark.parametrize("name", ["quote", "tcb-info", "crl"])
def test_mutations_reach_behind_the_outer_form(name: str) -> None:
    """Some altered inputs are still read: the mutations do not just destroy."""
    count_refusal()
    rng = Random(1)  # noqa: S311
    target = TARGETS[name]
    parse, seeds = target.load(), target.seeds(None)
    codes = set()
    for _ in range(400):
        try:
            parse(target.mutate(rng, rng.choice(seeds)))
            codes.add("read")
        except RatlsError as refusal:
            codes.add(refusal.code)
    assert len(codes) >= 2
    assert name == "crl" or "read" in codes
