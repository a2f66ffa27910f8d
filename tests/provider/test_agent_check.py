"""The agent's profile is tried before the day: what would be refused, and of every file at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provider.agent_check import Tried, try_all, unready
from provider.agent_config import AgentConfig
from provider.cli_provider import provider
from tests.provider.agents import ENCLAVE, STUDY, configure
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import NOW, EnclaveWorld, rows
from tests.support.refusal import count_refusal
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process

pytestmark = pytest.mark.slow


@pytest.fixture
def queue(world: EnclaveWorld, tmp_path: Path) -> Iterator[LiveScheduler]:
    with running_scheduler(tmp_path / "scheduler", [world.complete]) as live:
        yield live


def profile(desk: Desk, queue: LiveScheduler, **options: Any) -> Path:
    (desk.folder / "scheduler.crt").write_bytes(queue.certificate.cert_pem)
    return configure(desk, str(queue.address), **options)


def tried(config: Path, *, allow: bool = True, days: int = 0) -> dict[str, Tried]:
    found = try_all(
        AgentConfig.read(config),
        allow_simulation=allow,
        timeout=HANG_LIMIT,
        clock=lambda: NOW + timedelta(days=days),
    )
    return {each.what.partition(" at ")[0]: each for each in found}


def wrong(found: dict[str, Tried]) -> dict[str, str]:
    return {what: each.refusal.code for what, each in found.items() if each.refusal is not None}


EVERYTHING = {
    "keys of alice-clinic",
    "agreement of " + STUDY,
    "dataset train_party_1",
    "enclave " + ENCLAVE,
}


def test_a_profile_in_which_everything_works(alice: Desk, queue: LiveScheduler) -> None:
    """All rows are read, the enclave proves itself, the scheduler lets this party in."""
    found = tried(profile(alice, queue))
    assert wrong(found) == {}
    assert set(found) == EVERYTHING | {f"scheduler {queue.address}"}
    assert "60 rows of 60 persons" in str(found["dataset train_party_1"])
    assert "proved itself" in str(found[f"enclave {ENCLAVE}"])
    assert alice.journal == []


def test_everything_that_is_wrong_at_once(alice: Desk, queue: LiveScheduler) -> None:
    count_refusal()
    config = profile(alice, queue)
    alice.write(rows(1, patient=[f"{CANARY}-{i}" for i in range(60)], age=pa.array([300] * 60)))
    (alice.folder / "collateral.json").write_text("{}")
    (alice.folder / "scheduler.crt").write_bytes((alice.party.folder / "channel.crt").read_bytes())
    found = tried(config)
    assert set(wrong(found)) == {
        f"scheduler {queue.address}",
        "dataset train_party_1",
        f"enclave {ENCLAVE}",
    }
    (fault,) = found["dataset train_party_1"].faults
    assert (fault.code, fault.column, fault.count) == ("value-outside-domain", "age", 60)
    assert CANARY not in "\n".join(map(str, found.values()))


CHANGES = [
    ('id = "train_party_1"', 'id = "train_party_2"', "dataset train_party_2", "dataset-not-owned"),
    ('id = "train_party_1"', 'id = "train_party_9"', "dataset train_party_9", "dataset-unclear"),
    ('path = "rows.parquet"', 'path = "no.parquet"', "dataset train_party_1", "source-unreadable"),
    (f'name = "{ENCLAVE}"', 'name = "another"', "enclaves", "enclave-not-configured"),
    ('collateral = "coll', 'collateral = "no-coll', f"enclave {ENCLAVE}", "file-unreadable"),
]


@pytest.mark.parametrize(("old", "new", "what", "code"), CHANGES)
def test_one_thing_is_wrong(
    alice: Desk, queue: LiveScheduler, old: str, new: str, what: str, code: str
) -> None:
    """Also as the agent starts, without a row read or anybody asked."""
    count_refusal()
    config = profile(alice, queue, replace=((old, new),))
    assert wrong(tried(config))[what] == code
    at_once = unready(AgentConfig.read(config), alice.world.policy, "alice-clinic")
    assert wrong({each.what: each for each in at_once})[what] == code
    good = unready(AgentConfig.read(profile(alice, queue)), alice.world.policy, "alice-clinic")
    assert good == []


def test_a_dataset_of_ours_without_a_source(alice: Desk, queue: LiveScheduler) -> None:
    count_refusal()
    config = profile(alice, queue, replace=(('id = "train_party_1"', 'id = "train_party_2"'),))
    assert wrong(tried(config))["dataset train_party_1"] == "dataset-not-configured"


def test_an_agreement_that_would_not_do(alice: Desk, queue: LiveScheduler, tmp_path: Path) -> None:
    count_refusal()
    config = profile(alice, queue)
    assert wrong(tried(config, allow=False)) == {"agreement of " + STUDY: "simulation-not-allowed"}
    assert wrong(tried(config, days=31))["agreement of " + STUDY] == "policy-expired"
    empty = profile(alice, queue, replace=(('state = "state"', 'state = "none"'),))
    assert wrong(tried(empty)) == {"agreement of " + STUDY: "state-missing"}


def test_an_enclave_that_is_not_there(alice: Desk, queue: LiveScheduler) -> None:
    count_refusal()
    config = profile(alice, queue, replace=((str(alice.address), "127.0.0.1:1"),))
    assert wrong(tried(config)) == {f"enclave {ENCLAVE}": "peer-unreachable"}


def test_check_on_the_command_line(alice: Desk, queue: LiveScheduler) -> None:
    config = profile(alice, queue)
    words = ["agent", "--config", str(config), "--check", "--allow-simulation"]
    done = CliRunner().invoke(provider, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("ok     ") == 5
    assert "nothing would be refused now" in done.stderr
    (alice.folder / "passphrase").write_text("another\n")
    alice.write(rows(1, age=pa.array([300] * 60)))
    bad = CliRunner().invoke(provider, [*words, "--json"])
    count_refusal()
    assert bad.exit_code != 0
    told = {line["what"]: line for line in map(json.loads, bad.stdout.splitlines())}
    assert told["keys of alice-clinic"]["error"] is not None
    assert told["dataset train_party_1"]["faults"][0]["rows"] == 60


def test_an_agent_over_a_wrong_file_says_so_as_it_starts(
    alice: Desk, queue: LiveScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on: the file may be right by the time a task comes."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("provider.agent.attend", stopped)
    config = profile(alice, queue)
    words = ["agent", "--config", str(config), "--allow-simulation"]
    good = CliRunner().invoke(provider, [*words, "--json"])
    assert good.stdout == ""
    alice.path.unlink()
    bad = CliRunner().invoke(provider, [*words, "--json"])
    count_refusal()
    (line,) = map(json.loads, bad.stdout.splitlines())
    assert (line["event"], line["dataset"]) == ("unready", "train_party_1")
    assert line["error"]["code"] == "source-unreadable"
    people = CliRunner().invoke(provider, words)
    assert "unready" in people.stdout
    assert "watching" in people.stderr
