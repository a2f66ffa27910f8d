"""`ratls verify forecast`: what will stop passing, when, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import KnownDigest, KnownState, OwnParty, known_state
from ratls.cli_verify_quote import (
    AcceptAdvisory,
    AcceptOutOfDateSince,
    AcceptStatus,
    PolicyFile,
    Root,
    doubt_of,
    require_one_demand,
    usual_acceptance,
)
from ratls.options import (
    At,
    CollateralFile,
    JsonLines,
    JsonPath,
    NewerSgx,
    json_path_steps,
    parse_span,
)
from verifier.errors import Exit, RatlsError
from verifier.text import instant_text, printable

if TYPE_CHECKING:
    from policy.document import Policy
    from verifier.anchors import TrustAnchors
    from verifier.forecast import Demand, Forecast, Reason
    from verifier.received import ReceivedQuote
    from verifier.shell import Shell
    from verifier.verify import VerifiedQuote

_COLUMNS = ("STOPS", "LEFT", "EVEN IF RENEWED", "FMSPC", "PPID", "FILE", "REASON AND WHAT TO DO")


def forecast(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="QUOTE", help="Files with one quote each, folders; - is standard input."
        ),
    ],
    collateral: CollateralFile,
    early: Annotated[
        Path | None,
        typer.Option(help="A bundle of Intel's early update: what will be said one day."),
    ] = None,
    policy: PolicyFile = None,
    party: OwnParty = None,
    digest: KnownDigest = None,
    state: KnownState = None,
    accept_status: AcceptStatus = None,
    accept_advisory: AcceptAdvisory = None,
    accept_out_of_date_since: AcceptOutOfDateSince = None,
    root: Root = None,
    newer_sgx: NewerSgx = False,
    json_path: JsonPath = None,
    within: Annotated[
        str | None,
        typer.Option(help="Exit with status 6 if a quote may stop within 14d, 36h or 90m."),
    ] = None,
    at: At = None,
    json_output: JsonLines = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """On which date does each quote stop passing, seen from --at; why, and what can be done?

    STOPS is the date with this very bundle. EVEN IF RENEWED counts only what fetching collateral
    does not renew: certificates, the policy, and a status that --early announces. Any fetch may
    bring that status, so it has the date on which this bundle ends and is within every limit.

    The exit status is 0, or 6 if one may stop --within that time; or the worst of those that do
    not pass today; or 5 for a --policy that is known by neither --party nor --digest.

    Example: ratls verify forecast quotes --collateral collateral.json --within 14d
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    asked = (accept_status, accept_advisory, accept_out_of_date_since)
    require_one_demand(policy, asked, root, party, digest)
    limit = None if within is None else parse_span(within, "--within")
    usual = usual_acceptance(*asked)
    steps = json_path_steps(json_path)
    with refusals_as_exit_status(json_output) as shell:
        from functools import partial

        from verifier.batch import expand
        from verifier.bundles import read_collateral
        from verifier.forecast import Demand
        from verifier.forecast import forecast as look_ahead
        from verifier.quote_files import read_quote_file, read_stdin_once

        instant = parse_instant(at)
        bundle = read_collateral(collateral)
        preview = None if early is None else read_collateral(early)
        doubt = None
        if policy is None:
            listed = frozenset(accept_advisory) if accept_advisory else None
            demand = Demand(lambda verified, at: usual(verified), advisories=listed)
            root_name = "intel" if root is None else root
        else:
            from policy.agreement_file import open_agreement

            brought = open_agreement(
                policy, party=party, digest=digest, state=known_state(state), drafts=True
            )
            policies = tuple(map(brought.ready, brought.policies))
            demand, agreed = _demand_of(policies, instant), _in_force(policies, instant)
            doubt, root_name = doubt_of(shell, brought, agreed), agreed.platform.root
        roots = shell.anchors(root_name, allow_simulation=allow_simulation)
        ask = partial(
            look_ahead, collateral=bundle, roots=roots, at=instant, demand=demand, early=preview
        )
        read = partial(
            read_quote_file,
            json_path=steps,
            newer_sgx=newer_sgx,
            stdin=read_stdin_once(files),
        )
        answers = [(file, _one(file, instant, read, ask)) for file in map(Path, expand(files))]
        answers.sort(key=_earliest_first)
        _show(shell, answers, roots, within)
    found = [answer.status_within(limit) for _, answer in answers]
    worst = Exit.worst(found + ([] if doubt is None else [doubt.exit_status]))
    if worst:
        raise typer.Exit(int(worst))


