"""Branches of the refusals of releases and collections, and leaves that several modules raise."""

from __future__ import annotations

from policy.errors import ResultBindingError
from verifier.errors import ConfigError, Exit, RatlsError

_NEW_TASK = "ask the submitter to sign a new task with `ratls task sign`"


class SourceError(RatlsError):
    """The provider's own rows are not what the policy declares."""

    exit_status = Exit.UNUSABLE


class SourceTableMalformed(ConfigError):
    """The source table is not valid."""

    code = "source-table-malformed"
    default_fix = 'write for example { kind = "csv", path = "rows.csv" }'


class DatasetNotConfigured(ConfigError):
    """The profile has no source for a dataset, which a task or a person asks for."""

    code = "dataset-not-configured"
    default_fix = "add the [[dataset]] with its source to the profile; restart an agent afterwards"
    says = "{thing} has no source in the profile, which has {expected}"


class SourceUnreadable(SourceError):
    """The source is missing, or not a readable file of its kind."""

    code = "source-unreadable"
    default_fix = "check the path, and that the file was completely written"


class SourceFormatUnknown(SourceError):
    """The file is of a format that is not read here."""

    code = "source-format-unknown"
    default_fix = "export the rows as Parquet, CSV or Arrow IPC, and name that file"


class SourceUnavailable(RatlsError):
    """The rows cannot be read just now."""

    exit_status = Exit.UNDECIDED


class TicketReplayError(RatlsError):
    """A task is used once per dataset, and with one instance of the enclave."""

    exit_status = Exit.NOT_ADMITTED
    default_fix = _NEW_TASK


class TaskBoundToInstance(TicketReplayError):
    """This release began with another instance of the enclave, which restarted or has a clone."""

    code = "task-bound-to-instance"
    says = "{thing} is bound to {expected}; this is {found}"


class EnclaveRestarted(TicketReplayError):
    """The enclave restarted after a dataset was released, so this task cannot have a result."""

    code = "enclave-restarted"
    default_fix = (
        "sign a new task with `ratls task sign` and submit it; the earlier start lost its inputs"
    )


class AcknowledgementMismatch(ResultBindingError):
    """The acknowledgement differs from what was released."""

    code = "acknowledgement-mismatch"
    default_fix = "keep the state folder, and ask the operator which enclave answered"


class ResultUnavailable(RatlsError):
    """There is no result yet."""

    exit_status = Exit.UNDECIDED


class ResultDeniedError(RatlsError):
    """The enclave releases no result."""

    exit_status = Exit.PEER


class ProviderRefusedError(RatlsError):
    """Another provider refused to release its rows."""

    exit_status = Exit.PEER
