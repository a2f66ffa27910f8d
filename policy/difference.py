"""What a new version of a policy allows that the old one did not, and what it no longer allows.

    found = differences(old, new)          # new permissions first
    found[0].effect, found[0].whom, found[0].text
    markdown(old, new, found)              # to paste into a review

Entries are compared by their names and not by their places. Every value of the document is
compared: one for which no direction is known counts as a new permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from policy.document import Policy, digest_text
from policy.parameters import Choice, Fixed, Parameter, Range
from policy.sections import ANY_MACHINE, Column, Computation
from policy.sentences import computation_sentences, inputs_of, listed, name_text, values_text
from policy.show import as_json, column_text
from policy.trust_domain import ANY_MODULE

Effect = Literal["allows", "forbids", "other"]
Path = tuple[str, ...]
_Concerned = dict[Path, tuple[dict[str, None], dict[str, None]]]
_ABSENT = object()
_LISTS = {"party": "id", "enclave": "name", "dataset": "id", "computation": "id"}
_ORDER: tuple[Effect, ...] = ("allows", "forbids", "other")
HEADINGS: dict[Effect, str] = {
    "allows": "Newly allowed",
    "forbids": "No longer allowed",
    "other": "Other changes",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One change: `allows` something new (and may forbid something too), `forbids`, or `other`."""

    effect: Effect
    path: str  #              like computation.train.uses
    whom: tuple[str, ...]  #  parties that may do or receive more or less; empty: all
    rows: tuple[str, ...]  #  parties whose rows are concerned; empty: all
    text: str

    def __str__(self) -> str:
        rows = f" (rows of {listed(self.rows)})" if self.rows else ""
        return f"for {listed(self.whom)}: {self.text}{rows}" if self.whom else self.text + rows

    def as_json(self) -> dict[str, Any]:
        return {
            "effect": self.effect,
            "path": self.path,
            "whom": list(self.whom),
            "rows": list(self.rows),
            "text": self.text,
        }


def differences(old: Policy, new: Policy) -> tuple[Difference, ...]:
    """All changes by meaning; nothing for texts that differ in comments or order alone."""
    found = [*_entries(old, new)]
    # What a whole new or lost entry says needs no line for each of its values.
    whole = {tuple(d.path.split(".", 1)) for d in found}
    before, after = _flat(old), _flat(new)
    was, now = _concerned(old), _concerned(new)
    for path in dict.fromkeys([*before, *after]):
        if path[:2] not in whole:
            values = before.get(path, _ABSENT), after.get(path, _ABSENT)
            found += _value(path, *values, was if values[1] is _ABSENT else now)
    return tuple(sorted(found, key=lambda d: _ORDER.index(d.effect)))


def markdown(old: Policy, new: Policy, found: tuple[Difference, ...]) -> str:
    """The changes under three headings; each is there, so that nothing can be left out unseen."""
    lines = [
        f"# {new.study}: version {old.version} to version {new.version}",
        "",
        f"- old: {digest_text(old.digest)}",
        f"- new: {digest_text(new.digest)}",
    ]
    if old.study != new.study:
        lines.append(f"- ANOTHER STUDY: the old policy is of {old.study}")
    for effect, heading in HEADINGS.items():
        told = [f"- {d}" for d in found if d.effect == effect]
        lines += ["", f"## {heading}", "", *(told or ["- nothing"])]
    return "\n".join(lines)


def _entries(old: Policy, new: Policy) -> Iterator[Difference]:
    """Whole parties, enclaves, datasets and computations that came or went."""
    was, now = _concerned(old), _concerned(new)
    for section, key in _LISTS.items():
        before = {getattr(e, key): e for e in getattr(old, section)}
        after = {getattr(e, key): e for e in getattr(new, section)}
        for name in [n for n in after if n not in before]:
            text = _entry_text(new, section, after[name])
            yield _difference("allows", now, (section, name), f"new {section}: {text}")
        for name in [n for n in before if n not in after]:
            yield _difference("forbids", was, (section, name), f"{section} {name} is gone")


def _entry_text(policy: Policy, section: str, entry: Any) -> str:
    if isinstance(entry, Computation):
        return " ".join(computation_sentences(policy, entry))
    if section == "party":
        vote = "votes" if entry.votes else "has no vote"
        return f"{entry.id} is {listed(entry.roles)} and {vote}"
    if section == "dataset":
        return (
            f"{entry.owner} sends at most {entry.max_rows:,} rows of {entry.id}, with the columns "
            f"{listed(map(name_text, entry.columns))}"
        )
    code = getattr(entry, "mr_enclave", None) or getattr(entry, "mr_td", "")
    return f"{entry.name}, {entry.tee}, measurement {code}"


