"""`ratls party` and `ratls policy`: keys of a party, and the life of an agreement."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.cli_state import state as state_commands
from verifier.errors import ConfigError, Exit
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.agreement import Agreement, KeyChange
    from policy.document import Policy
    from policy.party import LocalParty
    from policy.state import StudyState
    from verifier.shell import Shell

party = typer.Typer(cls=Commands, no_args_is_help=True, help="Keys and certificate of a party.")
policy = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Draft, read, sign, check and accept what the parties agree on.",
)
policy.add_typer(state_commands, name="state")


def _checked_digest(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", text, re.ASCII):
        raise typer.BadParameter("write sha256: and 64 lower-case hex digits")
    return text


# What an agreement is held against by the commands that take one: see `policy.anchor`.
AnchorParty = Annotated[
    Path | None,
    typer.Option("--party", help="Your party folder: its keys must have signed the agreement."),
]
AnchorDigest = Annotated[
    str | None,
    typer.Option(
        "--digest",
        callback=_checked_digest,
        help="The policy digest that you know to be right, sha256:….",
    ),
]
Yes = Annotated[
    str | None,
    typer.Option(
        "--yes",
        metavar="DIGEST",
        callback=_checked_digest,
        help="Do not ask: consent to the policy with this digest, sha256:….",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
PartyDir = Annotated[Path, typer.Option("--party", help="Folder made by `ratls party new`.")]
StateDir = Annotated[
    Path | None, typer.Option("--state", help="Folder of accepted agreements. Default: per user.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the keys' passphrase, - for standard input. Default: the terminal."
    ),
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
    from verifier.shell import now, refusals_as_exit_status

    roles = tuple(dict.fromkeys(role or ["provider"]))
    wrong = [r for r in roles if r not in ("provider", "recipient", "submitter", "operator")]
    if wrong:
        raise typer.BadParameter(f"no such role: {wrong[0]}", param_hint="--role")
    with refusals_as_exit_status(json) as shell:
        from policy.agreement import public_keys
        from policy.party import create_party
        from policy.passphrase import new_passphrase

        made = create_party(folder, party_id, new_passphrase(passphrase_file), now(), roles)
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
        from policy.document import PolicyInvalid, digest_text

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
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Sign a policy: its agreement file is made beside it, or extended in place.

    Asks at the terminal. Without one, the digest of the policy that you read must be named with
    --yes; `ratls policy lint` prints it.

    Example: ratls policy sign policy.toml --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import key_changes, require_listed, require_not_expired
        from policy.party import LocalParty
        from policy.passphrase import passphrase_source

        local = LocalParty.load(party, passphrase_source(passphrase_file))
        store = _state(state)
        path, agreement = _agreement_to_sign(file, store)
        require_listed(agreement.policy, local)
        require_not_expired(agreement.policy, now())
        changes = key_changes(agreement.policy, _before(agreement, store))
        _warn_simulation(shell, agreement.policy)
        _show_changes(shell, changes)
        _require_consent("sign", agreement.policy, local, yes)
        signed = _add_signature(path, agreement, local)
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
        from policy.anchor import read_agreement
        from policy.show import signers_table

        agreement = read_agreement(file)
        _warn_simulation(shell, agreement.policy)
        if not json:
            shell.out.print(signers_table(agreement))
        shell.answer(_status(agreement), _status_text(agreement))


@policy.command("verify")
def policy_verify(
    file: AgreementFile,
    party: AnchorParty = None,
    digest: AnchorDigest = None,
    at: Annotated[str | None, typer.Option(help="Instant of judgement. Default: now.")] = None,
    json: Json = False,
) -> None:
    """Is an agreement complete and in force, and is it the one that you mean?

    Without --party or --digest its digest is shown, and nothing is decided (exit status 5).

    Example: ratls policy verify study.agreement.json --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import require_window
        from policy.anchor import bring

        brought = bring(file, party=party, digest=digest)
        complete = brought.agreed
        _warn_simulation(shell, complete.policy)
        doubt = brought.doubt(complete.policy)
        require_window(complete.policy, parse_instant(at))
        if doubt is not None:
            raise doubt
        shell.answer(
            _status(complete.agreement) | {"verdict": "accepted"},
            f"{file}: complete and in force; {_status_text(complete.agreement)}",
        )


