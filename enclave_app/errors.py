"""Branches of the enclave's refusals, and leaves that several of its modules raise.

A peer is told the code and a correlation id, never the text; the text goes to the operator's
terminal at start, or nowhere.
"""

from __future__ import annotations

from ratls.errors import StreamIntegrityError
from verifier.errors import ConfigError, Exit, RatlsError

# Branches. All leaves: docs/errors.md.


class InputCommittedError(RatlsError):
    """An input counts once."""

    exit_status = Exit.NOT_ADMITTED


class ComputeDeniedError(RatlsError):
    """The agreed computation cannot be run on what came in."""

    exit_status = Exit.NOT_ADMITTED


class ReleaseDeniedError(RatlsError):
    """The result may not leave under the agreed release rule."""

    exit_status = Exit.NOT_ADMITTED


# Leaves that several modules raise.


class ListenAddressUnusable(ConfigError):
    """The server cannot listen where it was told to."""

    code = "listen-address-unusable"
    default_fix = "choose another port, or 0 for a free one"
    says = "cannot listen: {thing} is not {expected}"


class AttemptClosed(StreamIntegrityError):
    """This release ended: a later one of the same dataset has begun, or the task has expired."""

    code = "attempt-closed"
    default_fix = "let only one release of a dataset run at a time, within the task's validity"


class NumbersOutOfRange(ComputeDeniedError):
    """Intermediate values exceed what float64 can hold."""

    code = "numbers-out-of-range"
    default_fix = "give the columns a domain (min, max) in the policy"
