"""`ratls party` and `ratls policy`: keys of a party, and the life of an agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.state_cli import state as state_commands

if TYPE_CHECKING:
    from policy.agreement import Agreement, KeyChange
    from policy.document import Policy
    from policy.state import StudyState
    from verifier.shell import Shell

party = typer.Typer(no_args_is_help=True, help="Keys and certificate of a party.")
policy = typer.Typer(
    no_args_is_help=True, help="Draft, read, sign, check and accept what the parties agree on."
)
policy.add_typer(state_commands, name="state")

Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
PartyDir = Annotated[Path, typer.Option("--party", help="Folder made by `ratls party new`.")]
StateDir = Annotated[
    Path | None, typer.Option("--state", help="Folder of accepted agreements. Default: per user.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase of the keys. Default: ask at the terminal."),
]
AgreementFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An agreement: <name>.agreement.json.")
]


@party.callback()
def _party() -> None:
    """A group with one command stays a group."""


@party.command("new")
def party_new(
    party_id: Annotated[str, typer.Argument(metavar="ID", help="Name, like alice-clinic.")],
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the keys; made if missing.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="provider, recipient, submitter or operator; may be repeated."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make the keys and the channel certificate of a party. Nothing is ever overwritten.

    Example: ratls party new alice-clinic --dir alice --role provider --passphrase-file pass.txt
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    roles = tuple(dict.fromkeys(role or ["provider"]))
    wrong = [r for r in roles if r not in ("provider", "recipient", "submitter", "operator")]
    if wrong:
        raise typer.BadParameter(f"no such role: {wrong[0]}", param_hint="--role")
    with refusals_as_exit_status(json) as shell:
        from policy.agreement import public_keys
        from policy.party import create_party
        from policy.passphrase import new_passphrase

        made = create_party(
            folder, party_id, new_passphrase(passphrase_file), parse_instant(None), roles
        )
        keys = public_keys(made.public)
        lines = [f"{party_id}: keys in {folder}, public part in {folder / 'party.toml'}"]
        lines += [f"  {purpose:20} {fingerprint}" for purpose, fingerprint in keys.items()]
        shell.answer(
            {"party": party_id, "folder": str(folder), "roles": list(roles), "keys": keys},
            "\n".join(lines),
        )
        shell.say("next: put party.toml into the policy, and read these fingerprints to the others")


@policy.command("new")
def policy_new(
    study: Annotated[str, typer.Option(help="Name of the study: a-z, 0-9 and -.")],
    party_file: Annotated[list[Path], typer.Option(help="A party.toml; once per party.")],
    expires: Annotated[str, typer.Option(help="First instant at which it no longer holds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")] = Path(
        "policy.toml"
    ),
    not_before: Annotated[str | None, typer.Option(help="First instant. Default: now.")] = None,
    mr_enclave: Annotated[str, typer.Option(help="64 hex digits.")] = "<64 hex>",
    root: Annotated[str, typer.Option(help="Root of trust.")] = "intel",
    machine: Annotated[
        list[str] | None, typer.Option(help="ppid:… or piid:…; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a first policy.toml with comments, to be completed in an editor.

    Example: ratls policy new --study my-study --party-file alice/party.toml
    --party-file bob/party.toml --expires 2027-02-01T00:00:00Z -o policy.toml
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.draft import draft_policy
        from policy.party import read_party_file
        from verifier.files import read_file, write_new

        for path in party_file:
            read_party_file(path)  # refuses what is no party block, before anything is written
        text = draft_policy(
            study=study,
            party_blocks=[read_file(path).decode("utf-8") for path in party_file],
            mr_enclave=mr_enclave,
            root=root,
            machines=machine or [],
            not_before=parse_instant(not_before),
            expires=parse_instant(expires),
        )
        write_new(output, text.encode("utf-8"), mode=0o644)
        shell.answer({"policy": str(output)}, f"{output}: a draft of {study}")
        shell.say(f"next: complete it, then ratls policy lint {output}")


@policy.command("lint")
def policy_lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml.")], json: Json = False
) -> None:
    """Name every problem of a policy at once, each with its path and line; or say, of each
    computation, what its result still tells about persons.

    Example: ratls policy lint policy.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.computations import DECLARED
        from policy.document import digest_text
        from policy.errors import PolicyInvalid

        try:
            read = _read_policy(file)
        except PolicyInvalid as refusal:
            problems = [
                {"path": p.path, "line": p.line, "expected": p.expected, "found": p.found}
                for p in refusal.problems
            ]
            shell.answer(
                {"file": str(file), "problems": problems, "error": refusal.as_json()},
                "\n".join(f"{file}: {problem}" for problem in refusal.problems),
            )
            raise typer.Exit(int(refusal.exit_status)) from refusal
        digest = digest_text(read.digest)
        says = {c.id: f"{c.run} says {DECLARED[c.run].says}" for c in read.computation}
        lines = [f"{file}: no problems, {digest}"]
        shell.answer(
            {"file": str(file), "problems": [], "digest": digest, "says": says, "error": None},
            "\n".join(lines + [f"  {name}: {text}" for name, text in says.items()]),
        )


