"""What releases and collections share: a checked task, and an enclave that proves itself.

    job = request.check_task()
    with request.attested(job, Kind.RELEASE, dataset="train_party_1") as session:
        session.exchange.fresh   # made inside this very stream, for this task and this party
        session.require_still_valid()  # later: check again everything that may have expired

`check_task` opens no connection. Only `attested` connects to an enclave.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import InitVar, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from policy.document import Policy, digest_text
from policy.errors import TicketScopeError
from policy.journal import Journal
from policy.machines import with_machines
from policy.party import LocalParty
from policy.receipt import Attested
from policy.record import Record
from policy.sections import Computation, Dataset
from policy.seen import require_newest
from policy.signing import require_own_signature
from policy.state import StudyState
from policy.statement import Unverified
from policy.task import Task, open_task
from ratls.address import Address
from ratls.appraise import (
    AdmittedCertificate,
    Expectation,
    FreshEvidence,
    appraise_certificate,
    require_still_admitted,
)
from ratls.call_thread import pause
from ratls.claims import ReceiptKeyUnbound, require_key
from ratls.client_call import ClientCall, begin_call
from ratls.client_stream import ClientExchange, largest_answer, open_exchange
from ratls.errors import CallFailed
from ratls.framing import Kind
from ratls.pin import ChannelIdentity
from ratls.probe import probe_name
from verifier.anchors import Mode
from verifier.collateral import Collateral
from verifier.errors import RatlsError, placed
from verifier.modes import anchors_for

PROBE_SECONDS = 15.0


_SEAL = object()
# One for each folder: looking for what is installed takes longer than reading an agreement.
_study_state = lru_cache(maxsize=4)(StudyState)
# Where an address of the configuration led, and the certificate that was admitted there. It is
# judged anew like one that a probe fetches: that it is known saves a handshake.
_known: dict[Address, tuple[Address, AdmittedCertificate]] = {}


@dataclass(frozen=True, slots=True)
class CheckedTask:
    """A task that this party's own copy of the policy allows, and what evidence is compared with.

    Only `EnclaveRequest.check_task` can make one.
    """

    task: Task
    policy: Policy
    expectation: Expectation
    at: datetime  # when it was checked
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a CheckedTask is made by EnclaveRequest.check_task alone")

    @property
    def mode(self) -> Mode:
        """Of the roots that evidence is judged under."""
        return self.expectation.roots.mode

    @property
    def task_text(self) -> str:
        """The task's digest as documents and journal write it."""
        return digest_text(self.task.digest)


