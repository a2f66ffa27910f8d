"""Takes part in the rounds of a task: trains at home, sends what changed, receives the joint model.

    done = take_part(request, "train_party_1", source, program=None)
    done.model, done.kept.folder        # the last model, and where its receipts are

No row leaves. The enclave proves itself in every exchange, before the update of that round is sent.
What was signed for a round is kept before it is sent, so that a broken connection costs nothing:
the same update is named again. A party that was too late for a round goes on with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policy.document import Policy, digest_text
from policy.errors import ResultBindingError
from policy.journal_chain import JournalRecord
from policy.journal_entries import ReservedEntry, UpdatedEntry
from policy.round_receipt import RoundReceipt, Update, require_next, require_participants
from policy.rounds import SALT_SIZE, Series, model_digest, require_rounds
from policy.sections import Computation, Dataset
from policy.statement import instant_text
from policy.values import Digest, Instance
from provider.budget import Asked, learnt, place_digest, require_uses_left
from provider.exchange import CheckedTask, EnclaveRequest, Session, own_input, require_own
from provider.journalling import Journalling
from provider.release_state import require_instance, require_reservations
from provider.round_folder import RoundFolder, Signed
from provider.sending import WAITS, may_mend
from provider.sources import SourceSpec, source_at
from provider.training import (
    Numbers,
    ProgramTrainer,
    SgdTrainer,
    Trainer,
    changed,
    require_persons,
    write_model,
)
from ratls.appraise import AdmittedCertificate
from ratls.client_rounds import Handed, RoundCall
from ratls.errors import TransportError
from ratls.framing import Kind
from ratls.peer_refusal import PeerRefused
from ratls.sealing import RELEASE_ID_SIZE, Transcript
from verifier.anchors import Mode
from verifier.errors import ConfigError
from verifier.files import write_atomically

PROGRAM_SECONDS = 3600.0
# Too late for a round that closed meanwhile: what is trained next begins with its model.
_LATE, _DOUBLED = "round-closed", "update-doubled"
PAUSE = 0.2  # seconds, before an enclave that did not wait is asked again


class RoundAnswerMismatch(ResultBindingError):
    """A model or a receipt differs from what this party signed, received or agreed on."""

    code = "round-answer-mismatch"
    default_fix = "do not use the model; ask the operator which enclave answered"


class ProgramNeeded(ConfigError):
    """The agreed model is a vector: only its owner's program can train it."""

    code = "training-program-needed"
    default_fix = "name it with --program"


@dataclass(frozen=True, slots=True)
class TookPart:
    """All rounds of a task are over."""

    computation: Computation
    rounds: int
    counted: tuple[int, ...]  # of them, those in which an update of this party counted
    digest: Digest  #           of the last model
    model: Numbers
    mode: Mode
    task_digest: Digest
    instance: Instance  #       of the enclave
    kept: RoundFolder


@dataclass
class _Job:
    """What holds for the whole series."""

    request: EnclaveRequest
    checked: CheckedTask
    dataset: Dataset
    computation: Computation
    series: Series
    place: str
    journalling: Journalling

    @property
    def policy(self) -> Policy:
        return self.checked.policy

    @property
    def own(self) -> str:
        return self.request.party.party_id

    @property
    def names(self) -> tuple[str, str]:
        """Task and dataset, as the journal names them."""
        return self.checked.task_text, self.dataset.id


def take_part(
    request: EnclaveRequest,
    dataset: str,
    source: SourceSpec | Path,
    *,
    program: Path | None = None,
    program_seconds: float = PROGRAM_SECONDS,
    progress: Callable[[int, int], None] = lambda number, rounds: None,
) -> TookPart:
    """Take part in every round that is still to come, to the last model.

    Args:
        request: Task, enclave and own keys.
        dataset: Its id in the policy.
        source: Where its rows are. They are read once, to train, or at least to count persons.
        program: Trains instead of scikit-learn; always needed for a vector.
        progress: Called with the number of rounds that are over, and of all.

    Raises:
        RatlsError: One leaf, recorded in the journal.
    """
    journalling = Journalling(request.state, "release", request.clock, dataset)
    with journalling.refusals_recorded():
        journalling.task = request.named().digest
        checked = request.check_task()
        journalling.mode = checked.mode
        declared, computation = own_input(checked, dataset, request.party.party_id)
        series = require_rounds(computation)
        if program is None and series.model == "vector":
            raise ProgramNeeded(f"computation {computation.id}", expected="a program", found="none")
        spec = source_at(source, dataset) if isinstance(source, Path) else source
        job = _Job(request, checked, declared, computation, series, spec.place, journalling)
        with journalling.journal() as journal:
            require_reservations(journal.records, request.state)
            _require_uses(job, journal.records)
        least = computation.release.min_subjects_per_input
        trainer: Trainer
        if program is None:
            trainer = SgdTrainer.of(spec, declared, series, least)
        else:
            require_persons(spec, declared, least, ())
            trainer = ProgramTrainer(program, series, program_seconds)
        with RoundFolder.open(request.state, checked.task.digest, dataset) as folder:
            return _Party(job, trainer, folder, progress).run()


