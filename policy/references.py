"""Cross-references between the sections of a policy.

Works on the sections that were read without problems, so that one run lists every problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from policy.computations import computation_problems
from policy.domains import Finding
from policy.errors import PolicyTrustError
from policy.problems import Problem
from policy.sections import Computation, Dataset, Head, Party
from policy.syntax import LineIndex
from policy.text import readings
from policy.trust_domain import AT_RUN_TIME, REGISTERS, Agreed, TrustDomain
from verifier.anchors import Mode, RootMalformed, RootName
from verifier.text import instant_text


def cross_problems(
    parts: Mapping[str, Any],
    document: Mapping[str, Any],
    lines: LineIndex,
    known_roots: frozenset[str],
) -> Iterator[Problem]:
    """All broken references, in the order of the document's sections; found while they are asked
    for, so that nobody looks for millions (P24)."""
    for path, *rest in _findings(parts, document, known_roots):
        yield Problem(path, lines.find(path), *rest)


def _findings(
    parts: Mapping[str, Any], document: Mapping[str, Any], known_roots: frozenset[str]
) -> Iterator[Finding]:
    yield from _root(parts["platform"], known_roots)
    yield from _threshold(parts, document)
    for name in ("party", "enclave", "dataset", "computation"):
        yield from _distinct_ids(document, name, "name" if name == "enclave" else "id")
    yield from _distinct_ids(document, "enclave", "mr_enclave")
    yield from _distinct_domains(parts["enclave"])
    yield from _parties(parts["party"], parts["head"])
    roles = {p.id: p for p in parts["party"].values()}
    unread = _declared(document, "party", "id") - set(roles)
    for i, dataset in parts["dataset"].items():
        yield from _dataset(f"dataset[{i}]", dataset, roles, unread)
    datasets = {d.id: d for d in parts["dataset"].values()}
    unread_data = _declared(document, "dataset", "id") - set(datasets)
    for i, computation in parts["computation"].items():
        path = f"computation[{i}]"
        yield from _people(path, computation, roles, unread)
        yield from _inputs(path, computation, datasets, unread_data)


class PolicyKeysShared(PolicyTrustError):
    """The policy lists one key at two places, so one holder could act as two parties."""

    code = "policy-keys-shared"
    default_fix = "give every party and every purpose a key of its own"


def require_distinct_keys(parties: Mapping[int, Party]) -> None:
    """P03: all keys of all parties and purposes differ. Raises: PolicyKeysShared."""
    seen: dict[str, str] = {}
    for i, party in parties.items():
        for purpose, keyid in key_ids(party).items():
            place = f"party[{i}].{purpose}"
            if keyid in seen:
                raise PolicyKeysShared(
                    f"policy: {place}", expected="a key of its own", found=f"that of {seen[keyid]}"
                )
            seen[keyid] = place


def key_ids(party: Party) -> dict[str, str]:
    """The id of each key of a party, by its purpose; that of the channel is its certificate's."""
    keys = {
        "signing_key": party.signing_key.keyid,
        "operation_key": party.operation_key.keyid,
        "channel_certificate": party.channel_certificate.key.keyid,
    }
    if party.encryption_key is not None:
        keys["encryption_key"] = party.encryption_key.keyid
    return keys


def _declared(document: Mapping[str, Any], section: str, key: str) -> set[str]:
    """Ids as written, also in sections with problems, so that references to them count as known."""
    return {name for _, name in _named(document, section, key)}


def _named(document: Mapping[str, Any], section: str, key: str) -> Iterator[tuple[int, str]]:
    entries = document.get(section)
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(name, str):
            yield i, name


def _root(platform: Any, known_roots: frozenset[str]) -> Iterator[Finding]:
    if platform is None:
        return
    wanted, simulations = '"intel"', "simulation" in known_roots
    with suppress(RootMalformed):
        if RootName.parse(platform.root).mode is Mode.PRODUCTION or simulations:
            return
    if simulations:
        wanted += ' or "simulation:sha256:<64 hex>"'
    yield "platform.root", wanted, ascii(platform.root)[:100]


def _threshold(parts: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Finding]:
    rule, parties = parts["agreement"], parts["party"]
    complete = len(parties) == len(document.get("party") or ())
    if rule is None or rule.threshold == "all" or not complete:
        return
    voters = sum(1 for p in parties.values() if p.votes)
    if rule.threshold > voters:  # P05: it could never be met
        yield "agreement.threshold", f"at most {voters}, the parties that vote", str(rule.threshold)


