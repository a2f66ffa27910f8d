"""`ratls provider train`: take part in the rounds of a task, without sending a row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json
from provider.cli_check import SourcePath
from provider.options import Mailbox, OwnDataset, ToEnclave, report_released


def train(
    dataset: OwnDataset,
    source: SourcePath,
    to: ToEnclave,
    mailbox: Mailbox,
    program: Annotated[
        Path | None,
        typer.Option(
            help="Trains in place of scikit-learn, as PROGRAM FOLDER: finds global.arrow and "
            "round.json there, and leaves update.arrow, the model after training."
        ),
    ] = None,
    program_seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="It must end in this time, each round.")
    ] = 3600,
    json_output: Json = False,
) -> None:
    """Take part in the rounds of one task: train at home, send what changed, receive the model.

    No row leaves. In each round the enclave proves itself before the update is sent; then it joins
    the updates of all parties, and every party receives the joint model with a signed receipt. A
    party that was too late for a round goes on with the next; the command can be started again.
    With --scheduler the end is reported to the scheduler.

    Example: ratls provider train --task task.json --dataset train_party_1 --source rows.parquet
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.document import digest_text
        from provider.rounds import take_part

        request = to.request(shell)

        def progress(number: int, rounds: int) -> None:
            shell.say(f"round {number} of {rounds} is over" if number else f"{rounds} rounds begin")

        done = take_part(
            request,
            dataset,
            source,
            program=program,
            program_seconds=program_seconds,
            progress=progress,
        )
        counted = len(done.counted)
        ended = (done.task_digest, dataset, done.instance)
        reported = report_released(shell, request, *ended, mailbox)
        shell.answer(
            {
                "dataset": dataset,
                "computation": done.computation.id,
                "rounds": done.rounds,
                "counted": list(done.counted),
                "model_digest": digest_text(done.digest),
                "model": str(done.kept.model),
                "receipts": str(done.kept.folder),
                "reported": reported,
                "mode": done.mode.value,
            },
            f"{done.rounds} rounds of {done.computation.id} are over; an update of {dataset} "
            f"counted in {counted} of them ({done.mode})\n"
            f"  model    {done.kept.model}, {digest_text(done.digest)}\n"
            f"  receipts {done.kept.folder}",
        )
