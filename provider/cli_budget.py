"""`ratls provider budget`: how often something may still be learnt from the own datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json, PartyDir
from provider.options import StateDir, state_folder

if TYPE_CHECKING:
    from policy.document import Policy
    from policy.journal_chain import JournalRecord


def budget(
    party: PartyDir,
    state: StateDir = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    json_output: Json = False,
) -> None:
    """Show what of each own dataset's budget is spent, reserved and left.

    Counted from the journal: per dataset and what is learnt from it (computation and columns),
    over all studies and versions. A task counts once its rows may have left, whatever came of it: a
    refusal by rows is an answer too. It is reserved until its commit was signed, then spent. The
    last lines say how many tasks had rows of a dataset at all.

    Example: ratls provider budget --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.journal import Reading
        from policy.party import LocalParty
        from policy.state import StudyState
        from provider.dry_run import undeclared

        own, folder = LocalParty.load(party).party_id, state_folder(state)
        store, records = StudyState(folder), Reading.of(folder).records
        rows = [
            row
            for study in store.studies()
            if (stored := store.stored(study)) is not None
            for row in _of(stored.policy, own, records)
        ]
        if dataset is not None:
            known = list(dict.fromkeys(row["dataset"] for row in rows))
            rows = [row for row in rows if row["dataset"] == dataset]
            if not rows:
                raise undeclared(dataset, known)
        totals = [_total(records, name) for name in dict.fromkeys(row["dataset"] for row in rows)]
        shell.answer(
            {"party": own, "budgets": rows, "datasets": totals},
            "\n".join([*map(_line, rows), *map(_total_line, totals)])
            or f"{own} owns no input of an accepted policy",
        )


def _of(policy: Policy, own: str, records: tuple[JournalRecord, ...]) -> list[dict[str, Any]]:
    from provider.budget import Asked, left

    mine = {dataset.id for dataset in policy.dataset if dataset.owner == own}
    found = []
    for computation in policy.computation:
        for dataset in (name for name in computation.inputs if name in mine):
            budget = left(records, Asked.of(policy, computation.id, dataset))
            found.append(
                {
                    "study": policy.study,
                    "version": policy.version,
                    "dataset": dataset,
                    "computation": computation.id,
                    "run": computation.run,
                    "uses": budget.uses,
                    "used": budget.used,
                    "spent": budget.used - len(budget.reserved),
                    "reserved": len(budget.reserved),
                    "left": budget.left,
                    "used_by_study": {study: len(tasks) for study, tasks in budget.tasks.items()},
                }
            )
    return found


def _line(row: dict[str, Any]) -> str:
    elsewhere = {s: n for s, n in row["used_by_study"].items() if s != row["study"]}
    more = "".join(f", {number} of them for {study}" for study, number in elsewhere.items())
    return (
        f"{row['study']}: {row['dataset']}, {row['computation']} ({row['run']}): "
        f"{row['left']} of {row['uses']} left, {row['spent']} spent, "
        f"{row['reserved']} reserved{more}"
    )


def _total(records: tuple[JournalRecord, ...], dataset: str) -> dict[str, Any]:
    from provider.budget import of_dataset

    found = of_dataset(records, dataset)
    return {
        "dataset": dataset,
        "tasks": found.used,
        "reserved": len(found.reserved),
        "by_study": {study: len(tasks) for study, tasks in found.tasks.items()},
    }


def _total_line(total: dict[str, Any]) -> str:
    studies = "".join(f", {number} for {study}" for study, number in total["by_study"].items())
    return f"{total['dataset']} in all: {total['tasks']} tasks{studies}"
