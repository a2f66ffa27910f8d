"""Why a provider keeps its rows, and why a collector gets no result: this package's leaves."""

from __future__ import annotations

from policy.errors import ResultBindingError, TicketScopeError
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


class SourceFolderMixed(SourceError):
    """A folder holds more than Parquet files: some rows might be meant and not read."""

    code = "source-folder-mixed"
    default_fix = (
        "move all else away, or list what is meant in a source table: "
        'path = ["a.parquet", "b.parquet"]; columns in the names of folders are not read'
    )


class SourceLineMalformed(SourceError):
    """A line of a CSV file is blank, or has more or fewer cells than the header."""

    code = "source-line-malformed"
    default_fix = "put quotes around cells that hold a delimiter; check the delimiter itself"


class SourceQuoteMisplaced(SourceError):
    """A quote in a CSV file stands where RFC 4180 has none, or is never closed."""

    code = "source-quote-misplaced"
    default_fix = (
        "write the file again with a CSV library: cells that hold a quote, a delimiter or a line "
        'break stand in quotes, and a quote inside is written ""; if this file writes \\" instead, '
        "name that in the source table: escape = '\\'"
    )


class SourceLineBreakInCell(SourceError):
    """A cell of a CSV file goes on over more lines than the source table allows."""

    code = "source-line-break-in-cell"
    default_fix = (
        "close the quote on its line; where cells do hold line breaks, allow as many as the "
        "longest has in the source table: line_breaks = 20"
    )


class SourceLineEndMixed(SourceError):
    """Lines of a CSV file end in different ways, so a line break may be part of a cell."""

    code = "source-line-end-mixed"
    default_fix = "end every line with LF, or every line with CR LF, the header too"


class SourceEscapeUnclear(SourceError):
    """A backslash in a CSV file with `escape` could mean more than one thing."""

    code = "source-escape-unclear"
    default_fix = (
        "write the file again with quotes doubled instead of escaped, and without `escape`"
    )


class SourceEncoding(SourceError):
    """A CSV file is not UTF-8 text."""

    code = "source-encoding"
    default_fix = "save the file as UTF-8; NUL bytes often mean a damaged or half-written file"


class SourceCut(SourceError):
    """A file ends in the middle: it was cut short, or is still being written."""

    code = "source-cut"
    default_fix = (
        "export or fetch the file again; if its last row is complete, end it with a line break: "
        "echo >> rows.csv"
    )


class SourcePackedDamaged(SourceError):
    """A gzip file does not unpack, or has other bytes after its end."""

    code = "source-packed-damaged"
    default_fix = "fetch the file again, or pack it again: gzip -k rows.csv"


class SourceBatchTooLarge(SourceError):
    """One batch or page of the file is larger than what is read at once."""

    code = "source-batch-too-large"
    default_fix = "write the file again in batches of at most 65,536 rows"


class SourceUrlExposed(SourceError):
    """Others can read the file that holds the database's URL, and so its password."""

    code = "source-url-exposed"
    default_fix = "chmod 600 the file, and change the password"


class SourceUrlUnfit(SourceError):
    """The file does not hold the URL of a database that can be opened here."""

    code = "source-url-unfit"
    default_fix = (
        "write one line like postgresql+psycopg://user:password@host/name or sqlite:///rows.db, "
        "and install the driver that it names"
    )


class SourceQueryRefused(SourceError):
    """The database did not answer the query with rows."""

    code = "source-query-refused"
    default_fix = "run the query by hand, as the user of the URL, in a read-only transaction"


class SourceUnavailable(RatlsError):
    """The rows are out of reach for now; nothing is known about them."""

    exit_status = Exit.UNDECIDED


class SourceUnreachable(SourceUnavailable):
    """The database does not take the connection, or dropped it."""

    code = "source-unreachable"
    default_fix = "check that the database runs and lets this user in, then try again"