@policy.command("accept")
def policy_accept(
    file: AgreementFile,
    party: PartyDir,
    state: StateDir = None,
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Take a complete agreement into force for this party. The one act that creates its state.

    Asks at the terminal. Without one, the digest of the policy that you read must be named with
    --yes; `ratls policy status` prints it.

    Example: ratls policy accept study.agreement.json --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import key_changes
        from policy.anchor import read_agreement
        from policy.party import LocalParty

        local, store = LocalParty.load(party), _state(state)
        agreement = read_agreement(file)
        agreement.require_complete().require_anchor(local)
        # Our own file may be lost or damaged: this is the command that mends it.
        before = store.accepted_in(agreement) or _before(agreement, store)
        changes = key_changes(agreement.policy, before)
        _warn_simulation(shell, agreement.policy)
        _show_changes(shell, changes)
        _require_consent("take into force", agreement.policy, local, yes)
        at = now()
        complete = store.accept(agreement, local, at)
        from_when = (
            "" if complete.policy.not_before <= at else f" from {complete.policy.not_before}"
        )
        shell.answer(
            _status(agreement) | {"party": local.party_id, "keys": _json(changes)},
            f"{complete.policy.study} version {complete.policy.version}: "
            f"in force for {local.party_id}{from_when}",
        )


def _state(folder: Path | None) -> StudyState:
    from policy.state import StudyState
    from verifier.files import user_folder

    return StudyState(user_folder("state") if folder is None else folder)


def _read_policy(file: Path) -> Policy:
    from functools import partial

    from policy.anchor import read_agreement
    from policy.document import Policy
    from verifier.files import parse_file
    from verifier.modes import known_roots

    if file.suffix == ".json":
        return read_agreement(file).policy
    return parse_file(file, partial(Policy.parse, known_roots=known_roots()))


def _agreement_to_sign(file: Path, store: StudyState) -> tuple[Path, Agreement]:
    """The agreement that is to be signed and where it stands: as it is, or begun on a policy."""
    from policy.agreement import Agreement
    from policy.anchor import read_agreement
    from policy.document import digest_text
    from policy.errors import PolicyConflict
    from verifier.modes import known_roots

    if file.suffix == ".json":
        return file, read_agreement(file)
    beside = file.with_name(f"{file.stem}.agreement.json")
    read = _read_policy(file)
    if not beside.exists():
        before = store.stored(read.study) if read.version > 1 else None
        return beside, Agreement.draft(read.raw, known_roots(), before)
    agreement = read_agreement(beside)
    # Whoever edits after the first signature made another policy.
    if agreement.policy.raw != read.raw:
        raise PolicyConflict(
            f"{beside}",
            expected=f"signatures on {file}, {digest_text(read.digest)}",
            found=digest_text(agreement.digest),
            fix=f"sign {beside} if that is the right text, or move it away to begin anew",
        )
    return beside, agreement


def _add_signature(path: Path, read: Agreement, local: LocalParty) -> Agreement:
    """Sign the agreement as it is by now: while one person reads and answers, others sign.

    Raises: PolicyConflict where it became one on another policy; FileNotWritten; what reading
        the signing key raises.
    """
    from policy.agreement import FILE_CAP, sign
    from policy.anchor import parse_agreement
    from policy.document import digest_text
    from policy.errors import PolicyConflict
    from verifier.files import rewrite

    _ = local.signing  # asks for the passphrase, while nobody waits for the file
    done = read

    def add(content: bytes | None) -> bytes:
        nonlocal done
        now = read if content is None else parse_agreement(content)
        same = [v.policy.digest for v in now.versions] == [v.policy.digest for v in read.versions]
        if not same or (content is None and read.newest.keyids):
            raise PolicyConflict(
                str(path),
                expected=digest_text(read.digest),
                found="no file" if content is None else digest_text(now.digest),
                fix="it was changed while you answered: read it, and sign again",
            )
        done = sign(now, local)
        return done.encode()

    rewrite(path, add, cap=FILE_CAP)
    return done


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
    from verifier.anchors import Mode, RootName

    if RootName.parse(shown.platform.root).mode is Mode.SIMULATION:
        shell.warn_simulation()


class ConsentMissing(ConfigError):
    """Nobody was asked, and nobody typed which policy is meant: silence is no consent."""

    code = "consent-missing"
    exit_status = Exit.USAGE
    default_fix = (
        "read the policy (`ratls policy show FILE`), then answer at a terminal or add "
        "--yes with its digest, sha256:…"
    )


def _require_consent(act: str, policy: Policy, party: LocalParty, yes: str | None) -> None:
    """A person's yes at a terminal, or the digest of this very policy, typed with `--yes`.

    Raises: ConsentMissing.
    """
    from policy.document import digest_text

    digest = digest_text(policy.digest)
    thing = f"{act} {policy.study} version {policy.version}, {digest}, as {party.party_id}"
    if yes is None and can_ask():
        try:
            yes = digest if typer.confirm(f"{thing}?", err=True) else None
        except typer.Abort:
            yes = None
        if yes is None:
            typer.echo("declined, nothing written", err=True)
            raise typer.Exit(2)
    if yes != digest:
        raise ConsentMissing(thing, expected=f"a typed yes, or --yes {digest}", found=yes or "none")


def can_ask() -> bool:
    """Can somebody read a question and answer it? A pipe cannot."""
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()