@dataclass(frozen=True, slots=True)
class EnclaveRequest:
    """This party's own configuration, and the task; only the task comes from somewhere else."""

    task: bytes  #          signed envelope, as it was received
    address: Address  #     where the enclave listens
    collateral: Collateral
    party: LocalParty
    state: Path
    allow_simulation: bool
    timeout: float  #       seconds for the whole exchange
    clock: Callable[[], datetime]  # now, aware, UTC
    random: Callable[[int], bytes] = os.urandom
    enclave: str | None = None  # its name in the policy; None means any that the policy lists
    pause: Callable[[float], object] = pause  # before a connection that broke is made again
    announce: Callable[[Mode], None] = lambda mode: None  # called as soon as the mode is known

    def named(self) -> Unverified:
        """Which task and policy the envelope names; its signature is not checked.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed.
        """
        with placed("task"):
            return Task.read(self.task)

    def check_task(self) -> CheckedTask:
        """Open the task under the policy in force, without any peer.

        Raises:
            StateMissing, PolicyNotAccepted, PolicyExpired, …: No such policy is in force here.
            Distrusted, PartyWithdrew: It, or what the task asks of it, has ended.
            PartyNotListed, AnchorDiffers: It does not list this party, or has other keys for it.
            TicketScopeError, TicketSignatureError: What `Task.open` says.
            SimulationNotAllowed: The policy's root is simulated, and that is not allowed.
        """
        at = self.clock()

        def policy_in_force(named: Unverified) -> Policy:
            agreement = _study_state(self.state).find_by_policy_digest(named.policy_digest, at)
            require_own_signature(agreement, self.party)
            return with_machines(agreement.policy, _study_state(self.state).folder)

        task, policy = open_task(self.task, policy_in_force, at)
        self._require_taking_part(policy, task)
        roots = anchors_for(policy.platform.root, allow_simulation=self.allow_simulation)
        self.announce(roots.mode)
        # Read now: a wrong passphrase should be noticed before anything else is done.
        _ = self.party.operation, self.party.channel_key_pem
        expectation = Expectation(policy, self.collateral, roots, self.enclave)
        return CheckedTask(task, policy, expectation, at, _SEAL)

    def require_in_force(self, job: CheckedTask, at: datetime) -> None:
        """Task and policy are valid at this instant; nobody withdrew, and no newer policy came.

        Raises:
            PolicyRollback, PolicyExpired, TaskExpired, …: As `check_task`.
        """
        _study_state(self.state).find_by_policy_digest(job.policy.digest, at)
        self._require_taking_part(job.policy, Task.open(self.task, job.policy, at))

    def _require_taking_part(self, policy: Policy, task: Task) -> None:
        state = _study_state(self.state)
        state.require_taking_part(policy, task.computation, task.submitter)

    @contextmanager
    def attested(
        self,
        job: CheckedTask,
        kind: Kind,
        *,
        dataset: str = "",
        release: bytes = b"",
        before_task: Callable[[AdmittedCertificate], None] = lambda admitted: None,
    ) -> Iterator[Session]:
        """Probe, appraise, pin and challenge the enclave; the block gets a session after all four.

        What was admitted at an address before in this process takes the place of the probe, and is
        appraised like it.

        Args:
            release: The name of a release, as `open_exchange` says.
            before_task: May refuse the certificate before the task is sent.

        Raises:
            RatlsError: What the appraisals say; TaskExpired for a task that expired meanwhile;
                TransportError for a peer that is not there.
        """
        own = ChannelIdentity.of(self.party)

        def judged(der: bytes) -> AdmittedCertificate:
            admitted = appraise_certificate(der, job.expectation, at=self.clock())
            before_task(admitted)
            return admitted

        def proved(
            address: Address, admitted: AdmittedCertificate, begun: ClientCall | None = None
        ) -> Session:
            # Checking millions of rows takes time; an expired task is not sent. Every window ends
            # on a whole second.
            if int(self.clock().timestamp()) != int(job.at.timestamp()):
                self.require_in_force(job, self.clock())

            def connect(begun: ClientCall | None = None) -> AbstractContextManager[ClientExchange]:
                return open_exchange(
                    kind,
                    address,
                    admitted,
                    own,
                    task=self.task,
                    task_digest=job.task.digest,
                    dataset=dataset,
                    expectation=job.expectation,
                    clock=self.clock,
                    timeout=self.timeout,
                    release=release,
                    random=self.random,
                    begun=begun,
                )

            return Session(self, job, admitted, stack.enter_context(connect(begun)), connect)

        with ExitStack() as stack:
            known, session = _known.pop(self.address, None), None
            begun = stack.enter_context(ExitStack())
            if known is not None:
                # While the certificate is judged anew: whoever has its key knows us already.
                place, before = known
                most = largest_answer(kind)
                call = begun.enter_context(begin_call(place, before, own, self.timeout, most))
            self.require_newest_lists(job)
            if known is not None:
                admitted = None
                with suppress(RatlsError):  # of an earlier start, or over: what is there now?
                    admitted = judged(before.der)
                if admitted is not None:
                    with suppress(CallFailed):  # another server is there; evidence is not excused
                        session = proved(place, admitted, call)
            if session is None:
                begun.close()
                place, der = probe_name(self.address, min(self.timeout, PROBE_SECONDS))
                session = proved(place, judged(der))
            _known[self.address] = place, session.admitted
            yield session

    def require_newest_lists(self, job: CheckedTask) -> None:
        """The bundle is no older than what this party has seen; new lists are noted first.

        Raises: What `require_newest` and `Journal.open` raise.
        """
        with Journal.open(self.state) as journal:
            noted = require_newest(
                self.state, journal.records, self.collateral, job.expectation.roots
            )
            if noted is not None:
                journal.append(noted, self.clock())

    def record(self, job: CheckedTask, document: Attested, fresh: FreshEvidence) -> bytes:
        """Collateral, appraisal and instant of the check of `document`, signed by this party."""
        return Record(
            holder=self.party.party_id,
            document_digest=document.digest,
            collateral=self.collateral.raw,
            appraisal=Record.checks(fresh.appraisal),
            at=self.clock(),
            mode=job.mode.value,
        ).seal(self.party.operation)


