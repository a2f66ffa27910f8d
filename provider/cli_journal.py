"""`ratls provider journal`: read and check what this party released, refused and collected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json, checked_digest
from provider.options import StateDir, state_folder
from ratls.options import JsonLines
from verifier.text import digest_text, instant_text, printable
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.journal import Reading
    from policy.journal_chain import JournalRecord

journal = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What this party released, refused and collected; changes nothing.",
)


@journal.command()
def show(
    state: StateDir = None,
    task: Annotated[
        str | None,
        typer.Option(callback=checked_digest, help="Only this task: sha256: and 64 hex digits."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    json_output: JsonLines = False,
) -> None:
    """Verify the journal, then show its records, the oldest first.

    Example: ratls provider journal show --dataset train_party_1
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        reading, wanted = _reading(state), {"task": task, "dataset": dataset}
        shown = 0
        for record in reading.records:
            fields = record.entry.model_dump(mode="json")
            if any(value not in (None, fields.get(name)) for name, value in wanted.items()):
                continue
            shell.answer(_place(record) | fields, printable(_line(record, fields)))
            shown += 1
        if not shown:
            shell.say(f"none of {len(reading.records)} records is of that task and dataset")


@journal.command()
def verify(
    state: StateDir = None,
    head: Annotated[
        str | None,
        typer.Option(
            callback=checked_digest,
            help="A head noted earlier, sha256:…: the journal must still have its line.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(help="Rows that were released: a file as `provider push --source` takes it."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            callback=checked_digest, help="With --source: the release to this task, sha256:…."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With --source: the release of this dataset.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Check that the journal is complete and unaltered. Prints its number of lines and its head.

    Keep the head somewhere else: only a head from outside shows that a whole older journal was put
    back.

    With --source: check that these are the rows that the enclave acknowledged. Opens no connection.

    Example: ratls provider journal verify --state state --source rows.csv
    """
    from verifier.shell import refusals_as_exit_status

    if source is None and not (task is None and dataset is None):
        raise typer.BadParameter("--task and --dataset need --source", param_hint="--source")
    with refusals_as_exit_status(json_output) as shell:
        reading = _reading(state)
        if head is not None:
            reading.require_line(head)
        facts, text = _head(reading), f"the journal is intact: {_head_text(reading)}"
        if source is not None:
            held = _held(state_folder(state), reading, source, task, dataset)
            facts |= held
            text += f"\n{source}: the {held['rows']:,} acknowledged rows of {held['dataset']}"
        shell.answer(facts, text)


def _held(
    state: Path, reading: Reading, source: Path, task: str | None, dataset: str | None
) -> dict[str, Any]:
    from provider.source_check import compare_source
    from provider.sources import source_at

    held = compare_source(state, reading, source_at(source, dataset), task=task, dataset=dataset)
    document = held.acknowledgement
    return {
        "source": str(source),
        "acknowledgement": str(held.path),
        "task_digest": digest_text(document.task_digest),
        "dataset": document.dataset,
        "rows": document.rows,
        "commit_digest": digest_text(document.commit_digest),
    }


@journal.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")],
    state: StateDir = None,
    json_output: Json = False,
) -> None:
    """Verify the journal and write its lines, byte for byte, to a new file of JSON lines.

    Example: ratls provider journal export -o journal-2026.jsonl
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.files import write_new

        reading = _reading(state)
        write_new(output, reading.raw)
        shell.answer({"output": str(output)} | _head(reading), f"{output}: {_head_text(reading)}")


def _reading(state: Path | None) -> Reading:
    from policy.journal import Reading

    return Reading.of(state_folder(state))


def _head(reading: Reading) -> dict[str, Any]:

    return {"lines": reading.head.count, "head": digest_text(reading.head.digest)}


def _head_text(reading: Reading) -> str:
    head = _head(reading)
    return f"{head['lines']} lines, head {head['head']}"


def _place(record: JournalRecord) -> dict[str, Any]:

    return {"seq": record.seq, "at": instant_text(record.at), "digest": digest_text(record.digest)}


_SHOWN = {
    "placed": ("machine", "filesystem", "folder"),
    "accepted": ("study", "version", "policy"),
    "withdrawn": ("study", "party", "version"),
    "distrusted": ("digest",),
    "noted": ("collateral", "root_list", "platform_list"),
    "returned": ("dataset", "task", "reason"),
}
_STEPS = {
    "local": "checking locally",
    "enclave": "verifying the enclave",
    "rows": "sending rows",
    "commit": "making the commit",
    "answer": "checking the enclave's answer",
}


def _line(record: JournalRecord, fields: dict[str, Any]) -> str:
    """One record as a line for people."""

    parts = [f"{record.seq + 1:>5}", instant_text(record.at), f"{fields['kind']:<9}"]
    names = _SHOWN.get(fields["kind"], ("dataset", "task"))
    parts += [str(fields[name]) for name in names if fields.get(name) is not None]
    if fields.get("rows") is not None:
        parts.append(f"{fields['rows']:,} rows")
    if fields.get("round") is not None:
        parts.append(f"round {fields['round']}")
    if "code" in fields:
        parts.append(f"[{fields['code']}]" + (f" at {fields['check']}" if fields["check"] else ""))
        parts += [f"while {_STEPS[fields['step']]}"] if fields["step"] else []
    if "mode" in fields:
        parts.append(f"({fields['mode'] or 'policy not known'})")
    return " ".join(parts)
