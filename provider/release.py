"""Releases rows, in one function, and only to an enclave that has just proved itself.

    done = release(request, "train_party_1", Path("rows.parquet"))
    done.kept.acknowledgement  # path of the enclave's signed acknowledgement

No connection is opened before the local checks pass, and no row leaves before the enclave has
answered a challenge inside the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from policy.commit import Commit
from policy.document import Policy, digest_text
from policy.errors import AuditError
from policy.journal import Journal
from policy.journal_chain import JournalRecord
from policy.journal_entries import CommittedEntry, ReleasedEntry, ReservedEntry, ReturnedEntry
from policy.receipt import Acknowledgement
from policy.rows import schema_digest
from policy.sections import Computation, Dataset
from policy.statement import instant_text
from policy.task import Task
from provider.errors import AcknowledgementMismatch
from provider.exchange import (
    CheckedTask,
    EnclaveRequest,
    Session,
    ValidityWatch,
    own_input,
    require_own,
)
from provider.journalling import Journalling
from provider.release_state import (
    Attempt,
    ReleaseFolder,
    ended,
    learnt,
    require_attempt,
    require_instance,
    require_reservations,
    require_unreleased,
    require_uses_left,
)
from provider.sources import Source, SourceSpec, source_at
from ratls.appraise import AdmittedCertificate, FreshEvidence
from ratls.client_stream import AnswerMissing, AnswerNotOpened
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.framing import SALT_SIZE, Kind, RowDigest
from verifier.anchors import Mode
from verifier.errors import RatlsError


@dataclass(slots=True)
class Sent:
    """What was sent in this run, counted on the way. Bytes are those of Arrow's buffers."""

    progress: Callable[[int], None]
    rows: int = 0
    batches: int = 0
    bytes: int = 0
    begun: bool = False  # a batch may have been sent, counted or not

    def count(self, rows: int, size: int) -> None:
        """One more batch."""
        self.rows, self.batches, self.bytes = self.rows + rows, self.batches + 1, self.bytes + size
        self.progress(self.rows)


@dataclass(frozen=True, slots=True)
class Release:
    """A release that the enclave acknowledged."""

    commit: Commit
    sent: Sent  #           nothing, where an earlier run had sent it all: see `resumed`
    resumed: bool  #        the commit of an earlier run was acknowledged now
    fresh: FreshEvidence
    mode: Mode
    kept: ReleaseFolder  #  where acknowledgement and record are stored


