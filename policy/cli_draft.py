"""`ratls policy new`, `lint` and `computations`: for whoever writes a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from policy.cli_sign import can_ask
from policy.options import ExpectLibpal, ExpectLibsysdb, Json

if TYPE_CHECKING:
    from policy.document import Policy
    from policy.draft import Rows
    from verifier.parts import Announced

_ROWS = "ratls.rows"  # entry points: what reads a table is in a package further to the right


Libpal = Annotated[Path | None, typer.Option(metavar="FILE", help="Gramine's loader, libpal.so.")]


def _with(libpal: Path | None) -> Path:
    if libpal is None:
        raise typer.BadParameter("is needed to measure a manifest", param_hint="--libpal")
    return libpal


def new(
    sent: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="What a party sent: its party.toml (or keys/party.toml), and its dataset.toml, "
            "if there is one.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study: a-z, 0-9 and -.")] = None,
    party_file: Annotated[
        list[Path] | None, typer.Option(help="A party.toml; once per party.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="First instant at which it no longer holds.")
    ] = None,
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
    dataset: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="[[dataset]] blocks, as `ratls provider describe` prints them."
        ),
    ] = None,
    schema_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows whose columns every provider's dataset has."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="The column that tells persons apart.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="What is computed. Default: logistic_regression."),
    ] = None,
    computation: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="[[computation]] blocks instead.")
    ] = None,
    enclave: Annotated[
        Path | None,
        typer.Option(
            metavar="SIGNED",
            help="List this signed manifest, measured with --libpal, or this SIGSTRUCT (.sig).",
        ),
    ] = None,
    libpal: Libpal = None,
    expect_libpal: ExpectLibpal = None,
    expect_libsysdb: ExpectLibsysdb = None,
    json: Json = False,
) -> None:
    """Write a first policy.toml with comments; what only its authors know are blanks in it.

    Asks at a terminal for what the options leave out. Once its blanks are filled in, it lints
    clean.

    Example: ratls policy new alice bob --study my-study --expires 2027-02-01T00:00:00Z
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    party_file = [*map(_party_in, sent or []), *(party_file or [])]
    blocks = [folder / "dataset.toml" for folder in sent or []]
    dataset = [*(file for file in blocks if file.exists()), *(dataset or [])]

    if mr_enclave is not None and (quote is not None or tee == "tdx"):
        raise typer.BadParameter("is of SGX, and not beside --quote", param_hint="--mr-enclave")
    if schema_from is not None and (dataset or subject is None):
        raise typer.BadParameter("needs --subject, and no --dataset", param_hint="--schema-from")
    if computation and run is not None:
        raise typer.BadParameter("not beside --computation", param_hint="--run")
    needed = {"--study": study, "FOLDER or --party-file": party_file, "--expires": expires}
    missing = [option for option, given in needed.items() if not given]
    if missing and not can_ask():
        raise typer.BadParameter("missing", param_hint=", ".join(missing))
    study = study or _asked("Name of the study (a-z, 0-9 and -)")
    party_file = party_file or _asked_files("party.toml of a party")
    expires = expires or _asked("First instant at which it no longer holds (RFC 3339)")
    with refusals_as_exit_status(json) as shell:
        from policy.draft import (
            PLACEHOLDER,
            blank_lines,
            block_of,
            blocks_in,
            computation_block,
            dataset_blocks,
            domain_block,
            draft_policy,
            enclave_block,
            rows_id,
        )
        from policy.party import read_party_file
        from verifier.files import read_file, write_new
        from verifier.quote_files import read_quote_file

        parties = [read_party_file(path) for path in party_file]
        if quote is not None:
            listed = block_of(read_quote_file(str(quote)).quote.report)
        elif enclave is not None:
            listed = _measured(enclave, libpal, expect_libpal, expect_libsysdb)
        else:
            listed = domain_block() if tee == "tdx" else enclave_block(mr_enclave or PLACEHOLDER)
        rows = None if schema_from is None else _rows(schema_from, subject or "")
        given = [blocks_in(path, "dataset") for path in dataset or []]
        datasets = [text for text, _ in given] or [dataset_blocks(parties, rows, subject)]
        computed = [blocks_in(path, "computation")[0] for path in computation or []]
        inputs = [id_ for _, ids in given for id_ in ids]
        inputs = inputs or [rows_id(p.id) for p in parties if "provider" in p.roles]
        if not computed:
            computed = [computation_block(run or "logistic_regression", parties, inputs)]
        text = draft_policy(
            study=study,
            party_blocks=[read_file(path).decode("utf-8") for path in party_file],
            enclave=listed,
            root=root,
            machines=machine or [],
            not_before=parse_instant(not_before),
            expires=parse_instant(expires),
            datasets="\n".join(datasets),
            computations="\n".join(computed),
        )
        write_new(output, text.encode("utf-8"), mode=0o644)
        blanks = blank_lines(text)
        shell.answer(
            {"policy": str(output), "blank_lines": blanks}, f"{output}: a draft of {study}"
        )
        for remark in rows.remarks if rows is not None else ():
            shell.say(remark)
        if quote is not None:
            shell.say(f"{quote} was not verified: compare its measurements with your own build")
        fill = f"fill in the blanks in lines {', '.join(map(str, blanks))}" if blanks else "read it"
        shell.say(f"next: {fill}, then ratls policy lint {output}")


