"""What people keep can be held against what was signed (R13, S26).

A `model.json` changed by hand passed with its receipt, which named the digest of a ciphertext that
nobody keeps. A provider could not say which rows its acknowledgement is about.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provider.collect
from policy.envelope import EnvelopeMalformed
from policy.receipt import Receipt, ResultDiffers, indented, is_document, result_digest, salted
from policy.record import Record
from provider.cli_provider import provider as provider_app
from provider.errors import AcknowledgementMismatch
from provider.source_check import ReleaseUnclear, SourceDiffers
from ratls.cli_verify import app
from ratls.client_stream import Pending
from tests.provider.desk import CANARY, Desk
from tests.support.documents import contents
from tests.support.enclave import EnclaveWorld
from tests.support.refusal import refused
from tests.support.typed import typed
from tests.support.waiting import HANG_LIMIT
from verifier.files import FileUnreadable


@dataclass
class Done:
    """A whole job: two providers released, Carol has collected, the enclave is gone."""

    world: EnclaveWorld
    alice: Desk
    bob: Desk
    carol: Desk
    task: bytes
    received: Any  # Result and fresh evidence, as Carol's client had them

    @property
    def outputs(self) -> provider.collect.Outputs:
        folder = self.carol.folder
        return provider.collect.Outputs(
            *(folder / f"model{end}" for end in (".json", ".receipt.json", ".record.json"))
        )

    def copy(self, folder: Path) -> Path:
        """Carol's three files at another place; the result among them."""
        for path in (self.outputs.result, self.outputs.receipt, self.outputs.record):
            shutil.copy(path, folder / path.name)
        return folder / "model.json"

    def verify(self, file: Path, *more: str, status: int = 0) -> dict[str, Any]:
        agreed = self.carol.folder / "agreed.json"
        agreed.write_bytes(self.world.complete.agreement.encode())
        words = ["receipt", str(file), "--agreement", str(agreed)]
        words += ["--party", str(self.carol.party.folder), "--allow-simulation", "--json", *more]
        return answer(app, words, status)


def answer(of: Any, words: list[str], status: int) -> dict[str, Any]:
    result = typed(of, words, status)
    assert CANARY not in result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    world, folder = EnclaveWorld.create(), tmp_path_factory.mktemp("job")
    asked = provider.collect._ask
    seen: list[Any] = []

    def ask(*arguments: Any) -> Any:
        seen.append(asked(*arguments))
        return seen[-1]

    with world.running() as live, pytest.MonkeyPatch.context() as patch:
        alice, bob, carol = (
            Desk.of(w, world, folder, live.address) for w in ("alice", "bob", "carol")
        )
        task = world.task()
        alice.push(task)
        bob.push(task)
        patch.setattr(provider.collect, "_ask", ask)
        job = Done(world, alice, bob, carol, task, None)
        provider.collect.collect(carol.request(task), job.outputs, wait=HANG_LIMIT)
        assert not isinstance(seen[-1], Pending)
        yield replace(job, received=seen[-1])


# The result and its receipt.


def test_the_result_that_came_with_its_receipt(done: Done) -> None:
    """Found beside it; checked first; and the file is one that a person can read."""
    told = done.verify(done.outputs.result)
    assert (told["verdict"], told["result"], told["document"]) == ("accepted", True, "receipt")
    assert told["checks"][0] == {"check": "result", "outcome": "passed", "detail": ""}
    text = done.outputs.result.read_text("utf-8")
    assert text.startswith('{\n  "computation": "train",\n')
    assert text == text.rstrip() + "\n"


def test_a_receipt_alone_says_that_it_is_alone(done: Done) -> None:
    told = done.verify(done.outputs.receipt, "--record", str(done.outputs.record))
    assert (told["verdict"], told["result"]) == ("accepted", False)


