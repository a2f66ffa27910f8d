"""The scheduler's decisions: which party sees which task, what is stored, who may report.

    service = Service(Roster(agreements), store, limits)
    service.submit(peer, envelope, at)      # digest of the task
    service.page(peer, cursor, at)          # tasks of the policies that list the peer
    service.report(peer, digest, dataset, State.RELEASED, "", at)

A peer is the SHA-256 of the key of its channel certificate, 32 bytes, as TLS authenticated it.
Tasks are verified here only to keep the queue clean: a party that receives one verifies it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from policy.agreement import CompleteAgreement, PolicyExpired, PolicyNotYetValid
from policy.channel import ChannelCertificate
from policy.document import Policy, digest_text
from policy.errors import TicketScopeError
from policy.sections import Party
from policy.task import Task, open_task
from ratls.errors import AuthorizationError, PeerIdentityError
from scheduler.limits import Limits
from scheduler.messages import require_task_size
from scheduler.queued_task import Cursor, DatasetStatus, QueuedTask, State
from scheduler.store import NewTask, Store, TaskNotQueued
from verifier.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Membership:
    """A peer's place in one policy."""

    policy: Policy
    party: Party


class StudyGivenTwice(ConfigError):
    """Two agreement files are about one study."""

    code = "study-given-twice"
    default_fix = "give the newest agreement of each study; it carries the versions before it"


class PeerNotServed(PeerIdentityError):
    """The channel certificate is that of no party in a policy in force."""

    code = "peer-not-served"
    default_fix = "give the scheduler the agreement that lists your channel certificate"


class Roster:
    """The agreements that this scheduler serves, fixed at its start."""

    def __init__(self, agreements: Sequence[CompleteAgreement]) -> None:
        """
        Raises:
            StudyGivenTwice: Two agreements are about one study.
        """
        studies = [agreement.policy.study for agreement in agreements]
        for study in studies:
            if studies.count(study) > 1:
                raise StudyGivenTwice(f"study {study}", expected="one agreement", found="several")
        self._agreements = tuple(agreements)

    @property
    def certificates(self) -> tuple[ChannelCertificate, ...]:
        """Those of every voting party of every version, each once: nothing else may connect.

        Whether its policy is in force is asked with each call.
        """
        listed = {
            party.channel_certificate.der: party.channel_certificate
            for agreement in self._agreements
            for version in agreement.agreement.versions
            for party in version.policy.voters
        }
        return tuple(listed.values())

    def name_of(self, peer: bytes) -> str | None:
        """The party with this channel key, in any version; for the log."""
        versions = (v.policy for a in self._agreements for v in a.agreement.versions)
        return next((p.id for v in versions if (p := v.party_by_channel(peer))), None)

    def memberships(self, peer: bytes, at: datetime) -> dict[bytes, Membership]:
        """The peer's place in each policy that is in force, by the policy's digest.

        Raises:
            PeerNotServed: It has none.
        """
        memberships: dict[bytes, Membership] = {}
        for agreement in self._agreements:
            try:
                policy = agreement.in_force(at).policy
            except (PolicyExpired, PolicyNotYetValid):
                continue
            party = policy.party_by_channel(peer)
            if party is not None and party.votes:
                memberships[policy.digest] = Membership(policy, party)
        if not memberships:
            raise PeerNotServed("peer", expected="a party of a policy in force", found="another")
        return memberships


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks for one peer, and the number of the change to continue from."""

    tasks: tuple[QueuedTask, ...]
    more: bool
    change: int  # every change up to this number was looked at, if there is no more


class SubmitterDiffers(TicketScopeError):
    """A task was submitted by another party than the one that signed it."""

    code = "submitter-differs"
    default_fix = "submit with the channel certificate of the party that signed the task"


class ReportNotAuthorized(AuthorizationError):
    """The dataset is not the peer's, or no input of the task."""

    code = "report-not-authorized"
    default_fix = "report only on your own datasets that are inputs of the task"