def _flat(policy: Policy) -> dict[Path, Any]:
    """Every value of the document by its path; entries of lists by their name."""
    found: dict[Path, Any] = {}
    for name, content in as_json(policy).items():
        if name in _LISTS:
            for entry in content:
                # Below as what they are: their texts have no direction.
                plain = {k: v for k, v in entry.items() if k not in ("columns", "parameters")}
                found |= _leaves((name, entry[_LISTS[name]]), plain)
        elif name != "digest":
            found |= _leaves((name,), content)
    for dataset in policy.dataset:
        path = ("dataset", dataset.id, "columns")
        found |= {(*path, column): declared for column, declared in dataset.columns.items()}
    for computation in policy.computation:
        path = ("computation", computation.id, "parameters")
        found |= {(*path, name): p for name, p in computation.parameters.items()}
    return found


def _leaves(path: Path, content: Any) -> Iterator[tuple[Path, Any]] | dict[Path, Any]:
    if not isinstance(content, dict):
        return {path: content}
    found: dict[Path, Any] = {}
    for name, inner in content.items():
        found |= dict(_leaves((*path, name), inner))
    return found


# Does the second value allow anything that the first one did not?
Test = Callable[[Any, Any], bool]


def _higher(old: Any, new: Any) -> bool:
    return bool(new > old)


def _lower(old: Any, new: Any) -> bool:
    return bool(new < old)


def _lower_byte(old: str, new: str) -> bool:
    return any(n < o for o, n in zip(bytes.fromhex(old), bytes.fromhex(new), strict=True))


def _gained(old: Any, new: Any) -> bool:
    """One more in a list; words that stand for "any" are more than every list."""
    if new in (ANY_MACHINE, ANY_MODULE) or old in (ANY_MACHINE, ANY_MODULE):
        return new in (ANY_MACHINE, ANY_MODULE)
    if not isinstance(old, list) or not isinstance(new, list):
        return True
    return not set(new) <= set(old)


def _more_named(old: Any, new: Any) -> bool:
    """One more in a list, of which there is none where it is left out."""
    return bool(set(new or ()) - set(old or ()))


def _turned_on(old: Any, new: Any) -> bool:
    return bool(new) and not old


def _fewer_voters(old: Any, new: Any) -> bool:
    return bool(old == "all" or (new != "all" and new < old))


def _unset(test: Test) -> Test:
    """For a limit that may be left out: without it everything is allowed."""
    return lambda old, new: new is None or (old is not None and test(old, new))


def _wider_column(old: Column, new: Column) -> bool:
    other = (old.type, old.spelling, old.values) != (new.type, new.spelling, new.values)
    below = old.min != new.min and _unset(_lower)(old.min, new.min)
    above = old.max != new.max and _unset(_higher)(old.max, new.max)
    return other or below or above or (new.nullable and not old.nullable)


def _wider_parameter(old: Parameter, new: Parameter) -> bool:
    if isinstance(new, Range):
        return not isinstance(old, Range) or new.min < old.min or new.max > old.max
    allowed = (lambda v: v in old.values()) if isinstance(old, Fixed) else old.allows
    return not all(allowed(value) for value in new.values())


def _never(old: Any, new: Any) -> bool:
    return False


# By path, `*` for a name. What is not here counts as a new permission, whichever way it changes.
_TESTS: dict[Path, Test] = {
    ("expires",): _higher,
    ("not_before",): _lower,
    ("threshold",): _fewer_voters,
    ("party", "*", "roles"): _gained,
    ("party", "*", "votes"): _turned_on,
    ("enclave", "*", "min_isv_svn"): _lower,
    ("enclave", "*", "mr_seam"): _gained,
    ("enclave", "*", "service_tds"): _gained,
    ("enclave", "*", "min_tee_tcb_svn"): _lower_byte,
    ("platform", "tcb_statuses"): _gained,
    ("platform", "accepted_advisories"): _gained,
    ("platform", "min_tcb_evaluation_data_number"): _lower,
    ("platform", "min_tcb_date"): _lower,
    ("platform", "max_collateral_age_days"): _higher,
    ("platform", "machines"): _gained,
    ("platform", "fmspcs"): _unset(_gained),
    ("platform", "configuration", "sgx_types"): _gained,
    ("platform", "configuration", "allow_smt"): _turned_on,
    ("platform", "configuration", "allow_dynamic_platform"): _turned_on,
    ("platform", "configuration", "allow_cached_keys"): _turned_on,
    ("transport", "challenge_minutes"): _higher,
    ("transport", "challenge_mebibytes"): _higher,
    ("dataset", "*", "max_rows"): _higher,
    ("dataset", "*", "columns", "*"): _wider_column,
    ("computation", "*", "inputs"): _gained,
    ("computation", "*", "submitters"): _gained,
    ("computation", "*", "recipients"): _gained,
    ("computation", "*", "uses"): _higher,
    ("computation", "*", "min_owners"): _lower,
    ("computation", "*", "join", "max_unmatched_share"): _higher,
    ("computation", "*", "join", "means_of"): _more_named,
    ("computation", "*", "join", "tells_size"): _turned_on,
    ("computation", "*", "parameters", "*"): _wider_parameter,
    ("computation", "*", "release", "outputs"): _gained,
    ("computation", "*", "release", "min_subjects_per_input"): _lower,
    ("computation", "*", "release", "significant_digits"): _higher,
    ("computation", "*", "release", "reasons"): _turned_on,
}
# They differ in every version and allow nothing by themselves.
_PLAIN = {("version",), ("previous",)}
_WORDS: dict[Path, str] = {
    ("expires",): "it holds until {new}, before until {old}",
    ("not_before",): "it holds from {new} on, before from {old} on",
    ("threshold",): "{new} must sign, before {old}",
    ("version",): "version {new}, before {old}",
    ("platform", "tcb_statuses"): "a machine may be {new}, before {old}",
    ("platform", "accepted_advisories"): "a machine may be under {new}, before under {old}",
    ("platform", "machines"): "it may run on {new}, before on {old}",
    ("platform", "max_collateral_age_days"): "Intel's lists may be {new} days old, before {old}",
    ("dataset", "*", "columns", "*"): "column {last} of {name} is {new}, before {old}",
    ("computation", "*", "parameters", "*"): "{last} of {name} is {new}, before {old}",
    ("dataset", "*", "max_rows"): "at most {new} rows of {name}, before {old}",
    ("computation", "*", "inputs"): "{name} uses rows of {new}, before of {old}",
    ("computation", "*", "submitters"): "{new} may start {name}, before {old}",
    ("computation", "*", "recipients"): "{new} receive the result of {name}, before {old}",
    ("computation", "*", "uses"): "{name} at most {new} times over each dataset, before {old}",
    ("computation", "*", "release", "outputs"): "{name} gives {new}, before {old}",
    ("computation", "*", "release", "min_subjects_per_input"): (
        "a result of {name} about {new} persons of an input, before about {old} at least"
    ),
    ("computation", "*", "release", "significant_digits"): (
        "results of {name} with {new} significant digits, before {old}"
    ),
}