def _one(
    file: Path,
    at: datetime,
    read: Callable[[str], ReceivedQuote],
    ask: Callable[[ReceivedQuote], Forecast],
) -> Forecast:
    """The answer on one file; one that cannot be read does not keep the others from theirs."""
    from dataclasses import replace

    from verifier.errors import QuoteFormatError
    from verifier.files import FileUnreadable
    from verifier.forecast import Forecast

    try:
        received = read(str(file))
    except (FileUnreadable, QuoteFormatError) as refusal:
        return Forecast.of_refused(refusal, at.replace(microsecond=0))
    return replace(ask(received), form=received.form)


def _earliest_first(entry: tuple[Path, Forecast]) -> tuple[Any, ...]:
    file, answer = entry
    renewed = answer.stops_even_if_renewed
    return answer.stops, renewed is None, renewed or answer.stops, str(file)


# What is asked of a quote


def _in_force(policies: Sequence[Policy], at: datetime) -> Policy:
    """The newest version that has begun; `admit` says whether it has ended, or none has begun."""
    begun = [policy for policy in policies if policy.not_before <= at]
    return begun[-1] if begun else policies[0]


def _demand_of(policies: Sequence[Policy], at: datetime) -> Demand:
    from policy.admission import admit
    from verifier.forecast import Demand

    return Demand(
        accept=lambda verified, at: admit(_in_force(policies, at), verified, at=at),
        advisories=frozenset(_in_force(policies, at).platform.accepted_advisories),
        limits=lambda verified, at: policy_limits(policies, verified, at),
    )


def policy_limits(
    policies: Sequence[Policy], verified: VerifiedQuote, at: datetime
) -> Iterator[Reason]:
    """Dates that an agreement adds to those of the evidence; `at` is one at which it admits.

    Each version holds until the next begins. The next may ask for more, or end on another day, and
    a check of today's version alone would miss that, until the enclave is refused.
    """
    from verifier.forecast import later

    starts = {later(p.not_before, timedelta(0)) for p in policies if p.not_before > at}
    begins = [at, *sorted(start for start in starts if start is not None)]
    for begin, until in zip(begins, [*begins[1:], None], strict=True):
        policy = _in_force(policies, begin)
        for reason in (*_change(policy, verified, begin, at), *_own_ends(policy, verified)):
            if begin <= reason.date and (until is None or reason.date < until):
                yield reason


def _change(
    policy: Policy, verified: VerifiedQuote, begin: datetime, at: datetime
) -> Iterator[Reason]:
    """What a version that begins later has against this quote, at its first instant."""
    from policy.admission import admit
    from verifier.forecast import Reason

    if begin == at:
        return
    try:
        admit(policy, verified, at=begin)
    except RatlsError as refusal:
        text = f"policy {policy.study} version {policy.version} begins: {refusal}"
        renewable = refusal.exit_status is Exit.UNDECIDED
        yield Reason("policy-changes", begin, text, refusal.fix, renewable)


def _own_ends(policy: Policy, verified: VerifiedQuote) -> Iterator[Reason]:
    """The policy's own end, and when its patience with this collateral ends."""
    from verifier.forecast import FETCH, Reason, later

    window, days = verified.window, policy.platform.max_collateral_age_days
    for thing, issued in (
        ("TCB info", window.tcb_info_issue),
        ("QE identity", window.qe_identity_issue),
    ):
        date = later(issued, timedelta(days=days, seconds=1))  # an age of `days` still passes
        if date is not None:
            text = f"{thing} is older than the policy's {days} days"
            yield Reason("collateral-age", date, text, FETCH, renewable=True)
    date = later(policy.expires, timedelta(0))
    if date is not None:
        text = f"policy {policy.study} version {policy.version} ends"
        fix = "agree on a next version of the policy"
        yield Reason("policy-ends", date, text, fix, renewable=False)


