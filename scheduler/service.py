"""What the scheduler decides: who sees which task, what is kept, who may say what became of it.

    service = Service(Roster(agreements), store, limits)
    service.submit(peer, envelope, at)      # digest of the task
    service.page(peer, cursor, at)          # tasks of the policies that list the peer
    service.report(peer, digest, dataset, State.RELEASED, "", at)

A peer is the SHA-256 of the key of its channel certificate, 32 bytes, as TLS authenticated it.
Tasks are verified here to keep the queue clean. Nobody relies on that: whoever receives a task
verifies it again.
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
from scheduler.errors import TaskOversized
from scheduler.limits import Limits
from scheduler.messages import ENVELOPE_CAP
from scheduler.queued_task import Cursor, DatasetStatus, QueuedTask, State
from scheduler.store import NewTask, Store, TaskNotQueued
from verifier.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Seat:
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
    default_fix = "the scheduler needs the agreement in which your channel certificate is listed"


class Roster:
    """The agreements that this scheduler serves, fixed at its start."""

    def __init__(self, agreements: Sequence[CompleteAgreement]) -> None:
        """
        Raises:
            StudyGivenTwice: Which of two would hold?
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

    def seats(self, peer: bytes, at: datetime) -> dict[bytes, Seat]:
        """The peer's place in each policy that is in force, by the policy's digest.

        Raises:
            PeerNotServed: It has none.
        """
        seats: dict[bytes, Seat] = {}
        for agreement in self._agreements:
            try:
                policy = agreement.in_force(at).policy
            except (PolicyExpired, PolicyNotYetValid):
                continue
            party = policy.party_by_channel(peer)
            if party is not None and party.votes:
                seats[policy.digest] = Seat(policy, party)
        if not seats:
            raise PeerNotServed("peer", expected="a party of a policy in force", found="another")
        return seats


@dataclass(frozen=True, slots=True)
class Offer:
    """Tasks for one peer, and the place to go on from once they are seen."""

    tasks: tuple[QueuedTask, ...]
    more: bool
    change: int  # every change up to this number was looked at, if there is no more


class SubmitterDiffers(TicketScopeError):
    """A task is brought by somebody else than the party that signed it."""

    code = "submitter-differs"
    default_fix = "submit with the channel certificate of the party that signed the task"


class ReportNotAuthorized(AuthorizationError):
    """The dataset is not the peer's, or no input of the task."""

    code = "report-not-authorized"
    default_fix = "only a dataset's owner reports on it"


class Service:
    """Decisions about one queue. The caller brings the authenticated peer and the instant."""

    def __init__(self, roster: Roster, store: Store, limits: Limits) -> None:
        self._roster, self._store, self._limits = roster, store, limits

    def name_of(self, peer: bytes) -> str | None:
        """As `Roster.name_of`."""
        return self._roster.name_of(peer)

    def submit(self, peer: bytes, envelope: bytes, at: datetime) -> bytes:
        """Keep a task until it expires; its digest. The same task again changes nothing.

        Raises:
            PeerNotServed, PolicyNotServed, SubmitterDiffers: The peer may not bring it.
            TaskOversized, OpenTasksExhausted, SubmissionsTooFast: Too large, or too many.
            RatlsError: What `Task.open` says.
            StoreUnavailable: It may have been kept or not; bring it again.
        """
        seats = self._roster.seats(peer, at)
        if len(envelope) > ENVELOPE_CAP:
            raise TaskOversized("task", expected=f"<= {ENVELOPE_CAP} bytes", found="more")
        task, _ = open_task(envelope, lambda named: _seat(seats, named.policy_digest).policy, at)
        seat = seats[task.policy_digest]
        # D11: whoever holds a copy of another's task must not spend the other's quota.
        if task.submitter != seat.party.id:
            raise SubmitterDiffers("task", expected=seat.party.id, found=task.submitter)
        new = NewTask(
            task.digest, envelope, seat.policy.digest, peer, task.expires, _inputs(seat, task)
        )
        self._store.add(new, at, self._limits.admit)
        return task.digest

    def page(
        self,
        peer: bytes,
        cursor: bytes,
        at: datetime,
        *,
        policy_digest: bytes | None = None,
        task_digest: bytes | None = None,
    ) -> Offer:
        """What changed after the cursor, of the policies in force that list the peer.

        Raises:
            PeerNotServed, StoreUnavailable.
            PolicyNotServed: The policy that is asked for is none of them.
        """
        seats = self._roster.seats(peer, at)
        policies = list(seats)
        if policy_digest is not None:
            policies = [_seat(seats, policy_digest).policy.digest]
        newest = self._store.newest()  # before the tasks: what comes in between is looked at again
        place = Cursor.decode(cursor)
        # A queue that was replaced, or restored from an old copy, is shown from its beginning.
        known = place.store == self._store.id and place.change <= newest
        after = place.change if known else 0
        page = self._store.tasks(policies, after, at, digest=task_digest)
        last = page.held[-1].change if page.held else after
        return Offer(tuple(h.task for h in page.held), page.more, max(last, newest))

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
        """Write down what the owner of a dataset says about it; what stands afterwards.

        Raises:
            PeerNotServed: As `page`.
            TaskNotQueued: The peer sees no such task.
            ReportNotAuthorized: Alike for a dataset of another owner and one that does not exist.
            ReportsExhausted, StoreUnavailable.
        """
        seats = self._roster.seats(peer, at)
        page = self._store.tasks(list(seats), 0, at, digest=digest)
        if not page.held:
            raise TaskNotQueued("task", expected="one in the queue", found="none")
        held = page.held[0]
        # The policy says who owns what, not the database: its rows are shown, never obeyed.
        owned = seats[held.policy_digest].policy.dataset_by_id(dataset)
        listed = {status.dataset: status for status in held.task.datasets}
        if owned is None or owned.owner != seats[held.policy_digest].party.id:
            raise ReportNotAuthorized("dataset", expected="an own input", found="another")
        if dataset not in listed:
            raise ReportNotAuthorized("dataset", expected="an own input", found="another")
        if (listed[dataset].state, listed[dataset].code) == (state, code):
            return listed[dataset]  # said again: nothing is written
        return self._store.report(
            digest, dataset, state, code, at, cap=self._limits.reports, instance=instance
        )


class PolicyNotServed(AuthorizationError):
    """The policy is not one that is in force here and lists the peer."""

    code = "policy-not-served"
    default_fix = "give the agreement to the scheduler, or sign the task under the policy in force"


def _seat(seats: dict[bytes, Seat], policy_digest: bytes) -> Seat:
    if policy_digest not in seats:
        raise PolicyNotServed(
            "policy", expected="one in force that lists you", found=digest_text(policy_digest)
        )
    return seats[policy_digest]


def _inputs(seat: Seat, task: Task) -> tuple[tuple[str, str], ...]:
    """The datasets of the task's computation, with their owners."""
    computation = seat.policy.computation_by_id(task.computation)
    assert computation is not None, "Task.open lets no other through"
    found = [seat.policy.dataset_by_id(name) for name in computation.inputs]
    return tuple((d.id, d.owner) for d in found if d is not None)