def release(
    request: EnclaveRequest,
    dataset: str,
    source: SourceSpec | Path,
    *,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> Release:
    """Release one dataset for one task, once.

    Args:
        request: Task, enclave and own keys.
        dataset: Its id in the policy.
        source: Where its rows are; a path is read by the end of its name.
        progress: Called with rows sent and rows in all, after each batch.

    Raises:
        RatlsError: One leaf, recorded in the journal, unless the journal itself is refused
            (AuditError).
    """
    journalling = Journalling(request.state, "release", request.clock, dataset)
    with journalling.refusals_recorded():
        job = check_locally(request, dataset, journalling)
        spec = source_at(source) if isinstance(source, Path) else source
        with (
            ReleaseFolder.open(request.state, job.task.digest, dataset) as folder,
            spec.open(job.dataset) as opened,
        ):
            attempt, total = folder.attempt(), opened.scan()
            with journalling.journal() as journal:
                require_attempt(journal.records, *job.names, attempt)

            def left(rows: int) -> None:
                journalling.rows = rows
                progress(rows, total)

            sent = Sent(left)

            def require_same_instance(admitted: AdmittedCertificate) -> None:
                with journalling.journal() as journal:
                    require_instance(journal.records, *job.names, admitted.claims.instance)

            journalling.step, journalling.rows = "enclave", 0
            with (
                request.attested(
                    job.checked, Kind.RELEASE, dataset=dataset, before_task=require_same_instance
                ) as session,
                _retry_explained(),
                _reserved(job, session.exchange.fresh, journalling, sent),
            ):
                exchange = session.exchange
                document = None if attempt is None else exchange.resume(attempt.commit)
                resumed = document is not None
                if attempt is None or document is None:
                    journalling.step = "rows"
                    attempt = _stream(job, session, opened, sent, journalling)
                    _keep(job, attempt, folder, journalling)
                    document = exchange.commit(attempt.commit, attempt.salt)
            journalling.step = "answer"
            commit = _conclude(job, document, attempt, exchange.fresh, folder, journalling)
            return Release(commit, sent, resumed, exchange.fresh, job.checked.mode, folder)


@contextmanager
def _retry_explained() -> Iterator[None]:
    """Adds to a broken stream's refusal that nothing counts yet and a second try is safe."""
    try:
        yield
    except (CallFailed, AnswerMissing, AnswerNotOpened, DeadlineExceeded) as broken:
        broken.fix = (
            "without an acknowledgement nothing counts: push again; if the enclave has "
            "restarted meanwhile, a newly signed task is needed"
        )
        raise


@dataclass(frozen=True, slots=True)
class CheckedRelease:
    """A release that passed every local check, except those of the rows."""

    request: EnclaveRequest
    checked: CheckedTask
    dataset: Dataset
    computation: Computation

    @property
    def task(self) -> Task:
        return self.checked.task

    @property
    def policy(self) -> Policy:
        return self.checked.policy

    @property
    def names(self) -> tuple[str, str]:
        """Task and dataset, as the journal names them."""
        return self.checked.task_text, self.dataset.id


def check_locally(
    request: EnclaveRequest, dataset_id: str, journalling: Journalling
) -> CheckedRelease:
    """Every check that needs no connection, except those of the rows.

    Raises:
        RatlsError: The leaf of the first check that failed.
    """
    # Before it is checked: each task that is refused has a record of its own.
    journalling.task = request.named().digest
    checked = request.check_task()
    journalling.mode = checked.mode
    dataset, computation = own_input(checked, dataset_id, request.party.party_id)
    job = CheckedRelease(request, checked, dataset, computation)
    with journalling.journal() as journal:
        require_reservations(journal.records, request.state)
        for reserved in ended(journal.records, request.clock()):
            _give_back(journal, reserved, "no-commit-before-the-end", request.clock())
        require_unreleased(journal.records, *job.names)
        _require_uses(job, journal.records)
    return job


def _require_uses(job: CheckedRelease, records: tuple[JournalRecord, ...]) -> None:
    require_uses_left(records, *job.names, job.task.study, job.computation)


@contextmanager
def _reserved(
    job: CheckedRelease, fresh: FreshEvidence, journalling: Journalling, sent: Sent
) -> Iterator[None]:
    """Bind this release to this instance, durably, before its first row.

    A new reservation is given back if the block fails before any row was sent.
    """
    reserved = ReservedEntry(
        task=job.checked.task_text,
        dataset=job.dataset.id,
        policy=digest_text(job.policy.digest),
        study=job.task.study,
        computation=job.computation.id,
        learnt=learnt(job.computation),
        instance=fresh.claims.instance.hex(),
        expires=instant_text(job.task.expires),
        mode=job.checked.mode.value,
    )
    with journalling.journal() as journal:
        require_unreleased(journal.records, *job.names)
        new = require_instance(journal.records, *job.names, fresh.claims.instance) is None
        if new:
            _require_uses(job, journal.records)
            journal.append(reserved, job.request.clock())
    try:
        yield
    except AuditError:
        raise  # the journal takes no record
    except (RatlsError, KeyboardInterrupt, SystemExit):
        if new and not sent.begun:
            with journalling.journal() as journal:
                _give_back(journal, reserved, "no-row-left", job.request.clock())
        raise


def _give_back(
    journal: Journal,
    reserved: ReservedEntry,
    reason: Literal["no-row-left", "no-commit-before-the-end"],
    at: datetime,
) -> None:
    returned = ReturnedEntry(
        task=reserved.task,
        dataset=reserved.dataset,
        instance=reserved.instance,
        reason=reason,
        mode=reserved.mode,
    )
    journal.append(returned, at)


def _stream(
    job: CheckedRelease, session: Session, source: Source, sent: Sent, journalling: Journalling
) -> Attempt:
    """Send every row, while everything checked stays valid; then the signed commit."""
    exchange, watch = session.exchange, ValidityWatch(session)
    salt, of_schema = job.request.random(SALT_SIZE), schema_digest(job.dataset)
    digest = RowDigest(salt, of_schema)
    exchange.begin(source.schema)
    for batch in source.batches():
        watch.check()
        sent.begun = True
        digest.add(sent.batches, exchange.send(batch))
        sent.count(batch.num_rows, batch.nbytes)
    journalling.step = "commit"
    with journalling.journal() as journal:
        head = journal.head
    session.require_still_valid()
    commit = Commit(
        task_digest=job.task.digest,
        policy_digest=job.policy.digest,
        instance=exchange.fresh.claims.instance,
        nonce=exchange.fresh.claims.nonce,
        dataset=job.dataset.id,
        provider=job.request.party.party_id,
        schema_digest=of_schema,
        rows=sent.rows,
        batches=sent.batches,
        salted_digest=digest.digest(),
        journal_head=head,
    )
    return Attempt(commit.seal(job.request.party.operation), salt, exchange.fresh.raw)


def _keep(
    job: CheckedRelease, attempt: Attempt, folder: ReleaseFolder, journalling: Journalling
) -> None:
    """Store the commit before it is sent, so that the same commit can be sent again."""
    folder.keep_attempt(attempt)
    commit = Commit.open(attempt.commit, job.policy)
    journalling.record(
        CommittedEntry(
            task=job.checked.task_text,
            dataset=job.dataset.id,
            instance=commit.instance.hex(),
            commit=digest_text(commit.digest),
            rows=commit.rows,
            batches=commit.batches,
            mode=job.checked.mode.value,
        )
    )


def check_acknowledgement(
    raw: bytes, commit: Commit, attempt: Attempt, fresh: FreshEvidence
) -> Acknowledgement:
    """Compare the acknowledgement with what was sent.

    The evidence in it is that of the stream that carried the rows: after a resumption an
    earlier one, which was appraised then; `fresh` names the same instance and keys.

    Raises:
        ReceiptKeyUnbound, KeyUnbound: Not signed by, or not about, the attested enclave.
        AcknowledgementMismatch: A field is another than it must be.
        RatlsError: It cannot be read, or its signature does not hold.
    """
    acknowledgement = Acknowledgement.open(raw)
    own: dict[str, object] = {
        "task_digest": commit.task_digest,
        "policy_digest": commit.policy_digest,
        "instance": fresh.claims.instance,
        "dataset": commit.dataset,
        "provider": commit.provider,
        "commit_digest": commit.digest,
        "rows_digest": commit.salted_digest,
        "rows": commit.rows,
        "batches": commit.batches,
        "nonce": commit.nonce,
        "evidence": attempt.evidence,
    }
    require_own(acknowledgement, fresh, own, AcknowledgementMismatch)
    return acknowledgement


def _conclude(
    job: CheckedRelease,
    raw: bytes,
    attempt: Attempt,
    fresh: FreshEvidence,
    folder: ReleaseFolder,
    journalling: Journalling,
) -> Commit:
    """Check the acknowledgement, and store it with a signed record of that check."""
    commit = Commit.open(attempt.commit, job.policy)
    acknowledgement = check_acknowledgement(raw, commit, attempt, fresh)
    record = job.request.record(job.checked, acknowledgement, fresh)
    folder.keep_proof(raw, record)
    journalling.record(
        ReleasedEntry(
            task=job.checked.task_text,
            dataset=job.dataset.id,
            instance=commit.instance.hex(),
            commit=digest_text(commit.digest),
            acknowledgement=digest_text(acknowledgement.digest),
            rows=commit.rows,
            mode=job.checked.mode.value,
        )
    )
    return commit
