"""Refusals of the enclave application: who may, how much, what counts, what may leave.

A peer is told the code and a correlation id, never the text; the text goes to the operator's
terminal at start, or nowhere.
"""

from __future__ import annotations

from policy.errors import ResourceLimitError
from ratls.errors import AuthorizationError, PeerIdentityError, StreamIntegrityError
from verifier.errors import ConfigError, Exit, ModeMismatchError, RatlsError

# Branches. Names: threats.md section 3.


class InputCommittedError(RatlsError):
    """An input counts once."""

    exit_status = Exit.NOT_ADMITTED


class ComputeDeniedError(RatlsError):
    """The agreed computation cannot be run on what came in."""

    exit_status = Exit.NOT_ADMITTED


class ReleaseDeniedError(RatlsError):
    """The result may not leave under the agreed release rule."""

    exit_status = Exit.NOT_ADMITTED


# Can this process serve at all?


class ListenAddressUnusable(ConfigError):
    """The server cannot listen where it was told to."""

    code = "listen-address-unusable"
    default_fix = "another process may use the port: choose another, or 0 for a free one"


class ArgumentsUnexpected(ConfigError):
    """The production entry point was given arguments, and takes none."""

    code = "arguments-unexpected"
    exit_status = Exit.USAGE
    default_fix = "start it bare: a measured manifest fixes how; `ratls enclave serve` has options"


class ServerWouldNotAuthenticate(ConfigError):
    """The server would be built without the check of its clients' certificates."""

    code = "server-would-not-authenticate"
    default_fix = "the policy must list a channel certificate for each party"


class ChannelIdentityShared(ConfigError):
    """Two parties could not be told apart by their channel certificates."""

    code = "channel-identity-shared"
    default_fix = "each party needs its own id and its own channel key"


class AttesterModeMismatch(ModeMismatchError):
    """The attester simulates and the policy demands hardware, or the reverse."""

    code = "attester-mode-mismatch"
    default_fix = "the policy's root and --attester must both be real or both be simulated"


class ServerFailed(RatlsError):
    """Something went wrong in the enclave that nobody foresaw."""

    code = "internal"
    exit_status = Exit.PEER
    default_fix = "its operator finds kind and place of the error in the log, under the id"


# Who asks, and may they?


class PeerUnknown(PeerIdentityError):
    """The channel certificate is that of no party in the policy."""

    code = "peer-unknown"
    default_fix = "use the channel certificate that the policy lists for your party"


class MethodNotOffered(AuthorizationError):
    """Only the four exchanges of ratls/1 are served, whatever name is asked for."""

    code = "method-not-offered"
    default_fix = "use `ratls provider push`, `ratls task result` or `ratls verify server`"


class ReleaseNotAuthorized(AuthorizationError):
    """The dataset is not the peer's, not an input of the task, or does not exist."""

    code = "release-not-authorized"
    default_fix = "release a dataset that the policy says is yours and the task's computation uses"


class ReasonNotAgreed(AuthorizationError):
    """The policy lets nobody ask why a result was denied."""

    code = "reason-not-agreed"
    default_fix = 'agree on a policy with `reasons = "own input"` in the computation\'s release'


class CollectNotAuthorized(AuthorizationError):
    """The peer is no recipient of the task's computation."""

    code = "collect-not-authorized"
    default_fix = "only the recipients that the policy names may fetch a result"


# How much?


class ExchangesExhausted(ResourceLimitError):
    """Too many exchanges run at once."""

    code = "exchanges-exhausted"
    default_fix = "wait until your other calls have ended, then try again"


class TasksExhausted(ResourceLimitError):
    """Too many unexpired tasks are open in this enclave."""

    code = "tasks-exhausted"
    default_fix = "wait until earlier tasks have expired, and sign tasks with a shorter validity"


class MemoryExhausted(ResourceLimitError):
    """The enclave cannot hold more rows."""

    code = "memory-exhausted"
    default_fix = "wait until running tasks are finished, then release again with the same task"


class ComputationTooLarge(ResourceLimitError):
    """With all rows that the policy allows, the computation would not fit into the enclave."""

    code = "computation-too-large"
    default_fix = "agree on a smaller max_rows, or on fewer columns"


class BatchesExceeded(ResourceLimitError):
    """A release consists of more batches than the enclave keeps."""

    code = "batches-exceeded"
    default_fix = "send batches of 1 to 4 MiB"


class ExchangeTooLong(ResourceLimitError):
    """A release takes longer than the enclave waits."""

    code = "exchange-too-long"
    default_fix = "release again with the same task, over a faster link"


# Does it count?


class RowsNotAsDeclared(StreamIntegrityError):
    """A null, a number that is not finite, or a value outside its domain, in an agreed column."""

    code = "rows-not-as-declared"
    default_fix = "use `ratls provider push`: it checks every row before it sends any, and names it"


