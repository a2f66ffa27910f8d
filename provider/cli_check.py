"""`ratls provider check`, and how reading rows is shown on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from provider.options import StateDir, state_folder
from ratls.profile_options import ProfileFinder, only_dataset

if TYPE_CHECKING:
    from provider.full_check import Found
    from provider.stamps import Checked
    from verifier.shell import Shell

SourcePath = Annotated[
    Path,
    typer.Option(
        help="Its rows: .parquet, .csv, .tsv, .csv.gz, .arrow, .arrows, .ipc or .feather, "
        "a folder of .parquet; or a .toml that says where they are."
    ),
]


def _with_own_dataset(ctx: typer.Context, named: list[str]) -> list[str]:
    """A file alone is a policy: the dataset is then the one of the profile."""
    if len(named) != 1 or Path(named[0]).suffix not in (".toml", ".json"):
        return named
    finder = ctx.find_object(ProfileFinder)
    profile = None if finder is None or ctx.resilient_parsing else finder.profile
    own = None if profile is None else only_dataset(profile)
    if own is None:
        raise typer.BadParameter(f"name the dataset, too: {named[0]} DATASET")
    return [*named, own]


def check(
    named: Annotated[
        list[str],
        typer.Argument(
            metavar="[POLICY] [DATASET]",
            callback=_with_own_dataset,
            help="A draft or agreement, .toml or .json (default: what you accepted), and the "
            "dataset's id in it (default: the one of the profile).",
        ),
    ],
    source: SourcePath,
    study: Annotated[
        str | None, typer.Option(help="Its study, where you accepted several with such a dataset.")
    ] = None,
    state: StateDir = None,
    json_output: Json = False,
) -> None:
    """Hold a whole source against a policy, without any enclave, and list all that is wrong.

    Of each column and rule it says how many rows break it and which are the first, never a value;
    then whether there are as many distinct persons as each computation asks for.

    Keeps a note of a good source in the state folder, if the policy is the accepted one or --state
    is given: until the source, the policy or this program changes, a release of it looks at no
    value again. A database is checked, and nothing is noted.

    Example: ratls provider check policy.toml train_party_1 --source rows.parquet
    """
    from verifier.shell import refusals_as_exit_status

    if len(named) > 2:
        raise typer.BadParameter("name a policy and a dataset, or a dataset alone")
    file, dataset = (None if len(named) == 1 else Path(named[0])), named[-1]
    with refusals_as_exit_status(json_output) as shell:
        from provider.dry_run import accepted_dataset, dataset_in
        from provider.full_check import full_check
        from provider.sources import source_at
        from provider.stamps import Stamps

        if file is None:
            wanted = accepted_dataset(state_folder(state), dataset, study)
        else:
            wanted = dataset_in(file, dataset)
        keeps = Stamps(state_folder(state)) if file is None or state is not None else None
        with shown_progress(shell, "rows checked") as progress:
            found = full_check(
                source_at(source, dataset),
                wanted.dataset,
                wanted.needed,
                stamps=keeps,
                progress=progress,
            )
        if wanted.problems:
            shell.say(f"{file} has {wanted.problems} problems elsewhere: ratls policy lint {file}")
        shell.answer(found_shown(dataset, found), found_text(dataset, found))
        if found.refusal is not None:
            raise typer.Exit(int(found.refusal.exit_status))


def describe(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="The rows, in any form that `check` reads.")
    ],
    dataset: Annotated[str, typer.Option("--id", help="Id that the policy is to give them.")],
    owner: Annotated[str, typer.Option(help="The party whose rows they are.")],
    subject: Annotated[str, typer.Option(help="The column that tells persons apart.")],
    json_output: Json = False,
) -> None:
    """Print a [[dataset]] block for a draft: columns, types, and ranges rounded outwards.

    No value of a row is in it. Columns that look like direct identifiers are left out, and named on
    stderr with the line that would add them.

    Example: ratls provider describe rows.csv --id train_party_1 --owner alice-clinic
    --subject patient > alice.dataset.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.describe import describe as described_by
        from provider.sources import source_at

        found = described_by(source_at(source, dataset), subject=subject)
        block = found.block(dataset, owner)
        shell.answer(
            {
                "dataset": block,
                "columns": found.columns,
                "left_out": found.left_out,
                "remarks": list(found.remarks),
            },
            block.rstrip("\n"),
        )
        for remark in found.remarks:
            shell.say(remark)
        shell.say("next: read it, then send it to the author of the draft")


def found_shown(dataset: str, found: Found) -> dict[str, object]:
    """For machines."""
    good = {} if found.checked is None else checked_shown(dataset, found.checked)
    return good | {
        "dataset": dataset,
        "rows": found.rows,
        "persons": found.persons,
        "needed_persons": dict(found.needed),
        "faults": [fault.as_json() for fault in found.faults],
        "error": found.refusal and found.refusal.as_json(),
    }


def found_text(dataset: str, found: Found) -> str:
    """For people."""
    persons = "" if found.persons is None else f"{found.persons:,} distinct persons"
    asked = "".join(f"; {name} needs {least:,}" for name, least in found.needed.items())
    if found.checked is not None:
        stamped = found.checked.stamped
        kept = "a release need not check them again" if stamped else "nothing was noted"
        return f"checked: {amount(found.checked)} of {dataset}; {persons}{asked}; {kept}"
    read = "not read to its end" if found.rows is None else f"{found.rows:,} rows"
    count = len(found.faults)
    lines = [
        f"{dataset}: {count} thing{'s' if count > 1 else ''} wrong in the source ({read}"
        + (f", {persons}{asked})" if persons else ")")
    ]
    for fault in found.faults:
        lines += [f"  {fault}", f"    to do: {fault.fix}"]
    return "\n".join(lines)


def checked_shown(dataset: str, checked: Checked) -> dict[str, object]:
    """For machines."""
    return {
        "dataset": dataset,
        "rows": checked.rows,
        "batches": checked.batches,
        "bytes": checked.bytes,
        "stamped": checked.stamped,
    }


def amount(checked: Checked) -> str:
    """For people."""
    return f"{checked.rows:,} rows in {checked.batches:,} batches, {checked.bytes:,} bytes"


@contextmanager
def shown_progress(shell: Shell, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows on a terminal how many rows there were, how many a second, and the time left."""
    from verifier.shell import can_redraw

    if shell.json_output or not can_redraw(shell.err):
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: object) -> Text:
            speed = getattr(task, "speed", None)
            return Text("" if speed is None else f"{speed:,.0f} rows/s")

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=shell.err, transient=True) as bar:
        row = bar.add_task("rows", total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)