@dataclass(frozen=True, slots=True)
class Session:
    """An exchange with an enclave that proved itself, and what it proved."""

    request: EnclaveRequest
    job: CheckedTask
    admitted: AdmittedCertificate
    exchange: ClientExchange
    connect: Callable[[], AbstractContextManager[ClientExchange]]  # another, proved in the same way

    def require_still_valid(self) -> None:
        """Check again, at this instant, everything that can expire.

        D15: a stream lasts minutes. Meanwhile the task, its policy, certificates or collateral
        can expire, and a newer policy can be accepted here.

        Raises:
            RatlsError: What `check_task` and the appraisals say at this instant.
        """
        at, expected = self.request.clock(), self.job.expectation
        self.request.require_in_force(self.job, at)
        require_still_admitted(self.admitted, self.exchange.fresh, expected, at=at)

    def prove_again(self, exchange: ClientExchange) -> None:
        """Let the enclave prove itself anew on a stream that lasts, before the next row leaves.

        Raises:
            RatlsError: What the appraisal says, and everything that is no longer valid: window,
                policy, certificates, collateral, revocation lists that were seen meanwhile.
        """
        self.request.require_newest_lists(self.job)
        exchange.challenge_again()
        self.require_still_valid()


class ValidityWatch:
    """Checks a session again in every new second of the clock.

    Called before each batch. Every window ends on a whole second, so no batch leaves after an
    end. A newer policy is noticed within a second.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._second: int | None = None

    def check(self) -> None:
        """Raises: as `Session.require_still_valid`."""
        second = int(self._session.request.clock().timestamp())
        if second != self._second:
            self._session.require_still_valid()
            self._second = second


class DatasetNotAsked(TicketScopeError):
    """The computation of this task does not take this dataset."""

    code = "dataset-not-asked"
    default_fix = "look at the computation's inputs with `ratls policy show`"
    says = "the computation does not take dataset {found}; it takes {expected}"


class DatasetNotOwned(TicketScopeError):
    """The dataset belongs to another party."""

    code = "dataset-not-owned"
    default_fix = "name a dataset that the policy lists under your own party id"


def own_input(job: CheckedTask, dataset_id: str, own: str) -> tuple[Dataset, Computation]:
    """An own dataset that the task's computation takes, and that computation.

    Raises:
        DatasetNotAsked, DatasetNotOwned.
    """
    computation = job.policy.computation_by_id(job.task.computation)
    dataset = job.policy.dataset_by_id(dataset_id)
    assert computation is not None  # `Task.open` refuses what the policy does not have
    if dataset is None or dataset.id not in computation.inputs:
        raise DatasetNotAsked(
            "dataset", expected=" or ".join(computation.inputs), found=ascii(dataset_id)[:80]
        )
    if dataset.owner != own:
        raise DatasetNotOwned(f"dataset {dataset.id}", expected=f"owner {own}", found=dataset.owner)
    return dataset, computation


def require_own(
    document: Attested, fresh: FreshEvidence, own: dict[str, object], leaf: type[RatlsError]
) -> None:
    """An acknowledgement or receipt comes from the attested enclave and has the expected values.

    Args:
        own: The expected value of each field.
        leaf: Raised for the first field with another value.

    Raises:
        ReceiptKeyUnbound: Signed by a key that is not the one in the evidence.
        KeyUnbound: It names another TLS key than that of this connection.
    """
    if hashlib.sha256(document.receipt_key).digest() != fresh.claims.receipt_key_hash:
        raise ReceiptKeyUnbound(
            document.noun, expected="the receipt key of the evidence", found="another key"
        )
    require_key(fresh.claims.pubkey_hash, document.tls_spki)
    for name, value in own.items():
        if getattr(document, name) != value:
            raise leaf(
                f"{document.noun}: {name}",
                expected="the value that this party knows",
                found="another",
            )
