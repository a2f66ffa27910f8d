"""Refusals that several modules of the scheduler raise.

A peer is told the code and a correlation id, never the text.
"""

from __future__ import annotations

from policy.errors import ResourceLimitError

# Leaves that several modules raise.


class TaskOversized(ResourceLimitError):
    """A task is larger than the scheduler accepts."""

    code = "task-oversized"
    default_fix = "send rows as datasets: a task contains a few parameters"
