"""R20: what depends on rows leaves beside the gate: by a code, a log line, a size or a time.

A recipient that knows nine members of an input asks for the mean of a yes-or-no column: one code
for "nobody has it", another for "one has it", and the tenth member's cell is told. The host, which
is trusted with nothing, would read the same on stderr.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app import application
from enclave_app.compute import compute, denied
from enclave_app.gate import ReleaseDenied
from enclave_app.intake import Intake, RowsNotAsDeclared
from enclave_app.limits import Limits
from enclave_app.serving import serve
from enclave_app.session import Denied, Released
from policy.receipt import Receipt
from policy.seal import open_result, result_info
from ratls.client_stream import Pending, Result
from ratls.flight_server import ServerFailed
from tests.enclave_app.agreed import Agreed, computation
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"
K = 5


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Seen(NamedTuple):
    """One task, from outside: equal, or somebody can tell two tasks apart."""

    log: list[dict[str, Any]]
    answers: list[str]
    ciphertext: int
    receipt: dict[str, int]


@pytest.fixture(scope="module")
def study() -> EnclaveWorld:
    section = computation("summary_statistics", 'columns = ["y"]', ["statistics"], minimum=K)
    return EnclaveWorld.create(computation=section)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(study: EnclaveWorld, clock: Clock) -> Iterator[LiveEnclave]:
    """The buckets that an enclave has; one second passes in no time."""
    with study.running(limits=Limits(), seconds=clock) as running:
        running.compute_at_once()
        yield running


def carriers(count: int, seed: int = 1) -> pa.Table:
    """Sixty persons, of whom so many have it."""
    return rows(seed, y=[1] * count + [0] * (60 - count))


def run(live: LiveEnclave, clock: Clock, one: pa.Table) -> tuple[Seen, dict[str, Any]]:
    """A task over these rows and 30 carriers of Bob's: what is seen of it, and what Carol reads."""
    people, task = live.world.consortium, live.world.task(parameters={})
    before, began = len(live.log), clock.now
    live.release(people.bob, TWO, carriers(30, 2), task)
    live.release(people.alice, ONE, one, task)
    answers = []
    for passed in (0.0, 0.5, 0.999, 1.0):
        clock.now = began + passed
        live.enclave.sweep()
        answers.append(type(live.collect(people.carol, task)).__name__)
    result = live.collect(people.carol, task)
    assert isinstance(result, Result)
    private = {"id", "timestamp", "task_digest"}
    log = [{k: v for k, v in entry.items() if k not in private} for entry in live.log[before:]]
    # Without the evidence, in which signatures have a byte more or less.
    receipt = {n: len(v) for n, v in Receipt.open(result.receipt) if n != "evidence"}
    document = json.loads(live.opened(people.carol, task, result))
    assert len(document.pop("salt")) == 64  # another one each time
    return Seen(log, answers, len(result.ciphertext), receipt), document


