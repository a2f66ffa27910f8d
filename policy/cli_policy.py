"""`ratls policy`: draft, read, sign, check and accept what the parties agree on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from policy import cli_sign
from policy.options import (
    AgreementFile,
    ExpectLibpal,
    ExpectLibsysdb,
    Json,
    KnownDigest,
    OwnParty,
    checked_digest,
)
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.document import Policy
    from verifier.parts import Announced

policy = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Draft, read, sign, check and accept what the parties agree on.",
)

Libpal = Annotated[Path | None, typer.Option(metavar="FILE", help="Gramine's loader, libpal.so.")]


def _with(libpal: Path | None) -> Path:
    if libpal is None:
        raise typer.BadParameter("is needed to measure a manifest", param_hint="--libpal")
    return libpal


@policy.command("new")
def policy_new(
    study: Annotated[str, typer.Option(help="Name of the study: a-z, 0-9 and -.")],
    party_file: Annotated[list[Path], typer.Option(help="A party.toml; once per party.")],
    expires: Annotated[str, typer.Option(help="First instant at which it no longer holds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")] = Path(
        "policy.toml"
    ),
    not_before: Annotated[str | None, typer.Option(help="First instant. Default: now.")] = None,
    mr_enclave: Annotated[str | None, typer.Option(help="Of SGX: 64 hex digits.")] = None,
    tee: Annotated[
        Literal["sgx", "tdx"], typer.Option(help="The technology, where no quote is given.")
    ] = "sgx",
    quote: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="List what this quote says. It is not verified."),
    ] = None,
    root: Annotated[str, typer.Option(help="Root of trust.")] = "intel",
    machine: Annotated[
        list[str] | None, typer.Option(help="ppid:… or piid:…; may be repeated.")
    ] = None,
    enclave: Annotated[
        Path | None,
        typer.Option(metavar="SIGNED", help="Measure this signed manifest, with --libpal."),
    ] = None,
    libpal: Libpal = None,
    expect_libpal: ExpectLibpal = None,
    expect_libsysdb: ExpectLibsysdb = None,
    json: Json = False,
) -> None:
    """Write a first policy.toml with comments, to be completed in an editor.

    Example: ratls policy new --study my-study --party-file alice/party.toml
    --party-file bob/party.toml --expires 2027-02-01T00:00:00Z -o policy.toml
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    if mr_enclave is not None and (quote is not None or tee == "tdx"):
        raise typer.BadParameter("is of SGX, and not beside --quote", param_hint="--mr-enclave")
    with refusals_as_exit_status(json) as shell:
        from policy.draft import (
            PLACEHOLDER,
            block_of,
            domain_block,
            draft_policy,
            enclave_block,
        )
        from policy.party import read_party_file
        from verifier.files import read_file, write_new
        from verifier.quote_files import read_quote_file

        for path in party_file:
            read_party_file(path)  # refuses what is no party block, before anything is written
        if quote is not None:
            block = block_of(read_quote_file(str(quote)).quote.report)
        elif enclave is not None:
            from policy.measured import accepted_measurement

            manifest, measured = accepted_measurement(
                enclave, _with(libpal), expect_libpal, expect_libsysdb
            )
            sgx = manifest.table("sgx")
            block = enclave_block(str(measured.mr_enclave), sgx["isvprodid"], sgx["isvsvn"])
        else:
            block = domain_block() if tee == "tdx" else enclave_block(mr_enclave or PLACEHOLDER)
        text = draft_policy(
            study=study,
            party_blocks=[read_file(path).decode("utf-8") for path in party_file],
            enclave=block,
            root=root,
            machines=machine or [],
            not_before=parse_instant(not_before),
            expires=parse_instant(expires),
        )
        write_new(output, text.encode("utf-8"), mode=0o644)
        shell.answer({"policy": str(output)}, f"{output}: a draft of {study}")
        if quote is not None:
            shell.say(f"{quote} was not verified: compare its measurements with your own build")
        shell.say(f"next: complete it, then ratls policy lint {output}")


