"""Compare a source with an acknowledgement: are these the rows that were released?

    found = compare_source(state, reading, source, task=None, dataset="train_party_1")
    found.acknowledgement.rows

The acknowledgement names the commit, which contains a salted digest of the rows. Only the release
folder has the salt, so only the provider can do this. No connection is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policy.commit import Commit
from policy.document import Policy, digest_text
from policy.errors import ResultBindingError
from policy.journal import Reading
from policy.journal_entries import ReleasedEntry
from policy.receipt import Acknowledgement
from policy.rows import schema_digest
from policy.sections import Dataset
from policy.state import PolicyNotAccepted, StudyState
from policy.values import Digest
from provider.errors import AcknowledgementMismatch
from provider.release_state import Attempt, release_path
from provider.sources import SourceSpec
from ratls.framing import RowDigest
from verifier.errors import ConfigError
from verifier.files import parse_file, read_file


@dataclass(frozen=True, slots=True)
class MatchingRelease:
    """A release of exactly the rows of the source."""

    acknowledgement: Acknowledgement
    path: Path  # of its file


class SourceDiffers(ResultBindingError):
    """The rows of the source are not the released ones."""

    code = "source-differs"
    default_fix = "name the released file, with the same order of rows and the same options"


def compare_source(
    state: Path, reading: Reading, source: SourceSpec, *, task: str | None, dataset: str | None
) -> MatchingRelease:
    """Recompute the digest of one release over the rows of `source`.

    Args:
        state: The state folder; `reading` is its journal.
        task, dataset: Choose one release where there are several.

    Raises:
        ReleaseUnclear: No such release, or more than one.
        AcknowledgementMismatch: The kept files are not those that the journal names.
        SourceDiffers: Other rows were released, or the same in another order.
        RatlsError: What reading the kept files, or the source, raises.
    """
    released = _one(reading, task, dataset)
    path = release_path(state, bytes.fromhex(released.task[7:]), released.dataset)
    attempt = parse_file(path / "attempt.json", Attempt.parse)
    policy = _policy(StudyState(state), Commit.read(attempt.commit).policy_digest)
    commit = Commit.open(attempt.commit, policy)
    acknowledgement = Acknowledgement.open(read_file(path / "acknowledgement.json"))
    kept = (digest_text(commit.digest), digest_text(acknowledgement.digest))
    if kept != (released.commit, released.acknowledgement):
        raise AcknowledgementMismatch(
            str(path), expected="the commit and acknowledgement of the journal", found="others"
        )
    declared = policy.dataset_by_id(commit.dataset)
    assert declared is not None  # `Commit.open` refuses what the policy does not have
    found = _digest(source, declared, attempt.salt)
    if found != commit.salted_digest:
        raise SourceDiffers(
            f"rows of {commit.dataset}",
            expected=digest_text(commit.salted_digest),
            found=digest_text(found),
        )
    return MatchingRelease(acknowledgement, path / "acknowledgement.json")


class ReleaseUnclear(ConfigError):
    """The journal has no matching release, or several."""

    code = "release-unclear"
    default_fix = "name one with --task and --dataset; `ratls provider journal show` lists them"


def _one(reading: Reading, task: str | None, dataset: str | None) -> ReleasedEntry:
    fitting: Sequence[ReleasedEntry] = [
        record.entry
        for record in reading.records
        if isinstance(record.entry, ReleasedEntry)
        and task in (None, record.entry.task)
        and dataset in (None, record.entry.dataset)
    ]
    if len(fitting) != 1:
        raise ReleaseUnclear("journal", expected="one matching release", found=str(len(fitting)))
    return fitting[0]


def _policy(store: StudyState, digest: Digest) -> Policy:
    """The accepted policy version that the release was made under, in force or not."""
    for study in store.studies():
        stored = store.stored(study)
        for version in stored.agreement.versions if stored else ():
            if version.policy.digest == digest:
                return version.policy
    raise PolicyNotAccepted("policy", expected="one that was accepted", found=digest_text(digest))


def _digest(source: SourceSpec, dataset: Dataset, salt: bytes) -> Digest:
    """As `provider.release` makes it, batch for batch."""
    digest = RowDigest(salt, schema_digest(dataset))
    with source.open(dataset) as opened:
        for number, chunk in enumerate(opened.chunks()):
            digest.add(number, chunk.batch.num_rows, chunk.digest)
    return digest.digest()
