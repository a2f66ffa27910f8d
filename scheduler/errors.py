"""Refusals of the scheduler: at its start, to its peers, and what its clients make of silence.

A peer is told the code and a correlation id, never the text.
"""

from __future__ import annotations

from policy.errors import ResourceLimitError, TicketFormatError, TicketScopeError
from ratls.errors import AuthorizationError, PeerIdentityError, TransportError
from verifier.errors import ConfigError, Exit, RatlsError

# Can this process serve, or connect, at all?


class StudyGivenTwice(ConfigError):
    """Two agreement files are about one study."""

    code = "study-given-twice"
    default_fix = "give the newest agreement of each study; it carries the versions before it"


class SchedulerAddressUnusable(ConfigError):
    """The scheduler cannot listen where it was told to."""

    code = "scheduler-address-unusable"
    default_fix = "another process may use the port: choose another, or 0 for a free one"


class SchedulerCertificateUnusable(ConfigError):
    """A file is not exactly one certificate of a scheduler."""

    code = "scheduler-certificate-unusable"
    default_fix = "use scheduler.crt from the folder that `ratls scheduler serve --state` names"


class SchedulerCertificateNotCurrent(ConfigError):
    """The scheduler's certificate does not cover this instant."""

    code = "scheduler-certificate-not-current"
    default_fix = (
        "check the clock; if it has expired, remove scheduler.key and scheduler.crt, start the "
        "scheduler again, and give its new certificate to every party"
    )


class SchedulerKeyDiffers(ConfigError):
    """The key in the scheduler's folder is missing, or belongs to another certificate."""

    code = "scheduler-key-differs"
    default_fix = "restore scheduler.key, or remove both files and hand out the new certificate"


class DatabaseUrlUnusable(ConfigError):
    """The database cannot be named like this."""

    code = "database-url-unusable"
    default_fix = "write a SQLAlchemy URL, for example postgresql+psycopg://scheduler@host/ratls"


class DatabasePasswordShown(ConfigError):
    """A password stands in the URL, where every user of the machine can read it."""

    code = "database-password-shown"
    default_fix = "put it into a file of libpq: append ?passfile=FILE to the URL, or use ~/.pgpass"


class DatabaseIncompatible(ConfigError):
    """The database holds a queue of another version, or something else under its names."""

    code = "database-incompatible"
    default_fix = "name an empty database, or use the version of ratls that made this one"


class StoreUnavailable(ConfigError):
    """The database does not answer, or does not take what it should keep."""

    code = "store-unavailable"
    default_fix = "is the disk full, the database running, and its address right? Then try again"


# Who asks, and may they?


class PeerNotServed(PeerIdentityError):
    """The channel certificate is that of no party in a policy in force."""

    code = "peer-not-served"
    default_fix = "the scheduler needs the agreement in which your channel certificate is listed"


class PolicyNotServed(AuthorizationError):
    """The policy is not one that is in force here and lists the peer."""

    code = "policy-not-served"
    default_fix = "give the agreement to the scheduler, or sign the task under the policy in force"


class SubmitterDiffers(TicketScopeError):
    """A task is brought by somebody else than the party that signed it."""

    code = "submitter-differs"
    default_fix = "submit with the channel certificate of the party that signed the task"


class TaskNotQueued(TicketScopeError):
    """No unexpired task of this digest is in the queue, or the peer has no part in it."""

    code = "task-not-queued"
    default_fix = "it may have expired: look with `ratls task list`"


class ReportNotAuthorized(AuthorizationError):
    """The dataset is not the peer's, or no input of the task."""

    code = "report-not-authorized"
    default_fix = "only a dataset's owner reports on it"


class RequestMalformed(TicketFormatError):
    """A request holds a field that is unknown, missing, or of another size."""

    code = "request-malformed"
    default_fix = "both sides must run the same version"


# How much?


class TaskOversized(ResourceLimitError):
    """A task is larger than any that an enclave takes."""

    code = "task-oversized"
    default_fix = "a task holds a few parameters; rows belong into datasets"


class OpenTasksExhausted(ResourceLimitError):
    """A submitter has too many unexpired tasks in the queue."""

    code = "open-tasks-exhausted"
    default_fix = "wait until earlier tasks have expired, and sign tasks with a shorter validity"


class SubmissionsTooFast(ResourceLimitError):
    """A submitter brings tasks faster than it may."""

    code = "submissions-too-fast"
    default_fix = "wait a minute, then submit again"


class CallsExhausted(ResourceLimitError):
    """Too many calls run at once."""

    code = "calls-exhausted"
    default_fix = "wait until your other calls have ended, then try again"


class ReportsExhausted(ResourceLimitError):
    """The state of one dataset was changed too often."""

    code = "reports-exhausted"
    default_fix = "report once per outcome; what counts is the acknowledgement, not the report"


class SchedulerFailed(RatlsError):
    """Something went wrong in the scheduler that nobody foresaw."""

    code = "scheduler-failed"
    exit_status = Exit.PEER
    default_fix = "its operator finds kind and place of the error in the log, under the id"


# What a client makes of it.


class SchedulerUnreachable(TransportError):
    """No call to the scheduler came through. May be tried again."""

    code = "scheduler-unreachable"
    default_fix = (
        "is the scheduler running at this address, with the certificate that you pin, and does it "
        "have the agreement that lists yours?"
    )


class SchedulerBusy(TransportError):
    """The scheduler cannot take the call now. May be tried again, later."""

    code = "scheduler-busy"
    default_fix = "try again later; what it lacks is behind the code, in docs/errors.md"


class SchedulerRefused(TransportError):
    """The scheduler refused, and says why with one of its codes. Trying again changes nothing."""

    code = "scheduler-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the scheduler's answer",
            expected="the call to be taken",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id


class SchedulerAnswerMalformed(TransportError):
    """What the scheduler answers is not what it should."""

    code = "scheduler-answer-malformed"
    default_fix = "both sides must run the same version; is it the scheduler that you meant?"
