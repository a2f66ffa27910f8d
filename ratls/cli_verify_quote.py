"""`ratls verify quote`: is it genuine, and would it be accepted? For one file, or very many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import KnownDigest, KnownState, OwnParty, known_state
from ratls.options import At, JsonLines, JsonPath, NewerSgx, json_path_steps
from verifier.text import digest_text

if TYPE_CHECKING:
    from datetime import date, datetime

    from policy.agreement_file import OpenedAgreement
    from policy.document import Policy
    from verifier.appraisal import Appraisal
    from verifier.batch import Judge
    from verifier.errors import RatlsError
    from verifier.shell import Shell
    from verifier.verify import VerifiedQuote

FEW = 20  # files, for which no progress bar is shown

# Options of `verify quote` and of `verify forecast`.
AcceptStatus = Annotated[
    list[str] | None, typer.Option(help="Accept this TCB status besides UpToDate; may be repeated.")
]
AcceptAdvisory = Annotated[
    list[str] | None, typer.Option(help="Accept this advisory; may be repeated.")
]
AcceptOutOfDateSince = Annotated[
    str | None,
    typer.Option(
        metavar="YYYY-MM-DD",
        help="Accept OutOfDate too, of levels from this day on; never of older ones.",
    ),
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="Hold quotes against an agreement, or the draft of a policy.")
]
Root = Annotated[str | None, typer.Option(help="Root of trust. Default: intel, or the policy's.")]


def quote(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="Files with one quote each; folders of them; - is standard input."
        ),
    ],
    collateral: Annotated[
        list[Path],
        typer.Option(
            help="Collateral bundle of the platform, or a folder of a service's answers; may be "
            "repeated, and each quote is judged with the one for its platform."
        ),
    ],
    at: At = None,
    accept_status: AcceptStatus = None,
    accept_advisory: AcceptAdvisory = None,
    accept_out_of_date_since: AcceptOutOfDateSince = None,
    policy: PolicyFile = None,
    party: OwnParty = None,
    digest: KnownDigest = None,
    state: KnownState = None,
    root: Root = None,
    newer_sgx: NewerSgx = False,
    json_path: JsonPath = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Processes. Default: one for each core, if many files."),
    ] = None,
    json_output: JsonLines = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Is each quote genuine, how current is its platform, and would it be accepted?

    Without --policy a quote is accepted when its platform is up to date and the enclave runs
    without debug. A --policy must be known by --party or --digest; otherwise its digest is shown,
    and no quote is accepted. Answers come in the order given; a folder stands for the files in it,
    by name. The worst answer of all is the exit status.

    A quote is read as its own bytes, hexadecimal, base64, PEM, or JSON that holds one of these.

    Example: ratls verify quote quote.bin --collateral collateral.json
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    asked = (accept_status, accept_advisory, accept_out_of_date_since)
    require_one_demand(policy, asked, root, party, digest)
    acceptance = usual_acceptance(*asked)
    steps = json_path_steps(json_path)
    with refusals_as_exit_status(json_output) as shell:
        from functools import partial

        from verifier.batch import Judge, expand
        from verifier.bundles import Bundles
        from verifier.quote_files import read_stdin_once

        instant = parse_instant(at)
        if policy is None:
            root_name = "intel" if root is None else root
        else:
            from policy.agreement_file import open_agreement  # slow: not for everyone

            brought = open_agreement(
                policy, party=party, digest=digest, state=known_state(state), drafts=True
            )
            agreed = brought.ready(_in_force(brought, instant))
            acceptance = partial(_admission, agreed, instant, doubt_of(shell, brought, agreed))
            root_name = agreed.platform.root
        roots = shell.anchors(root_name, allow_simulation=allow_simulation)
        bundles = Bundles.read(collateral, roots, instant)
        stdin = read_stdin_once(files)
        judge = Judge(bundles, acceptance, newer_sgx, json_output, steps, stdin)
        worst = _judge_all(list(expand(files)), judge, workers, shell)
    if worst:
        raise typer.Exit(int(worst))


def _judge_all(files: Sequence[str], judge: Judge, workers: int | None, shell: Shell) -> int:
    """Write every answer as it comes; the worst exit status."""
    import sys
    import time

    from verifier.batch import WorkerLost, judging
    from verifier.errors import Exit

    if workers is None:
        workers = _cores() if len(files) > FEW else 1
    began, counts = time.monotonic(), dict.fromkeys(map(int, Exit), 0)
    try:
        # Workers are forked first: the bar starts a thread.
        with (
            judging(files, judge, workers=workers) as answers,
            _progress(len(files), shell) as advance,
        ):
            for text, statuses in answers:
                sys.stdout.write(text)
                sys.stdout.flush()
                for status in statuses:
                    counts[status] += 1
                advance(len(statuses))
    except WorkerLost as lost:
        shell.err.print(f"error: {lost}", markup=False, style="bold red")
        return Exit.BUG
    if len(files) > 1:
        shell.say(_summary(counts, time.monotonic() - began))
    return Exit.worst(status for status, count in counts.items() if count)


def _cores() -> int:
    """Those that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(total: int, shell: Shell) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, unless it would stand among the answers."""
    from verifier.shell import can_redraw

    if total <= FEW or not can_redraw(shell.err) or not _answers_go_to_a_file():
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=shell.err,
        transient=True,
        redirect_stdout=False,  # what is written there meanwhile are the answers
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)


def _answers_go_to_a_file() -> bool:
    """Not to a terminal, and not to a pipe: its reader may write to the same terminal."""
    import os
    import stat
    import sys

    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return not (sys.stdout.isatty() or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))


def _summary(counts: dict[int, int], seconds: float) -> str:
    total, undecided = sum(counts.values()), counts[5]
    words = {
        "accepted": counts[0],
        "refused": total - counts[0] - undecided,
        "undecided": undecided,
    }
    told = ", ".join(f"{count:,} {word}" for word, count in words.items() if count)
    return f"{total:,} quotes: {told} in {seconds:.1f} s"


# What is asked of a quote


def usual_acceptance(
    statuses: list[str] | None, advisories: list[str] | None, since: str | None = None
) -> Callable[[VerifiedQuote], Appraisal]:
    """What is asked without a policy. Raises: BadParameter for an unknown status or no date."""
    from functools import partial

    from verifier.acceptance import accept
    from verifier.tcb import TcbStatus

    known = {status.value: status for status in TcbStatus}
    if wrong := [name for name in statuses or () if name not in known]:
        raise typer.BadParameter(
            f"no such status: {wrong[0]}; there are {', '.join(known)}",
            param_hint="--accept-status",
        )
    accepted = frozenset({TcbStatus.UP_TO_DATE, *(known[name] for name in statuses or ())})
    listed = frozenset(advisories) if advisories else None
    day = None if since is None else _day(since)
    return partial(accept, statuses=accepted, advisories=listed, out_of_date_since=day)


def _day(text: str) -> date:
    import re
    from datetime import date

    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise typer.BadParameter(
        f"not a day: {text}; write it as 2026-01-31", param_hint="--accept-out-of-date-since"
    )


def require_one_demand(
    policy: Path | None,
    asked: tuple[object, ...],
    root: str | None,
    party: Path | None,
    digest: str | None,
) -> None:
    """Either a policy or the options (`asked`) say what is accepted. Raises: BadParameter."""
    if policy is not None and (any(asked) or root is not None):
        raise typer.BadParameter(
            "cannot be combined with --accept-status, --accept-advisory, "
            "--accept-out-of-date-since or --root",
            param_hint="--policy",
        )
    if policy is None and not (party is None and digest is None):
        raise typer.BadParameter("--party and --digest need --policy", param_hint="--digest")


def doubt_of(shell: Shell, brought: OpenedAgreement, policy: Policy) -> RatlsError | None:
    """Compare an agreement file with the --party or --digest given; warn if neither was given.

    Returns: The refusal with which the command must then end. Raises: as `OpenedAgreement.compare`.
    """
    if brought.complete is None:
        shell.say(f"{brought.path} is an unsigned draft: its signatures were not checked")
    doubt = brought.compare(policy)
    if brought.complete is not None and (remark := brought.standing_text(policy)):
        shell.say(remark)
    if doubt is not None:
        shell.err.print(
            f"[bold black on yellow] NOT VERIFIED [/] digest {digest_text(policy.digest)} shown, "
            "not verified: compare it with the one you signed"
        )
    return doubt


def _admission(
    agreed: Policy, at: datetime, doubt: RatlsError | None, verified: VerifiedQuote
) -> Appraisal:
    from policy.admission import admit

    appraisal = admit(agreed, verified, at=at).appraisal
    if doubt is not None:  # a new one for each quote, which carries its appraisal
        refusal = type(doubt)(doubt.thing, expected=doubt.expected, found=doubt.found)
        refusal.appraisal = appraisal
        raise refusal
    return appraisal


def _in_force(brought: OpenedAgreement, at: datetime) -> Policy:
    return brought.policies[-1] if brought.complete is None else brought.agreed.in_force(at).policy