def _value(path: Path, before: Any, after: Any, concerned: _Concerned) -> list[Difference]:
    if before is not _ABSENT and after is not _ABSENT and _same(before, after):
        return []
    pattern = _pattern(path)
    effect: Effect = "other"
    if pattern not in _PLAIN:
        effect = "allows" if _allows(pattern, before, after) else "forbids"
    words = _WORDS.get(pattern, "{path} is {new}, before {old}")
    text = words.format(
        path=".".join(map(name_text, path)),
        name=path[1] if len(path) > 1 else "",
        last=name_text(path[-1]),
        new=_text(after),
        old=_text(before),
    )
    return [_difference(effect, concerned, path, text)]


def _allows(pattern: Path, before: Any, after: Any) -> bool:
    if pattern[0] == "dataset" and pattern[2:3] == ("columns",):
        if before is _ABSENT:  # rows tell more
            return True
        if after is _ABSENT:
            return False
    elif pattern[:2] == ("platform", "configuration") and _ABSENT in (before, after):
        # Without this table nothing is demanded; with it, all of its lines are.
        return (after is _ABSENT) == (len(pattern) > 2)
    elif before is _ABSENT or after is _ABSENT:
        # A machines list for a machines file, a parameter that came or went.
        return True
    return _TESTS.get(pattern, lambda *_: True)(before, after)


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Fixed | Choice | Range):
        return type(before) is type(after) and repr(before) == repr(after)  # 1 is not 1.0
    if isinstance(before, list) and isinstance(after, list):
        return sorted(map(repr, before)) == sorted(map(repr, after))
    return bool(before == after)


def _pattern(path: Path) -> Path:
    if path[0] not in _LISTS:
        return path
    named = path[2:3] in (("columns",), ("parameters",))
    return (path[0], "*", path[2], "*") if named else (path[0], "*", *path[2:])


def _text(value: Any) -> str:
    match value:
        case _ if value is _ABSENT or value is None:
            return "nothing"
        case Fixed() | Choice() | Range():
            return values_text(value)
        case Column():
            return column_text(value)
        case list():
            return listed(map(_text, value))
        case int() if not isinstance(value, bool):
            return f"{value:,}"
    return str(value)


def _concerned(policy: Policy) -> _Concerned:
    """For each computation and dataset: who may do more or less by it, and whose rows it has."""
    found: _Concerned = {}
    for computation in policy.computation:
        people = dict.fromkeys((*computation.recipients, *computation.submitters))
        inputs = inputs_of(policy, computation)
        found["computation", computation.id] = people, dict.fromkeys(d.owner for d in inputs)
        for dataset in inputs:
            whom, _ = found.setdefault(("dataset", dataset.id), ({}, {dataset.owner: None}))
            whom.update(people)
    return found


def _difference(effect: Effect, concerned: _Concerned, path: Path, text: str) -> Difference:
    """With the parties that may do more or less by it, and those whose rows are concerned."""
    whom, rows = concerned.get(path[:2], ({}, {}))
    if path[0] == "party":
        whom = {path[1]: None}
    return Difference(effect, ".".join(path), tuple(whom), tuple(rows), text)
