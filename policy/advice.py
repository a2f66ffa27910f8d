"""What a policy may say and its authors should think about again, each with its reason.

    for advice in advices(policy):
        print(advice)     # agreement.threshold (line 9): 2 of 3 parties can …; write "all"

Nothing here is refused by anybody who enforces the policy: only `ratls policy lint --strict` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta

from policy.document import Policy
from policy.errors import PolicyFormatError
from policy.rounds import RUN, Series
from policy.sections import ANY_MACHINE, Computation
from policy.syntax import LineIndex

_YEAR = timedelta(days=366)
_FEW_PERSONS, _MANY_USES = 10, 1000
_MANY_UNMATCHED = 0.5  # of the keys of an input
_OUT_OF_DATE = ("OutOfDate", "OutOfDateConfigurationNeeded")
_Advice = tuple[str, str, str, str]  # path, found, why, instead


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that is legal and unwise."""

    path: str
    line: int | None
    found: str
    why: str
    instead: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{place}: {self.found}: {self.why}; {self.instead}"

    def as_json(self) -> dict[str, str | int | None]:
        return asdict(self)


def advices(policy: Policy) -> tuple[Advice, ...]:
    """All advice about a policy, in the order of its sections."""
    lines = LineIndex(policy.raw.decode("utf-8"))
    found = [*_terms(policy), *_platform(policy), *_datasets(policy)]
    for i, computation in enumerate(policy.computation):
        found += _computation(f"computation[{i}]", computation, policy)
    return tuple(Advice(path, lines.find(path), *rest) for path, *rest in found)


class PolicyUnwise(PolicyFormatError):
    """`lint --strict` found something legal and unwise."""

    code = "policy-unwise"
    default_fix = "change what is listed, or agree on it and lint without --strict"
    says = "{thing} is valid, and {found}"


def require_wise(name: str, found: tuple[Advice, ...]) -> None:
    """What `--strict` adds. Raises: PolicyUnwise."""
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise PolicyUnwise(
            name, expected="nothing that is unwise", found=f"unwise at {found[0].path}{more}"
        )


def _terms(policy: Policy) -> Iterator[_Advice]:
    if policy.expires - policy.not_before > _YEAR:
        days = (policy.expires - policy.not_before).days
        why = "nobody asks again for so long whether persons, keys and machines are still right"
        yield (
            "expires",
            f"{days:,} days after not_before",
            why,
            "agree on a year at most, and renew",
        )
    threshold, voters = policy.agreement.threshold, len(policy.voters)
    if threshold != "all" and threshold < voters:
        why = "the others are bound by what they did not sign, its next version included"
        yield "agreement.threshold", f"{threshold} of {voters} parties", why, 'write "all"'


def _platform(policy: Policy) -> Iterator[_Advice]:
    platform = policy.platform
    if platform.machines == ():
        if platform.fmspcs is not None:
            why = "an FMSPC is a family of processors and no machine: anybody can buy one"
            yield "platform.fmspcs", "the only limit on machines", why, "list the machines, too"
        why = "whoever runs one can watch it and try physical attacks on it"
        instead = "list the machines of your operator: ppid:… or piid:…"
        yield "platform.machines", f'"{ANY_MACHINE}"', why, instead
    for status in (s for s in platform.tcb_statuses if s in _OUT_OF_DATE):
        why = "Intel has published fixes for attacks that such a machine still allows"
        instead = "have the machine updated; until then, limit it by min_tcb_date"
        yield "platform.tcb_statuses", f'"{status}" is accepted', why, instead


def _datasets(policy: Policy) -> Iterator[_Advice]:
    for i, dataset in enumerate(policy.dataset):
        over = [c for c in policy.computation if dataset.id in c.inputs]
        if len(over) > 1:
            uses = sum(c.uses for c in over)
            each = ", ".join(f"{c.id} {c.uses}" for c in over[:8])
            why = "results about the same persons can be combined, and tell more than each alone"
            instead = "see to it that all of them together are acceptable"
            found = f"{len(over)} computations may use it {uses:,} times together ({each})"
            yield f"dataset[{i}]", found, why, instead


def _computation(path: str, computation: Computation, policy: Policy) -> Iterator[_Advice]:
    k = computation.release.min_subjects_per_input
    if k < _FEW_PERSONS:
        why = "a result about a handful of persons is often one about each of them"
        place = f"{path}.release.min_subjects_per_input"
        yield place, f"{k} persons", why, f"ask for at least {_FEW_PERSONS}"
    if computation.uses >= _MANY_USES:
        why = "each result tells a little more about the same persons"
        yield (
            f"{path}.uses",
            f"{computation.uses:,} uses",
            why,
            "agree on as few as the study needs",
        )
    if computation.uses > 1 and (asked := _askable(computation)):
        why = "each use with a few other rows tells which value those rows have"
        yield f"{path}.uses", f"{asked}, {computation.uses:,} times", why, "write uses = 1"
    if computation.run == RUN:
        yield from _rounds(path, Series.of(computation))
    join = computation.join
    if join is not None and join.max_unmatched_share > _MANY_UNMATCHED:
        why = "so many guessed keys may be sent for each that has a match"
        found = f"{join.max_unmatched_share:.0%} of keys without a match"
        instead = "agree on the persons first, and on a tenth or less"
        yield f"{path}.join.max_unmatched_share", found, why, instead
    if len(computation.inputs) > 1:
        owners = {d.owner for d in policy.dataset if d.id in computation.inputs}
        for i, name in enumerate(computation.recipients):
            if name in owners:
                why = "it can take its own rows out of the result, and sees those of the others"
                found = f"{name} is also a provider of an input"
                instead = "let another party receive the result, or raise min_subjects_per_input"
                yield f"{path}.recipients[{i}]", found, why, instead


def _rounds(path: str, series: Series) -> Iterator[_Advice]:
    count, place = len(series.inputs), f"{path}.parameters.quorum"
    if series.quorum == 2:
        why = "each of two parties subtracts its own update, and has the other one's"
        yield place, "2 parties", why, "ask a third party to take part"
    elif count > 3 and series.quorum == count:
        why = "one party that is away for one round ends all of them"
        yield place, f"all {count} parties", why, f"agree on {max(3, count - 1)} or fewer"


def _askable(computation: Computation) -> str:
    """What of this result answers a question about single persons when it is asked again."""
    if computation.run == "private_set_intersection":
        return "an intersection"
    return "quantiles" if "quantiles" in computation.parameters else ""
