# ruff: noqa: S608 - the statement is made of pieces, and signed as a whole
"""`ratls demo --study sql`: an agreed table over two owners' rows, with real processes.

A statement that would read a file is refused before anybody signs it; the agreed one runs, small
groups stay, and what leaves is held against the same statement over the pooled rows.
"""

from __future__ import annotations

import json

from simulation.demo_agreed import Story
from simulation.stage import DemoFailed, Stage

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


STORY = Story(
    name="sql",
    wants="a table of both: how many patients, and how they are, by groups. Nobody is shown rows, "
    "and no group is so small that it gives somebody away.",
    refused="A statement that nobody can sign",
    greedy=computation(STATEMENT.replace("FROM train_party_2", "FROM read_csv('/etc/passwd')")),
    agreed=computation(STATEMENT),
    computation="table",
    settings=("--set", f"edge={_EDGE}"),
    result="carol/table.json",
    compare=_compare,
)
