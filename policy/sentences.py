"""A policy in plain sentences, party by party: what each one gives, receives and may do.

    for section in sections(policy):
        section.heading, section.sentences
    markdown(sections(policy))

The sentences come from the parsed document, so that comments and layout change nothing. The values
that nobody needs for a decision are in `policy.show`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from policy.computations import DECLARED, bound, columns_used
from policy.document import Policy, digest_text
from policy.joins import join_sentence
from policy.parameters import Choice, Fixed, Parameter
from policy.rounds import series_text
from policy.sections import ANY_MACHINE, Computation, Dataset, Enclave, Party
from policy.statement import instant_text
from policy.trust_domain import ANY_MODULE, REGISTERS, TrustDomain

_NAMED = 12  # other inputs that one sentence names; "The agreement" has all


@dataclass(frozen=True, slots=True)
class Section:
    """What concerns one party, or all of them."""

    heading: str
    sentences: tuple[str, ...]


def sections(policy: Policy) -> tuple[Section, ...]:
    """The agreement, each party in the order of the policy, and where it is computed."""
    used = [
        (c, inputs, columns_used(c, inputs))
        for c in policy.computation
        for inputs in [inputs_of(policy, c)]
    ]
    return (
        Section("The agreement", tuple(_agreement(policy))),
        *(Section(_heading(p), tuple(_party(policy, p, used))) for p in policy.party),
        Section("Where it is computed", tuple(_place(policy))),
    )


def markdown(parts: Iterable[Section]) -> str:
    """Headings and lists, to be read in a terminal or pasted into a review."""
    return "\n\n".join(
        "\n".join([f"## {part.heading}", "", *(f"- {s}" for s in part.sentences)]) for part in parts
    )


def listed(words: Iterable[str], last: str = "and") -> str:
    """One, two and three."""
    *before, end = [*words] or ["none"]
    return f"{', '.join(before)} {last} {end}" if before else end


def name_text(name: str) -> str:
    """A name in another script is shown by its numbers too: two scripts may draw one picture."""
    return name if name.isascii() else f"{name} ({name!a})"


def values_text(parameter: Parameter) -> str:
    """What a parameter is, or what a task may make of it."""
    if isinstance(parameter, Fixed):
        return _value(parameter.value)
    if isinstance(parameter, Choice):
        return listed(map(_value, parameter.choose), "or")
    return f"{parameter.min} to {parameter.max}"


def computation_sentences(policy: Policy, computation: Computation) -> tuple[str, ...]:
    """What is computed from which rows, for whom, how often, and what leaves."""
    rule, inputs = computation.release, inputs_of(policy, computation)
    sources = listed(f"{d.id} of {d.owner}" for d in inputs)
    fixed = {n: p for n, p in computation.parameters.items() if isinstance(p, Fixed)}
    free = {n: p for n, p in computation.parameters.items() if not isinstance(p, Fixed)}
    rounds = () if DECLARED[computation.run].takes_rows else (series_text(computation),)
    found = [
        f"{computation.id} is {computation.run} over {sources}, with "
        + listed(f"{n} = {values_text(p)}" for n, p in fixed.items())
        + ".",
        *rounds,
        f"{listed(computation.submitters, 'or')} may start {computation.id}, at most "
        f"{_times(computation.uses)} over each dataset.",
    ]
    if joined := join_sentence(computation):
        found.append(joined)
    if computation.min_owners > 1:
        found.append(
            f"The inputs of {computation.id} are of at least {computation.min_owners} owners."
        )
    if free:
        chosen = listed(f"{n} from {values_text(p)}" for n, p in free.items())
        found.append(f"Who starts {computation.id} chooses {chosen}.")
    found.append(
        f"{_receives(computation)} {listed(rule.outputs)} of {computation.id}, if at "
        f"least {rule.min_subjects_per_input:,} persons stand behind {_behind(computation)}, "
        f"with {rule.significant_digits} significant digits."
    )
    if rule.reasons is not None:
        found.append(
            f"Each provider of {computation.id} may ask the enclave which rule its own input "
            "breaks."
        )
    return tuple(found)


def _behind(computation: Computation) -> str:
    if DECLARED[computation.run].takes_rows:
        return "every group in every input"
    return "every update, as its owner counts them"


def _agreement(policy: Policy) -> Iterator[str]:
    voters = [p.id for p in policy.voters]
    yield f"Study {policy.study}, version {policy.version}, {digest_text(policy.digest)}."
    if policy.previous is not None:
        yield f"It follows the version with digest {digest_text(policy.previous)}."
    yield f"It holds from {instant_text(policy.not_before)} until {instant_text(policy.expires)}."
    threshold = policy.agreement.threshold
    if threshold == "all":
        yield f"It counts only when all of {listed(voters)} have signed it."
    else:
        owners = listed(dict.fromkeys(d.owner for d in policy.dataset))
        yield (
            f"It counts only when {threshold} of {listed(voters)} have signed it, and in any case "
            f"{owners}, who own datasets."
        )
    for computation in policy.computation:
        yield from computation_sentences(policy, computation)
        says = DECLARED[computation.run].says
        yield f"What a result of {computation.id} still tells: {says}."
    yield from together(policy)


def together(policy: Policy) -> Iterator[str]:
    """What all computations over one dataset allow to be learnt: results can be subtracted."""
    for dataset in policy.dataset:
        using = [c for c in policy.computation if dataset.id in c.inputs]
        chosen = [c.id for c in using if _chooses_persons(c)]
        if len(using) < 2 and not chosen:
            continue
        columns = {n for c in using for n in columns_used(c, inputs_of(policy, c))}
        shown = [name_text(n) for n in dataset.columns if n in columns]
        yield (
            f"{listed(c.id for c in using)} {'allow' if len(using) > 1 else 'allows'}, together, "
            f"up to {sum(c.uses for c in using):,} results about {listed(shown)} of {dataset.id}. "
            "Each result can be subtracted from another: persons that two of them differ by are "
            "protected by no rule but these uses."
        )
        if chosen:
            yield f"Who starts {listed(chosen, 'or')} chooses by which persons its results differ."


def _chooses_persons(computation: Computation) -> bool:
    """Does a task give values to a statement?"""
    given = computation.parameters
    return any(
        not isinstance(given[name], Fixed)
        for name in bound(computation.run, dict.fromkeys(given, ""))
    )


def _heading(party: Party) -> str:
    return f"{party.id} ({listed(party.roles)})"


_Used = Sequence[tuple[Computation, Sequence[Dataset], Sequence[str]]]


def _party(policy: Policy, party: Party, used: _Used) -> Iterator[str]:
    me, end = party.id, instant_text(policy.expires)
    for dataset in (d for d in policy.dataset if d.owner == me):
        taking = [c for c, _, _ in used if dataset.id in c.inputs]
        if taking and not any(DECLARED[c.run].takes_rows for c in taking):
            yield f"{me} sends no row of {dataset.id}: it sends updates of a model, in rounds."
        else:
            yield (
                f"For each use {me} sends the enclave at most {dataset.max_rows:,} rows of "
                f"{dataset.id}, with the columns {listed(map(name_text, dataset.columns))}. "
                f"{name_text(dataset.subject)} tells persons apart."
            )
        yield from _uses_of(dataset, used, end)
    for computation, inputs, _ in used:
        if me in computation.submitters:
            yield (
                f"{me} may start {computation.id} at most {_times(computation.uses)} over each "
                f"dataset, until {end}."
            )
        if me in computation.recipients:
            rows = DECLARED[computation.run].takes_rows
            alone = " alone" if rows and len(computation.recipients) == 1 else ""
            yield (
                f"{me}{alone} receives {listed(computation.release.outputs)} of {computation.id}, "
                f"computed from {_what(computation)} of "
                f"{listed(dict.fromkeys(d.owner for d in inputs))}."
            )
    if "operator" in party.roles:
        yield f"{me} runs machines: it can stop or delay the work."
    if not party.votes:
        yield f"{me} has no vote on this policy or the next."


def _what(computation: Computation) -> str:
    return "rows" if DECLARED[computation.run].takes_rows else "updates"


def _uses_of(dataset: Dataset, used: _Used, end: str) -> Iterator[str]:
    columns: set[str] = {dataset.subject}
    for computation, inputs, names in used:
        if dataset.id not in computation.inputs:
            continue
        columns.update(names)
        others = (f"{d.id} of {d.owner}" for d in inputs if d is not dataset)
        named = [*islice(others, _NAMED)]
        if len(inputs) - 1 > _NAMED:
            named.append(f"{len(inputs) - 1 - _NAMED} more")
        beside = f", together with {listed(named)}" if named else ""
        rule = computation.release
        own = [name for name in names if name in dataset.columns]
        yield (
            f"{dataset.owner} lets {'columns' if len(own) > 1 else 'column'} "
            f"{listed(map(name_text, own))} of {dataset.id} be used for {computation.id} "
            f"({computation.run}){beside}, at most {_times(computation.uses)}, until {end}."
        )
        yield (
            f"{_receives(computation)} {listed(rule.outputs)}, about at least "
            f"{rule.min_subjects_per_input:,} persons of each input, with "
            f"{rule.significant_digits} significant digits."
        )
    sent = any(DECLARED[c.run].takes_rows for c, _, _ in used if dataset.id in c.inputs)
    if sent and (unused := [name_text(n) for n in dataset.columns if n not in columns]):
        yield f"No computation uses {listed(unused)} of {dataset.id}, and the rows contain it."


def _place(policy: Policy) -> Iterator[str]:
    platform = policy.platform
    for enclave in policy.enclave:
        yield _code(enclave)
        if _bits(enclave) != _USUAL[type(enclave)]:
            yield (
                f"The attributes of {enclave.name} are not the usual ones: compare them "
                "(`ratls policy show --fields`)."
            )
    if platform.simulated:
        yield f"SIMULATION: the root is {platform.root}, and no hardware protects anything."
    if platform.machines_file is not None:
        yield f"Only the machines in the file with digest {platform.machines_file} may run it."
    elif platform.machines:
        yield f"Only {listed(platform.machines, 'or')} may run it."
    elif platform.fmspcs:
        yield (
            f"{ANY_MACHINE.capitalize()} of the families {listed(platform.fmspcs, 'or')} may run "
            "it: who runs it is not known."
        )
    else:
        yield f"{ANY_MACHINE.capitalize()} may run it: who runs it is not known."
    advisories = "no advisory"
    if platform.accepted_advisories:
        advisories += f" other than {listed(platform.accepted_advisories, 'or')}"
    yield (
        f"A machine must be {listed(platform.tcb_statuses, 'or')}, under {advisories}, "
        f"at a level of {platform.min_tcb_date.isoformat()} or later, judged by "
        f"Intel's lists number {platform.min_tcb_evaluation_data_number} or later that are at most "
        f"{platform.max_collateral_age_days} days old."
    )
    if platform.configuration is not None:
        wanted = platform.configuration
        allowed = [
            word
            for word, yes in (
                ("SMT", wanted.allow_smt),
                ("a dynamic platform", wanted.allow_dynamic_platform),
                ("cached keys", wanted.allow_cached_keys),
            )
            if yes
        ]
        yield (
            f"Its memory must be {listed(wanted.sgx_types, 'or')}; "
            f"allowed besides: {listed(allowed)}."
        )
    transport = policy.transport
    how = "inside TLS" if transport.bulk == "tls" else "sealed, beside TLS"
    yield (
        f"Rows travel {how}. The enclave proves itself anew after {transport.challenge_minutes} "
        f"minutes or {transport.challenge_mebibytes} MiB."
    )


_BITS: dict[type[Enclave | TrustDomain], tuple[str, ...]] = {
    Enclave: ("attributes",),
    TrustDomain: ("td_attributes", "td_attributes_mask", "xfam", "xfam_mask"),
}
_USUAL = {kind: tuple(kind.model_fields[n].default for n in names) for kind, names in _BITS.items()}


def _bits(enclave: Enclave | TrustDomain) -> tuple[object, ...]:
    return tuple(getattr(enclave, name) for name in _BITS[type(enclave)])


def _code(enclave: Enclave | TrustDomain) -> str:
    if isinstance(enclave, Enclave):
        return (
            f"Rows go only to SGX code with MRENCLAVE {enclave.mr_enclave} ({enclave.name}), "
            f"product {enclave.isv_prod_id}, security version {enclave.min_isv_svn} or later."
        )
    registers = listed(
        f"{name.upper()} {value}" for name in REGISTERS if (value := getattr(enclave, name))
    )
    text = f"Rows go only to a TDX guest ({enclave.name}) with {registers}"
    if enclave.rtmr3_events is not None:
        text += f" by {listed(enclave.rtmr3_events, 'or')}"
    module = f"MRSEAM {listed(enclave.mr_seam, 'or')}" if enclave.mr_seam else ANY_MODULE
    text += f", on {module} from TEE_TCB_SVN {enclave.min_tee_tcb_svn} on."
    if enclave.service_tds is not None:
        text += f" Service domains {listed(enclave.service_tds, 'or')} may act on it."
    return text


def inputs_of(policy: Policy, computation: Computation) -> list[Dataset]:
    """The datasets that it uses, in its order."""
    known = {d.id: d for d in policy.dataset}
    return [known[name] for name in computation.inputs]


def _receives(computation: Computation) -> str:
    recipients = computation.recipients
    if not DECLARED[computation.run].takes_rows:
        return f"{listed((*recipients, 'every owner'))} receive"
    return (
        f"{recipients[0]} alone receives"
        if len(recipients) == 1
        else (f"{listed(recipients)} receive")
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return listed(map(_value, value))
    return name_text(value) if isinstance(value, str) else str(value)
