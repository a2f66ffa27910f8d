"""`ratls policy review` and `dry-run`: a page for who decides, and what recorded evidence says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json

if TYPE_CHECKING:
    from policy.agreement import Agreement
    from policy.document import Policy
    from policy.dry_run import Fare
    from verifier.bundles import Bundles
    from verifier.errors import RatlsError
    from verifier.received import ReceivedQuote
    from verifier.shell import Shell

Old = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The policy or agreement to compare with. Default: the version before in the file.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Compare with the version in force in this state folder."),
]
Quotes = Annotated[
    list[Path] | None,
    typer.Option(help="A recorded quote, or a folder of them; may be repeated."),
]
Tasks = Annotated[
    list[Path] | None,
    typer.Option(help="A recorded task, or a folder of them; may be repeated."),
]
Collaterals = Annotated[
    list[Path] | None,
    typer.Option("--collateral", help="Collateral for the quotes; may be repeated."),
]
At = Annotated[str | None, typer.Option(help="Instant at which quotes are judged. Default: now.")]


def dry_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml or an agreement.")],
    old: Old = None,
    state: State = None,
    quotes: Quotes = None,
    tasks: Tasks = None,
    collateral: Collaterals = None,
    at: At = None,
    json: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Say how recorded quotes and tasks fare under a version, and under the one before.

    Nothing is sent, signed or written. What changes comes first.

    Example: ratls policy dry-run study-2.toml --old study.agreement.json --tasks tasks
    """
    from verifier.shell import refusals_as_exit_status

    _require_recorded(quotes, tasks, collateral, needed=True)
    with refusals_as_exit_status(json) as shell:
        new, before = _versions(file, old, state)
        fares = _fares(shell, new, before, quotes, tasks, collateral, at, allow_simulation)
        shell.answer(
            {"file": str(file), "fares": [fare.as_json() for fare in fares]},
            "\n".join(line for fare in fares for line in fare.lines),
        )
        changed = sum(fare.changed for fare in fares)
        shell.say(f"{len(fares)} recorded, {changed} fare otherwise than before")


def review(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml or an agreement.")],
    html: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")],
    old: Old = None,
    state: State = None,
    quotes: Quotes = None,
    tasks: Tasks = None,
    collateral: Collaterals = None,
    at: At = None,
    json: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Write one page about a version: its sentences, what it changes, who signed, a dry run.

    The page is one file without scripts, and loads nothing.

    Example: ratls policy review study.agreement.json --html review.html
    """
    from verifier.shell import now, refusals_as_exit_status

    _require_recorded(quotes, tasks, collateral, needed=False)
    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_agreement
        from policy.document import digest_text
        from policy.review import review_page
        from verifier.files import write_atomically

        new, before = _versions(file, old, state)
        fares = _fares(shell, new, before, quotes, tasks, collateral, at, allow_simulation)
        shell.warn_simulation(new.platform.simulated and not fares)
        agreement = read_agreement(file) if file.suffix == ".json" else _unsigned(new)
        page = review_page(agreement, before=before, fares=fares, made=now())
        write_atomically(html, page.encode("utf-8"))
        shell.answer(
            {
                "page": str(html),
                "digest": digest_text(new.digest),
                "old": None if before is None else digest_text(before.digest),
            },
            f"{html}: {new.study} version {new.version}, {digest_text(new.digest)}",
        )


def _unsigned(policy: Policy) -> Agreement:
    """A draft as an agreement that nobody has signed."""
    from policy.agreement import Agreement
    from policy.chain import SignedPolicy
    from policy.envelope import POLICY, Envelope

    envelope = Envelope(POLICY, policy.raw, ())
    return Agreement((SignedPolicy(policy, envelope, frozenset()),))


def _require_recorded(
    quotes: list[Path] | None,
    tasks: list[Path] | None,
    collateral: list[Path] | None,
    *,
    needed: bool,
) -> None:
    """Raises: BadParameter."""
    if needed and not quotes and not tasks:
        raise typer.BadParameter("name recorded --quotes or --tasks", param_hint="--quotes")
    if bool(quotes) != bool(collateral):
        raise typer.BadParameter("quotes and their collateral go together", param_hint="--quotes")


def _versions(file: Path, old: Path | None, state: Path | None) -> tuple[Policy, Policy | None]:
    """The version in the file, and the one that it is compared with."""
    from policy.agreement_file import read_agreement, read_policy
    from policy.machines import with_machines
    from policy.state import StudyState
    from verifier.shell import now

    if old is not None and state is not None:
        raise typer.BadParameter("names the old version as --old does", param_hint="--state")
    new = with_machines(read_policy(file), file.parent)
    if old is not None:
        return new, with_machines(read_policy(old), old.parent)
    if state is not None:
        store = StudyState(state)
        before = store.current(new.study, now()).policy
        return new, with_machines(before, store.folder)
    versions = read_agreement(file).versions if file.suffix == ".json" else ()
    return new, with_machines(versions[-2].policy, file.parent) if len(versions) > 1 else None


def _fares(
    shell: Shell,
    new: Policy,
    before: Policy | None,
    quotes: list[Path] | None,
    tasks: list[Path] | None,
    collateral: list[Path] | None,
    at: str | None,
    allow_simulation: bool,
) -> tuple[Fare, ...]:
    from policy.dry_run import Recorded
    from verifier.batch import expand
    from verifier.files import read_file
    from verifier.shell import parse_instant

    instant = parse_instant(at)
    recorded = Recorded(
        [(name, _received(name)) for name in expand(quotes or ())],
        [(name, read_file(Path(name), cap=2 << 20)) for name in expand(tasks or ())],
    )
    return recorded.fares(
        before, new, _bundles_for(shell, collateral or [], instant, allow_simulation)
    )


def _received(file: str) -> ReceivedQuote | RatlsError:
    """A quote as it was read, or the refusal that is the answer on it."""
    from verifier.errors import QuoteFormatError
    from verifier.quote_files import read_quote_file

    try:
        return read_quote_file(file)
    except QuoteFormatError as refusal:
        return refusal


def _bundles_for(
    shell: Shell, files: list[Path], at: datetime, allow_simulation: bool
) -> Callable[[Policy], Bundles]:
    from verifier.bundles import Bundles

    read: dict[str, Bundles] = {}

    def bundles(policy: Policy) -> Bundles:
        root = policy.platform.root
        if root not in read:
            anchors = shell.anchors(root, allow_simulation=allow_simulation)
            read[root] = Bundles.read(files, anchors, at)
        return read[root]

    return bundles
