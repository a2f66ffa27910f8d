"""`ratls policy`: draft, read, sign, check and accept what the parties agree on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy import cli_draft, cli_sign
from policy.options import AgreementFile, Json, KnownDigest, OwnParty, checked_digest
from verifier.usage import Commands

if TYPE_CHECKING:
    pass

policy = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Draft, read, sign, check and accept what the parties agree on.",
)

policy.command("new")(cli_draft.new)
policy.command("lint")(cli_draft.lint)
policy.command("computations")(cli_draft.computations)


@policy.command("show")
def policy_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml or an agreement.")],
    json: Json = False,
) -> None:
    """Show a policy as it was read, not as it was written.

    Example: ratls policy show study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_policy
        from policy.show import as_json, tables

        shown = read_policy(file)
        shell.warn_simulation(shown.platform.simulated)
        if json:
            shell.answer(as_json(shown), "")
            return
        for table in tables(shown):
            shell.out.print(table)


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


@policy.command("status")
def policy_status(file: AgreementFile, json: Json = False) -> None:
    """Show who signed an agreement, and who is missing. Does not check who has the keys.

    Example: ratls policy status study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_agreement
        from policy.show import agreement_facts, signatures_text, signers_table

        agreement = read_agreement(file)
        shell.warn_simulation(agreement.policy.platform.simulated)
        if not json:
            shell.out.print(signers_table(agreement))
        shell.answer(agreement_facts(agreement), signatures_text(agreement))


@policy.command("verify")
def policy_verify(
    file: AgreementFile,
    party: OwnParty = None,
    digest: KnownDigest = None,
    at: Annotated[str | None, typer.Option(help="Instant of judgement. Default: now.")] = None,
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

        opened = open_agreement(file, party=party, digest=digest)
        complete = opened.agreed
        shell.warn_simulation(complete.policy.platform.simulated)
        unverified = opened.compare(complete.policy)
        require_window(complete.policy, parse_instant(at))
        if unverified is not None:
            raise unverified
        shell.answer(
            agreement_facts(complete.agreement) | {"verdict": "accepted"},
            f"{file}: complete and in force; {signatures_text(complete.agreement)}",
        )


policy.command("accept")(cli_sign.accept)

_state = typer.Typer(help="The folder of what this party accepted and released.")


@_state.callback()
def state() -> None:
    """A group with one command stays a group."""


@_state.command()
def adopt(
    folder: Annotated[Path, typer.Option("--state", help="The folder as it is now.")],
    head: Annotated[
        str,
        typer.Option(
            callback=checked_digest,
            help="Head of its journal, sha256:…, as noted where the folder was before.",
        ),
    ],
    json: Json = False,
) -> None:
    """Go on in a state folder that was moved to another disk or machine, or restored.

    Two copies that are both in use would release one task to two enclaves, so a copy is refused
    until this is said once. Stop everything that uses the original first, note its head with
    `ratls provider journal verify`, and remove it: nothing can keep two machines from adopting
    one copy each.

    Example: ratls policy state adopt --state state --head sha256:HEAD
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.journal import Journal

        placed = Journal.adopt(folder, head, now())
        shell.answer(
            {"state": str(folder)} | placed.model_dump(mode="json"),
            f"{folder}: adopted; the journal says so, and the original must not be used any more",
        )


policy.add_typer(_state, name="state")
