"""What releases and collections have in common: a task believed, an enclave that proves itself.

with errand.attested(job, Kind.RELEASE, dataset="…", before_task=…) as exchange:
    exchange.fresh  # evidence made inside this very stream, for this task and this party
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from policy.document import Policy, digest_text
from policy.party import LocalParty
from policy.record import Record
from policy.state import StudyState
from policy.statement import Statement
from policy.task import Task
from ratls.address import Address
from ratls.appraise import AdmittedCertificate, Expectation, FreshEvidence, appraise_certificate
from ratls.pin import ChannelIdentity
from ratls.probe import probe
from ratls.stream import ClientExchange, Kind, open_exchange
from verifier.anchors import Mode
from verifier.collateral import Collateral
from verifier.modes import anchors_for, known_roots


@dataclass(frozen=True, slots=True)
class Believed:
    """A task that this party's own copy of the policy allows, and all that evidence must meet."""

    task: Task
    policy: Policy
    expectation: Expectation

    @property
    def mode(self) -> Mode:
        """Of the roots that evidence is judged under."""
        return self.expectation.roots.mode

    @property
    def task_text(self) -> str:
        """The task's digest as documents and journal write it."""
        return digest_text(self.task.digest)


@dataclass(frozen=True, slots=True)
class Errand:
    """What this party's own configuration says; nothing in it comes from a peer but the task."""

    task: bytes  #          signed envelope, as it was received
    address: Address  #     where the enclave listens
    collateral: Collateral
    party: LocalParty
    state: Path
    allow_simulation: bool
    timeout: float  #       seconds: for the probe, then for the whole exchange
    clock: Callable[[], datetime]  # now, aware, UTC
    random: Callable[[int], bytes] = os.urandom

    def believe(self) -> Believed:
        """Check the task against the policy in force, and this party's keys, without any peer.

        Raises:
            RatlsError: A leaf of `policy.errors` about task, policy, state or keys.
            SimulationNotAllowed: The policy's root is simulated, and nobody allowed that.
        """
        at = self.clock()
        named, _ = Task.read(self.task)  # says only where to look: the study that it names
        policy = policy_in_force(self.state, named.study, self.party, at)
        task = Task.open(self.task, policy, at)
        roots = anchors_for(policy.platform.root, allow_simulation=self.allow_simulation)
        # Read now: a wrong passphrase should not be found out when everything else is done.
        _ = self.party.operation, self.party.channel_key_pem
        return Believed(task, policy, Expectation(policy, self.collateral, roots))

    @contextmanager
    def attested(
        self,
        job: Believed,
        kind: Kind,
        *,
        dataset: str = "",
        before_task: Callable[[AdmittedCertificate], None] = lambda admitted: None,
    ) -> Iterator[ClientExchange]:
        """Probe, appraise, pin, challenge: the exchange is handed over only after all four.

        Args:
            before_task: May refuse what the certificate shows before the task itself is shown.

        Raises:
            RatlsError: What the appraisals say; TransportError for a peer that is not there.
        """
        address = self.address.resolve()
        admitted = appraise_certificate(
            probe(address, self.timeout), job.expectation, at=self.clock()
        )
        before_task(admitted)
        with open_exchange(
            kind,
            address,
            admitted,
            ChannelIdentity(
                self.party.channel_certificate_pem,
                self.party.channel_key_pem,
                self.party.channel_spki_sha256,
            ),
            task=self.task,
            task_digest=job.task.digest,
            dataset=dataset,
            expectation=job.expectation,
            clock=self.clock,
            timeout=self.timeout,
            random=self.random,
        ) as exchange:
            yield exchange

    def record(self, job: Believed, document: Statement, fresh: FreshEvidence) -> bytes:
        """Why `document` was believed: collateral, appraisal and instant, signed by this party."""
        return Record(
            holder=self.party.party_id,
            document_digest=document.digest,
            collateral=self.collateral.raw,
            appraisal=Record.checks(fresh.appraisal),
            at=self.clock(),
            mode=job.mode.value,
        ).seal(self.party.operation)


def policy_in_force(state: Path, study: str, party: LocalParty, at: datetime) -> Policy:
    """The policy that this party accepted for a study and that holds now.

    Raises:
        StateMissing: It accepted none.
        PolicyExpired, PolicyNotYetValid: None holds at this instant.
        PartyNotListed, AnchorDiffers: The policy lists this party not at all, or with other keys.
    """
    agreement = StudyState(state, known_roots()).current(study, at)
    agreement.require_anchor(party)
    return agreement.policy