@policy.command("lint")
def policy_lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml.")],
    collateral: Annotated[
        list[Path] | None,
        typer.Option(
            help="Announce current levels in this bundle that the policy refuses for an advisory; "
            "may be repeated."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="SIGNED", help="It must name the enclave of this signed manifest."),
    ] = None,
    libpal: Libpal = None,
    expect_libpal: ExpectLibpal = None,
    expect_libsysdb: ExpectLibsysdb = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is only advised against, too.")
    ] = False,
    json: Json = False,
) -> None:
    """List every problem of a policy with its path, line and fix. If there is none, say for each
    computation what its result tells about persons, where the policy leaves something open, and
    what is legal and unwise.

    Intel attaches advisories to levels that are UpToDate, too; a policy accepts those that it lists
    in accepted_advisories, and refuses the others. With --collateral, such levels are announced.

    With --manifest the enclave is measured, and must be one that the policy names.

    Example: ratls policy lint policy.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.advice import PolicyUnwise, advices, require_wise
        from policy.agreement_file import read_policy
        from policy.computations import DECLARED
        from policy.document import PolicyInvalid, digest_text
        from policy.show import notes

        try:
            read = read_policy(file)
        except PolicyInvalid as refusal:
            problems = [
                {
                    "path": p.path,
                    "line": p.line,
                    "expected": p.expected,
                    "found": p.found,
                    "fix": p.fix,
                }
                for p in refusal.problems
            ]
            shell.answer(
                {"file": str(file), "problems": problems, "error": refusal.as_json()},
                "\n".join(f"{file}: {problem}" for problem in refusal.problems),
            )
            raise typer.Exit(int(refusal.exit_status)) from refusal
        digest, noted, unwise = digest_text(read.digest), notes(read, file.parent), advices(read)
        for advice in unwise:
            noted.pop(advice.path, None)  # which says the same, and why
        says = {c.id: f"{c.run} says {DECLARED[c.run].says}" for c in read.computation}
        ahead = _announced(read, collateral or [])
        facts = {"file": str(file), "problems": [], "digest": digest, "says": says, "notes": noted}
        lines = [f"{file}: no problems, {digest}"]
        if manifest is not None:
            from policy.measured import accepted_measurement, require_agreed

            found = accepted_measurement(manifest, _with(libpal), expect_libpal, expect_libsysdb)
            lines.append(f"  {manifest} is the enclave {require_agreed(read, *found)}")
        lines += [
            *(f"  {name}: {text}" for name, text in (says | noted).items()),
            *(f"  {place}: {level.text}" for place, level in ahead),
            *(f"  unwise: {advice}" for advice in unwise),
        ]
        announced = [{"collateral": place, **level.as_json()} for place, level in ahead]
        ended: PolicyUnwise | None = None
        if strict:
            try:
                require_wise(str(file), unwise)
            except PolicyUnwise as too_unwise:
                ended = too_unwise
        shell.answer(
            facts
            | {
                "announced": announced,
                "advice": [advice.as_json() for advice in unwise],
                "error": ended and ended.as_json(),
            },
            "\n".join(lines),
        )
        shell.end_with(ended)


def _announced(policy: Policy, files: Sequence[Path]) -> list[tuple[str, Announced]]:
    """Current levels in these bundles that the policy would refuse; by the bundle's name."""
    if not files:
        return []
    from verifier.anchors import RootName
    from verifier.bundles import read_collateral
    from verifier.contents import Contents
    from verifier.errors import placed
    from verifier.parts import announced, levels_of

    roots = RootName.parse(policy.platform.root).anchors
    found = []
    for file in files:
        bundle = read_collateral(file)
        with placed(str(file)):
            contents = Contents.authenticate(bundle, roots)
        levels = announced(levels_of(contents), policy.platform.accepted_advisories)
        found += [(str(file), level) for level in levels]
    return found


@policy.command("computations")
def policy_computations(
    name: Annotated[str | None, typer.Argument(help="One of them. Default: all.")] = None,
    json: Json = False,
) -> None:
    """Show what an enclave can compute: parameters, outputs and limits of each computation.

    A policy names one with `run`. What its result still tells about persons is said, too.

    Example: ratls policy computations logistic_regression
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.show_computations import facts, named, text

        names = named(name)
        shell.answer(
            {"computations": [facts(each) for each in names]}, "\n\n".join(map(text, names))
        )


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
