"""`ratls policy new` and `computations`: for whoever writes a policy.

The options of one concern are one value here: which parties, which enclave, which rows, what is
computed. Each refuses what does not go together before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from policy.cli_sign import can_ask
from policy.options import ExpectLibpal, ExpectLibsysdb, Json, Libpal, Measuring

if TYPE_CHECKING:
    from policy.draft import Rows
    from policy.sections import Party

_ROWS = "ratls.rows"  # entry points: what reads a table is in a package further to the right
_RUN = "logistic_regression"

# Who, and for how long.
Sent = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FOLDER",
        help="What a party sent: its party.toml (or keys/party.toml), and its dataset.toml, "
        "if there is one.",
    ),
]
Study = Annotated[str | None, typer.Option(help="Name of the study: a-z, 0-9 and -.")]
PartyFiles = Annotated[list[Path] | None, typer.Option(help="A party.toml; once per party.")]
Expires = Annotated[str | None, typer.Option(help="First instant at which it no longer holds.")]
NotBefore = Annotated[str | None, typer.Option(help="First instant. Default: now.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to make.")]

# Which enclave, on which platforms.
TeeName: TypeAlias = Literal["sgx", "tdx"]
MrEnclave = Annotated[str | None, typer.Option(help="Of SGX: 64 hex digits.")]
Tee = Annotated[TeeName, typer.Option(help="The technology, where no quote is given.")]
Quote = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="List what this quote says. It is not verified."),
]
Signed = Annotated[
    Path | None,
    typer.Option(
        metavar="SIGNED",
        help="List this signed manifest, measured with --libpal, or this SIGSTRUCT (.sig).",
    ),
]
Root = Annotated[str, typer.Option(help="Root of trust.")]
Machines = Annotated[list[str] | None, typer.Option(help="ppid:… or piid:…; may be repeated.")]

# Which rows, and what is computed with them.
Datasets = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="[[dataset]] blocks, as `ratls provider describe` prints them."
    ),
]
SchemaFrom = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Rows whose columns every provider's dataset has."),
]
Subject = Annotated[str | None, typer.Option(help="The column that tells persons apart.")]
Run = Annotated[str | None, typer.Option(help="What is computed. Default: logistic_regression.")]
Computations = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="[[computation]] blocks instead.")
]


def new(
    sent: Sent = None,
    study: Study = None,
    party_file: PartyFiles = None,
    expires: Expires = None,
    output: Output = Path("policy.toml"),
    not_before: NotBefore = None,
    mr_enclave: MrEnclave = None,
    tee: Tee = "sgx",
    quote: Quote = None,
    root: Root = "intel",
    machine: Machines = None,
    dataset: Datasets = None,
    schema_from: SchemaFrom = None,
    subject: Subject = None,
    run: Run = None,
    computation: Computations = None,
    enclave: Signed = None,
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

    measuring = Measuring(libpal, expect_libpal, expect_libsysdb)
    listed = _Listed(mr_enclave, tee, quote, enclave, measuring)
    declared = _Declared.of(sent or [], dataset or [], schema_from, subject)
    if computation and run is not None:
        raise typer.BadParameter("not beside --computation", param_hint="--run")
    who = _Who.of(study, [*map(_party_in, sent or []), *(party_file or [])], expires)
    with refusals_as_exit_status(json) as shell:
        from policy.draft import blank_lines, draft_policy
        from policy.party import read_party_file
        from verifier.files import read_file, write_new

        parties = [read_party_file(path) for path in who.files]
        block = listed.block()
        datasets, inputs, remarks = declared.blocks(parties)
        text = draft_policy(
            study=who.study,
            party_blocks=[read_file(path).decode("utf-8") for path in who.files],
            enclave=block,
            root=root,
            machines=machine or [],
            not_before=parse_instant(not_before),
            expires=parse_instant(who.expires),
            datasets=datasets,
            computations=_computed(computation or [], run, parties, inputs),
        )
        write_new(output, text.encode("utf-8"), mode=0o644)
        blanks = blank_lines(text)
        shell.answer(
            {"policy": str(output), "blank_lines": blanks}, f"{output}: a draft of {who.study}"
        )
        for remark in remarks:
            shell.say(remark)
        if quote is not None:
            shell.say(f"{quote} was not verified: compare its measurements with your own build")
        fill = f"fill in the blanks in lines {', '.join(map(str, blanks))}" if blanks else "read it"
        shell.say(f"next: {fill}, then ratls policy lint {output}")


@dataclass(frozen=True, slots=True)
class _Who:
    """What has no default: a terminal is asked for it."""

    study: str
    files: list[Path]  # each a party.toml
    expires: str

    @classmethod
    def of(cls, study: str | None, files: list[Path], expires: str | None) -> _Who:
        """Raises: typer.BadParameter, where something is missing and nobody can be asked."""
        needed = {"--study": study, "FOLDER or --party-file": files, "--expires": expires}
        missing = [option for option, given in needed.items() if not given]
        if missing and not can_ask():
            raise typer.BadParameter("missing", param_hint=", ".join(missing))
        return cls(
            study or _asked("Name of the study (a-z, 0-9 and -)"),
            files or _asked_files("party.toml of a party"),
            expires or _asked("First instant at which it no longer holds (RFC 3339)"),
        )


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


@dataclass(frozen=True, slots=True)
class _Listed:
    """The enclave that the draft lists: quoted, measured, named, or a blank."""

    mr_enclave: str | None
    tee: TeeName
    quote: Path | None
    signed: Path | None
    measuring: Measuring

    def __post_init__(self) -> None:
        if self.mr_enclave is not None and (self.quote is not None or self.tee == "tdx"):
            raise typer.BadParameter("is of SGX, and not beside --quote", param_hint="--mr-enclave")

    def block(self) -> str:
        """The `[[enclave]]` of a policy."""
        from policy.draft import PLACEHOLDER, block_of, domain_block, enclave_block
        from verifier.quote_files import read_quote_file

        if self.quote is not None:
            return block_of(read_quote_file(str(self.quote)).quote.report)
        if self.signed is not None:
            return self._measured(self.signed)
        return (
            domain_block() if self.tee == "tdx" else enclave_block(self.mr_enclave or PLACEHOLDER)
        )

    def _measured(self, file: Path) -> str:
        """Of a SIGSTRUCT, or of a signed manifest that is measured."""
        from policy.draft import enclave_block
        from verifier.files import parse_file
        from verifier.gramine.sigstruct import Sigstruct

        if file.suffix == ".sig":
            signed = parse_file(file, Sigstruct.parse)
            signed.verify()
            return enclave_block(str(signed.mr_enclave), signed.isv_prod_id, signed.isv_svn)
        manifest, measured = self.measuring.measure(file)
        sgx = manifest.table("sgx")
        return enclave_block(str(measured.mr_enclave), sgx["isvprodid"], sgx["isvsvn"])


@dataclass(frozen=True, slots=True)
class _Declared:
    """The datasets: blocks that providers sent, or the columns of one table for each of them."""

    files: list[Path]
    schema_from: Path | None
    subject: str | None

    @classmethod
    def of(
        cls,
        sent: Sequence[Path],
        files: Sequence[Path],
        schema_from: Path | None,
        subject: str | None,
    ) -> _Declared:
        """Raises: typer.BadParameter."""
        beside = [folder / "dataset.toml" for folder in sent]
        found = [*(file for file in beside if file.exists()), *files]
        if schema_from is not None and (found or subject is None):
            raise typer.BadParameter(
                "needs --subject, and no --dataset", param_hint="--schema-from"
            )
        return cls(found, schema_from, subject)

    def blocks(self, parties: Sequence[Party]) -> tuple[str, list[str], Sequence[str]]:
        """The `[[dataset]]`s, their ids, and what is to be said about them."""
        from policy.draft import blocks_in, dataset_blocks, rows_id

        rows = None if self.schema_from is None else _rows(self.schema_from, self.subject or "")
        given = [blocks_in(path, "dataset") for path in self.files]
        texts = [text for text, _ in given] or [dataset_blocks(parties, rows, self.subject)]
        ids = [id_ for _, found in given for id_ in found]
        ids = ids or [rows_id(party.id) for party in parties if "provider" in party.roles]
        return "\n".join(texts), ids, () if rows is None else rows.remarks


def _rows(path: Path, subject: str) -> Rows:
    """The columns of a table, as a provider's check would read it."""
    from verifier.modes import own_entry_points

    (entry,) = own_entry_points(_ROWS)
    found: Rows = entry.load()(path, subject)
    return found


def _computed(
    files: Sequence[Path], run: str | None, parties: Sequence[Party], inputs: list[str]
) -> str:
    """The `[[computation]]`s of these files, or one of what is run over all inputs."""
    from policy.draft import blocks_in, computation_block

    found = [blocks_in(path, "computation")[0] for path in files]
    return "\n".join(found or [computation_block(run or _RUN, parties, inputs)])


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
