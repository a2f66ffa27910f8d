"""Why a provider keeps its rows, and why a collector gets no result: this package's leaves."""

from __future__ import annotations

from policy.errors import ResultBindingError, TicketScopeError
from verifier.errors import ConfigError, Exit, RatlsError

_NEW_TASK = "a newly signed task is needed: ask the submitter to run `ratls task sign` again"


class AuditError(RatlsError):
    """The journal does not prove what it must prove. Nothing is released on its word."""

    exit_status = Exit.UNUSABLE
    default_fix = (
        "find out who changed the state folder; restore journal and head together from a backup "
        "made after the last release"
    )


class JournalAltered(AuditError):
    """A line of the journal is edited, missing, repeated or out of order."""

    code = "journal-altered"


class JournalCut(AuditError):
    """The journal ends before the line that its head names."""

    code = "journal-cut"


class JournalHeadLost(AuditError):
    """There are lines, and the head that would vouch for the last is missing or unreadable."""

    code = "journal-head-lost"


class JournalNotWritten(AuditError):
    """A record could not be made durable, so what it would have allowed does not happen."""

    code = "journal-not-written"
    default_fix = "make room and check that the state folder is writable by this user alone"


class SourceError(RatlsError):
    """The provider's own file is not what the policy declares."""

    exit_status = Exit.UNUSABLE


class SourceUnreadable(SourceError):
    """The source is missing, or not a readable Parquet file."""

    code = "source-unreadable"
    default_fix = "check the path, and that the file was completely written"


class SourceEmpty(SourceError):
    """The file has no rows; a release of nothing would still use the task up."""

    code = "source-empty"
    default_fix = "check that the export finished and that the right file is named"


class SourceTooLong(SourceError):
    """The file has more rows than the policy lets a release carry."""

    code = "source-too-long"
    default_fix = "release a smaller selection, or agree on a higher max_rows"


class SourceRowTooLarge(SourceError):
    """One row alone is larger than a message may be."""

    code = "source-row-too-large"
    default_fix = "shorten the longest strings of the file"


class SourceChanged(SourceError):
    """The file changed between its check and its release; the stream was not committed."""

    code = "source-changed"
    default_fix = "release from a file that nobody writes to; the same task can be tried again"


class DatasetNotOwned(TicketScopeError):
    """The dataset belongs to another party."""

    code = "dataset-not-owned"
    default_fix = "name a dataset that the policy lists under your own party id"


class DatasetNotAsked(TicketScopeError):
    """The computation of this task does not take this dataset."""

    code = "dataset-not-asked"
    default_fix = "look at the computation's inputs with `ratls policy show`"


class UsesExhausted(TicketScopeError):
    """The computation was released to as often as the policy allows."""

    code = "uses-exhausted"
    default_fix = "agree on a policy version with more `uses`"


class RecipientNotListed(TicketScopeError):
    """The result of this task is not for this party."""

    code = "recipient-not-listed"
    default_fix = "only the computation's `recipients` can collect its result"


class TicketReplayError(RatlsError):
    """A task is honoured once per dataset, and by one instance of the enclave."""

    exit_status = Exit.NOT_ADMITTED
    default_fix = _NEW_TASK


class TaskAlreadyReleased(TicketReplayError):
    """The rows for this task were released and acknowledged before."""

    code = "task-already-released"


class TaskBoundToInstance(TicketReplayError):
    """This release began with another instance of the enclave: it restarted, or has a clone."""

    code = "task-bound-to-instance"


class ReleaseUnderWay(ConfigError):
    """Another process is releasing this dataset for this task right now."""

    code = "release-under-way"
    default_fix = "wait for the other process to end"


class ReleaseStateDamaged(ConfigError):
    """What was kept of an earlier attempt cannot be read."""

    code = "release-state-damaged"
    default_fix = _NEW_TASK


class AcknowledgementMismatch(ResultBindingError):
    """A field of the acknowledgement differs from what was released."""

    code = "acknowledgement-mismatch"
    default_fix = "keep the state folder, and ask the operator which enclave answered"


class ReceiptMismatch(ResultBindingError):
    """A field of the receipt differs from the task, the policy or the result."""

    code = "receipt-mismatch"
    default_fix = "do not use the result; ask the operator which enclave answered"


class ResultUnavailable(RatlsError):
    """There is no result yet, so nothing is known about it."""

    exit_status = Exit.UNDECIDED


class ResultPending(ResultUnavailable):
    """Some provider has not committed its rows."""

    code = "result-pending"
    default_fix = "wait for the providers named, or add --wait SECONDS"


class ResultDeniedError(RatlsError):
    """The enclave computed, or tried to, and lets nothing out."""

    exit_status = Exit.PEER


class ResultDenied(ResultDeniedError):
    """The computation failed or its release rule was not met."""

    code = "result-denied"
    default_fix = "look the code up in docs/errors.md; other data or parameters need a new task"


class ParameterMalformed(ConfigError):
    """A `--set` is not one `name=value` with a TOML value."""

    code = "parameter-malformed"
    default_fix = "write for example --set max_iter=200 or --set 'label=\"y\"'"


class DurationMalformed(ConfigError):
    """A duration cannot be read."""

    code = "duration-malformed"
    default_fix = "write for example 30m, 1h or 7d"