def _distinct_ids(document: Mapping[str, Any], section: str, key: str) -> Iterator[Finding]:
    seen = _Names()
    for i, name in _named(document, section, key):
        if (other := seen.add(name)) == name:
            yield f"{section}[{i}].{key}", f"each {key} once", f"{name!a} again"
        elif other is not None and key != "mr_enclave":
            found = f"{name!a}, and {other!a} before"
            yield f"{section}[{i}].{key}", f"each {key} unlike all others", found


class _Names:
    """Names that people must be able to tell apart: equal but for case, or drawn alike, is one."""

    def __init__(self) -> None:
        self._seen: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def add(self, name: str) -> str | None:
        """A name before this one that it could be taken for; itself, where it came before."""
        forms = list(zip(self._seen, readings(name), strict=True))
        found = [seen[form] for seen, form in forms if form in seen]
        for seen, form in forms:
            seen.setdefault(form, name)
        return name if name in found else next(iter(found), None)


def _distinct_domains(enclaves: Mapping[int, Agreed]) -> Iterator[Finding]:
    """No trust domain is two entries: a task for one name would run in the other."""
    seen: dict[tuple[str, ...], set[str]] = {}
    for i, domain in enclaves.items():
        if isinstance(domain, TrustDomain):
            fixed = tuple(getattr(domain, name) for name in REGISTERS if name != "rtmr3")
            others = seen.setdefault(fixed, set())
            if domain.rtmr3 in others or (others and AT_RUN_TIME in {domain.rtmr3, *others}):
                yield f"enclave[{i}]", "each set of registers once", "those of another entry"
            others.add(domain.rtmr3)


def _parties(parties: Mapping[int, Party], head: Head | None) -> Iterator[Finding]:
    for i, party in parties.items():
        path, certificate = f"party[{i}].channel_certificate", party.channel_certificate
        if certificate.party_id != party.id:
            found = f"urn:ratls:party:{certificate.party_id}"[:120]
            yield path, f"the name urn:ratls:party:{party.id}", found
        if head is not None and certificate.not_after < head.expires:
            found = f"one that ends {instant_text(certificate.not_after)}"
            yield path, "a certificate that outlives the policy's expires", found
        if "recipient" in party.roles and party.encryption_key is None:
            yield f"party[{i}].encryption_key", "a recipient's encryption key", "nothing"


def _dataset(
    path: str, dataset: Dataset, parties: Mapping[str, Party], unread: set[str]
) -> Iterator[Finding]:
    yield from _has_role(f"{path}.owner", dataset.owner, "provider", parties, unread)
    names = _Names()
    for name in dataset.columns:
        if (other := names.add(name)) is not None:
            yield f"{path}.columns", "names unlike each other", f"{name!a}, and {other!a} before"
    column = dataset.columns.get(dataset.subject)
    if column is None:
        yield f"{path}.subject", "one of the dataset's columns", ascii(dataset.subject)[:80]
    elif column.nullable or column.type not in ("string", "int32", "int64"):
        yield f"{path}.subject", "a string or integer column without ?", column.type


def _people(
    path: str, computation: Computation, parties: Mapping[str, Party], unread: set[str]
) -> Iterator[Finding]:
    for role in ("submitter", "recipient"):
        for i, name in enumerate(getattr(computation, f"{role}s")):
            yield from _has_role(f"{path}.{role}s[{i}]", name, role, parties, unread)


def _has_role(
    path: str, name: str, role: str, parties: Mapping[str, Party], unread: set[str]
) -> Iterator[Finding]:
    if name in parties and role in parties[name].roles:
        return
    if name in parties:
        yield path, f"a party with role {role}", f"{name} is {', '.join(parties[name].roles)}"
    elif name not in unread:
        yield path, "a party of this policy", ascii(name)


def _inputs(
    path: str, computation: Computation, datasets: Mapping[str, Dataset], unread: set[str]
) -> Iterator[Finding]:
    for i, name in enumerate(computation.inputs):
        if name not in datasets and name not in unread:
            yield f"{path}.inputs[{i}]", "a dataset of this policy", ascii(name)
    inputs = [datasets[n] for n in computation.inputs if n in datasets]
    owners = {dataset.owner for dataset in inputs}
    if len(inputs) == len(computation.inputs) and len(owners) < computation.min_owners:
        wanted = f"datasets of at least {computation.min_owners} owners"
        yield f"{path}.inputs", wanted, ", ".join(sorted(owners))
    yield from computation_problems(path, computation, inputs)
