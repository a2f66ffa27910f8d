"""Everything that an agent would need for its next task, tried before there is one.

    for tried in try_all(config, allow_simulation=False, timeout=60, clock=now):
        print(tried)         # ok: keys of alice-clinic / WRONG: dataset train_party_1: [code] …

Every row of every dataset is read, every enclave proves itself afresh, and the scheduler is asked
for its list. No row leaves, and nothing is journalled. `unready` is what can be said at once, as
the agent starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from policy.agreement import CompleteAgreement
from policy.document import Policy
from policy.journal import Reading
from policy.machines import with_machines
from policy.party import LocalParty
from policy.passphrase import passphrase_source
from policy.sections import Dataset
from policy.seen import require_newest
from policy.signing import require_own_signature
from policy.state import StateMissing, StudyState
from provider.agent_config import AgentConfig
from provider.agent_tasks import EnclaveNotConfigured
from provider.dry_run import Wanted, dataset_of
from provider.errors import DatasetNotConfigured
from provider.exchange import PROBE_SECONDS, DatasetNotOwned
from provider.full_check import SourceFault, full_check
from provider.mailbox import mailbox
from provider.sources import SourceSpec
from provider.stamps import Stamps
from ratls.appraise import Expectation, appraise_certificate
from ratls.claims import NO_TASK
from ratls.client_stream import open_exchange
from ratls.framing import Kind
from ratls.pin import ChannelIdentity
from ratls.probe import probe_name
from ratls.profile import EnclavePlace
from verifier.anchors import TrustAnchors
from verifier.bundles import read_collateral
from verifier.errors import RatlsError
from verifier.modes import anchors_for

Clock = Callable[[], datetime]
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """One thing that was tried."""

    what: str
    refusal: RatlsError | None = None
    detail: str = ""
    faults: tuple[SourceFault, ...] = ()  # of a source: all of them

    def __str__(self) -> str:
        if self.refusal is None:
            return f"ok     {self.what}" + (f": {self.detail}" if self.detail else "")
        if not self.faults:
            told = f"[{self.refusal.code}] {self.refusal}"
            fix = f"\n         to do: {self.refusal.fix}" if self.refusal.fix else ""
            return f"WRONG  {self.what}: {told}{fix}"
        lines = [f"WRONG  {self.what}"]
        for fault in self.faults:
            lines += [f"       {fault}", f"         to do: {fault.fix}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "detail": self.detail,
            "faults": [fault.as_json() for fault in self.faults],
            "error": self.refusal and self.refusal.as_json(),
        }


@dataclass(frozen=True, slots=True)
class _Ready:
    """What the other steps need."""

    config: AgentConfig
    party: LocalParty
    policy: Policy
    roots: TrustAnchors
    timeout: float
    clock: Clock


def try_all(
    config: AgentConfig,
    *,
    allow_simulation: bool,
    timeout: float,
    clock: Clock,
    progress: Progress = lambda rows, total: None,
) -> Iterator[Tried]:
    """Try one thing after the other; what is wrong with one stops only what needs it."""
    party = LocalParty.load(config.party, passphrase_source(config.passphrase_file))
    yield _tried(f"keys of {party.party_id}", lambda: _keys(party))
    yield _tried(f"scheduler {config.scheduler}", lambda: _scheduler(config, party))
    agreement = f"agreement of {config.study}"
    try:
        stored = _stored(config, party)
        roots = anchors_for(stored.policy.platform.root, allow_simulation=allow_simulation)
        policy = with_machines(stored.policy, StudyState(config.state).folder)
    except RatlsError as refusal:
        yield Tried(agreement, refusal)
        return
    yield _tried(agreement, lambda: _in_force(config, clock()))
    ready = _Ready(config, party, policy, roots, timeout, clock)
    yield from _datasets(ready, progress)
    yield from _enclaves(ready)


def unready(config: AgentConfig, policy: Policy, own: str) -> list[Tried]:
    """What is wrong with files, as far as it shows without reading rows or asking anybody."""
    found = list(_without_source(config, policy, own))
    for name, source in config.sources.items():
        found.append(_tried(f"dataset {name}", partial(_opened, source, policy, name, own)))
    found += _without_enclave(config, policy)
    for name, place in config.enclaves.items():
        found.append(_tried(f"enclave {name}", partial(_bundle, place)))
    return [tried for tried in found if tried.refusal is not None]


def _tried(what: str, step: Callable[[], str]) -> Tried:
    try:
        return Tried(what, detail=step())
    except RatlsError as refusal:
        return Tried(what, refusal)


def _keys(party: LocalParty) -> str:
    _ = party.operation, party.channel_key_pem
    return "the passphrase opens them"


def _scheduler(config: AgentConfig, party: LocalParty) -> str:
    with mailbox(config.scheduler, config.scheduler_certificate, party) as client:
        waiting = sum(1 for _ in client.list())
    return f"it let this party in, and shows {waiting} task{'s' * (waiting != 1)}"


def _stored(config: AgentConfig, party: LocalParty) -> CompleteAgreement:
    stored = StudyState(config.state).stored(config.study)
    if stored is None:
        raise StateMissing(f"study {config.study}", expected="an accepted agreement", found="none")
    require_own_signature(stored, party)
    return stored


def _in_force(config: AgentConfig, at: datetime) -> str:
    policy = StudyState(config.state).current(config.study, at).policy
    return f"version {policy.version} is in force"


def _datasets(ready: _Ready, progress: Progress) -> Iterator[Tried]:
    own, config = ready.party.party_id, ready.config
    yield from _without_source(config, ready.policy, own)
    for name, source in config.sources.items():
        what = f"dataset {name}"
        try:
            declared = _own(ready.policy, name, own)
            needed = Wanted.of(ready.policy, name).needed
            found = full_check(
                source, declared, needed, stamps=Stamps(config.state), progress=progress
            )
        except RatlsError as refusal:
            yield Tried(what, refusal)
        else:
            detail = f"{found.rows:,} rows of {found.persons:,} persons" if found.checked else ""
            yield Tried(what, found.refusal, detail, found.faults)


def _opened(source: SourceSpec, policy: Policy, name: str, own: str) -> str:
    with source.open(_own(policy, name, own)):
        return ""


def _own(policy: Policy, name: str, own: str) -> Dataset:
    declared = dataset_of(policy, name)
    if declared.owner != own:
        raise DatasetNotOwned(f"dataset {name}", expected=f"owner {own}", found=declared.owner)
    return declared


def _without_source(config: AgentConfig, policy: Policy, own: str) -> Iterator[Tried]:
    for dataset in policy.dataset:
        if dataset.owner == own and dataset.id not in config.sources:
            thing, known = f"dataset {dataset.id}", ", ".join(config.sources)
            yield Tried(thing, DatasetNotConfigured(thing, expected=known, found="no source"))


def _without_enclave(config: AgentConfig, policy: Policy) -> Iterator[Tried]:
    listed = [enclave.name for enclave in policy.enclave]
    if not set(listed) & set(config.enclaves):
        expected, found = f"an address of {' or '.join(listed)}", ", ".join(config.enclaves)
        study = f"study {config.study}"
        yield Tried("enclaves", EnclaveNotConfigured(study, expected=expected, found=found))


def _enclaves(ready: _Ready) -> Iterator[Tried]:
    yield from _without_enclave(ready.config, ready.policy)
    listed = {enclave.name for enclave in ready.policy.enclave}
    for name, place in ready.config.enclaves.items():
        what = f"enclave {name}"
        if name in listed:
            yield _tried(f"{what} at {place.address}", partial(_proof, ready, name, place))
        else:
            yield Tried(what, detail="the policy does not list it, so no row goes there")


def _bundle(place: EnclavePlace) -> str:
    read_collateral(place.collateral)
    return ""


def _proof(ready: _Ready, name: str, place: EnclavePlace) -> str:
    """The enclave proves itself as before a release, for no task."""
    collateral = read_collateral(place.collateral)
    records = Reading.of(ready.config.state).records
    require_newest(ready.config.state, records, collateral, ready.roots)
    expectation = Expectation(ready.policy, collateral, ready.roots, name)
    address, shown = probe_name(place.address, min(ready.timeout, PROBE_SECONDS))
    admitted = appraise_certificate(shown, expectation, at=ready.clock())
    with open_exchange(
        Kind.ATTEST,
        address,
        admitted,
        ChannelIdentity.of(ready.party),
        task=b"",
        task_digest=NO_TASK,
        dataset="",
        expectation=expectation,
        clock=ready.clock,
        timeout=ready.timeout,
    ) as exchange:
        status = exchange.fresh.verified.tcb.status.value
    return f"it proved itself, and is admitted ({status}, {ready.roots.mode})"
