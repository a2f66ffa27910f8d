"""`ratls demo`: the whole job on one machine, with real processes, ports, files and data.

Alice's clinic and Bob's hospital hold rows, Carol's lab wants one model. Every step is the
command that a person would type, run as a process of its own; what stands in for Intel is
`ratls simulation new`. Nothing here takes a short cut around a check.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from simulation.measure import MEASURED_PACKAGES
from simulation.relay import RecordingRelay
from simulation.stage import DemoFailed, Server, Stage
from verifier.errors import Exit

PARTIES = {"alice": "alice-clinic", "bob": "bob-hospital", "carol": "carol-lab"}
STUDY = "breast-cancer-joint-training"
STEPS = 11


def run(keep: Path | None) -> int:
    """The whole demonstration; the exit status.

    Args:
        keep: Folder to make and to leave everything in; None works in one that is removed.
    """
    from verifier.files import FileNotWritten, make_folder

    if keep is not None:
        try:
            make_folder(keep.parent)
            keep.mkdir(mode=0o700)
        except OSError as error:
            raise FileNotWritten(
                str(keep), expected="a new folder", found=error.strerror or "an error"
            ) from error
    folder = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="ratls-demo-"))
    stage = Stage(folder, STEPS)
    # Ctrl-C too: a shell that starts a job in the background has it ignored.
    stops = (signal.SIGTERM, signal.SIGINT)
    restore = [signal.signal(stop, _interrupt) for stop in stops]
    try:
        _tell_story(stage)
    except KeyboardInterrupt:
        stage.tell("\n[yellow]interrupted[/]: every process of the demo was ended")
        return Exit.INTERRUPTED
    except DemoFailed as failure:
        stage.console.print(f"\n[bold red]the demo failed[/]: {escape(str(failure))}")
        return Exit.PEER
    finally:
        stage.close()
        for stop, before in zip(stops, restore, strict=True):
            signal.signal(stop, before)
        if keep is None:
            shutil.rmtree(folder)
        else:
            (folder / "commands.sh").write_text("\n".join(stage.commands) + "\n", "utf-8")
    _say_what_next(stage, kept=folder if keep else None)
    return Exit.YES


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell_story(stage: Stage) -> None:
    stage.console.print(
        Panel(
            "Alice's clinic and Bob's hospital each hold rows of patients. Carol's lab wants one "
            "model trained on both. Nobody shows rows to anybody.\n\n"
            "[bold black on yellow] SIMULATION [/] Real processes, ports, files and data; only "
            "Intel's keys are ours. No hardware protects anything here, and no production "
            "command would believe it.",
            title="ratls demo",
        )
    )
    _prepare_data(stage)
    root, ppid = _make_intel(stage)
    _make_parties(stage)
    _agree(stage, root, ppid)
    _ask(stage)
    with ExitStack() as servers:
        stage.title("An operator starts the enclave")
        serving = servers.enter_context(stage.serve("operator", *_serve_arguments()))
        enclave = stage.ready(serving)
        refused = _refuse_an_altered_enclave(stage)
        _release(stage, servers, enclave, refused)
        _collect(stage, enclave)
    _compare(stage)


def _prepare_data(stage: Stage) -> None:
    """Split the Wisconsin set in two Parquet files; the unsplit one serves the comparison."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import load_breast_cancer

    stage.title("The data: Wisconsin breast cancer, in two parts")
    source = load_breast_cancer()
    columns: dict[str, Any] = {
        "patient": [f"patient-{i:04d}" for i in range(len(source.target))],
        **{_column(n): source.data[:, i] for i, n in enumerate(source.feature_names)},
        "malignant": np.asarray(source.target == 0, dtype=np.int64),
    }
    table = pa.table(columns)
    pq.write_table(table, stage.folder / "unsplit.parquet")
    # Every other patient: each part must hold a hundred ill ones and a hundred others.
    for who, first in (("alice", 0), ("bob", 1)):
        part = table.take(list(range(first, table.num_rows, 2)))
        (stage.folder / who).mkdir()
        pq.write_table(part, stage.folder / who / "rows.parquet")
        stage.tell(f"  {who}/rows.parquet: {part.num_rows} patients, {part.num_columns} columns")


def _column(feature: str) -> str:
    return feature.replace(" ", "_")


