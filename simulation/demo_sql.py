# ruff: noqa: S608 - the statement is made of pieces, and signed as a whole
"""`ratls demo --study sql`: an agreed table over two owners' rows, with real processes.

A statement that would read a file is refused before anybody signs it; the agreed one runs, small
groups stay, and what leaves is held against the same statement over the pooled rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.panel import Panel

from simulation.demo_files import STUDY, policy_text, write_rows
from simulation.demo_steps import AGREEMENT, agree, as_party, with_state
from simulation.demo_tee import DemoTee
from simulation.stage import DemoFailed, Stage, Typed
from verifier.errors import Exit

STEPS = 8
_ROWS = " UNION ALL ".join(
    "SELECT patient, ill, marker_2, CASE WHEN marker_1 < $edge THEN 'low' WHEN marker_1 < 50 "
    f"THEN 'middle' ELSE 'high' END AS band FROM train_party_{number}"
    for number in (1, 2)
)
STATEMENT = (
    f"WITH u AS ({_ROWS}) SELECT band, ill, count(*) AS patients, avg(marker_2) AS marker_2 "
    "FROM u GROUP BY ROLLUP (band, ill) ORDER BY band, ill"
)
_EDGE = 35.0


def computation(statement: str) -> str:
    """The policy's section."""
    return f"""[[computation]]
id = "table"
run = "sql"
inputs = ["train_party_1", "train_party_2"]
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 2
release = {{ outputs = ["table"], min_subjects_per_input = 20, significant_digits = 4 }}

[computation.parameters]
statement = {json.dumps(statement)}
max_groups = 50
memory_mebibytes = 128
seconds = 30
edge = {{ min = 30.0, max = 45.0 }}
"""


def tell_story(
    stage: Stage,
    kind: DemoTee,
    *,
    make_intel: Callable[[Stage, Typed], tuple[str, str]],
    type_keys: Callable[[Stage], list[Typed]],
) -> None:
    """From rows to a table."""
    stage.console.print(
        Panel(
            "Alice's clinic and Bob's hospital each hold rows of patients. Carol's lab wants a "
            "table of both: how many patients, and how they are, by groups. Nobody is shown rows, "
            "and no group is so small that it gives somebody away.\n\n"
            "[bold black on yellow] SIMULATION [/] Real processes, ports, files and data; only "
            "Intel's keys are made up. No hardware protects anything here.",
            title="ratls demo --study sql",
        )
    )
    intel = stage.type("operator", "simulation", "new", "intel", "--json")
    keys = type_keys(stage)
    measured = stage.type("everyone", "simulation", "measure", *kind.measuring("a.ccel"), "--json")
    stage.title("The data: made-up patients, in two parts")
    for who, rows, columns in write_rows(stage.folder):
        stage.tell(f"  {who}/rows.parquet: {rows} patients, {columns} columns")
    root, ppid = make_intel(stage, intel)
    for typed in keys:
        stage.show(typed, quiet=True)
    section = kind.section(json.loads(stage.show(measured, quiet=True).splitlines()[-1]))

    def write(name: str, statement: str) -> None:
        text = policy_text(stage.folder, root, ppid, section, computation(statement))
        (stage.folder / name).write_text(text, "utf-8")

    stage.title("A statement that nobody can sign")
    write("greedy.toml", STATEMENT.replace("FROM train_party_2", "FROM read_csv('/etc/passwd')"))
    stage.run("alice", "policy", "lint", "greedy.toml", expect=Exit.UNUSABLE)
    stage.title("They agree on another one: each signs its text")
    write("policy.toml", STATEMENT)
    agree(stage, ("alice", "bob", "carol"))
    stage.title("Carol looks at what she would get, and asks")
    asked = ("--study", STUDY, "--computation", "table", "--set", f"edge={_EDGE}")
    stage.run("carol", "task", "preview", "--party", "carol/keys", "--state", "carol/state", *asked)
    stage.run(
        "carol", "task", "sign", *as_party("carol"), *with_state("carol"), *asked, "-o", "task.json"
    )
    stage.title("Both release to the enclave; it computes")
    serve = (
        "enclave", "serve", "--agreement", AGREEMENT, "--listen", "127.0.0.1:0", "--attester",
        kind.attester, "--allow-simulation",
    )  # fmt: skip
    with stage.serve("operator", *serve) as enclave:
        host, port = stage.ready(enclave)
        there = ("--enclave", f"{host}:{port}", "--collateral", kind.collateral)
        for number, who in ((1, "alice"), (2, "bob")):
            stage.run(
                who, "provider", "push", "--task", "task.json", "--dataset",
                f"train_party_{number}", "--source", f"{who}/rows.parquet", *there, *as_party(who),
                *with_state(who),
            )  # fmt: skip
        stage.title("Carol fetches the table")
        stage.run(
            "carol", "task", "result", "--task", "task.json", *there, *as_party("carol"),
            *with_state("carol"), "--wait", "90", "-o", "carol/table.json",
        )  # fmt: skip
    _compare(stage)
    stage.run("alice", "provider", "budget", "--party", "alice/keys", "--state", "alice/state")


def _compare(stage: Stage) -> None:
    """The demo, unlike Carol, owns all rows: the same statement over both files, without a gate."""
    import duckdb

    stage.title("Is it what pooled rows would give?")
    document = json.loads((stage.folder / "carol" / "table.json").read_text("utf-8"))
    rows = document["table"]["rows"]
    with duckdb.connect(config={"threads": 1}) as plain:
        for number, who in ((1, "alice"), (2, "bob")):
            path = str(stage.folder / who / "rows.parquet")
            plain.sql(f"CREATE VIEW train_party_{number} AS FROM read_parquet({path!r})")
        wanted = plain.sql(STATEMENT, params={"edge": _EDGE}).to_arrow_table().to_pylist()
    for row in wanted:
        keys = {name: row[name] for name in ("band", "ill") if row[name] is not None}
        found = next(
            (r for r in rows if {k: r[k] for k in ("band", "ill") if k in r} == keys), None
        )
        name = ", ".join(map(str, keys.values())) or "all"
        said = "stays inside" if found is None else f"{found['patients']:4} {found['marker_2']}"
        stage.tell(f"  {name:<12} {said}")
        if found is not None and (
            found["patients"] != row["patients"] or abs(found["marker_2"] - row["marker_2"]) > 0.01
        ):
            raise DemoFailed(f"the group {name} differs from that of the pooled rows")
    if not 0 < len(rows) < len(wanted):
        raise DemoFailed("the small groups should stay, and the others leave")