def _require_uses(job: _Job, records: tuple[JournalRecord, ...]) -> None:
    asked = Asked.of(job.policy, job.computation.id, job.dataset.id, job.place)
    require_uses_left(records, asked, job.checked.task_text)


class _Party:
    """One party's way through the rounds."""

    def __init__(
        self,
        job: _Job,
        trainer: Trainer,
        folder: RoundFolder,
        progress: Callable[[int, int], None],
    ) -> None:
        self._job, self._trainer, self._folder = job, trainer, folder
        self._progress = progress
        self._last = folder.last()
        if self._last is not None:
            self._require_receipt(self._last)

    def run(self) -> TookPart:
        job, series = self._job, self._job.series
        handed = self._exchange(0)
        assert handed is not None  # only a round that is open has no model yet
        while handed.number < series.rounds:
            self._progress(handed.number, series.rounds)
            handed = self._round(handed)
        self._progress(series.rounds, series.rounds)
        numbers = _numbers(handed)
        digest = _digest(series, handed)
        receipts = self._folder.receipts()
        counted = [
            receipt.round
            for receipt in receipts
            if job.dataset.id in (one.dataset for one in receipt.participants)
        ]
        return TookPart(
            job.computation, series.rounds, tuple(counted), digest, numbers, job.checked.mode,
            job.checked.task.digest, receipts[-1].instance, self._folder,
        )  # fmt: skip

    def _round(self, handed: Handed) -> Handed:
        """Take part in the round that follows a model; the model after it, or a later one."""
        number, model = handed.number + 1, _numbers(handed)
        update: Numbers | None = None
        while True:
            # What was signed before this process began may count: then there is nothing to train.
            if update is None and not self._folder.signed().newest(number):
                self._job.journalling.step = "local"
                update = changed(model, self._trainer.train(number, model))
            try:
                answer = self._exchange(number, update, _digest(self._job.series, handed))
            except PeerRefused as refusal:
                if not self._goes_on(refusal, number):
                    raise
                answer = self._exchange(0) if refusal.peer_code == _LATE else None
            if answer is not None:
                return answer
            self._job.request.pause(PAUSE)

    def _goes_on(self, refusal: PeerRefused, number: int) -> bool:
        """Is it told by a number alone that the update came late, or that an earlier one counts?"""
        signed = self._folder.signed()
        if refusal.peer_code == _DOUBLED and signed.round == number and len(signed.updates) > 1:
            self._folder.keep_signed(Signed(number, signed.updates[:-1]))
            return True
        return refusal.peer_code == _LATE

    def _exchange(
        self,
        number: int,
        update: Numbers | None = None,
        previous: Digest = Digest(b""),  # noqa: B008 - no call: bytes with a type
    ) -> Handed | None:
        """One exchange, repeated where the connection broke; the newest model, or None."""
        for wait in WAITS:
            try:
                return self._once(number, update, previous)
            except TransportError as broken:
                if wait is None or not may_mend(broken):
                    raise
                self._job.request.pause(wait)
        raise AssertionError("the last wait is none")

    def _once(self, number: int, update: Numbers | None, previous: Digest) -> Handed | None:
        job, request = self._job, self._job.request
        release = request.random(RELEASE_ID_SIZE)
        job.journalling.step = "enclave"
        with request.attested(
            job.checked,
            Kind.ROUND,
            dataset=job.dataset.id,
            release=release,
            before_task=self._require_same_instance,
        ) as session:
            call = self._call(session, release)
            signed = self._folder.signed().newest(number)
            if call.bring(
                number, signed=signed, seen=0 if self._last is None else self._last.round
            ):
                if update is None:
                    self._folder.keep_signed(Signed(0, ()))  # it never counted: train again
                    return None
                job.journalling.step = "commit"
                self._reserve(session)
                session.require_still_valid()

                def sign(tags: Digest) -> bytes:
                    return self._sign(session, number, previous, tags)

                call.send(memoryview(update.astype("<f4").tobytes()), sign)
            job.journalling.step = "answer"
            handed = call.answer()
            if handed is not None:
                self._accept(session, handed)
        return handed

    def _call(self, session: Session, release: bytes) -> RoundCall:
        job, claims = self._job, session.exchange.fresh.claims
        transcript = Transcript(
            policy_digest=job.policy.digest,
            task_digest=job.checked.task.digest,
            nonce=claims.nonce,
            instance=claims.instance,
            dataset=job.dataset.id,
            provider=job.own,
            release=release,
            stream=0,
            streams=2,
        )
        return RoundCall(session.exchange, transcript, job.series, job.request.random)

    def _require_same_instance(self, admitted: AdmittedCertificate) -> None:
        with self._job.journalling.journal() as journal:
            require_instance(journal.records, *self._job.names, admitted.claims.instance)

    def _reserve(self, session: Session) -> None:
        """Bind the series to this instance, and count one use, before the first update."""
        job, instance = self._job, session.exchange.fresh.claims.instance
        with job.journalling.journal() as journal:
            if require_instance(journal.records, *job.names, instance) is not None:
                return
            _require_uses(job, journal.records)
            reserved = ReservedEntry(
                task=job.checked.task_text,
                dataset=job.dataset.id,
                policy=digest_text(job.policy.digest),
                study=job.checked.task.study,
                computation=job.computation.id,
                learnt=learnt(job.policy, job.computation),
                instance=instance.hex(),
                expires=instant_text(job.checked.task.expires),
                place=place_digest(job.place),
                mode=job.checked.mode.value,
            )
            journal.append(reserved, job.request.clock())

    def _sign(self, session: Session, number: int, previous: Digest, tags: Digest) -> bytes:
        """Sign an update, and keep that before it is sent."""
        job, claims = self._job, session.exchange.fresh.claims
        with job.journalling.journal() as journal:
            document = Update(
                task_digest=job.checked.task.digest,
                policy_digest=job.policy.digest,
                instance=claims.instance,
                nonce=claims.nonce,
                dataset=job.dataset.id,
                provider=job.own,
                round=number,
                previous=previous,
                tags_digest=tags,
                journal_head=journal.head,
            )
            raw = document.seal(job.request.party.operation)
            self._folder.sign(number, raw)
            entry = UpdatedEntry(
                task=job.checked.task_text,
                dataset=job.dataset.id,
                instance=claims.instance.hex(),
                round=number,
                update=digest_text(document.digest),
                mode=job.checked.mode.value,
            )
            journal.append(entry, job.request.clock())
        return raw

    def _accept(self, session: Session, handed: Handed) -> None:
        """Check receipts and model against each other and what is known here; then keep them.

        Raises: RoundAnswerMismatch; what `require_next` and `require_own` raise.
        """
        job, fresh = self._job, session.exchange.fresh
        opened = [(RoundReceipt.open(raw), raw) for raw in handed.receipts]
        for receipt, raw in opened:
            own: dict[str, object] = {
                "task_digest": job.checked.task.digest,
                "policy_digest": job.policy.digest,
                "instance": fresh.claims.instance,
                "nonce": fresh.claims.nonce,
                "evidence": fresh.raw,
                "sealing_key_hash": fresh.claims.sealing_key_hash,
            }
            require_own(receipt, fresh, own, RoundAnswerMismatch)
            self._require_receipt(receipt)
            if receipt.round != (1 if self._last is None else self._last.round + 1):
                raise _mismatch("round", "the next one")
            if self._last is not None:
                require_next(receipt, self._last)
            self._require_own_update(receipt)
            self._folder.keep(receipt, raw, job.request.record(job.checked, receipt, fresh))
            self._last = receipt
        last = 0 if self._last is None else self._last.round
        if handed.number != last:
            raise _mismatch("model", f"that of round {last}")
        digest = _digest(job.series, handed)
        if self._last is not None and digest != self._last.model:
            raise _mismatch("model", "the one that its receipt names")
        if not last and np.any(_numbers(handed)):
            raise _mismatch("model", "zeros, before the first round")
        write_atomically(self._folder.model, write_model(job.series, _numbers(handed)), mode=0o600)

    def _require_receipt(self, receipt: RoundReceipt) -> None:
        job = self._job
        require_participants(receipt, job.policy)
        for name, own in (
            ("computation", job.computation.id),
            ("recipient", job.own),
            ("mode", job.checked.mode.value),
        ):
            if getattr(receipt, name) != own:
                raise _mismatch(f"receipt: {name}", str(own))

    def _require_own_update(self, receipt: RoundReceipt) -> None:
        """What it says of this party is what this party signed."""
        signed, policy = self._folder.signed(), self._job.policy
        updates = signed.updates if signed.round == receipt.round else ()
        own = [Update.open(raw, policy).digest for raw in updates]
        for one in receipt.participants:
            if one.dataset == self._job.dataset.id and one.update_digest not in own:
                raise _mismatch("receipt: own update", "one that was signed")


def _mismatch(thing: str, expected: str) -> RoundAnswerMismatch:
    return RoundAnswerMismatch(thing, expected=expected, found="another")


def _numbers(handed: Handed) -> Numbers:
    return np.frombuffer(handed.plaintext[SALT_SIZE:], "<f4").astype(np.float32)


def _digest(series: Series, handed: Handed) -> Digest:
    return model_digest(series, handed.plaintext[:SALT_SIZE], handed.plaintext[SALT_SIZE:])
