"""A release up to the connection: what would be sent, and would anything at home refuse it?

    planned = dry_run(request, "train_party_1", Path("rows.parquet"))
    planned.checked.rows, planned.checked.batches, planned.checked.bytes

`ratls provider check` does the same without a task. Both keep a stamp: the release that follows
reads the source once more and looks at no value again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from policy.agreement_file import read_policy
from policy.document import PolicyInvalid
from policy.draft import unfinished_dataset
from policy.state import StateMissing, StudyState
from provider.journalling import Journalling
from provider.release import CheckedRelease, check_locally
from provider.sources import SourceSpec, source_at
from provider.stamps import Checked, Stamps, check_source
from verifier.errors import ConfigError, placed
from verifier.files import read_file

if TYPE_CHECKING:
    from policy.document import Policy
    from policy.sections import Dataset
    from provider.exchange import EnclaveRequest

Progress = Callable[[int, int | None], None]


def _no_progress(rows: int, total: int | None) -> None:
    """Called where nobody looks."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A release that nothing at home would refuse."""

    job: CheckedRelease
    checked: Checked


def dry_run(
    request: EnclaveRequest,
    dataset: str,
    source: SourceSpec | Path,
    *,
    progress: Progress = _no_progress,
) -> Planned:
    """Every check that needs no connection, of task, policy, journal and all rows.

    Nothing is reserved, and no refusal is recorded.

    Raises:
        RatlsError: As `release`, before its connection.
    """
    job = check_locally(
        request, dataset, Journalling(request.state, "release", request.clock, dataset)
    )
    return Planned(job, check_rows(request.state, job.dataset, source, progress=progress))


def check_rows(
    state: Path, dataset: Dataset, source: SourceSpec | Path, *, progress: Progress = _no_progress
) -> Checked:
    """Read and check all rows of a source, and keep the stamp of that.

    Raises: What opening and reading the source raises; FileNotWritten.
    """
    spec = source_at(source, dataset.id) if isinstance(source, Path) else source
    with spec.open(dataset) as opened:
        return check_source(opened, Stamps(state), dataset, progress)


class DatasetUnclear(ConfigError):
    """No accepted policy declares this dataset, or several do."""

    code = "dataset-unclear"
    default_fix = "name the study with --study; `ratls policy show` lists the datasets of a policy"


def dataset_in(file: Path, dataset: str) -> Wanted:
    """As a draft or an agreement declares it. Nothing is said about its signatures.

    A draft may have problems elsewhere: rows can be checked before the enclave is built.

    Raises: DatasetUnclear, PolicyInvalid, and what reading the file raises.
    """
    try:
        policy = read_policy(file)
    except PolicyInvalid as refusal:
        found = unfinished_dataset(read_file(file), dataset, refusal.problems)
        if found is None:
            raise
        return Wanted(*found, len(refusal.problems))
    with placed(str(file)):
        return Wanted.of(policy, dataset)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a source is held against."""

    dataset: Dataset
    needed: Mapping[str, int]  # persons that each computation asks of this input, by its id
    problems: int = 0  # that the draft has elsewhere

    @classmethod
    def of(cls, policy: Policy, dataset: str) -> Self:
        """Raises: DatasetUnclear."""
        needed = {
            c.id: c.release.min_subjects_per_input
            for c in policy.computation
            if dataset in c.inputs
        }
        return cls(dataset_of(policy, dataset), needed)


def dataset_of(policy: Policy, dataset: str) -> Dataset:
    """The dataset with this id. Raises: DatasetUnclear."""
    declared = policy.dataset_by_id(dataset)
    if declared is None:
        raise undeclared(dataset, [d.id for d in policy.dataset])
    return declared


def undeclared(dataset: str, known: Sequence[str]) -> DatasetUnclear:
    """There are others."""
    return DatasetUnclear(
        f"dataset {ascii(dataset)[:80]}",
        expected=f"one of {', '.join(known) or 'none'}",
        found="another id",
        fix="write its id as it is in the policy",
    )


def accepted_dataset(state: Path, dataset: str, study: str | None = None) -> Wanted:
    """As the newest accepted policy declares it, in force or not.

    Args:
        study: Look into this study alone.

    Raises:
        StateMissing: No policy was accepted.
        DatasetUnclear: None has this dataset, or several have.
        RatlsError: What `StudyState.stored` raises.
    """
    store = StudyState(state)
    studies = store.studies() if study is None else [study]
    policies = [store.require(name).policy for name in studies]
    found: Sequence[Wanted] = [
        Wanted.of(policy, dataset)
        for policy in policies
        if policy.dataset_by_id(dataset) is not None
    ]
    if not studies:
        raise StateMissing(str(store.folder), expected="an accepted agreement", found="none")
    if not found:
        raise undeclared(dataset, [d.id for p in policies for d in p.dataset])
    if len(found) > 1:
        raise DatasetUnclear(
            f"dataset {ascii(dataset)[:80]}",
            expected="one accepted policy that declares it",
            found=str(len(found)),
        )
    return found[0]
