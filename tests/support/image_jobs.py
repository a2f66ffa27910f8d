"""What is asked of a server in an image: each computation to its result, and kinds of refusal.

The list of an image's files is made by watching these jobs, and held to them afterwards: what none
of them loads is not in an image. A lazy import on a path that is not here would be missing, and
end that computation or call; nothing leaves by it.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from enclave_app.access import CollectNotAuthorized, ReleaseNotAuthorized
from enclave_app.rounds import RoundNotOpen
from policy.envelope import EnvelopeMalformed
from ratls.client_stream import Result
from ratls.framing import Kind
from tests.support.enclave import LiveEnclave, NoResult, refused_by_enclave, rows
from tests.support.image_run import SECTIONS, image_world, run_in, serving
from tests.support.rounds import Rounds

ONE, TWO = "train_party_1", "train_party_2"
OUTPUT = {
    "boosted_trees": "model_weights",
    "k_means": "model_weights",
    "linear_regression": "model_weights",
    "federated": "model",
    "logistic_regression": "model_weights",
    "private_set_intersection": "intersection_size",
    "sql": "table",
    "summary_statistics": "statistics",
}


def refusals(live: LiveEnclave) -> None:
    """Calls that are refused, before and after a task is read."""
    people = live.world.consortium
    task = live.world.task(parameters={})
    for party, raw, leaf in (
        (people.bob, task, ReleaseNotAuthorized),
        (people.alice, b"{", EnvelopeMalformed),
        (people.alice, b"\xff", EnvelopeMalformed),
    ):
        with (
            refused_by_enclave(leaf),
            live.exchange(Kind.RELEASE, party, task=raw, dataset=ONE),
        ):
            pass
    with refused_by_enclave(CollectNotAuthorized):
        live.collect(people.bob, task)
    with live.exchange(Kind.ATTEST, people.carol):
        pass


def outcome(live: LiveEnclave, count: int, **columns: Any) -> dict[str, Any] | str:
    """Two releases of `count` rows, and what the recipient reads: the document, or a code."""
    people, task = live.world.consortium, live.world.task(parameters={})
    live.release(people.alice, ONE, rows(1, count, **columns), task)
    live.release(people.bob, TWO, rows(2, count, **columns), task)
    found = live.wait(people.carol, task)
    if isinstance(found, NoResult):
        return found.code
    assert isinstance(found, Result)
    document: dict[str, Any] = json.loads(live.opened(people.carol, task, found))
    return document


def of_rounds(live: LiveEnclave) -> dict[str, Any]:
    """Two rounds of two parties, and what the recipient reads."""
    rounds, carol = Rounds(live, live.world.task(parameters={})), live.world.consortium.carol
    for number in (1, 2):
        with ThreadPoolExecutor() as pool:  # each waits for the other
            parties = ("alice-clinic", "bob-hospital")
            handed = [pool.submit(rounds.bring, name, number, np.ones(4)) for name in parties]
        assert [one.result().number for one in handed] == [number, number]
    with refused_by_enclave(RoundNotOpen):
        rounds.bring("bob-hospital", 3, np.ones(4))
    found = live.collect(carol, rounds.task)
    assert isinstance(found, Result)
    document: dict[str, Any] = json.loads(live.opened(carol, rounds.task, found))
    return document


def whole_job(tree: Path, run: str, **options: Any) -> None:
    """A server for one computation: refusals, a result, and outcomes without one."""
    with serving(tree, image_world(run), **options) as live:
        refusals(live)
        if run == "federated":
            assert of_rounds(live)["model"]["round"] == 2
            return
        result = outcome(live, 400)
        assert isinstance(result, dict), result
        assert OUTPUT[run] in result
        assert isinstance(outcome(live, 2), str)  # too few persons
        huge = np.full(400, 1e308)
        assert isinstance(outcome(live, 400, bmi=huge), (str, dict))  # sums overflow


def entry_point_refuses(tree: Path) -> None:
    """The production entry point, where there is no SGX, and where it is given arguments."""
    outside = run_in(tree, "-m", "enclave_app.gramine_main")
    assert (outside.returncode, outside.stdout) == (3, ""), outside.stderr
    assert "[sgx-absent]" in outside.stderr
    assert "Traceback" not in outside.stderr
    argued = run_in(tree, "-m", "enclave_app.gramine_main", "--help")
    assert (argued.returncode, argued.stdout) == (2, ""), argued.stderr


RUNS = tuple(SECTIONS)