def _party_in(folder: Path) -> Path:
    """Where `ratls init` makes it, or where whoever was sent it puts it."""
    made = folder / "keys" / "party.toml"
    return made if made.exists() else folder / "party.toml"


def _asked_files(question: str) -> list[Path]:
    """One at least; an empty answer ends them."""
    files = [Path(_asked(question))]
    while more := _asked(f"{question} (empty: no more)", default=""):
        files.append(Path(more))
    return files


def _asked(question: str, default: str | None = None) -> str:
    try:
        answer = typer.prompt(question, default=default, show_default=False, err=True)
    except typer.Abort:
        typer.echo("ended, nothing written", err=True)
        raise typer.Exit(2) from None
    return str(answer).strip()


def _measured(
    file: Path, libpal: Path | None, expect_libpal: str | None, expect_libsysdb: str | None
) -> str:
    """The `[[enclave]]` of a SIGSTRUCT, or of a signed manifest that is measured."""
    from policy.draft import enclave_block
    from policy.measured import accepted_measurement
    from verifier.files import parse_file
    from verifier.gramine.sigstruct import Sigstruct

    if file.suffix == ".sig":
        signed = parse_file(file, Sigstruct.parse)
        signed.verify()
        return enclave_block(str(signed.mr_enclave), signed.isv_prod_id, signed.isv_svn)
    manifest, measured = accepted_measurement(file, _with(libpal), expect_libpal, expect_libsysdb)
    sgx = manifest.table("sgx")
    return enclave_block(str(measured.mr_enclave), sgx["isvprodid"], sgx["isvsvn"])


def _rows(path: Path, subject: str) -> Rows:
    """The columns of a table, as a provider's check would read it."""
    from verifier.modes import own_entry_points

    (entry,) = own_entry_points(_ROWS)
    found: Rows = entry.load()(path, subject)
    return found


def lint(
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
        from policy.document import PolicyProblems, digest_text
        from policy.draft import blank_fix, blank_lines
        from policy.sentences import together
        from policy.show import notes
        from policy.sql_check import require_statements
        from verifier.files import read_file

        try:
            read = read_policy(file)
            require_statements(read)
        except PolicyProblems as refusal:
            problems = [
                {
                    "path": p.path,
                    "line": p.line,
                    "expected": p.expected,
                    "found": p.found,
                    "fix": blank_fix(p.found) or p.fix,
                }
                for p in refusal.problems
            ]
            blanks = blank_lines(read_file(file).decode("utf-8", "replace"))
            lines = [f"{replace(p, fix=blank_fix(p.found) or p.fix)}" for p in refusal.problems]
            if blanks:
                lines.append(f"blanks to fill in, in lines {', '.join(map(str, blanks))}")
            shell.answer(
                {
                    "file": str(file),
                    "problems": problems,
                    "blank_lines": blanks,
                    "error": refusal.as_json(),
                },
                "\n".join(f"{file}: {line}" for line in lines),
            )
            raise typer.Exit(int(refusal.exit_status)) from refusal
        digest, noted, unwise = digest_text(read.digest), notes(read, file.parent), advices(read)
        for advice in unwise:
            noted.pop(advice.path, None)  # which says the same, and why
        says = {c.id: f"{c.run} says {DECLARED[c.run].says}" for c in read.computation}
        ahead = _announced(read, collateral or [])
        facts = {"file": str(file), "problems": [], "digest": digest, "says": says, "notes": noted}
        facts["together"] = told = [*together(read)]
        lines = [f"{file}: no problems, {digest}"]
        if manifest is not None:
            from policy.measured import accepted_measurement, require_agreed

            found = accepted_measurement(manifest, _with(libpal), expect_libpal, expect_libsysdb)
            lines.append(f"  {manifest} is the enclave {require_agreed(read, *found)}")
        lines += [
            *(f"  {name}: {text}" for name, text in (says | noted).items()),
            *(f"  {sentence}" for sentence in told),
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


def computations(
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
