"""One page for the people who decide: everything about a version, in a file of its own.

    page = review_page(agreement, before=policy_in_force, fares=fares, made=now)

The page has no script and loads nothing. `jinja2` escapes every value, and a policy in the page of
its browser forbids what is not in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from policy.agreement import Agreement
from policy.difference import HEADINGS, Difference, differences
from policy.document import Policy, digest_text
from policy.dry_run import Fare
from policy.sections import Enclave
from policy.sentences import sections
from policy.show import notes_of, signatures_text
from policy.signing import key_changes, public_keys
from policy.statement import instant_text
from policy.trust_domain import REGISTERS


@dataclass(frozen=True, slots=True)
class Signer:
    """One party of the version, and the key that signs for it."""

    party: str
    signed: str  #  yes, MISSING, no
    scheme: str
    key: str  #     64 hex
    since: str  #   from which version on the policy lists this key for it


# What a reader types, in a checkout of the release, who was given the signed manifest.
RECOMPUTE = (
    "ratls enclave image --out image",
    "ratls measure image image --manifest ratls-enclave.manifest.sgx",
    "ratls measure manifest ratls-enclave.manifest.sgx --libpal libpal.so --policy policy.toml",
)


@dataclass(frozen=True, slots=True)
class Code:
    """What may receive rows, and how a reader gets the same number."""

    name: str
    measurements: tuple[tuple[str, str], ...]
    recompute: tuple[str, ...]  # commands, or one sentence


def review_page(
    agreement: Agreement, *, before: Policy | None, fares: Sequence[Fare], made: datetime
) -> str:
    """HTML in UTF-8. `before` is the version in force, or None where this is the first."""
    policy = agreement.policy
    changes: tuple[Difference, ...] = () if before is None else differences(before, policy)
    loader = PackageLoader("policy", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("review.html").render(
        policy=policy,
        digest=digest_text(policy.digest),
        sections=sections(policy),
        notes=notes_of(policy),
        before=before,
        before_digest=None if before is None else digest_text(before.digest),
        changes=[
            (HEADINGS[effect], [c for c in changes if c.effect == effect]) for effect in HEADINGS
        ],
        state=signatures_text(agreement),
        signers=signers(agreement),
        codes=[_code(policy, enclave) for enclave in policy.enclave],
        fares=fares,
        simulated=policy.platform.simulated,
        made=instant_text(made),
        keys=key_changes(policy, before),
    )


def signers(agreement: Agreement) -> tuple[Signer, ...]:
    """Each party of the newest version, and since which version its key is listed without a gap."""
    policy, missing = agreement.policy, agreement.missing
    found = []
    for party in policy.party:
        key = party.signing_key
        since = policy
        for version in reversed(agreement.versions):
            earlier = version.policy.party_by_id(party.id)
            if earlier is None or earlier.signing_key != key:
                break
            since = version.policy
        signed = party.id in agreement.newest.signed
        word = "yes" if signed else "MISSING" if party.id in missing else "no"
        found.append(
            Signer(
                party.id,
                word,
                key.scheme,
                public_keys(party)["signing_key"],
                f"version {since.version}, {instant_text(since.not_before)}",
            )
        )
    return tuple(found)


def _code(policy: Policy, enclave: object) -> Code:
    if isinstance(enclave, Enclave):
        measured: tuple[tuple[str, str], ...] = (
            ("MRENCLAVE", enclave.mr_enclave),
            ("ISVPRODID", str(enclave.isv_prod_id)),
            ("ISVSVN at least", str(enclave.min_isv_svn)),
        )
        if policy.platform.simulated:
            recompute: tuple[str, ...] = ("ratls simulation measure",)
        else:
            recompute = RECOMPUTE
        return Code(enclave.name, measured, recompute)
    measured = tuple(
        (name.upper(), str(getattr(enclave, name))) for name in (*REGISTERS, "min_tee_tcb_svn")
    )
    sentence = "build the guest from its sources, then compare the registers as docs/tdx.md says"
    return Code(str(getattr(enclave, "name", "")), measured, (sentence,))