Change = Callable[[str], str]
CHANGES: dict[str, Change] = {
    "one digit of a weight": lambda text: re.sub(
        r"\.(\d)", lambda digit: f".{9 - int(digit[1])}", text, count=1
    ),
    "every weight": lambda text: text.replace("0.", "1."),
    "a name": lambda text: text.replace('"age"', '"aga"'),
    "another run": lambda text: text.replace("logistic_regression", "linear_regression"),
    "a member more": lambda text: text.replace("{\n", '{\n  "note": "approved",\n', 1),
    "no salt": lambda text: "\n".join(line for line in text.splitlines() if '"salt"' not in line),
    "weights swapped": lambda text: json.dumps(
        {k: ({**v, "features": v["features"][::-1]} if isinstance(v, dict) else v)
         for k, v in json.loads(text).items()}
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_model_is_changed_by_hand(done: Done, tmp_path: Path, change: Change) -> None:
    """Receipt and record are genuine and untouched."""
    file = done.copy(tmp_path)
    text = change(file.read_text("utf-8"))
    assert text != file.read_text("utf-8")
    file.write_text(text, "utf-8")
    told = done.verify(file, status=4)
    assert (told["error"]["code"], told["error"]["check"]) == (ResultDiffers.code, "result")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": NaN}', "", "{", '{"a": 1} {"b": 2}', "\xff", "1" * 30]
)
def test_a_file_that_two_programs_read_differently(done: Done, tmp_path: Path, text: str) -> None:
    """Or that none reads: unusable, and no verdict on it."""
    file = done.copy(tmp_path)
    file.write_bytes(text.encode("latin-1"))
    told = done.verify(file, status=3)
    assert (told["error"]["code"], told["error"]["check"]) == (EnvelopeMalformed.code, "result")


@pytest.mark.parametrize("text", ["[]", "1", "null", "{}"])
def test_a_file_that_holds_something_else(done: Done, tmp_path: Path, text: str) -> None:
    file = done.copy(tmp_path)
    file.write_text(text, "utf-8")
    assert done.verify(file, status=4)["error"]["code"] == ResultDiffers.code


def test_the_layout_of_the_file_is_free(done: Done, tmp_path: Path) -> None:
    """The twin: the same result, as other programs write JSON, and as it was sealed."""
    file = done.copy(tmp_path)
    value = json.loads(file.read_text("utf-8"))
    for text in (
        json.dumps(value),
        json.dumps(value, indent="\t", sort_keys=True),
        json.dumps(dict(reversed(value.items())), separators=(",", ":")),
        json.dumps(value) + " " * 5000,
    ):
        file.write_text(text, "utf-8")
        assert done.verify(file)["result"] is True


def test_the_result_of_another_task(done: Done, tmp_path: Path) -> None:
    """R13: a genuine result with a genuine receipt, of the same enclave, but not its own."""
    file = done.copy(tmp_path)
    other = Receipt.open(done.outputs.receipt.read_bytes())
    value = json.loads(file.read_text("utf-8")) | {"salt": "00" * 32}
    file.write_text(json.dumps(value), "utf-8")
    with refused(ResultDiffers):
        other.require_result(file.read_bytes())
    assert done.verify(file, status=4)["error"]["code"] == ResultDiffers.code


def test_a_result_without_its_receipt(done: Done, tmp_path: Path) -> None:
    file = done.copy(tmp_path)
    (tmp_path / "model.receipt.json").rename(tmp_path / "kept.json")
    assert done.verify(file, status=3)["error"]["code"] == FileUnreadable.code
    assert done.verify(file, "--receipt", str(tmp_path / "kept.json"))["result"] is True


def test_what_the_enclave_sealed_is_not_what_its_receipt_names(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Refused while it is collected: nothing is written."""
    receipt = Receipt.open(done.received[0].receipt)
    forged = receipt.model_copy(update={"result_digest": bytes(32)})
    monkeypatch.setattr(provider.collect, "_ask", lambda *_: done.received)
    monkeypatch.setattr(provider.collect, "check_receipt", lambda *_: forged)
    outputs = provider.collect.Outputs(*(tmp_path / n for n in ("a", "b", "c")))
    with done.carol.refuses(ResultDiffers):
        provider.collect.collect(done.carol.request(done.task), outputs)
    assert list(tmp_path.iterdir()) == []


def test_raw_bytes_are_the_sealed_ones(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--raw`: padding included; the same result, held against the same receipt."""
    monkeypatch.setattr(provider.collect, "_ask", lambda *_: done.received)
    outputs = provider.collect.Outputs(
        *(tmp_path / f"raw{end}" for end in (".json", ".receipt.json", ".record.json"))
    )
    provider.collect.collect(done.carol.request(done.task), outputs, raw=True)
    raw = outputs.result.read_bytes()
    assert len(raw).bit_count() == 1
    assert indented(raw) == done.outputs.result.read_bytes()
    assert done.verify(outputs.result)["result"] is True


def test_the_receipt_alone_does_not_let_anybody_guess_the_result(done: Done) -> None:
    """A count between 1 and 1000 would be found in no time; 32 random bytes are in the digest."""
    value = json.loads(done.outputs.result.read_text("utf-8"))
    assert len(bytes.fromhex(value["salt"])) == 32
    receipt, record = (p.read_bytes() for p in (done.outputs.receipt, done.outputs.record))
    kept = receipt + Receipt.open(receipt).payload + contents(Record, record).payload
    assert value["salt"].encode() not in kept


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=5).filter("payloadType".__ne__), JSON, max_size=5))
def test_one_result_has_one_digest_in_every_layout(value: dict[str, Any]) -> None:
    document = salted(json.dumps(value).encode(), bytes(32))
    assert result_digest(document) == result_digest(indented(document).ljust(4096))
    assert not is_document(document)
    assert result_digest(document) != result_digest(salted(json.dumps(value).encode(), b"s" * 32))