class AttemptClosed(StreamIntegrityError):
    """This release ended: a later one of the same dataset has begun, or the task has expired."""

    code = "attempt-closed"
    default_fix = "let only one release of a dataset run at a time, within the task's validity"


class CommitOfAnotherRelease(StreamIntegrityError):
    """The commit is about another task, policy, instance, challenge, dataset or provider."""

    code = "commit-of-another-release"
    default_fix = "release again with the same task"


class CommitCountMismatch(StreamIntegrityError):
    """The commit counts other rows or batches than arrived."""

    code = "commit-count-mismatch"
    default_fix = "release again with the same task"


class CommitDigestMismatch(StreamIntegrityError):
    """The commit is about other rows than arrived."""

    code = "commit-digest-mismatch"
    default_fix = "release again with the same task"


class InputEmpty(StreamIntegrityError):
    """A dataset without a single row was committed."""

    code = "input-empty"
    default_fix = "check the source: it has no rows"


class AnotherCommitCounts(InputCommittedError):
    """The dataset was committed for this task before, by another commit."""

    code = "another-commit-counts"
    default_fix = "nothing to do: the first commit stands; use a new task to release other rows"


# Can it be computed, and may it leave?


class ClassesNotTwo(ComputeDeniedError):
    """The label does not have exactly two values over all inputs."""

    code = "classes-not-two"
    default_fix = "the label column must hold two classes"


class FeatureConstant(ComputeDeniedError):
    """A feature has one value over all inputs and cannot be standardised."""

    code = "feature-constant"
    default_fix = "agree on the features without the constant one"


class NumbersOutOfRange(ComputeDeniedError):
    """Intermediate values exceed what float64 can hold."""

    code = "numbers-out-of-range"
    default_fix = "give the columns a domain (min, max) in the policy"


class SolverNotConverged(ComputeDeniedError):
    """The solver stopped before it converged."""

    code = "solver-not-converged"
    default_fix = "agree on a larger max_iter"


class ComputationFailed(ComputeDeniedError):
    """The computation ended with an error that its authors did not foresee."""

    code = "computation-failed"
    default_fix = "run the computation on rows of your own making, and tell the authors"


class ComputationTooLong(ComputeDeniedError):
    """The computation takes longer than the enclave lets it."""

    code = "computation-too-long"
    default_fix = "agree on fewer rows, columns or iterations"


class ReleaseDenied(ReleaseDeniedError):
    """There is no result. Why depends on rows, so neither recipient nor host is told."""

    code = "release-denied"
    default_fix = "ask the providers: with `reasons` in the policy each can ask about its own input"


class TooFewSubjects(ReleaseDeniedError):
    """An input has fewer distinct subjects than the policy demands."""

    code = "too-few-subjects"
    default_fix = "the policy's min_subjects_per_input protects the persons in small inputs"


class ColumnConstant(ReleaseDeniedError):
    """In one input a column has one value: what is said of it would be said of everybody."""

    code = "column-constant"
    default_fix = "agree on the result without this column"


class ValueTooRare(ReleaseDeniedError):
    """Too few subjects of one input have a value, or several together, that few others have."""

    code = "value-too-rare"
    default_fix = "agree on the result without this column, or on a coarser one"


class ClassTooSmall(ReleaseDeniedError):
    """Too few subjects of one input, or none, belong to one of the label's classes."""

    code = "class-too-small"
    default_fix = "each provider needs min_subjects_per_input persons of each class"


class SubjectDominates(ReleaseDeniedError):
    """Most of the rows, or of what varies in one input, is one subject's."""

    code = "subject-dominates"
    default_fix = "give the column a domain (min, max), or release fewer rows of one subject"


class QuantileExposes(ReleaseDeniedError):
    """Below, above or between the agreed quantiles lie too few subjects of one input."""

    code = "quantile-exposes"
    default_fix = "agree on fewer quantiles, further apart and further from 0 and 1"


class IntersectionTooSmall(ReleaseDeniedError):
    """Too few subjects of one input are in the intersection, or none."""

    code = "intersection-too-small"
    default_fix = "check that the inputs write the key alike; a small intersection is not released"


class ResultTooLarge(ReleaseDeniedError):
    """The result is longer than one message to a recipient may be."""

    code = "result-too-large"
    default_fix = "agree on a smaller output, or on inputs with fewer rows"


class OutputNotAgreed(ReleaseDeniedError):
    """The computation's outputs are not exactly those that the policy releases."""

    code = "output-not-agreed"
    default_fix = "name the computation's outputs in the policy's release rule"


class OutputNotCanonical(ReleaseDeniedError):
    """A result holds something that has no single written form, such as NaN."""

    code = "output-not-canonical"
    default_fix = "tell the authors: a computation returned what cannot be released"
