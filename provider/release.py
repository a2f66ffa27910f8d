"""Releases rows, in one function, and only to an enclave that has just proved itself.

    done = release(request, "train_party_1", Path("rows.parquet"))
    done.kept.acknowledgement  # path of the enclave's signed acknowledgement

No connection is opened before the local checks pass, and no row leaves before the enclave has
answered a challenge inside the same stream. Rows are read once and checked as they leave: one that
is refused ends the stream, and without a commit nothing counts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

from policy.commit import Commit
from policy.document import Policy, digest_text
from policy.errors import AuditError
from policy.journal import Journal
from policy.journal_chain import JournalRecord
from policy.journal_entries import (
    CommittedEntry,
    ReleasedEntry,
    ReservedEntry,
    Returned,
    ReturnedEntry,
)
from policy.receipt import Acknowledgement
from policy.rounds import require_rows
from policy.rows import schema_digest
from policy.sections import Computation, Dataset
from policy.statement import instant_text
from policy.task import Task
from provider.budget import Asked, learnt, place_digest, require_uses_left
from provider.errors import AcknowledgementMismatch
from provider.exchange import (
    CheckedTask,
    EnclaveRequest,
    Session,
    own_input,
    require_own,
)
from provider.journalling import Journalling
from provider.release_state import (
    Attempt,
    ReleaseFolder,
    Started,
    ended,
    require_attempt,
    require_instance,
    require_reservations,
    require_unreleased,
)
from provider.sending import (
    KeptRowsDiffer,
    Sent,
    Tries,
    explained,
    send_rows,
    streams_for,
)
from provider.sources import Chunk, Source, SourceSpec, source_at
from provider.stamps import Checked, Stamps
from ratls.appraise import AdmittedCertificate, FreshEvidence
from ratls.claims import ChallengeClaims
from ratls.client_call import AnswerNotOpened
from ratls.errors import TransportError
from ratls.evidence import Evidence
from ratls.framing import Kind
from ratls.sealing import tags_digest
from verifier.anchors import Mode
from verifier.errors import RatlsError


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
    streams: int | None = None,
    check_first: bool = False,
    progress: Callable[[int, int | None], None] = lambda rows, total: None,
) -> Release:
    """Release one dataset for one task, once.

    Args:
        request: Task, enclave and own keys.
        dataset: Its id in the policy.
        source: Where its rows are; a path is read by the end of its name.
        streams: Connections that carry the rows at once, at most 6; None: by cores and size.
        check_first: Read and check all rows before the enclave is connected to, unless an
            earlier check of them holds.
        progress: Called with rows sent, and rows in all where they are known, after each batch.

    Raises:
        RatlsError: One leaf, recorded in the journal, unless the journal itself is refused
            (AuditError).
    """
    journalling = Journalling(request.state, "release", request.clock, dataset)
    with journalling.refusals_recorded():
        job = check_locally(request, dataset, journalling)
        spec = source_at(source, dataset) if isinstance(source, Path) else source
        job = replace(job, place=spec.place)
        with ReleaseFolder.open(request.state, job.task.digest, dataset) as folder:
            tries = Tries()
            while True:
                sent = _sent(journalling, progress)
                try:
                    with _leaving(spec, job, sent, check_first=check_first) as rows:
                        return _once(job, rows, streams, sent, folder, journalling)
                except TransportError as broken:
                    # The enclave keeps what arrived: a new connection, verified anew, goes on.
                    if (wait := tries.next_wait(broken, sent)) is None:
                        raise explained(broken) from broken.__cause__
                    request.pause(wait)
                except AnswerNotOpened as broken:
                    raise explained(broken) from broken.__cause__


def _sent(journalling: Journalling, progress: Callable[[int, int | None], None]) -> Sent:
    def left(rows: int, total: int | None) -> None:
        journalling.rows = rows
        progress(rows, total)

    return Sent(left)


def _once(
    job: CheckedRelease,
    rows: Iterator[Chunk],
    streams: int | None,
    sent: Sent,
    folder: ReleaseFolder,
    journalling: Journalling,
) -> Release:
    """One connection to the enclave: from probe and challenge to the acknowledgement."""
    request, dataset = job.request, job.dataset.id
    attempt = folder.attempt()
    started = folder.started(streams or streams_for(sent.size), request.random)
    with journalling.journal() as journal:
        require_attempt(journal.records, *job.names, attempt)

    def require_same_instance(admitted: AdmittedCertificate) -> None:
        with journalling.journal() as journal:
            require_instance(journal.records, *job.names, admitted.claims.instance)

    journalling.step, journalling.rows = "enclave", 0
    with (
        request.attested(
            job.checked,
            Kind.RELEASE,
            dataset=dataset,
            release=started.release,
            before_task=require_same_instance,
        ) as session,
        _reserved(job, session.exchange.fresh, journalling, sent),
    ):
        exchange = session.exchange
        document = None if attempt is None else exchange.resume(attempt.commit)
        resumed = document is not None
        if attempt is None or document is None:
            journalling.step = "rows"
            with _forgotten_if_other_rows(folder, sent):
                attempt = _stream(job, session, rows, started, sent, journalling)
            _keep(job, attempt, folder, journalling)
            document = exchange.commit(attempt.commit)
    journalling.step = "answer"
    commit = _conclude(job, document, attempt, exchange.fresh, folder, journalling)
    return Release(commit, sent, resumed, exchange.fresh, job.checked.mode, folder)


@contextmanager
def _forgotten_if_other_rows(folder: ReleaseFolder, sent: Sent) -> Iterator[None]:
    """What the enclave kept of other rows is not gone on with: the next try begins anew."""
    try:
        yield
    except RatlsError as refusal:
        if isinstance(refusal, KeptRowsDiffer) or sent.source_refused:
            folder.forget_started()
        raise


@dataclass(frozen=True, slots=True)
class CheckedRelease:
    """A release that passed every local check, except those of the rows."""

    request: EnclaveRequest
    checked: CheckedTask
    dataset: Dataset
    computation: Computation
    place: str = ""  # where its rows are; empty before the source is looked at

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
    require_rows(computation)
    job = CheckedRelease(request, checked, dataset, computation)
    with journalling.journal() as journal:
        require_reservations(journal.records, request.state)
        for reserved in ended(journal.records, request.clock()):
            _give_back(journal, reserved, "no-commit-before-the-end", request.clock())
        require_unreleased(journal.records, *job.names)
        _require_uses(job, journal.records)
    return job


def _require_uses(job: CheckedRelease, records: tuple[JournalRecord, ...]) -> None:
    asked = Asked.of(job.policy, job.computation.id, job.dataset.id, job.place)
    require_uses_left(records, asked, job.checked.task_text)


@contextmanager
def _reserved(
    job: CheckedRelease, fresh: FreshEvidence, journalling: Journalling, sent: Sent
) -> Iterator[None]:
    """Bind this release to this instance, durably, before its first row.

    A new reservation is given back if the block fails before any row was sent, or because the
    source refused: no commit was signed then, and without one no enclave computes.
    """
    reserved = ReservedEntry(
        task=job.checked.task_text,
        dataset=job.dataset.id,
        policy=digest_text(job.policy.digest),
        study=job.task.study,
        computation=job.computation.id,
        learnt=learnt(job.policy, job.computation),
        instance=fresh.claims.instance.hex(),
        expires=instant_text(job.task.expires),
        place=place_digest(job.place),
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
        if new and (sent.source_refused or not sent.begun):
            reason: Returned = "source-refused" if sent.begun else "no-row-left"
            with journalling.journal() as journal:
                _give_back(journal, reserved, reason, job.request.clock())
        raise


def _give_back(journal: Journal, reserved: ReservedEntry, reason: Returned, at: datetime) -> None:
    returned = ReturnedEntry(
        task=reserved.task,
        dataset=reserved.dataset,
        instance=reserved.instance,
        reason=reason,
        mode=reserved.mode,
    )
    journal.append(returned, at)


@contextmanager
def _leaving(
    spec: SourceSpec, job: CheckedRelease, sent: Sent, *, check_first: bool
) -> Iterator[Iterator[Chunk]]:
    """The rows, read and checked on their way, and ahead of it.

    What is wrong with the first of them, or with a small source, is refused before the block.
    """
    stamps = Stamps(job.request.state)
    with spec.open(job.dataset) as source:
        stamp = stamps.find(source, job.dataset)
        if check_first and stamp is None:
            source.scan()
        sent.total = source.expected_rows()
        sent.size = sum(file.size for file in source.identity() or ())
        with closing(_checked(source, stamp, sent)) as chunks:
            try:
                yield chain(list(islice(chunks, 2)), chunks)
            finally:
                if sent.source_refused:
                    stamps.forget(job.dataset)


def _checked(source: Source, stamp: Checked | None, sent: Sent) -> Generator[Chunk, None, None]:
    """Each row checked; or, where a check of this source holds, all compared with it at the end."""
    try:
        yield from source.chunks(None if stamp is None else stamp.digest)
    except RatlsError:
        sent.source_refused = True
        raise


def _stream(
    job: CheckedRelease,
    session: Session,
    rows: Iterator[Chunk],
    started: Started,
    sent: Sent,
    journalling: Journalling,
) -> Attempt:
    """Send every row, while everything checked stays valid; then the signed commit."""
    exchange = session.exchange
    tallies, rows_digest = send_rows(job.dataset, session, rows, started, sent)
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
        schema_digest=schema_digest(job.dataset),
        rows=sum(tally.rows for tally in tallies),
        batches=sum(tally.chunks for tally in tallies),
        tags_digest=tags_digest(tallies),
        salted_digest=rows_digest,
        journal_head=head,
    )
    return Attempt(commit.seal(job.request.party.operation), started.salt, exchange.fresh.raw)


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
        "tags_digest": commit.tags_digest,
        "rows": commit.rows,
        "batches": commit.batches,
        "nonce": commit.nonce,
        "evidence": attempt.evidence,
        "sealing_key_hash": ChallengeClaims.parse(
            Evidence.parse(attempt.evidence).claims
        ).sealing_key_hash,
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
