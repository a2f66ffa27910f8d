"""Brings a withdrawal to a running enclave, which proves itself, obeys it and signs that it did.

    done = deliver(withdrawal, place, party, state, clock)
    done.document.instance                 # the start of the enclave that obeyed
    done.kept                              # its signed answer

Agents that received the withdrawal release nothing more. An enclave is told as well, so that rows
that it has already are dropped. A host can keep the message from it, or start it again: SECURITY.md
says what that brings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from policy.journal import Journal
from policy.machines import with_machines
from policy.party import LocalParty
from policy.receipt import Ended
from policy.seen import require_newest
from policy.state import StateMissing, StudyState
from policy.withdrawal import Withdrawal
from provider.errors import AcknowledgementMismatch
from provider.exchange import PROBE_SECONDS, require_own
from ratls.address import Address
from ratls.appraise import Expectation, FreshEvidence, appraise_certificate
from ratls.client_stream import open_exchange
from ratls.framing import Kind
from ratls.pin import ChannelIdentity
from ratls.probe import probe_name
from verifier.anchors import Mode
from verifier.collateral import Collateral
from verifier.files import own_folder, write_atomically
from verifier.modes import anchors_for
from verifier.text import digest_text

_FOLDER = "withdrawals"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the enclave is, and how it is judged."""

    address: Address
    collateral: Collateral
    allow_simulation: bool
    timeout: float  # seconds


@dataclass(frozen=True, slots=True)
class Delivered:
    """The enclave's signed answer."""

    withdrawal: Withdrawal
    document: Ended
    fresh: FreshEvidence
    mode: Mode
    kept: Path


def deliver(
    raw: bytes,
    place: Place,
    party: LocalParty,
    state: Path,
    clock: Callable[[], datetime],
    announce: Callable[[Mode], None] = lambda mode: None,
) -> Delivered:
    """Deliver a withdrawal, own or received, to the enclave of the version in force.

    Raises:
        StateMissing, PolicyExpired, …: No version of its study is in force here.
        RatlsError: What `Withdrawal.open` says of it, the appraisals say of the enclave, and the
            enclave answers.
    """
    store, at = StudyState(state), clock()
    stored = store.stored(Withdrawal.named_study(raw))
    if stored is None:
        raise StateMissing(
            "the study that it names", expected="an accepted agreement", found="none"
        )
    agreement = stored.in_force(at)
    withdrawal = Withdrawal.open(raw, [v.policy for v in stored.agreement.versions])
    policy = with_machines(agreement.policy, store.folder)
    roots = anchors_for(policy.platform.root, allow_simulation=place.allow_simulation)
    announce(roots.mode)
    expectation = Expectation(policy, place.collateral, roots)
    with Journal.open(state) as journal:
        noted = require_newest(state, journal.records, place.collateral, roots)
        if noted is not None:
            journal.append(noted, clock())
    address, shown = probe_name(place.address, min(place.timeout, PROBE_SECONDS))
    admitted = appraise_certificate(shown, expectation, at=clock())
    with open_exchange(
        Kind.WITHDRAW,
        address,
        admitted,
        ChannelIdentity.of(party),
        task=raw,
        task_digest=withdrawal.digest,
        dataset="",
        expectation=expectation,
        clock=clock,
        timeout=place.timeout,
    ) as exchange:
        answer, fresh = exchange.ended(), exchange.fresh
    document = Ended.open(answer)
    own: dict[str, object] = {
        "task_digest": withdrawal.digest,
        "policy_digest": policy.digest,
        "instance": fresh.claims.instance,
        "party": withdrawal.party,
        "nonce": fresh.claims.nonce,
        "evidence": fresh.raw,
    }
    require_own(document, fresh, own, AcknowledgementMismatch)
    name = f"{digest_text(withdrawal.digest)[7:]}.{document.instance.hex()}.json"
    with own_folder(state, _FOLDER):
        write_atomically(state / _FOLDER / name, answer, mode=0o600)
    return Delivered(withdrawal, document, fresh, roots.mode, state / _FOLDER / name)
