"""What an agent needs of the profile, and what must not stand there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent_config import AgentConfig, ProfileIncomplete
from provider.sources import parse_source
from ratls.address import Address
from ratls.profile import Profile, ProfileMalformed
from ratls.profile_draft import SAMPLE
from tests.support.refusal import count_refusal, refused
from verifier.files import FileUnreadable

BASE = Path("/srv/ratls")


def parse(text: str) -> AgentConfig:
    return AgentConfig.of(Profile.parse(text.encode(), BASE / "ratls.toml"))


def test_the_sample_that_the_command_shows() -> None:
    config = parse(SAMPLE)
    assert config.study == "breast-cancer-joint-training"
    assert config.party == BASE / "keys"
    assert config.scheduler == Address("scheduler.example", 7444)
    enclave = config.enclaves["joint-training-1.0"]
    assert enclave.address == Address("enclave.example", 7443)
    assert enclave.collateral == BASE / "collateral.json"
    source = parse_source({"kind": "parquet", "path": "rows.parquet"}, BASE)
    assert config.sources == {"train_party_1": source}


def test_paths_start_from_the_files_own_folder(tmp_path: Path) -> None:
    """Cron starts it from anywhere; an absolute path stays as it is."""
    text = SAMPLE.replace('state = "state"', 'state = "/var/lib/ratls"')
    (tmp_path / "ratls.toml").write_text(text)
    config = AgentConfig.read(tmp_path / "ratls.toml")
    assert config.passphrase_file == tmp_path / "passphrase"
    assert config.state == Path("/var/lib/ratls")
    with refused(FileUnreadable):
        AgentConfig.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "said",
    ["study = ", "party = ", "passphrase_file = ", "state = ", "[scheduler]", "[[enclave]]"],
)
def test_what_an_agent_needs_is_not_guessed(said: str) -> None:
    """Nobody is there to type it. Other commands take the same profile, and ask."""
    start = SAMPLE.index(said)
    end = SAMPLE.index("\n[" if said.startswith("[") else "\n", start + 2)
    text = SAMPLE[:start] + SAMPLE[end:]
    with refused(ProfileIncomplete) as seen:
        parse(text)
    assert said.removesuffix(" = ") in seen.error.expected
    Profile.parse(text.encode(), BASE / "ratls.toml")


DATASET = '[[dataset]]\nid = "train_party_1"\nsource = { kind = "csv", path = "b.csv" }\n'
SECOND = '[[enclave]]\nname = "joint-training-1.0"\naddress = "b:1"\ncollateral = "c"\n'


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('study = "', 'sudy = "', "sudy"),
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
        ("study = ", "study = = ", "line 3"),
        ("# Relative", "\u202e# Relative", "line 2"),
    ],
)
def test_one_thing_is_wrong(old: str, new: str, place: str) -> None:
    """Refused as a whole, with the place: an unattended agent must not guess."""
    assert old in SAMPLE
    with refused(ProfileMalformed) as seen:
        parse(SAMPLE.replace(old, new, 1))
    assert place in seen.error.thing


@pytest.mark.parametrize("table", ["enclave", "dataset"])
def test_a_list_that_is_empty(table: str) -> None:
    """Absence never means "any"."""
    start = SAMPLE.index(f"[[{table}]]")
    end = SAMPLE.find("[[", start + 2)
    text = f"{table} = []\n" + SAMPLE[:start] + (SAMPLE[end:] if end > 0 else "")
    with refused(ProfileMalformed):
        parse(text)


@given(st.binary(max_size=400))
def test_garbage(raw: bytes) -> None:
    count_refusal()
    try:
        AgentConfig.of(Profile.parse(raw, BASE / "ratls.toml"))
    except (ProfileMalformed, ProfileIncomplete):
        return
    raise AssertionError("garbage is no configuration")


@given(st.integers(0, len(SAMPLE) - 4))
def test_a_file_that_was_not_completely_written(size: int) -> None:
    count_refusal()
    try:
        parse(SAMPLE[:size])
    except (ProfileMalformed, ProfileIncomplete):
        return
    raise AssertionError("half a configuration")