def test_how_many_carriers_is_told_to_nobody(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20: nobody has it, one has it, one too few have it: three answers once, now one. That k have
    it is a result, which looks the same on its way."""
    count_refusal()
    seen, read = {}, {}
    for count, seconds in ((0, 0.001), (1, 0.3), (K - 1, 0.7), (K, 0.999)):
        monkeypatch.setattr(application, "compute", taking(seconds, clock))
        seen[count], read[count] = run(live, clock, carriers(count))
    assert seen[0] == seen[1] == seen[K - 1] == seen[K]
    assert read[0] == read[1] == read[K - 1]
    assert read[0]["code"] == ReleaseDenied.code
    assert read[K]["statistics"]["y"]["mean"] > 0
    assert seen[K].answers == ["Pending", "Pending", "Pending", "Result"]
    computed = [e for e in seen[K].log if e["event"] == "computed"]
    assert computed == [{"event": "computed", "level": "info", "mode": "simulation", "party": None}]


def taking(seconds: float, clock: Clock) -> Callable[..., Any]:
    """A computation that takes so long."""

    def slow(*arguments: Any) -> Any:
        try:
            return compute(*arguments)
        finally:
            clock.now += seconds

    return slow


def test_a_longer_computation_waits_for_a_longer_bucket(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20: 1.2 seconds for one column and 4 for another are both ten."""
    people = live.world.consortium
    for seconds in (1.2, 4.0, 9.9):
        task, began = live.world.task(parameters={}), clock.now
        monkeypatch.setattr(application, "compute", taking(seconds, clock))
        live.release(people.bob, TWO, carriers(30, 2), task)
        live.release(people.alice, ONE, carriers(30), task)
        clock.now = began + 9.999
        assert live.collect(people.carol, task) == Pending(())
        clock.now = began + 10.0
        assert isinstance(live.collect(people.carol, task), Result)


@given(st.floats(0, 10**6))
def test_every_time_ends_with_a_bucket(elapsed: float) -> None:
    """Few times, whatever a computation took, and never one before its end."""
    limits = Limits()
    padded = limits.padded(elapsed)
    assert padded >= elapsed
    assert padded in limits.buckets or padded % limits.buckets[-1] == 0


# Every way in which a computation ends without a result, in every computation.

STATISTICS = ("summary_statistics", 'columns = ["bmi"]', ["statistics"])
QUANTILES = (
    "summary_statistics",
    'columns = ["bmi"], quantiles = [0.5]',
    ["statistics", "counts"],
)
MODEL = (
    "logistic_regression",
    'features = ["age", "bmi"], label = "y", max_iter = 500',
    ["model_weights"],
)
IDS = ("private_set_intersection", 'key = "patient"', ["intersection_ids"])
SHARED = rows(2)["patient"]

WAYS = {
    "few persons": (STATISTICS, rows(1, patient=["one"] * 60)),
    "a constant column": (STATISTICS, rows(1, bmi=[25.0] * 60)),
    "a rare value": (STATISTICS, rows(1, bmi=[25.0] * 59 + [26.0])),
    "one person dominates": (STATISTICS, rows(1, bmi=[25.0, 26.0] * 29 + [25.5, 1e6])),
    "too large to square": (STATISTICS, rows(1, bmi=[1e300, -1e300] * 30)),
    "a quantile between the inputs": (QUANTILES, rows(1, bmi=[1000.0 + i for i in range(60)])),
    "one class": (MODEL, rows(1, y=[3] * 60)),
    "an empty intersection": (IDS, rows(1)),
    "a small intersection": (
        IDS,
        rows(1, patient=[*SHARED.to_pylist()[:1], *"abcdefghij" * 6][:60]),
    ),
}
HONEST = {
    "statistics": (STATISTICS, rows(1)),
    "a model": (MODEL, rows(1)),
    "ids": (IDS, rows(1, patient=SHARED)),
}


def outcome(agreed: Agreed, one: pa.Table) -> tuple[Released, Released | Denied]:
    """As it leaves, and as it was computed."""
    task = agreed.task
    found = compute(agreed.policy, task, [one, rows(2)])
    sealed = denied(agreed.policy, task) if isinstance(found, Denied) else found
    info = result_info(task.digest, agreed.policy.digest, "carol-lab")
    opened = open_result(sealed.ciphertexts["carol-lab"], agreed.consortium.carol.encryption, info)
    assert ("code" in json.loads(opened)) is isinstance(found, Denied)
    return sealed, found


@pytest.mark.parametrize("way", WAYS)
def test_no_denial_can_be_told_from_another_or_from_a_result(way: str) -> None:
    """The kind: whatever ends a computation, and in whichever of them."""
    count_refusal()
    section, bad = WAYS[way]
    honest = next(one for of, one in HONEST.values() if of[0] == section[0])
    agreed = Agreed.on(section[0], section[1], section[2], minimum=2 * K)
    sealed, found = outcome(agreed, bad)
    assert isinstance(found, Denied)
    twin, released = outcome(agreed, honest)
    assert isinstance(released, Released)
    assert len(sealed.ciphertexts["carol-lab"]) == len(twin.ciphertexts["carol-lab"])


@pytest.mark.parametrize("way", HONEST)
def test_what_may_leave_still_does(way: str) -> None:
    section, one = HONEST[way]
    _, found = outcome(Agreed.on(section[0], section[1], section[2], minimum=2 * K), one)
    assert isinstance(found, Released)


def test_a_list_of_ids_has_one_length(study: EnclaveWorld) -> None:
    """R15: how many persons two clinics share, the host would read off the ciphertext."""
    agreed = Agreed.on(*IDS, minimum=K)
    sizes = set()
    for shared in (2 * K, 60, 5000):
        patients = [f"p{i:05}" for i in range(shared)]
        extra = [f"a{i}" for i in range(60)], [f"b{i}" for i in range(60)]
        task = agreed.task
        tables = [rows(9, shared + 60, patient=patients + more) for more in extra]
        found = compute(agreed.policy, task, tables)
        assert isinstance(found, Released)
        sizes.add(len(found.ciphertexts["carol-lab"]))
    assert len(sizes) == 1


# What goes wrong without anybody having foreseen it.


class Stopped(BaseException):
    """Not an Exception: what `except Exception` lets pass."""


@pytest.mark.parametrize("bug", [ValueError, MemoryError, SystemExit, KeyboardInterrupt, Stopped])
def test_a_bug_in_a_computation_says_nothing(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch, bug: type[BaseException]
) -> None:
    """Which line of the code rows end in is a fact about rows. The next task is computed."""
    count_refusal()

    def broken(*_: Any) -> Any:
        raise bug("CANARY: patient 17 has it")

    honest, _ = run(live, clock, carriers(30))
    with monkeypatch.context() as patched:
        patched.setattr(application, "compute", broken)
        seen, read = run(live, clock, carriers(30))
    assert seen == honest
    assert read["code"] == ReleaseDenied.code
    assert "CANARY" not in live.stream.getvalue()
    assert run(live, clock, carriers(30))[0] == honest


def test_no_memory_is_left_to_seal_a_denial(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A computation took it all. The denial was made before, so that the task still ends."""
    count_refusal()
    honest, _ = run(live, clock, carriers(30))
    made, seal = [], application.denied

    def exhausted(*arguments: Any) -> Any:
        if made:
            raise MemoryError
        return seal(*arguments)

    def greedy(*_: Any) -> Any:
        made.append(True)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(application, "denied", exhausted)
        patched.setattr(application, "compute", greedy)
        seen, read = run(live, clock, carriers(30))
    assert (seen, read["code"]) == (honest, ReleaseDenied.code)
    assert run(live, clock, carriers(30))[0] == honest


@pytest.mark.parametrize("bug", [ValueError, SystemExit, KeyboardInterrupt, Stopped])
def test_a_bug_in_a_handler_says_nothing(
    live: LiveEnclave, monkeypatch: pytest.MonkeyPatch, bug: type[BaseException]
) -> None:
    """F16, L01: what is no `Exception` reached the peer with its text and a traceback."""
    alice, task = live.world.consortium.alice, live.world.task(parameters={})

    def broken(*_: Any) -> Any:
        raise bug("CANARY: patient 17 has it")

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "add", broken)
        with refused_by_enclave(ServerFailed):
            live.release(alice, ONE, carriers(30), task)
    assert "CANARY" not in live.stream.getvalue()
    assert live.log[-1]["bug"].startswith(f"{bug.__name__} at ")
    live.release(alice, ONE, carriers(30), task)


@pytest.mark.parametrize(
    "column",
    [
        {"bmi": [float("nan")] + [25.0] * 59},
        {"bmi": [float("inf")] + [25.0] * 59},
        {"patient": [None] + ["p"] * 59},
        {"age": [None] + [50] * 59},
    ],
)
def test_which_rule_a_cell_broke_stays_inside(live: LiveEnclave, column: dict[str, Any]) -> None:
    """R20: the codes of refused values stood in the host's log, one for each rule."""
    table = pa.table({**{n: rows(1)[n] for n in rows(1).column_names}, **column})
    schema = rows(1).schema
    batch = pa.RecordBatch.from_arrays(
        [table.column(f.name).combine_chunks().cast(f.type) for f in schema], schema=schema
    )
    alice, task = live.world.consortium.alice, live.world.task(parameters={})
    with refused_by_enclave(RowsNotAsDeclared):
        live.release(alice, ONE, pa.Table.from_batches([batch]), task)
    assert live.log[-1]["code"] == RowsNotAsDeclared.code
    live.release(alice, ONE, carriers(30), task)


def test_a_library_that_warns_of_rows_is_not_heard(tmp_path: Path) -> None:
    """numpy says on stderr in which line a value overflowed; scipy that it did not converge."""

    def absent() -> Any:
        raise FileNotFoundError

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        warnings.warn("twin", RuntimeWarning, stacklevel=1)
        with pytest.raises(FileNotFoundError):
            serve(agreement=tmp_path, listen="", attester=absent, roots=frozenset(), ready=print)
        warnings.warn("CANARY: patient 17 has it", RuntimeWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["twin"]
