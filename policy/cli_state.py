"""`ratls policy withdraw`, `distrust` and `state`: what ends an agreement, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.cli_sign import require_yes
from policy.options import (
    AgreementFile,
    Json,
    PartyDir,
    PassphraseFile,
    StateDir,
    Yes,
    checked_digest,
    own_party,
)
from verifier.text import digest_text
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.state import StudyState


def withdraw(
    file: AgreementFile,
    party: PartyDir,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to make. Default: beside the agreement."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Take no part any more: from this version of the agreement, and all before it.

    Ends every computation in which the party owns an input or receives the result, and its own
    tasks. It cannot be taken back: to take part again, sign a new version. Others know it once
    they received it, and a running enclave once it was delivered.

    Example: ratls policy withdraw study.agreement.json --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_agreement
        from policy.envelope import Envelope
        from policy.withdrawal import SignedWithdrawal, Withdrawal
        from verifier.files import write_atomically

        local, store = own_party(party, passphrase_file), _store(state)
        agreement = read_agreement(file)
        policy = agreement.policy
        kept = store.require_newest(policy)
        digest = digest_text(policy.digest)
        thing = f"{policy.study} version {policy.version}, {digest}"
        require_yes(f"withdraw {local.party_id} from {thing} and all before", digest, yes)
        versions = [version.policy for version in agreement.versions]
        raw = Withdrawal.of(versions, local.party_id).signed(local.signing)
        signed = SignedWithdrawal.open(Envelope.parse(raw), versions)
        if kept:
            store.keep_withdrawal(raw, now())
        path = output or file.with_name(f"{policy.study}.{local.party_id}.withdrawal.json")
        write_atomically(path, raw, mode=0o644)
        shell.answer(
            {
                "withdrawal": str(path),
                "study": policy.study,
                "party": local.party_id,
                "version": policy.version,
                "policy_digest": digest,
                "digest": digest_text(signed.document.digest),
                "kept": kept,
            },
            f"{path}: {local.party_id} has withdrawn from {thing}",
        )
        if not kept:
            shell.say("nothing of this study was accepted in this state folder, so none keeps it")
        shell.say(f"next: every other party runs ratls policy state receive {path.name}; and for")
        shell.say(f"each running enclave, ratls provider deliver {path.name}")


def distrust(
    named: Annotated[
        str,
        typer.Argument(
            metavar="DIGEST", help="Of a policy, a key or a channel certificate, sha256:…."
        ),
    ],
    state: StateDir = None,
    lift: Annotated[
        bool, typer.Option("--lift", help="It was listed by mistake: trust it again.")
    ] = False,
    yes: Yes = None,
    json: Json = False,
) -> None:
    """Refuse, in this state folder, every policy with this digest or with this key in it.

    For a key that was stolen, or a policy that should never have been signed, until all have
    agreed on a new version. `ratls policy sign` prints the digests of keys.

    Example: ratls policy distrust sha256:DIGEST
    """
    from verifier.shell import now, refusals_as_exit_status

    digest = checked_digest(named if named.startswith("sha256:") else f"sha256:{named}")
    assert digest is not None  # `checked_digest` gives back what it was given
    with refusals_as_exit_status(json) as shell:
        from policy.standing import named_digests

        store = _store(state)
        found = [
            f"{what} in {study}"
            for study in store.studies()
            if (stored := store.stored(study)) is not None
            for what, known in named_digests(stored.policy)
            if known == digest
        ]
        meaning = ", ".join(found) or "nothing that was accepted here"
        act = "trust again" if lift else "distrust"
        require_yes(f"{act} {digest}: {meaning}", digest, yes)
        store.distrust(digest, now(), lifted=lift)
        done = "trusted again" if lift else "distrusted from now on"
        shell.answer(
            {"digest": digest, "means": found, "distrusted": not lift},
            f"{digest} ({meaning}): {done}",
        )


state = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="The folder of what this party accepted and released.",
)


@state.callback()
def _state() -> None:
    """A group with one command stays a group."""


@state.command()
def show(folder: StateDir = None, json: Json = False) -> None:
    """Show what was accepted, what is in force now, who withdrew, and what is distrusted.

    Example: ratls policy state show --state state
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        store, at = _store(folder), now()
        standing = store.standing()
        studies = [_study(store, study, at) for study in store.studies()]
        withdrawn = [entry.model_dump(mode="json") for entry in standing.withdrawn.values()]
        distrusted = sorted(standing.distrusted)
        lines = [_line(study) for study in studies] or [f"{store.root}: nothing was accepted here"]
        lines += [
            f"{w['study']}: {w['party']} withdrew from version {w['version']} and all before"
            for w in withdrawn
        ]
        lines += [f"distrusted: {digest}" for digest in distrusted]
        shell.answer(
            {
                "state": str(store.root),
                "studies": studies,
                "withdrawn": withdrawn,
                "distrusted": distrusted,
            },
            "\n".join(lines),
        )