@policy.command("show")
def policy_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml or an agreement.")],
    json: Json = False,
) -> None:
    """Show what a policy says, as it was understood and not as it was written.

    Example: ratls policy show study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.show import as_json, tables

        shown = _read_policy(file)
        _warn_simulation(shell, shown)
        if json:
            shell.answer(as_json(shown), "")
            return
        for table in tables(shown):
            shell.out.print(table)


@policy.command("sign")
def policy_sign(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A policy.toml, or an agreement to add to.")
    ],
    party: PartyDir,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Sign a policy: its agreement file is made beside it, or extended in place.

    Example: ratls policy sign policy.toml --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import key_changes, require_listed, require_not_expired, sign
        from policy.document import digest_text
        from policy.party import LocalParty
        from policy.passphrase import passphrase_source
        from verifier.files import write_atomically

        local = LocalParty.load(party, passphrase_source(passphrase_file))
        store = _state(state)
        path, agreement = _agreement_to_sign(file, store)
        require_listed(agreement.policy, local)
        require_not_expired(agreement.policy, parse_instant(None))
        changes = key_changes(agreement.policy, _before(agreement, store))
        _warn_simulation(shell, agreement.policy)
        _show_changes(shell, changes)
        _confirm(
            f"sign {agreement.policy.study} version {agreement.policy.version}, "
            f"{digest_text(agreement.digest)}, as {local.party_id}?",
            yes=yes,
        )
        signed = sign(agreement, local)
        write_atomically(path, signed.encode())
        shell.answer(
            _status(signed)
            | {"agreement": str(path), "party": local.party_id, "keys": _json(changes)},
            f"{path}: signed by {local.party_id}; {_status_text(signed)}",
        )


@policy.command("status")
def policy_status(file: AgreementFile, json: Json = False) -> None:
    """Who signed an agreement, and who is missing. Says nothing about whose keys they are.

    Example: ratls policy status study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.show import signers_table

        agreement = _read_agreement(file)
        _warn_simulation(shell, agreement.policy)
        if not json:
            shell.out.print(signers_table(agreement))
        shell.answer(_status(agreement), _status_text(agreement))