def _make_intel(stage: Stage) -> tuple[str, str]:
    stage.title("A whole Intel in software")
    answer = stage.run("operator", "simulation", "new", "intel", "--json", quiet=True).stdout
    facts = json.loads(answer.splitlines()[-1])
    stage.tell(f"  root of trust: {facts['root']}")
    stage.tell(f"  platform     : ppid {facts['ppid']}, fmspc {facts['fmspc']}")
    return facts["root"], facts["ppid"]


def _make_parties(stage: Stage) -> None:
    stage.title("Three parties make their keys")
    roles = {
        "alice": ["--role", "provider"],
        "bob": ["--role", "provider"],
        "carol": ["--role", "recipient", "--role", "submitter"],
    }
    for who, party_id in PARTIES.items():
        (stage.folder / who).mkdir(exist_ok=True)
        passphrase = stage.folder / who / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(os.urandom(16).hex() + "\n", "utf-8")
        stage.run(
            who, "party", "new", party_id, "--dir", f"{who}/keys", *roles[who],
            "--passphrase-file", f"{who}/passphrase",
        )  # fmt: skip


def _as(who: str) -> tuple[str, ...]:
    return ("--party", f"{who}/keys", "--passphrase-file", f"{who}/passphrase")


def _state(who: str) -> tuple[str, ...]:
    return ("--state", f"{who}/state", "--allow-simulation")


def _agree(stage: Stage, root: str, ppid: str) -> None:
    stage.title("They agree: one policy, signed by each")
    measured = stage.run("everyone", "simulation", "measure", "--json", quiet=True).stdout
    mr_enclave = json.loads(measured.splitlines()[-1])["mr_enclave"]
    stage.tell(f"  the code that all parties agreed on: MRENCLAVE {mr_enclave}")
    text = _policy_text(stage.folder, root, ppid, mr_enclave)
    (stage.folder / "policy.toml").write_text(text, "utf-8")
    stage.tell("  policy.toml is written; everybody reads it, and signs exactly those bytes")
    linted = stage.run("alice", "policy", "lint", "policy.toml").stdout
    yes = ("--yes", linted.splitlines()[0].split()[-1])  # the digest of what they read
    for who in ("alice", "carol"):
        stage.run(who, "policy", "sign", "policy.toml", *_as(who), *yes, quiet=True)
    stage.tell("\n  Bob has not signed yet. Can Alice already take it into force?")
    agreement = "policy.agreement.json"
    stage.run(
        "alice", "policy", "accept", agreement, "--party", "alice/keys",
        "--state", "alice/state", *yes, expect=Exit.NOT_ADMITTED,
    )  # fmt: skip
    stage.tell("  And would an enclave start with it?")
    stage.run("operator", *_serve_arguments(), expect=Exit.NOT_ADMITTED)
    stage.tell("")
    stage.run("bob", "policy", "sign", "policy.toml", *_as("bob"), *yes, quiet=True)
    stage.run("anyone", "policy", "status", agreement)
    for who in PARTIES:
        stage.run(
            who, "policy", "accept", agreement, "--party", f"{who}/keys",
            "--state", f"{who}/state", *yes, quiet=who != "bob",
        )  # fmt: skip


def _policy_text(folder: Path, root: str, ppid: str, mr_enclave: str) -> str:
    import pyarrow.parquet as pq

    names = pq.read_schema(folder / "unsplit.parquet").names
    features = [n for n in names if n not in {"patient", "malignant"}]
    columns = ", ".join(
        ['patient = "string"', *(f'{n} = "float64"' for n in features), 'malignant = "int64"']
    )
    now = datetime.now(UTC).replace(microsecond=0)
    parties = "\n".join(
        (folder / who / "keys" / "party.toml").read_text("utf-8") for who in PARTIES
    )
    datasets = "\n".join(
        f"""[[dataset]]
id = "train_party_{number}"
owner = "{PARTIES[who]}"
subject = "patient"
columns = {{ {columns} }}
max_rows = 10_000
"""
        for number, who in ((1, "alice"), (2, "bob"))
    )
    return f"""schema = "ratls-policy/0"
study = "{STUDY}"
version = 1
not_before = {(now - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")}
expires = {(now + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")}

[agreement]
threshold = "all"

{parties}
[[enclave]]
name = "joint-training"
tee = "sgx"
mr_enclave = "{mr_enclave}"
isv_prod_id = 1
min_isv_svn = 1

[platform]
root = "{root}"
tcb_statuses = ["UpToDate"]
accepted_advisories = []
min_tcb_evaluation_data_number = 17
min_tcb_date = 2025-05-14
max_collateral_age_days = 30
machines = ["ppid:{ppid}"]

{datasets}
[[computation]]
id = "train"
run = "logistic_regression"
inputs = ["train_party_1", "train_party_2"]
parameters = {{ features = {json.dumps(features)}, label = "malignant", max_iter = 2000 }}
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 10
release = {{ outputs = ["model_weights"], min_subjects_per_input = 100, significant_digits = 6 }}
"""