def _study(store: StudyState, study: str, at: Any) -> dict[str, Any]:
    """One study for `show`; of one that cannot be used, why."""
    from verifier.errors import RatlsError

    found: dict[str, Any] = {"study": study, "accepted": None, "in_force": None, "error": None}
    try:
        stored = store.stored(study)
        assert stored is not None  # `studies` names what is known here
        policy = stored.policy
        found["accepted"] = {"version": policy.version, "digest": digest_text(policy.digest)}
        current = store.current(study, at).policy
        found["in_force"] = {"version": current.version, "digest": digest_text(current.digest)}
    except RatlsError as refusal:
        found["error"] = refusal.as_json()
    return found


def _line(study: dict[str, Any]) -> str:
    accepted, current, error = study["accepted"], study["in_force"], study["error"]
    parts = []
    if accepted is not None:
        parts.append(f"accepted version {accepted['version']}, {accepted['digest']}")
    if current is not None:
        parts.append(f"in force version {current['version']}")
    if error is not None:
        parts.append(f"not usable [{error['code']}] {error['message']}")
    return f"{study['study']}: " + "; ".join(parts)


@state.command()
def receive(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Another party's withdrawal.")],
    folder: StateDir = None,
    json: Json = False,
) -> None:
    """Keep a withdrawal that another party sent: from now on nothing that it ends is done.

    Example: ratls policy state receive study.alice-clinic.withdrawal.json
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from verifier.errors import placed
        from verifier.files import read_file

        raw = read_file(file)
        with placed(str(file)):
            kept = _store(folder).keep_withdrawal(raw, now())
        shell.answer(
            {"study": kept.study, "party": kept.party, "version": kept.version},
            f"{kept.party} has withdrawn from {kept.study} version {kept.version} and all before",
        )


@state.command()
def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Its name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")],
    folder: StateDir = None,
    json: Json = False,
) -> None:
    """Write the accepted agreement of a study, with every earlier version and all withdrawals.

    For who joins later, for an auditor, or for a backup that `state repair` reads.

    Example: ratls policy state export my-study -o my-study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.repair import exported
        from policy.show import agreement_facts
        from verifier.files import write_new

        agreement = exported(_store(folder), study)
        write_new(output, agreement.encode(), mode=0o644)
        versions = len(agreement.versions)
        shell.answer(
            agreement_facts(agreement) | {"output": str(output)},
            f"{output}: {study}, {versions} version{'s' if versions > 1 else ''}",
        )


@state.command()
def repair(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE…", help="Agreements and withdrawals to restore from."),
    ] = None,
    folder: StateDir = None,
    json: Json = False,
) -> None:
    """Put back what the journal names and the folder has lost. Nothing new is accepted.

    The journal's unfinished line is cut off. An agreement or withdrawal that is missing or
    damaged is restored from a FILE that has exactly what was accepted; `ratls policy state export`
    of any party makes one. A lost journal cannot be made again: restore it from a backup.

    Example: ratls policy state repair study.agreement.json --state state
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.repair import repair as mend
        from policy.repair import require_repaired
        from verifier.files import read_file

        found = mend(_store(folder), [read_file(path) for path in files or []])
        shell.answer(
            {"files": [{"file": f.file, "outcome": f.outcome} for f in found]},
            "\n".join(f"{f.file}: {f.outcome}" for f in found) or "nothing was accepted here",
        )
        require_repaired(found)


@state.command()
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


def _store(folder: Path | None) -> StudyState:
    from policy.state import StudyState
    from verifier.user_folder import user_folder

    return StudyState(user_folder("state") if folder is None else folder)