# For people


def _show(
    shell: Shell, answers: list[tuple[Path, Forecast]], roots: TrustAnchors, within: str | None
) -> None:
    if shell.json_output:
        for file, answer in answers:
            shell.answer(answer.as_json(file=str(file), mode=roots.mode), "")
        return
    rows = [_COLUMNS, *_rows(answers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    shell.answer({}, "\n".join([*lines, *_behind(answers), _summary(answers, roots, within)]))


def _rows(answers: Iterable[tuple[Path, Forecast]]) -> Iterator[tuple[str, ...]]:
    """One line for all quotes of one platform that stop for the same reasons."""
    alike: dict[tuple[Any, ...], list[tuple[Path, Forecast]]] = {}
    for file, answer in answers:
        pck = answer.pck
        # A quote that was not authenticated has no known platform: a line of its own.
        platform = str(file) if pck is None else pck.leaf
        alike.setdefault((platform, answer.reasons), []).append((file, answer))
    for entries in alike.values():
        file, answer = entries[0]
        first, renewed = answer.reasons[0], answer.stops_even_if_renewed
        identity = None if answer.pck is None else answer.pck.extension.platform
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        if answer.form not in (None, "raw"):
            more = f" ({answer.form}){more}"
        yield (
            instant_text(answer.stops),
            _left(answer),
            "-" if renewed is None else instant_text(renewed),
            "-" if identity is None else identity.fmspc.hex(),
            "-" if identity is None else identity.ppid.hex()[:8],
            printable(str(file)) + more,
            printable(f"{first.text}; to do: {first.fix}"),
        )


def _behind(answers: Iterable[tuple[Path, Forecast]]) -> Iterator[str]:
    """What each platform is short of, and what raises it; platforms that are alike together."""
    alike: dict[tuple[Any, ...], list[tuple[Path, Forecast]]] = {}
    for file, answer in answers:
        if answer.announced or any(part.behind for part in answer.parts):
            alike.setdefault((answer.parts, answer.announced), []).append((file, answer))
    for (parts, announced), entries in alike.items():
        for file, answer in entries:
            assert answer.pck is not None, "a quote with parts was authenticated"
            platform = answer.pck.extension.platform
            ids = f"FMSPC {platform.fmspc.hex()}, PPID {platform.ppid.hex()}"
            yield f"{printable(str(file))}: {ids}"
        for part in parts:
            yield from (f"  {printable(line)}" for line in part.lines if part.behind)
        yield from (f"  {printable(level.text)}" for level in announced)


def _left(answer: Forecast) -> str:
    if answer.exit_status:
        return answer.exit_status.word
    seconds = int((answer.stops - answer.at).total_seconds())
    if seconds >= 2 * 86400:
        return f"{seconds // 86400}d"
    return f"{seconds // 3600}h" if seconds >= 2 * 3600 else f"{seconds // 60}m"


def _summary(answers: list[tuple[Path, Forecast]], roots: TrustAnchors, within: str | None) -> str:
    found = [answer for _, answer in answers]
    platforms = {answer.pck.leaf for answer in found if answer.pck is not None}
    failing = sum(answer.exit_status is not Exit.YES for answer in found)
    parts = [f"quotes: {len(found)} of {len(platforms)} platforms", f"fail today: {failing}"]
    if within is not None:
        limit = parse_span(within, "--within")
        ending = sum(answer.status_within(limit) is not Exit.YES for answer in found) - failing
        parts.append(f"may stop within {within}: {ending}")
    return f"{'; '.join(parts)}; seen from {instant_text(found[0].at)}; mode={roots.mode}"
