"""What stands in the agent's configuration, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent_config import SAMPLE, AgentConfig, AgentConfigMalformed
from provider.sources import parse_source
from ratls.address import Address
from tests.support.refusal import count_refusal, refused
from verifier.files import FileUnreadable

BASE = Path("/srv/ratls")


def parse(text: str) -> AgentConfig:
    return AgentConfig.parse(text.encode(), BASE)


def test_the_sample_that_the_command_shows() -> None:
    config = parse(SAMPLE)
    assert config.study == "breast-cancer-joint-training"
    assert config.party == BASE / "alice"
    assert config.scheduler == Address("scheduler.example", 7444)
    enclave = config.enclaves["joint-training-1.0"]
    assert enclave.address == Address("enclave.example", 7443)
    assert enclave.collateral == BASE / "collateral.json"
    source = parse_source({"kind": "parquet", "path": "rows.parquet"}, BASE)
    assert config.sources == {"train_party_1": source}


def test_paths_start_from_the_files_own_folder(tmp_path: Path) -> None:
    """Cron starts it from anywhere; an absolute path stays as it is."""
    text = SAMPLE.replace('state = "state"', 'state = "/var/lib/ratls"')
    (tmp_path / "agent.toml").write_text(text)
    config = AgentConfig.read(tmp_path / "agent.toml")
    assert config.passphrase_file == tmp_path / "passphrase"
    assert config.state == Path("/var/lib/ratls")
    with refused(FileUnreadable):
        AgentConfig.read(tmp_path / "none.toml")


DATASET = '[[dataset]]\nid = "train_party_1"\nsource = { kind = "csv", path = "b.csv" }\n'
SECOND = '[[enclave]]\nname = "joint-training-1.0"\naddress = "b:1"\ncollateral = "c"\n'


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('study = "', 'sudy = "', "sudy"),
        ('state = "state" ', "", "state"),
        ('state = "state" ', "allow_simulation = true\nstate = 'state'", "allow_simulation"),
        ('state = "state" ', 'state = ""', "state"),
        ('state = "state" ', 'state = "a\\u0000b"', "state"),
        ('state = "state" ', "state = 7", "state"),
        ('study = "breast', 'study = "Breast', "study"),
        ('certificate = "scheduler.crt"', "", "scheduler.certificate"),
        ('"scheduler.example:7444"', '"https://scheduler.example"', "scheduler.address"),
        ('"scheduler.example:7444"', '"scheduler.example"', "scheduler.address"),
        ("[scheduler]", "[[scheduler]]", "scheduler"),
        ("[[enclave]]", "[enclave]", "enclave"),
        ('name = "joint-training-1.0"', 'name = "../enclave"', "enclave[0].name"),
        ('"enclave.example:7443"', '"enclave.example:0"', "enclave[0].address"),
        ('collateral = "', 'colateral = "', "enclave[0].colateral"),
        ("[[dataset]]", SECOND + "[[dataset]]", "enclave[1].name"),
        ("[[dataset]]", DATASET + "[[dataset]]", "dataset[1].id"),
        ('kind = "parquet"', 'kind = "pickle"', "dataset[0].source"),
        ('kind = "parquet", ', "", "dataset[0].source"),
        ('path = "rows.parquet"', 'path = "r", url = "u"', "dataset[0].source"),
        ('{ kind = "parquet", path = "rows.parquet" }', '"rows.parquet"', "dataset[0].source"),
        ('id = "train_party_1" ', 'id = "train party"', "dataset[0].id"),
        ("study = ", "study = = ", "line 2"),
        ("# Relative", "\u202e# Relative", "line 1"),
    ],
)
def test_one_thing_is_wrong(old: str, new: str, place: str) -> None:
    """Refused as a whole, with the place: an unattended agent must not guess."""
    assert old in SAMPLE
    with refused(AgentConfigMalformed) as seen:
        parse(SAMPLE.replace(old, new, 1))
    assert place in seen.error.thing


@pytest.mark.parametrize("table", ["enclave", "dataset"])
def test_a_list_that_is_empty(table: str) -> None:
    """Absence never means "any"."""
    start = SAMPLE.index(f"[[{table}]]")
    end = SAMPLE.find("[[", start + 2)
    text = f"{table} = []\n" + SAMPLE[:start] + (SAMPLE[end:] if end > 0 else "")
    with refused(AgentConfigMalformed):
        parse(text)


@given(st.binary(max_size=400))
def test_garbage(raw: bytes) -> None:
    count_refusal()
    try:
        AgentConfig.parse(raw, BASE)
    except AgentConfigMalformed:
        return
    raise AssertionError("garbage is no configuration")


@given(st.integers(0, len(SAMPLE) - 4))
def test_a_file_that_was_not_completely_written(size: int) -> None:
    count_refusal()
    try:
        AgentConfig.parse(SAMPLE.encode()[:size], BASE)
    except AgentConfigMalformed:
        return
    raise AssertionError("half a configuration")
