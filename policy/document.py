"""The policy: what the parties agree on, read strictly from the exact bytes that they sign.

    policy = Policy.parse(raw, known_roots=known_roots())
    policy.digest                       # SHA-256 of `raw`, 32 bytes
    policy.party_by_id("alice-clinic").roles

Attributes follow the TOML: `party`, `enclave`, `dataset`, `computation` are tuples. Absence
never means "any". Errors of meaning are collected and raised together (`PolicyInvalid`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Self

from pydantic import ValidationError

from policy.errors import PolicyFormatError
from policy.fields import Strict
from policy.problems import PROBLEMS_CAP, Problem, from_pydantic, unknown_field
from policy.references import cross_problems, require_distinct_keys
from policy.sections import (
    AgreementRule,
    Computation,
    Dataset,
    Enclave,
    Head,
    Party,
    Platform,
    Transport,
)
from policy.syntax import LineIndex, read_toml, value_problems
from policy.trust_domain import Agreed, TrustDomain
from policy.values import Digest
from verifier.text import digest_text as digest_text

_TABLES: dict[str, type[Strict]] = {"agreement": AgreementRule, "platform": Platform}
_OPTIONAL: dict[str, type[Strict]] = {"transport": Transport}  # absent: its defaults
_LISTS: dict[str, type[Strict]] = {
    "party": Party,
    "enclave": Enclave,
    "dataset": Dataset,
    "computation": Computation,
}
_LIST_CAP = 256


class PolicyProblems(PolicyFormatError):
    """The policy breaks rules; `problems` lists all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        super().__init__(
            "policy",
            expected=first.expected,
            found=first.found,
            fix=f"{first.fix}; {self.default_fix}" if first.fix else None,
        )
        self.problems = problems

    def sentence(self) -> str:
        more = len(self.problems) - 1
        rest = f"; {more} more problem{'s' if more > 1 else ''}" if more else ""
        return f"{self.thing}: {self.problems[0].sentence}{rest}"


class PolicyInvalid(PolicyProblems):
    """The policy breaks rules of its schema; `problems` lists all of them."""

    code = "policy-invalid"
    default_fix = "correct the policy; `ratls policy lint` lists every problem"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that keeps every rule. `policy.agreement` checks its signatures."""

    study: str
    version: int
    previous: Digest | None  # digest of the version before; None only in version 1
    not_before: datetime  #    first instant at which it holds (aware)
    expires: datetime  #       first instant at which it no longer holds
    agreement: AgreementRule
    party: tuple[Party, ...]
    enclave: tuple[Agreed, ...]
    platform: Platform
    transport: Transport
    dataset: tuple[Dataset, ...]
    computation: tuple[Computation, ...]
    raw: bytes = field(repr=False)  # what the parties sign
    # The machines in the file of `platform.machines_file`, once `policy.machines` has read it.
    fleet: frozenset[str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, raw: bytes, *, known_roots: frozenset[str]) -> Self:
        """Read one policy; `known_roots` are the root schemes of this installation.

        Raises: PolicyTooLarge, PolicyEncoding, PolicySyntax, PolicyInvalid (with all
            problems), PolicyKeysShared.
        """
        document = read_toml(raw)
        lines = LineIndex(raw.decode("utf-8"))
        problems = list(islice(value_problems(document, "", lines), PROBLEMS_CAP))
        if problems:  # the sections assume that these hold
            raise PolicyInvalid(tuple(problems))
        parts = _read_sections(document, lines, problems)
        cross = cross_problems(parts, document, lines, known_roots)
        problems += islice(cross, max(0, PROBLEMS_CAP - len(problems)))
        if problems:
            raise PolicyInvalid(tuple(problems[:PROBLEMS_CAP]))
        require_distinct_keys(parts["party"])
        head: Head = parts["head"]
        named = head.previous
        return cls(
            study=head.study,
            version=head.version,
            previous=None if named is None else Digest(bytes.fromhex(named[7:])),
            not_before=head.not_before,
            expires=head.expires,
            agreement=parts["agreement"],
            platform=parts["platform"],
            transport=parts["transport"],
            party=tuple(parts["party"].values()),
            enclave=tuple(parts["enclave"].values()),
            dataset=tuple(parts["dataset"].values()),
            computation=tuple(parts["computation"].values()),
            raw=raw,
        )

    def __repr__(self) -> str:
        return f"<Policy {self.study} version {self.version}, {digest_text(self.digest)}>"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes that are signed; 32 bytes."""
        return Digest(hashlib.sha256(self.raw).digest())

    @property
    def voters(self) -> tuple[Party, ...]:
        """Parties that vote: all but those that only operate."""
        return tuple(p for p in self.party if p.votes)

    def party_by_id(self, party_id: str) -> Party | None:
        return next((p for p in self.party if p.id == party_id), None)

    def dataset_by_id(self, dataset_id: str) -> Dataset | None:
        return next((d for d in self.dataset if d.id == dataset_id), None)

    def computation_by_id(self, computation_id: str) -> Computation | None:
        return next((c for c in self.computation if c.id == computation_id), None)

    def party_by_channel(self, spki_sha256: bytes) -> Party | None:
        """The party with this key digest in its channel certificate."""
        return next(
            (p for p in self.party if p.channel_certificate.spki_sha256 == spki_sha256), None
        )


def _read_sections(
    document: dict[str, Any], lines: LineIndex, problems: list[Problem]
) -> dict[str, Any]:
    """Every section that reads, by name; list sections by their index. Problems are added."""
    sections = {*_TABLES, *_OPTIONAL, *_LISTS}
    top = {k: v for k, v in document.items() if k not in sections}
    known = {"schema", *Head.model_fields, *sections} - {"schema_name"}
    for name in [n for n in top if n not in known][:PROBLEMS_CAP]:
        problems.append(unknown_field(name, known, name, lines.find))
        del top[name]
    parts: dict[str, Any] = {"head": _read(Head, top, "", lines, problems)}
    for name, model in (_TABLES | _OPTIONAL).items():
        table = document.get(name, {} if name in _OPTIONAL else None)
        parts[name] = None
        if isinstance(table, dict):
            parts[name] = _read(model, table, name, lines, problems)
        else:
            problems.append(Problem(name, lines.find(name), f"a table [{name}]", "none"))
    for name, model in _LISTS.items():
        entries = document.get(name)
        parts[name] = {}
        if not isinstance(entries, list) or not 1 <= len(entries) <= _LIST_CAP:
            found = f"{len(entries)}" if isinstance(entries, list) else "none"
            problems.append(
                Problem(name, lines.find(name), f"1 to {_LIST_CAP} tables [[{name}]]", found)
            )
            continue
        for i, entry in enumerate(entries):
            kind = _kind(model, entry)
            if len(problems) >= PROBLEMS_CAP:
                raise PolicyInvalid(tuple(problems[:PROBLEMS_CAP]))  # no more are looked for
            section = _read(kind, entry, f"{name}[{i}]", lines, problems)
            if section is not None:
                parts[name][i] = section
    return parts


def _kind(model: type[Strict], entry: Any) -> type[Strict]:
    """The table that `tee` makes of an `[[enclave]]`; `Enclave` refuses a word that is neither."""
    domain = model is Enclave and isinstance(entry, dict) and entry.get("tee") == "tdx"
    return TrustDomain if domain else model


def _read(
    model: type[Strict], value: Any, path: str, lines: LineIndex, problems: list[Problem]
) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems += from_pydantic(error, model, path, lines.find)
        return None
