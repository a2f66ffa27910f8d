"""`ratls provider check`, and how reading rows is shown on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from provider.options import StateDir, state_folder

if TYPE_CHECKING:
    from provider.stamps import Checked
    from verifier.shell import Shell

SourcePath = Annotated[
    Path,
    typer.Option(
        help="Its rows: .parquet, .csv, .tsv, .csv.gz, .arrow, .arrows, .ipc or .feather, "
        "a folder of .parquet; or a .toml that says where they are."
    ),
]


def check(
    dataset: Annotated[str, typer.Option(help="Id of your dataset in the policy.")],
    source: SourcePath,
    study: Annotated[
        str | None, typer.Option(help="Its study, where several studies have such a dataset.")
    ] = None,
    state: StateDir = None,
    json_output: Json = False,
) -> None:
    """Read a source and hold every row against the accepted policy. Nobody is connected to.

    Keeps a note of that in the state folder: until the source, the policy or this program changes,
    a release of it looks at no value again. A database is checked, and nothing is noted.

    Example: ratls provider check --dataset train_party_1 --source rows.parquet
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.dry_run import accepted_dataset, check_rows

        folder = state_folder(state)
        declared = accepted_dataset(folder, dataset, study)
        with shown_progress(shell, "rows checked") as progress:
            checked = check_rows(folder, declared, source, progress=progress)
        kept = "a release need not check them again" if checked.stamped else "nothing was noted"
        shell.answer(
            checked_shown(dataset, checked),
            f"checked: {amount(checked)} of {dataset}; {kept}",
        )


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
