"""The files of `ratls demo`: made-up rows, a policy, an agent's configuration, altered code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

PARTIES = {"alice": "alice-clinic", "bob": "bob-hospital", "carol": "carol-lab"}
STUDY = "joint-training"
PATIENTS, MARKERS = 600, 30


def write_rows(
    folder: Path, owners: Sequence[str] = ("alice", "bob"), patients: int = PATIENTS
) -> Iterator[tuple[str, int, int]]:
    """Made-up patients in a Parquet file of each owner, and unsplit for the comparison.

    Yields: Who has the file, its rows and its columns.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)
    markers = rng.normal(50, 10, (patients, MARKERS)).round(3)
    # The first ten indicate the illness, each less than the one before.
    signs = (markers[:, :10] - 50) / 10 @ np.linspace(1.5, 0.5, 10)
    columns: dict[str, Any] = {
        "patient": [f"patient-{i:04d}" for i in range(patients)],
        **{f"marker_{i + 1}": markers[:, i] for i in range(MARKERS)},
        "ill": (signs + rng.normal(0, 1, patients) > 0).astype(np.int64),
    }
    table = pa.table(columns)
    pq.write_table(table, folder / "unsplit.parquet")
    # Every other patient: each part needs a hundred ill ones and a hundred others.
    for first, who in enumerate(owners):
        part = table.take(list(range(first, table.num_rows, len(owners))))
        pq.write_table(part, folder / who / "rows.parquet")
        yield who, part.num_rows, part.num_columns


def policy_text(
    folder: Path,
    root: str,
    ppid: str,
    enclave: str,
    computation: str | None = None,
    parties: Mapping[str, str] = MappingProxyType(PARTIES),
) -> str:
    """The policy of the demo, on the rows and keys in `folder`; `enclave` is its `[[enclave]]`,
    `computation` its `[[computation]]` in place of a training. All parties but Carol own rows."""
    import pyarrow.parquet as pq

    names = pq.read_schema(folder / "unsplit.parquet").names
    features = [n for n in names if n not in {"patient", "ill"}]
    columns = ", ".join(
        [
            'patient = "string"',
            *(f'{n} = {{ type = "float64", min = 0.0, max = 100.0 }}' for n in features),
            'ill = { type = "int64", min = 0, max = 1 }',
        ]
    )
    now = datetime.now(UTC).replace(microsecond=0)
    keys = "\n".join((folder / who / "keys" / "party.toml").read_text("utf-8") for who in parties)
    datasets = "\n".join(
        f"""[[dataset]]
id = "train_party_{number}"
owner = "{parties[who]}"
subject = "patient"
columns = {{ {columns} }}
max_rows = 10_000
"""
        for number, who in enumerate((who for who in parties if who != "carol"), 1)
    )
    return f"""schema = "ratls-policy/0"
study = "{STUDY}"
version = 1
not_before = {(now - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")}
expires = {(now + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")}

[agreement]
threshold = "all"

{keys}
{enclave}
[platform]
root = "{root}"
tcb_statuses = ["UpToDate"]
accepted_advisories = []
min_tcb_evaluation_data_number = 17
min_tcb_date = 2025-05-14
max_collateral_age_days = 30
machines = ["ppid:{ppid}"]

{datasets}
{computation or _training(features)}"""


def _training(features: list[str]) -> str:
    return f"""[[computation]]
id = "train"
run = "logistic_regression"
inputs = ["train_party_1", "train_party_2"]
parameters = {{ features = {json.dumps(features)}, label = "ill", max_iter = 2000 }}
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 10
release = {{ outputs = ["model_weights"], min_subjects_per_input = 100, significant_digits = 6 }}
"""


def agent_config(who: str, mailbox: str, enclave: str, collateral: str) -> str:
    """The agent of one provider, between these two addresses."""
    number = {"alice": 1, "bob": 2}[who]
    return f"""study = "{STUDY}"
party = "keys"
passphrase_file = "passphrase"
state = "state"

[scheduler]
address = "{mailbox}"
certificate = "../mailbox/scheduler.crt"

[[enclave]]
name = "joint-training"
address = "{enclave}"
collateral = "../{collateral}"

[[dataset]]
id = "train_party_{number}"
source = {{ kind = "parquet", path = "rows.parquet" }}
"""


def altered_code(folder: Path) -> Path:
    """A copy of what the enclave consists of, with one line more. It trains as before."""
    from importlib.util import find_spec

    altered = folder / "altered"
    for name in ("enclave_app", "policy", "ratls", "verifier"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(spec.submodule_search_locations[0], altered / name, ignore=ignore)
    with (altered / "enclave_app" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nKEEP_A_COPY_OF_EVERY_ROW = True\n")
    return altered
