"""Refusals of the scheduler: at its start, to its peers, and what its clients make of silence.

A peer is told the code and a correlation id, never the text.
"""

from __future__ import annotations

from policy.errors import ResourceLimitError

# Leaves that several modules raise.


class TaskOversized(ResourceLimitError):
    """A task is larger than any that an enclave takes."""

    code = "task-oversized"
    default_fix = "a task holds a few parameters; rows belong into datasets"
