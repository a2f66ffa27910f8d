"""A policy as people read it before they sign: made from the parsed document, not its text.

Comments, layout and order of the file change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from policy.agreement import Agreement
from policy.document import Policy, digest_text
from policy.machines import machines_path, with_machines
from policy.merging import SignatureFound
from policy.parameters import Fixed, Parameter
from policy.sections import ANY_MACHINE, Column, Party, Platform
from policy.signing import KeyChange
from policy.statement import instant_text
from policy.trust_domain import ANY_MODULE, Agreed, TrustDomain
from verifier.errors import RatlsError


def as_json(policy: Policy) -> dict[str, Any]:
    """Everything that the policy says, in plain JSON values; keys as fingerprints."""
    return {
        "study": policy.study,
        "version": policy.version,
        "digest": digest_text(policy.digest),
        "previous": None if policy.previous is None else digest_text(policy.previous),
        "not_before": instant_text(policy.not_before),
        "expires": instant_text(policy.expires),
        "threshold": policy.agreement.threshold,
        "party": [_party(p) for p in policy.party],
        "enclave": [_enclave(e) for e in policy.enclave],
        "platform": _platform(policy.platform),
        "transport": policy.transport.model_dump(mode="json"),
        "dataset": [
            d.model_dump(mode="json", exclude={"columns"})
            | {"columns": {n: column_text(c) for n, c in d.columns.items()}}
            for d in policy.dataset
        ],
        "computation": [
            c.model_dump(mode="json", exclude={"parameters"})
            | {"parameters": {n: _parameter(p) for n, p in c.parameters.items()}}
            for c in policy.computation
        ],
    }


def tables(policy: Policy) -> Iterable[Table]:
    """One table per section, each with every value of the document."""
    document = as_json(policy)
    document["platform"] |= _any_platform(policy.platform)
    yield _table("policy", {k: v for k, v in document.items() if not isinstance(v, list | dict)})
    for section, content in document.items():
        match content:
            case dict():
                yield _table(section, content)
            case list():
                yield from (_table(section, entry) for entry in content)


def notes(policy: Policy, folder: Path) -> dict[str, str]:
    """What a signer should notice: where the policy leaves something open, or needs a file."""
    found = notes_of(policy)
    path = machines_path(policy, folder)
    if path is not None:
        fleet = with_machines(policy, folder).fleet
        count = "is missing: nobody can sign or accept without it"
        found["platform.machines_file"] = f"{path.name} " + (
            count if fleet is None else f"has {len(fleet)} machines"
        )
    return found


def notes_of(policy: Policy) -> dict[str, str]:
    """What the policy leaves open, read from itself alone."""
    found: dict[str, str] = {}
    if policy.platform.machines == ():
        found["platform.machines"] = f"{ANY_MACHINE}: who runs it is not known"
    for domain in policy.enclave:
        if isinstance(domain, TrustDomain):
            found |= {f"{domain.name}.{name}": text for name, text in _domain_notes(domain)}
    return found


def _domain_notes(domain: TrustDomain) -> Iterator[tuple[str, str]]:
    if not domain.mr_seam:
        yield "mr_seam", f"{ANY_MODULE}, from TEE_TCB_SVN {domain.min_tee_tcb_svn} on"
    if domain.rtmr3_events is not None:
        count = len(domain.rtmr3_events)
        yield "rtmr3", f"extended at run time, by the {count} events listed and by no others"
    if domain.service_tds is not None:
        yield "service_tds", "a service domain may act on it, and move it where it is migratable"


def agreement_facts(agreement: Agreement) -> dict[str, Any]:
    """Which policy it is, and who signed; for machines."""
    return {
        "study": agreement.policy.study,
        "version": agreement.policy.version,
        "digest": digest_text(agreement.digest),
        "threshold": agreement.policy.agreement.threshold,
        "signed": list(agreement.newest.signed),
        "missing": list(agreement.missing),
        "complete": still_needed(agreement) is None,
    }


def still_needed(agreement: Agreement) -> RatlsError | None:
    """Why the agreement is not complete: also the version before has a say in who signs."""
    try:
        agreement.require_complete()
    except RatlsError as refusal:
        return refusal
    return None


def signatures_text(agreement: Agreement) -> str:
    """How many signed, and who is missing."""
    policy = agreement.policy
    votes = len(agreement.newest.votes_by(policy))
    text = f"{votes} of {len(policy.voters)} parties signed"
    if agreement.missing:
        return f"{text}, missing: {', '.join(agreement.missing)}"
    if (refusal := still_needed(agreement)) is not None:
        return f"{text}, and that is not enough: {refusal.sentence()}"
    return f"{text}, the agreement is complete"


def signers_table(agreement: Agreement) -> Table:
    """Who signed the newest version, who is missing, who has no vote."""
    table = _with_columns("signatures", "party", "signed", "signing key")
    missing = agreement.missing
    for party in agreement.policy.party:
        signed = party.id in agreement.newest.signed
        word = "yes" if signed else "MISSING" if party.id in missing else "no"
        note = "" if party.votes else " (has no vote)"
        table.add_row(Text(party.id), Text(word + note), Text(party.signing_key.keyid))
    return table


def signatures_table(found: Iterable[SignatureFound]) -> Table:
    """Each signature on the newest version with what it is worth."""
    table = _with_columns("signatures", "party", "", "signing key", "")
    for one in found:
        word = Text(one.verdict, style="" if one.verdict == "valid" else "bold red")
        table.add_row(Text(one.party or "?"), word, Text(one.keyid), Text(one.says))
    return table


def keys_table(changes: Iterable[KeyChange]) -> Table:
    """Every key of the policy, new and changed ones marked."""
    table = _with_columns("keys in this policy", "party", "purpose", "", "SHA-256")
    for change in changes:
        style = {"changed": "bold red", "new": "yellow"}.get(change.status, "")
        status = Text(change.status, style=style)
        table.add_row(Text(change.party_id), Text(change.purpose), status, Text(change.fingerprint))
    return table


def _with_columns(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _any_platform(platform: Platform) -> dict[str, str]:
    """What an absent list admits, in words."""
    words = {}
    if platform.machines == () and platform.fmspcs is not None:
        words["machines"] = f"{ANY_MACHINE} of a listed FMSPC"
    if platform.fmspcs is None:
        words["fmspcs"] = "any"
    return words


def _table(title: str, values: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(_line(value)))
    return table


def _line(value: Any, *, deep: bool = False) -> str:
    match value:
        case None:
            return "-"
        case dict() if deep:
            return ", ".join(f"{_name(k)} {_line(v, deep=True)}" for k, v in value.items())
        case dict():
            return "\n".join(f"{_name(k)}: {_line(v, deep=True)}" for k, v in value.items())
        case list() | tuple():
            return ", ".join(_line(entry, deep=True) for entry in value) or "none"
    return str(value)


def _name(name: str) -> str:
    # A name in another script is shown by its numbers too: two scripts may draw one picture.
    return name if name.isascii() else f"{name} {name!a}"


def _platform(platform: Platform) -> dict[str, Any]:
    shown = platform.model_dump(mode="json", exclude={"machines"})
    if platform.machines is not None:
        shown["machines"] = list(platform.machines) or ANY_MACHINE
    shown["configuration"] = shown["configuration"] or "nothing is demanded"
    return shown


def _enclave(enclave: Agreed) -> dict[str, Any]:
    if not isinstance(enclave, TrustDomain):
        return enclave.model_dump(mode="json")
    shown = enclave.model_dump(mode="json", exclude={"mr_seam", "service_tds"})
    shown["mr_seam"] = list(enclave.mr_seam) or ANY_MODULE  # what is absent is said in words
    shown["service_tds"] = list(enclave.service_tds or ()) or "none may be bound"
    return shown


def _party(party: Party) -> dict[str, Any]:
    encryption = party.encryption_key
    return {
        "id": party.id,
        "roles": list(party.roles),
        "votes": party.votes,
        "signing_key": f"{party.signing_key.keyid} {party.signing_key.scheme}",
        "operation_key": f"{party.operation_key.keyid} {party.operation_key.scheme}",
        "channel_certificate": party.channel_certificate.fingerprint,
        "channel_certificate_ends": instant_text(party.channel_certificate.not_after),
        "encryption_key": None if encryption is None else encryption.keyid,
    }


def column_text(column: Column) -> str:
    """A column as its type, bounds, values and spelling."""
    text = column.type + ("?" if column.nullable else "")
    for word, bound in (("min", column.min), ("max", column.max)):
        if bound is not None:
            text += f", {word} {_bound(bound)}"
    if column.values is not None:
        text += f", one of {', '.join(column.values)}"
    return text if column.spelling is None else f"{text}, spelling {column.spelling}"


def _bound(bound: Any) -> str:
    if isinstance(bound, datetime):
        return instant_text(bound)
    return bound.isoformat() if isinstance(bound, date) else str(bound)


def _parameter(parameter: Parameter) -> Any:
    return parameter.value if isinstance(parameter, Fixed) else asdict(parameter)