def _serve_arguments() -> tuple[str, ...]:
    return (
        "enclave", "serve", "--agreement", "policy.agreement.json", "--listen", "127.0.0.1:0",
        "--attester", "simulation:intel/platform", "--allow-simulation",
    )  # fmt: skip


def _ask(stage: Stage) -> None:
    stage.title("Carol signs a task")
    stage.run(
        "carol", "task", "sign", *_as("carol"), *_state("carol"), "--study", STUDY,
        "--computation", "train", "--valid-for", "1h", "-o", "task.json",
    )  # fmt: skip


def _altered_code(folder: Path) -> Path:
    """A copy of what is measured with one line more: it trains as before, yet is another."""
    from importlib.util import find_spec

    altered = folder / "altered"
    for name in MEASURED_PACKAGES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(spec.submodule_search_locations[0], altered / name, ignore=ignore)
    with (altered / "enclave_app" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nKEEP_A_COPY_OF_EVERY_ROW = True\n")
    return altered


def _refuse_an_altered_enclave(stage: Stage) -> RecordingRelay:
    """What the relay recorded while Alice refused."""
    stage.title("Refusal: an enclave with one line more")
    stage.tell("  Same platform, same policy, other MRENCLAVE. A relay records what leaves Alice.")
    altered = _altered_code(stage.folder)
    with (
        stage.serve("operator", *_serve_arguments(), code=altered) as spy,
        RecordingRelay(stage.ready(spy)) as relay,
    ):
        stage.run(
            "alice", "provider", "push", "--task", "task.json", "--dataset", "train_party_1",
            "--source", "alice/rows.parquet", "--enclave", relay.address,
            "--collateral", "intel/collateral.json", *_as("alice"), *_state("alice"),
            expect=Exit.NOT_ADMITTED,
        )  # fmt: skip
        if len(relay.connections) != 1:
            raise DemoFailed("the refused enclave saw more than the probe")
        return relay


def _release(
    stage: Stage, servers: ExitStack, enclave: tuple[str, int], refused: RecordingRelay
) -> None:
    """Two agents, woken by a mailbox that dies in the middle."""
    stage.title("Bob's agent releases, and the mailbox dies")
    mailbox = servers.enter_context(stage.serve("operator", *_mailbox_arguments("127.0.0.1:0")))
    address = "{}:{}".format(*stage.ready(mailbox))
    stage.run(
        "carol", "task", "submit", "--task", "task.json", *_mailbox(address), *_as("carol"),
        *_state("carol"),
    )  # fmt: skip
    to_bob = servers.enter_context(RecordingRelay(enclave))
    _start_agent(stage, servers, "bob", address, to_bob)
    stage.tell(f"  the mailbox is killed: kill -9 {mailbox.pid}")
    mailbox.kill()
    again = servers.enter_context(stage.serve("operator", *_mailbox_arguments(address)))
    stage.ready(again)
    stage.tell("  The task is still there:")
    stage.run("carol", "task", "list", *_mailbox(address), *_as("carol"))
    stage.title("Alice's agent was away, and gets its task too")
    to_alice = servers.enter_context(RecordingRelay(enclave))
    _start_agent(stage, servers, "alice", address, to_alice)
    _show_connections(
        stage, {"alice, refused": refused, "bob, accepted": to_bob, "alice, accepted": to_alice}
    )


def _mailbox_arguments(listen: str) -> tuple[str, ...]:
    return (
        "scheduler", "serve", "--agreement", "policy.agreement.json", "--listen", listen,
        "--state", "mailbox",
    )  # fmt: skip


def _mailbox(address: str) -> tuple[str, ...]:
    return ("--scheduler", address, "--scheduler-certificate", "mailbox/scheduler.crt")


def _start_agent(
    stage: Stage, servers: ExitStack, who: str, mailbox: str, relay: RecordingRelay
) -> Server:
    """An agent, once it has released."""
    number = {"alice": 1, "bob": 2}[who]
    config = f"""study = "{STUDY}"
party = "keys"
passphrase_file = "passphrase"
state = "state"

[scheduler]
address = "{mailbox}"
certificate = "../mailbox/scheduler.crt"

[[enclave]]
name = "joint-training"
address = "{relay.address}"
collateral = "../intel/collateral.json"

[[dataset]]
id = "train_party_{number}"
source = {{ kind = "parquet", path = "rows.parquet" }}
"""
    (stage.folder / who / "agent.toml").write_text(config, "utf-8")
    agent = servers.enter_context(
        stage.serve(who, "provider", "agent", "--config", f"{who}/agent.toml", "--allow-simulation")
    )
    stage.tell(f"  {escape(agent.wait_for('released'))}")
    return agent


def _show_connections(stage: Stage, relays: dict[str, RecordingRelay]) -> None:
    table = Table(title="What the relay between provider and enclave saw leaving the provider")
    table.add_column("release")
    for heading in ("probes", "bytes", "connections for data", "bytes"):
        table.add_column(heading, justify="right")
    for name, relay in relays.items():
        probe, *data = relay.connections
        sent = sum(len(connection.sent) for connection in data)
        table.add_row(name, "1", f"{len(probe.sent):,}", str(len(data)), f"{sent:,}")
    stage.console.print(table)


def _collect(stage: Stage, enclave: tuple[str, int]) -> None:
    stage.title("Carol fetches the model and a receipt")
    stage.run(
        "carol", "task", "result", "--task", "task.json", "--enclave", f"{enclave[0]}:{enclave[1]}",
        "--collateral", "intel/collateral.json", *_as("carol"), *_state("carol"), "--wait", "90",
        "-o", "carol/model.json",
    )  # fmt: skip
    stage.tell("\n  Months later, offline: is this the model, and does its receipt still hold?")
    stage.run(
        "carol", "verify", "receipt", "carol/model.json", "--agreement", "policy.agreement.json",
        "--party", "carol/keys", "--allow-simulation",
    )  # fmt: skip
    stage.tell("\n  And Alice: are these the rows that the enclave acknowledged?")
    stage.run(
        "alice", "provider", "journal", "verify", "--state", "alice/state",
        "--source", "alice/rows.parquet",
    )  # fmt: skip


def _compare(stage: Stage) -> None:
    """The demo, unlike Carol, owns all rows: fit the unsplit file by the same measured steps."""
    import numpy as np
    import pyarrow.parquet as pq

    from enclave_app.computations.logistic_regression import fit
    from enclave_app.release import Input

    stage.title("Is it the model that pooled rows would give?")
    whole = pq.read_table(stage.folder / "unsplit.parquet")
    features = [n for n in whole.column_names if n not in {"patient", "malignant"}]
    pooled = [Input(whole, "patient")]
    central = fit(pooled, features=features, label="malignant", max_iter=2000, k=100)
    document = json.loads((stage.folder / "carol" / "model.json").read_text("utf-8"))
    joint = document["model_weights"]
    ours, theirs = (np.array([*m["coefficients"], m["intercept"]]) for m in (joint, central))
    distance = float(np.max(np.abs(ours / theirs - 1)))
    matrix = np.column_stack([whole.column(n).to_numpy() for n in joint["features"]])
    scores = matrix @ np.array(joint["coefficients"]) + joint["intercept"]
    accuracy = float(np.mean((scores > 0) == whole.column("malignant").to_numpy()))
    stage.tell(
        f"  largest difference of any coefficient: {distance:.0e} of it, as it has six digits"
    )
    stage.tell(f"  accuracy on all {whole.num_rows} rows: {accuracy:.1%}")
    if not distance <= 1e-5:
        raise DemoFailed(f"the joint model differs from the central one by {distance}")


def _say_what_next(stage: Stage, kept: Path | None) -> None:
    where = f"Everything is in {kept}" if kept else "Everything was removed again"
    again = (
        ""
        if kept
        else "\n  ratls demo --keep DIR                    leaves keys, policy, receipts, commands"
    )
    stage.console.print()
    stage.console.print(
        Panel(
            f"Two parties released rows, one model came out, nobody saw a row. {where}.\n\n"
            f"What to try next:{escape(again)}\n"
            "  ratls verify quote FILE --collateral F   is a quote genuine, how current is it?\n"
            "  ratls policy new --help                  start a policy of your own\n"
            '  README.md, "By hand"                     the same commands, one by one',
            title="done",
        )
    )
