"""`ratls demo --study federated`: three owners train one model, and no row leaves any of them.

Real processes: each owner's `ratls provider train` trains at home and meets the others in rounds.
What comes out is held against a model of the pooled rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec

from rich.panel import Panel

from simulation.demo_files import STUDY, policy_text, write_rows
from simulation.demo_steps import AGREEMENT, agree, as_party, with_state
from simulation.demo_tee import DemoTee
from simulation.stage import DemoFailed, Stage, Typed
from verifier.errors import Exit

STEPS = 8
PARTIES = {
    "alice": "alice-clinic",
    "bob": "bob-hospital",
    "dora": "dora-clinic",
    "carol": "carol-lab",
}
OWNERS = ("alice", "bob", "dora")
ROUNDS = 8


def computation(features: list[str]) -> str:
    """The policy's section."""
    return f"""[[computation]]
id = "train"
run = "federated"
inputs = ["train_party_1", "train_party_2", "train_party_3"]
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 2
release = {{ outputs = ["model"], min_subjects_per_input = 100, significant_digits = 6 }}

[computation.parameters]
model = "logistic"
features = {json.dumps(features)}
label = "ill"
rounds = {ROUNDS}
quorum = 3
seconds = 120
aggregator = "fedavg"
clip_norm = 20.0
weights = "equal"
epochs = 5
learning_rate = 0.5
"""


def tell_story(
    stage: Stage,
    kind: DemoTee,
    *,
    make_intel: Callable[[Stage, Typed], tuple[str, str]],
    type_keys: Callable[..., list[Typed]],
) -> None:
    """From rows that stay to a model that all helped to train."""
    if find_spec("sklearn") is None:
        raise DemoFailed("this study trains with scikit-learn: pip install scikit-learn")
    stage.console.print(
        Panel(
            "Alice's clinic, Bob's hospital and Dora's clinic each hold rows of patients, and may "
            "not send them anywhere. Carol's lab wants one model of all of them. Each trains at "
            "home; an enclave joins what the training changed, round by round.\n\n"
            "[bold black on yellow] SIMULATION [/] Real processes, ports, files and data; only "
            "Intel's keys are made up. No hardware protects anything here.",
            title="ratls demo --study federated",
        )
    )
    intel = stage.type("operator", "simulation", "new", "intel", "--json")
    keys = type_keys(stage, PARTIES)
    measured = stage.type("everyone", "simulation", "measure", *kind.measuring("a.ccel"), "--json")
    stage.title("The data: made-up patients, in three parts")
    for who, rows, columns in write_rows(stage.folder, OWNERS):
        stage.tell(f"  {who}/rows.parquet: {rows} patients, {columns} columns")
    root, ppid = make_intel(stage, intel)
    for typed in keys:
        stage.show(typed, quiet=True)
    section = kind.section(json.loads(stage.show(measured, quiet=True).splitlines()[-1]))
    _agree(stage, root, ppid, section)
    stage.title("Carol asks for the rounds")
    stage.run(
        "carol", "task", "sign", *as_party("carol"), *with_state("carol"), "--study", STUDY,
        "--computation", "train", "-o", "task.json",
    )  # fmt: skip
    serve = (
        "enclave", "serve", "--agreement", AGREEMENT, "--listen", "127.0.0.1:0", "--attester",
        kind.attester, "--allow-simulation",
    )  # fmt: skip
    with stage.serve("operator", *serve) as enclave:
        host, port = stage.ready(enclave)
        there = ("--enclave", f"{host}:{port}", "--collateral", kind.collateral)
        stage.title("Refusal: Alice sends rows by mistake")
        stage.run(
            "alice", "provider", "push", "--task", "task.json", "--dataset", "train_party_1",
            "--source", "alice/rows.parquet", *there, *as_party("alice"), *with_state("alice"),
            expect=Exit.NOT_ADMITTED,
        )  # fmt: skip
        _train(stage, there)
        stage.run(
            "carol", "task", "result", "--task", "task.json", *there, *as_party("carol"),
            *with_state("carol"), "--wait", "90", "-o", "carol/model.json",
        )  # fmt: skip
    _compare(stage)


def _agree(stage: Stage, root: str, ppid: str, section: str) -> None:
    import pyarrow.parquet as pq

    stage.title("They agree: model, rounds, quorum, deadline")
    names = pq.read_schema(stage.folder / "unsplit.parquet").names
    features = [name for name in names if name not in {"patient", "ill"}]
    text = policy_text(stage.folder, root, ppid, section, computation(features), PARTIES)
    (stage.folder / "policy.toml").write_text(text, "utf-8")
    agree(stage, [*PARTIES])


def _train(stage: Stage, there: tuple[str, ...]) -> None:
    """All three at once, as each waits for the others."""
    stage.title(f"Each trains at home, the enclave joins: {ROUNDS} times")
    training = [
        stage.type(
            who, "provider", "train", "--task", "task.json", "--dataset", f"train_party_{number}",
            "--source", f"{who}/rows.parquet", *there, *as_party(who), *with_state(who),
        )
        for number, who in enumerate(OWNERS, 1)
    ]  # fmt: skip
    for typed in training:
        stage.show(typed)
    stage.title("Months later, offline: do the receipts hold?")
    folder = next((stage.folder / "dora" / "state" / "rounds").glob("*/train_party_3"))
    stage.run(
        "dora", "verify", "receipt", "--rounds", str(folder.relative_to(stage.folder)),
        "--agreement", AGREEMENT, "--party", "dora/keys", "--allow-simulation",
    )  # fmt: skip


def _compare(stage: Stage) -> None:
    """The demo, unlike Carol, owns all rows: scikit-learn on the unsplit file."""
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.linear_model import LogisticRegression

    stage.title("Is it as good as a model of the pooled rows?")
    whole = pq.read_table(stage.folder / "unsplit.parquet")
    model = json.loads((stage.folder / "carol" / "model.json").read_text("utf-8"))["model"]
    matrix = np.column_stack([whole.column(n).to_numpy() for n in model["features"]])
    ill = whole.column("ill").to_numpy()
    scores = matrix @ np.array(model["coefficients"]) + model["intercept"]
    joint = float(np.mean((scores > 0) == ill))
    pooled = float(LogisticRegression(max_iter=5000).fit(matrix / 50 - 1, ill).score(
        matrix / 50 - 1, ill
    ))  # fmt: skip
    stage.tell(f"  accuracy on all {whole.num_rows} rows: {joint:.1%}, pooled {pooled:.1%}")
    if joint < pooled - 0.005:
        raise DemoFailed(f"the joint model is worse than the pooled one: {joint} and {pooled}")