@policy.command("verify")
def policy_verify(
    file: AgreementFile,
    party: Annotated[Path | None, typer.Option(help="Your party folder: your own anchor.")] = None,
    digest: Annotated[
        str | None, typer.Option(help="The policy digest that you know to be right, sha256:….")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Instant of judgement. Default: now.")] = None,
    json: Json = False,
) -> None:
    """Is an agreement complete and in force, and is it the one that you mean?

    Example: ratls policy verify study.agreement.json --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    if party is None and digest is None:
        raise typer.BadParameter("name --party or --digest: signatures alone prove no identity")
    with refusals_as_exit_status(json) as shell:
        from policy.agreement import require_window
        from policy.document import digest_text
        from policy.errors import PolicyConflict
        from policy.party import LocalParty

        complete = _read_agreement(file).require_complete()
        _warn_simulation(shell, complete.policy)
        if digest is not None and digest != digest_text(complete.digest):
            raise PolicyConflict(
                str(file), expected=digest[:80], found=digest_text(complete.digest)
            )
        if party is not None:
            complete.require_anchor(LocalParty.load(party))
        require_window(complete.policy, parse_instant(at))
        shell.answer(
            _status(complete.agreement) | {"verdict": "accepted"},
            f"{file}: complete and in force; {_status_text(complete.agreement)}",
        )


@policy.command("accept")
def policy_accept(
    file: AgreementFile,
    party: PartyDir,
    state: StateDir = None,
    json: Json = False,
) -> None:
    """Take a complete agreement into force for this party. The one act that creates its state.

    Example: ratls policy accept study.agreement.json --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import key_changes
        from policy.party import LocalParty

        local, store = LocalParty.load(party), _state(state)
        agreement = _read_agreement(file)
        changes = key_changes(agreement.policy, _before(agreement, store))
        _warn_simulation(shell, agreement.policy)
        at = parse_instant(None)
        complete = store.accept(agreement, local, at)
        _show_changes(shell, changes)
        from_when = (
            "" if complete.policy.not_before <= at else f" from {complete.policy.not_before}"
        )
        shell.answer(
            _status(agreement) | {"party": local.party_id, "keys": _json(changes)},
            f"{complete.policy.study} version {complete.policy.version}: "
            f"in force for {local.party_id}{from_when}",
        )


def _state(folder: Path | None) -> StudyState:
    from platformdirs import user_state_path

    from policy.state import StudyState

    return StudyState(user_state_path("ratls") if folder is None else folder)


def _read_agreement(file: Path) -> Agreement:
    from policy.agreement import FILE_CAP, Agreement
    from policy.errors import EnvelopeMalformed
    from verifier.files import parse_file
    from verifier.modes import known_roots

    def parse(raw: bytes) -> Agreement:
        if not raw.startswith(b"{"):  # most often the policy.toml beside it
            raise EnvelopeMalformed(
                "agreement",
                expected="an agreement file",
                found="another text",
                fix="name the .agreement.json that `ratls policy sign` makes",
            )
        return Agreement.parse(raw, known_roots())

    return parse_file(file, parse, cap=FILE_CAP)


def _read_policy(file: Path) -> Policy:
    from functools import partial

    from policy.document import Policy
    from verifier.files import parse_file
    from verifier.modes import known_roots

    if file.suffix == ".json":
        return _read_agreement(file).policy
    return parse_file(file, partial(Policy.parse, known_roots=known_roots()))


def _agreement_to_sign(file: Path, store: StudyState) -> tuple[Path, Agreement]:
    """The agreement that is to be signed and where it stands: as it is, or begun on a policy."""
    from policy.agreement import Agreement
    from policy.document import digest_text
    from policy.errors import PolicyConflict
    from verifier.modes import known_roots

    if file.suffix == ".json":
        return file, _read_agreement(file)
    beside = file.with_name(f"{file.stem}.agreement.json")
    read = _read_policy(file)
    if not beside.exists():
        before = store.stored(read.study) if read.version > 1 else None
        return beside, Agreement.draft(read.raw, known_roots(), before)
    agreement = _read_agreement(beside)
    # Whoever edits after the first signature made another policy.
    if agreement.policy.raw != read.raw:
        raise PolicyConflict(
            f"{beside}",
            expected=f"signatures on {file}, {digest_text(read.digest)}",
            found=digest_text(agreement.digest),
            fix=f"sign {beside} if that is the right text, or move it away to begin anew",
        )
    return beside, agreement


def _before(agreement: Agreement, store: StudyState) -> Policy | None:
    """What this party accepted last, or the version before in the file."""
    stored = store.stored(agreement.policy.study)
    if stored is not None:
        return stored.policy
    return agreement.versions[-2].policy if len(agreement.versions) > 1 else None


def _status(agreement: Agreement) -> dict[str, Any]:
    from policy.document import digest_text

    return {
        "study": agreement.policy.study,
        "version": agreement.policy.version,
        "digest": digest_text(agreement.digest),
        "threshold": agreement.policy.agreement.threshold,
        "signed": list(agreement.newest.signed),
        "missing": list(agreement.missing),
        "complete": not agreement.missing,
    }


def _status_text(agreement: Agreement) -> str:
    voters = len(agreement.policy.voters)
    text = f"{len(agreement.votes)} of {voters} parties signed"
    if agreement.missing:
        return f"{text}, missing: {', '.join(agreement.missing)}"
    return f"{text}, the agreement is complete"


def _json(changes: tuple[KeyChange, ...]) -> list[dict[str, str]]:
    return [
        {"party": c.party_id, "purpose": c.purpose, "sha256": c.fingerprint, "status": c.status}
        for c in changes
    ]


def _show_changes(shell: Shell, changes: tuple[KeyChange, ...]) -> None:
    from policy.show import keys_table

    if not shell.json_output:
        shell.err.print(keys_table(changes))


def _warn_simulation(shell: Shell, shown: Policy) -> None:
    if shown.platform.root != "intel":
        shell.warn_simulation()


def _confirm(question: str, *, yes: bool) -> None:
    # Without a terminal nobody can answer; whoever runs it there has read the policy elsewhere.
    if yes or not stdin_is_terminal():
        return
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:
        confirmed = False
    if not confirmed:
        typer.echo("declined, nothing written", err=True)
        raise typer.Exit(2)


def stdin_is_terminal() -> bool:
    """Can somebody be asked?"""
    import sys

    return sys.stdin.isatty()