class Service:
    """Decisions about one queue. The caller provides the authenticated peer and the instant."""

    def __init__(self, roster: Roster, store: Store, limits: Limits) -> None:
        self.roster, self._store, self._limits = roster, store, limits

    def submit(self, peer: bytes, envelope: bytes, at: datetime) -> bytes:
        """Store a task until it expires; its digest. The same task again changes nothing.

        Raises:
            PeerNotServed, PolicyNotServed, SubmitterDiffers: The peer may not submit it.
            TaskOversized, OpenTasksExhausted, SubmissionsTooFast: Too large, or too many.
            RatlsError: What `Task.open` says.
            StoreUnavailable: It may have been stored or not; submit it again.
        """
        memberships = self.roster.memberships(peer, at)
        require_task_size(envelope)
        task, policy = open_task(
            envelope, lambda named: _membership(memberships, named.policy_digest).policy, at
        )
        membership = memberships[policy.digest]
        # D11: a party with a copy of another's task must not use up the other's quota.
        if task.submitter != membership.party.id:
            raise SubmitterDiffers("task", expected=membership.party.id, found=task.submitter)
        inputs = _inputs(membership, task)
        digest, policy_digest = task.digest, policy.digest
        new = NewTask(digest, envelope, policy_digest, peer, task.expires, inputs)
        self._store.add(new, at, self._limits.admit)
        return digest

    def page(
        self,
        peer: bytes,
        cursor: bytes,
        at: datetime,
        *,
        policy_digest: bytes | None = None,
        task_digest: bytes | None = None,
    ) -> TaskPage:
        """What changed after the cursor, of the policies in force that list the peer.

        Raises:
            PeerNotServed, StoreUnavailable.
            PolicyNotServed: The policy that is asked for is none of them.
        """
        memberships = self.roster.memberships(peer, at)
        policies = list(memberships)
        if policy_digest is not None:
            policies = [_membership(memberships, policy_digest).policy.digest]
        # Read before the tasks: what changes in between is seen again.
        newest = self._store.newest()
        place = Cursor.decode(cursor)
        # A queue that was replaced, or restored from an old copy, is shown from the beginning.
        known = place.store == self._store.id and place.change <= newest
        after = place.change if known else 0
        page = self._store.tasks(policies, after, at, digest=task_digest)
        last = page.held[-1].change if page.held else after
        return TaskPage(tuple(h.task for h in page.held), page.more, max(last, newest))

    def cursor(self, change: int) -> bytes:
        """The place after this number in this queue, in the form that peers keep."""
        return Cursor(self._store.id, change).encode()

    def report(
        self,
        peer: bytes,
        digest: bytes,
        dataset: str,
        state: State,
        code: str,
        at: datetime,
        instance: bytes = b"",
    ) -> DatasetStatus:
        """Store what the owner of a dataset reports about it; the status afterwards.

        Raises:
            PeerNotServed: As `page`.
            TaskNotQueued: The peer sees no such task.
            ReportNotAuthorized: Also for a dataset that does not exist.
            ReportsExhausted, StoreUnavailable.
        """
        memberships = self.roster.memberships(peer, at)
        page = self._store.tasks(list(memberships), 0, at, digest=digest)
        if not page.held:
            raise TaskNotQueued("task", expected="one in the queue", found="none")
        held = page.held[0]
        # Owners come from the policy, never from the database: its rows are only shown.
        membership = memberships[held.policy_digest]
        owned = membership.policy.dataset_by_id(dataset)
        owner = None if owned is None else owned.owner
        listed = {status.dataset: status for status in held.task.datasets}
        if owner != membership.party.id or dataset not in listed:
            raise ReportNotAuthorized("dataset", expected="an own input", found="another")
        if (listed[dataset].state, listed[dataset].code) == (state, code):
            return listed[dataset]  # reported before: nothing is written
        return self._store.report(
            digest, dataset, state, code, at, cap=self._limits.reports, instance=instance
        )


class PolicyNotServed(AuthorizationError):
    """The policy is not one that is in force here and lists the peer."""

    code = "policy-not-served"
    default_fix = "give the agreement to the scheduler, or sign the task under the policy in force"


def _membership(memberships: dict[bytes, Membership], policy_digest: bytes) -> Membership:
    if policy_digest not in memberships:
        raise PolicyNotServed(
            "policy", expected="one in force that lists you", found=digest_text(policy_digest)
        )
    return memberships[policy_digest]


def _inputs(membership: Membership, task: Task) -> tuple[tuple[str, str], ...]:
    """The datasets of the task's computation, with their owners."""
    computation = membership.policy.computation_by_id(task.computation)
    assert computation is not None, "Task.open lets no other through"
    found = [membership.policy.dataset_by_id(name) for name in computation.inputs]
    return tuple((d.id, d.owner) for d in found if d is not None)