# The acknowledgement and its source.


def held(desk: Desk, source: Path, *more: str, status: int = 0) -> dict[str, Any]:
    words = ["journal", "verify", "--state", str(desk.state), "--source", str(source), "--json"]
    return answer(provider_app, [*words, *more], status)


def test_alice_holds_her_acknowledgement_against_her_source(done: Done) -> None:
    told = held(done.alice, done.alice.path)
    assert (told["dataset"], told["rows"]) == ("train_party_1", 60)
    assert "head" in told


def other_value(table: Any) -> Any:
    ages = table["age"].to_pylist()
    column = table.schema.get_field_index("age")
    return table.set_column(column, table.schema.field(column), pa.array([ages[0] + 1, *ages[1:]]))


SOURCES: dict[str, Callable[[Any], Any]] = {
    "another value": other_value,
    "a row less": lambda table: table.slice(1),
    "another order": lambda table: table.take(list(reversed(range(table.num_rows)))),
}


@pytest.mark.parametrize("change", SOURCES.values(), ids=SOURCES)
def test_the_source_is_not_what_was_released(
    done: Done, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(change(pq.read_table(done.alice.path)), file)
    assert held(done.alice, file, status=4)["error"]["code"] == SourceDiffers.code


@pytest.mark.parametrize("name", ["attempt.json", "acknowledgement.json"])
def test_the_kept_files_are_of_another_release(done: Done, name: str) -> None:
    """Bob's salt with Alice's journal: the digests in the journal say which files are meant."""
    (mine,) = done.alice.state.glob(f"releases/*/*/{name}")
    (his,) = done.bob.state.glob(f"releases/*/*/{name}")
    kept = mine.read_bytes()
    mine.write_bytes(his.read_bytes())
    told = held(done.alice, done.alice.path, status=4)
    assert told["error"]["code"] == AcknowledgementMismatch.code
    mine.write_bytes(kept)
    held(done.alice, done.alice.path)


def test_a_release_that_is_not_there(done: Done) -> None:
    more = ("--task", "sha256:" + "0" * 64)
    assert (
        held(done.alice, done.alice.path, *more, status=3)["error"]["code"] == ReleaseUnclear.code
    )
    typed(provider_app, ["journal", "verify", "--state", done.alice.state, *more], status=2)
