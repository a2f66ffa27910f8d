"""Why a provider keeps its rows, and why a collector gets no result."""

from __future__ import annotations

from policy.errors import ResultBindingError
from verifier.errors import ConfigError, Exit, RatlsError

_NEW_TASK = "a newly signed task is needed: ask the submitter to run `ratls task sign` again"


class SourceError(RatlsError):
    """The provider's own rows are not what the policy declares."""

    exit_status = Exit.UNUSABLE


class SourceTableMalformed(ConfigError):
    """The table that says where rows are does not read."""

    code = "source-table-malformed"
    default_fix = 'write for example { kind = "csv", path = "rows.csv" }'


class SourceUnreadable(SourceError):
    """The source is missing, or not a readable file of its kind."""

    code = "source-unreadable"
    default_fix = "check the path, and that the file was completely written"


class SourceFormatUnknown(SourceError):
    """The file is of a format that is not read here."""

    code = "source-format-unknown"
    default_fix = "export the rows as Parquet, CSV or Arrow IPC, and name that file"


class SourceUnavailable(RatlsError):
    """The rows are out of reach for now; nothing is known about them."""

    exit_status = Exit.UNDECIDED


class TicketReplayError(RatlsError):
    """A task is honoured once per dataset, and by one instance of the enclave."""

    exit_status = Exit.NOT_ADMITTED
    default_fix = _NEW_TASK


class TaskBoundToInstance(TicketReplayError):
    """This release began with another instance of the enclave: it restarted, or has a clone."""

    code = "task-bound-to-instance"


class EnclaveRestarted(TicketReplayError):
    """The enclave was started anew after a dataset was released: this task can have no result."""

    code = "enclave-restarted"
    default_fix = (
        "sign a new task with `ratls task sign` and submit it: what was released to the earlier "
        "start is gone with it"
    )


class AcknowledgementMismatch(ResultBindingError):
    """A field of the acknowledgement differs from what was released."""

    code = "acknowledgement-mismatch"
    default_fix = "keep the state folder, and ask the operator which enclave answered"


class ResultUnavailable(RatlsError):
    """There is no result yet, so nothing is known about it."""

    exit_status = Exit.UNDECIDED


class ResultDeniedError(RatlsError):
    """The enclave computed, or tried to, and lets nothing out."""

    exit_status = Exit.PEER


class ProviderRefusedError(RatlsError):
    """Another party does not release its rows."""

    exit_status = Exit.PEER
