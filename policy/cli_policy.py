"""`ratls policy`: draft, read, sign, check, accept and end what the parties agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy import cli_draft, cli_lint, cli_read, cli_review, cli_sign, cli_state
from policy.options import AgreementFile, Json, KnownDigest, KnownState, OwnParty, known_state
from verifier.usage import Commands

policy = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Draft, read, sign, check, accept and end what the parties agree on.",
)

policy.command("new")(cli_draft.new)
policy.command("lint")(cli_lint.lint)
policy.command("computations")(cli_draft.computations)
policy.command("show")(cli_read.show)
policy.command("diff")(cli_read.diff)
policy.command("review")(cli_review.review)
policy.command("dry-run")(cli_review.dry_run)


@policy.command("machines")
def policy_machines(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One ppid:… or piid:… a line.")],
    folder: Annotated[
        Path | None, typer.Option("--beside", metavar="DIR", help="Folder of the policy.")
    ] = None,
    json: Json = False,
) -> None:
    """Put a fleet's machines beside a policy, and print the line with which it names them.

    The file travels with the policy. Everybody signs its digest.

    Example: ratls policy machines fleet.txt --beside study
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.machines import FILE_CAP, digest_of, file_name, machines_text, read_machines
        from verifier.files import read_file, write_atomically
        from verifier.text import digest_text

        fleet = read_machines(read_file(file, cap=FILE_CAP))
        raw = machines_text(fleet)
        digest = digest_text(digest_of(raw))
        path = (folder or file.parent) / file_name(digest)
        write_atomically(path, raw, mode=0o644)
        shell.answer(
            {"file": str(path), "machines": len(fleet), "machines_file": digest},
            f'machines_file = "{digest}"',
        )
        shell.say(f"{len(fleet)} machines in {path}; the line replaces machines = [..]")


policy.command("sign")(cli_sign.sign)


policy.command("merge")(cli_sign.merge)
policy.command("status")(cli_read.status)


@policy.command("verify")
def policy_verify(
    file: AgreementFile,
    party: OwnParty = None,
    digest: KnownDigest = None,
    at: Annotated[str | None, typer.Option(help="Instant of judgement. Default: now.")] = None,
    state: KnownState = None,
    json: Json = False,
) -> None:
    """Check that an agreement is complete, in force, and the one that you mean.

    Without --party or --digest its digest is shown, and nothing is decided (exit status 5).

    Example: ratls policy verify study.agreement.json --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import require_window
        from policy.agreement_file import open_agreement
        from policy.show import agreement_facts, signatures_text

        opened = open_agreement(file, party=party, digest=digest, state=known_state(state))
        complete = opened.agreed
        shell.warn_simulation(complete.policy.platform.simulated)
        unverified = opened.compare(complete.policy)
        require_window(complete.policy, parse_instant(at))
        if unverified is not None:
            raise unverified
        shell.answer(
            agreement_facts(complete.agreement)
            | {
                "verdict": "accepted",
                "state": opened.state and str(opened.state),
                "withdrawn": opened.withdrawn_from(complete.policy),
            },
            f"{file}: complete and in force; {signatures_text(complete.agreement)}",
        )
        if remark := opened.standing_text(complete.policy):
            shell.say(remark)


policy.command("accept")(cli_sign.accept)

policy.command("withdraw")(cli_state.withdraw)
policy.command("distrust")(cli_state.distrust)
policy.add_typer(cli_state.state, name="state")
