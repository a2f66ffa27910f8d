"""What a journal can say: one type for each kind of record."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from policy.fields import Strict
from verifier.appraisal import Appraisal
from verifier.errors import CollateralRolledBack

DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
InstanceText = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ModeText = Literal["production", "simulation"]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Count = Annotated[int, Field(ge=0)]
# Where it stopped: own checks, the enclave's proof, rows, the commit, the enclave's answer.
Step = Literal["local", "enclave", "rows", "commit", "answer"]


class _OfInstance(Strict):
    """What is said of a task and the one start of an enclave that it was given to."""

    task: DigestText
    instance: InstanceText
    mode: ModeText


class _OfDataset(_OfInstance):
    """The same, of one dataset."""

    dataset: str


class PlacedEntry(Strict):
    """The state folder is here; the first record, and again when a copy was adopted."""

    kind: Literal["placed"] = "placed"
    machine: DigestText  # of /etc/machine-id, which is not to be shown; of nothing without one
    filesystem: Annotated[str, Field(pattern=r"^[0-9a-f]{1,16}$")]
    folder: Count  #       inode


class AcceptedEntry(Strict):
    """A policy was taken into force, from its `not_before` on. None older is, from now on."""

    kind: Literal["accepted"] = "accepted"
    study: str
    version: Count
    policy: DigestText


class WithdrawnEntry(Strict):
    """A party's withdrawal arrived. It covers `version` of the study and all before."""

    kind: Literal["withdrawn"] = "withdrawn"
    study: str
    party: str
    version: Count
    policy: DigestText  #      of that version
    withdrawal: DigestText  # of the signed document


class DistrustedEntry(Strict):
    """From now on every policy with this digest, or with a key of it, is refused."""

    kind: Literal["distrusted"] = "distrusted"
    digest: DigestText  # of a policy, of a key's SPKI, or of a channel certificate
    lifted: bool  #       it was a mistake: from now on it is refused no more


class ReservedEntry(_OfDataset):
    """Rows of `dataset` may now be sent for `task`, and only to this instance of the enclave."""

    kind: Literal["reserved"] = "reserved"
    policy: DigestText
    study: str
    computation: str
    learnt: DigestText | None = None  # run and columns; absent in records of older versions
    expires: Moment | None = None  # of the task; absent in records of older versions
    place: DigestText | None = None  # of where the rows are; absent as above, or in memory


Returned = Literal["no-row-left", "source-refused", "no-commit-before-the-end"]


class ReturnedEntry(_OfDataset):
    """A reservation without a commit, given back: it does not count as a use."""

    kind: Literal["returned"] = "returned"
    reason: Returned


class NotedEntry(Strict):
    """Revocation lists that were used. From now on older ones are refused."""

    kind: Literal["noted"] = "noted"
    collateral: str  # kind of platform: root/technology-FMSPC-authority
    root_list: Moment  # when each was issued
    platform_list: Moment

    def require_reached_by(self, other: Self) -> None:
        """Raises: CollateralRolledBack."""
        for name in ("root_list", "platform_list"):
            seen, found = getattr(self, name), getattr(other, name)
            if found < seen:
                raise CollateralRolledBack(
                    f"revocation list ({name})",
                    expected=f"none issued before {seen}",
                    found=f"one of {found}",
                    fix="fetch collateral again; `ratls provider journal show` lists what was seen",
                )


class CommittedEntry(_OfDataset):
    """A signed commit is kept and about to be sent."""

    kind: Literal["committed"] = "committed"
    commit: DigestText
    rows: Count
    batches: Count


class ReleasedEntry(_OfDataset):
    """The enclave acknowledged the commit."""

    kind: Literal["released"] = "released"
    commit: DigestText
    acknowledgement: DigestText
    rows: Count


class UpdatedEntry(_OfDataset):
    """An update of a model for one round is signed, kept, and about to be sent."""

    kind: Literal["updated"] = "updated"
    round: Count
    update: DigestText


class CollectedEntry(_OfInstance):
    """A result was fetched and its receipt verified."""

    kind: Literal["collected"] = "collected"
    receipt: DigestText


class CheckOutcome(Strict):
    """Name and outcome of one check; never its detail, which may quote the peer."""

    check: str
    outcome: Literal["passed", "failed", "not_reached"]


class RefusedEntry(Strict):
    """A release or collection that was refused, and by which check."""

    kind: Literal["refused"] = "refused"
    action: Literal["release", "collect"]
    task: DigestText | None  # None: the task itself could not be read
    dataset: str | None
    code: str
    check: str | None
    checks: Annotated[tuple[CheckOutcome, ...], Field(strict=False)]
    mode: ModeText | None  # None: refused before a root was chosen
    step: Step | None = None  #  where it stopped; absent in records of older versions
    rows: Count | None = None  # that had left in this run


Entry = (
    PlacedEntry
    | AcceptedEntry
    | WithdrawnEntry
    | DistrustedEntry
    | NotedEntry
    | ReservedEntry
    | ReturnedEntry
    | CommittedEntry
    | ReleasedEntry
    | UpdatedEntry
    | CollectedEntry
    | RefusedEntry
)


def outcomes(appraisal: Appraisal | None) -> tuple[CheckOutcome, ...]:
    """The names and outcomes of an appraisal, as a refusal keeps them."""
    records = () if appraisal is None else appraisal.records
    return tuple(CheckOutcome(check=r.check, outcome=r.outcome.value) for r in records)
