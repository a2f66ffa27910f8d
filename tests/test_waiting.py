"""No test ends before its time on a busy machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import HANG_LIMIT, eventually, given_time

FOLDER = Path(__file__).parent
WAITING = {"acquire", "communicate", "join", "settimeout", "wait"}


def limits(tree: ast.AST) -> Iterator[tuple[int, float]]:
    """Each time limit that is written as a number: line, seconds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("deadline", "timeout"):
            value: ast.expr = node.value
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") in WAITING
            and len(node.args) == 1
        ):
            value = node.args[0]
        else:
            continue
        if isinstance(value, ast.Constant) and type(value.value) in (int, float):
            yield value.lineno, value.value


def test_what_would_end_a_slow_test_takes_ten_minutes() -> None:
    """Less than a second is a limit of the product under test, or a pause before asking again."""
    files = [*FOLDER.rglob("test_*.py"), *FOLDER.rglob("support/*.py")]
    assert len(files) > 100
    assert HANG_LIMIT >= 600
    short = [
        f"{path.relative_to(FOLDER)}:{line}: {seconds} s"
        for path in files
        for line, seconds in limits(ast.parse(path.read_text("utf-8")))
        if 1 <= seconds < HANG_LIMIT
    ]
    assert short == []


def test_what_is_not_there_yet_is_asked_for_again() -> None:
    answers: Iterator[object] = iter([OSError(), None, "here"])

    def ask() -> object:
        if isinstance(answer := next(answers), OSError):
            raise answer
        return answer

    assert eventually(ask, OSError) == "here"


def test_a_limit_under_test_is_doubled_until_it_suffices() -> None:
    given: list[float] = []

    def attempt(seconds: float) -> float:
        given.append(seconds)
        if seconds < 4:
            raise TimeoutError
        return seconds

    assert given_time(attempt, 1, TimeoutError) == 4
    assert given == [1, 2, 4]
