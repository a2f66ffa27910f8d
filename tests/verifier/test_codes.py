"""The codes that other programs rely on: unique, and mapped to the names that others use."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.error_page import leaves
from verifier import errors
from verifier.errors import (
    CollateralFetchError,
    CollateralRollbackError,
    ConfigError,
    EventLogError,
    EventLogFormatError,
    Exit,
    ModeMismatchError,
    QuoteFormError,
    RatlsError,
)
from verifier.gramine.errors import EnclaveSignatureError, MeasuredFormatError, MeasurementError

CODES = json.loads((Path(__file__).parent.parent / "vectors" / "codes.json").read_text("utf-8"))
LEAVES = leaves("verifier")


def test_each_code_belongs_to_one_leaf_and_says_what_to_do() -> None:
    assert len({leaf.code for leaf in LEAVES}) == len(LEAVES)
    for leaf in LEAVES:
        assert leaf.__doc__
        assert leaf.default_fix, leaf
        assert leaf.exit_status not in (Exit.BUG, Exit.YES)


def test_a_branch_is_never_raised() -> None:
    """A branch has no code, so nobody could tell which check refused."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, RatlsError) and not kind.code:
            try:
                kind("thing", expected="x", found="y")
            except TypeError:
                continue
            raise AssertionError(f"{kind.__name__} can be raised")


def test_every_verdict_has_its_exit_status_and_a_class() -> None:
    # Fetching, the log of a guest and the build of an enclave decide nothing about a quote: no
    # verdicts. Nor does what holds no quote.
    others = ConfigError | ModeMismatchError | CollateralFetchError | CollateralRollbackError
    others |= EventLogFormatError | EventLogError | QuoteFormError
    others |= MeasuredFormatError | EnclaveSignatureError | MeasurementError
    verdicts: dict[str, list[str]] = {}
    for leaf in LEAVES:
        if not issubclass(leaf, others):
            verdicts.setdefault(str(int(leaf.exit_status)), []).append(leaf.code)
    assert {status: sorted(codes) for status, codes in verdicts.items()} == CODES["exit"]
    known = {code for codes in verdicts.values() for code in codes}
    assert {code for codes in CODES["dcap"].values() for code in codes} == known
    assert {code for codes in CODES["vectors"].values() for code in codes} <= known
