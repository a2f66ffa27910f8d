"""The statements of a whole policy, judged before anybody signs or accepts it.

    require_statements(policy)              # nothing, or every fault with path, line and character

An enclave does not import this: it holds no parser but that of its engine.
"""

from __future__ import annotations

from collections.abc import Iterator

from policy.computations import bound
from policy.document import Policy, PolicyProblems
from policy.joins import seen_by
from policy.parameters import Fixed
from policy.problems import PROBLEMS_CAP, Problem
from policy.sections import Computation, Dataset
from policy.syntax import LineIndex


class StatementRefused(PolicyProblems):
    """A statement of the policy says more than agreed SQL may."""

    code = "statement-refused"
    default_fix = "correct the statement; docs/computations.md lists what it may say"


def require_statements(policy: Policy) -> None:
    """Every statement is a table of groups over agreed columns.

    Raises: StatementRefused, with all problems.
    """
    problems = list(statement_problems(policy))[:PROBLEMS_CAP]
    if problems:
        raise StatementRefused(tuple(problems))


def statement_problems(policy: Policy) -> Iterator[Problem]:
    """Path, line and character of everything that no statement may say."""
    lines = LineIndex(policy.raw.decode("utf-8"))
    known = {dataset.id: dataset for dataset in policy.dataset}
    for i, computation in enumerate(policy.computation):
        if computation.run == "sql":
            inputs = seen_by(computation, [known[name] for name in computation.inputs])
            yield from _problems(
                f"computation[{i}].parameters.statement", computation, inputs, lines
            )


def _problems(
    path: str, computation: Computation, inputs: list[Dataset], lines: LineIndex
) -> Iterator[Problem]:
    from policy.sql import statement_faults  # a parser of 9 MB, which few policies need

    given = computation.parameters["statement"]
    assert isinstance(given, Fixed)  # as `policy.computations` demands
    for fault in statement_faults(str(given.value), inputs, names_bound(computation)):
        found = f"{fault.reason}, at character {fault.at}"
        yield Problem(path, lines.find(path), "agreed SQL", found, fault.fix)


def names_bound(computation: Computation) -> tuple[str, ...]:
    """Parameters that stand as $name in the statement."""
    return tuple(bound(computation.run, dict.fromkeys(computation.parameters, "")))