class SourceBusy(SourceUnavailable):
    """The database cannot answer just now: a lock, a conflict, a timeout, no room, a restart."""

    code = "source-busy"
    default_fix = "try again; an agent does so by itself"


class SourceEmpty(SourceError):
    """The source has no rows; a release of nothing would still use the task up."""

    code = "source-empty"
    default_fix = "check that the export finished and that the right file is named"


class SourceTooLong(SourceError):
    """The source has more rows than the policy lets a release carry."""

    code = "source-too-long"
    default_fix = "release a smaller selection, or agree on a higher max_rows"


class SourceRowTooLarge(SourceError):
    """One row alone is larger than a message may be."""

    code = "source-row-too-large"
    default_fix = "shorten the longest strings of the source"


class SourceChanged(SourceError):
    """The source changed between its check and its release; the stream was not committed."""

    code = "source-changed"
    default_fix = "release from a source that nobody writes to; the same task can be tried again"


class DatasetNotOwned(TicketScopeError):
    """The dataset belongs to another party."""

    code = "dataset-not-owned"
    default_fix = "name a dataset that the policy lists under your own party id"


class DatasetNotAsked(TicketScopeError):
    """The computation of this task does not take this dataset."""

    code = "dataset-not-asked"
    default_fix = "look at the computation's inputs with `ratls policy show`"


class ReasonsNotAgreed(TicketScopeError):
    """The policy tells no provider which rule its input broke."""

    code = "reasons-not-agreed"
    default_fix = 'agree on `reasons = "own input"` in the computation\'s release'


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


class EnclaveRestarted(TicketReplayError):
    """The enclave was started anew after a dataset was released: this task can have no result."""

    code = "enclave-restarted"
    default_fix = (
        "sign a new task with `ratls task sign` and submit it: what was released to the earlier "
        "start is gone with it"
    )


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


class SourceDiffers(ResultBindingError):
    """The rows of the source are not those whose arrival was acknowledged."""

    code = "source-differs"
    default_fix = "name the file as it was when it was released; its order and options count too"


class ReleaseUnclear(ConfigError):
    """The journal has no release that is meant, or several."""

    code = "release-unclear"
    default_fix = "name one with --task and --dataset; `ratls provider journal show` lists them"


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
    """The computation failed or its release rule was not met; which of them, nobody is told."""

    code = "result-denied"
    default_fix = "ask the providers about their inputs; other rows or parameters need a new task"


class ParameterMalformed(ConfigError):
    """A `--set` is not one `name=value` with a TOML value."""

    code = "parameter-malformed"
    default_fix = "write for example --set max_iter=200 or --set 'label=\"y\"'"


class DurationMalformed(ConfigError):
    """A duration cannot be read."""

    code = "duration-malformed"
    default_fix = "write for example 30m, 1h or 7d"


class AgentConfigMalformed(ConfigError):
    """The agent's configuration does not read."""

    code = "agent-config-malformed"
    default_fix = "correct the file; `ratls provider agent --sample` shows a complete one"


class AgentRunning(ConfigError):
    """Another agent works for this study in this state folder."""

    code = "agent-running"
    default_fix = "one agent is enough: it takes every task of the study; stop the other one first"


class EnclaveNotConfigured(ConfigError):
    """The agent has no address for any enclave that the policy lists."""

    code = "enclave-not-configured"
    default_fix = "add the [[enclave]] with its address and collateral, then start the agent again"


class DatasetNotConfigured(ConfigError):
    """The agent has no source for a dataset that a task asks for."""

    code = "dataset-not-configured"
    default_fix = "add the [[dataset]] with its source, then start the agent again"


class ProviderRefusedError(RatlsError):
    """Another party does not release its rows."""

    exit_status = Exit.PEER


class ReleaseRefusedElsewhere(ProviderRefusedError):
    """The scheduler says that a provider refused. A hint: only that provider knows."""

    code = "release-refused-elsewhere"
    default_fix = "look the code up in docs/errors.md, and ask that provider"
