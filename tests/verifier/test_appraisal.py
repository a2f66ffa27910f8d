"""T25: accept or a typed refusal, nothing between; a check that did not run is no check."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import Any, NoReturn

import pytest

from tests.support.refusal import refused
from tests.verifier.world import AT, World
from verifier import contents, verify
from verifier.acceptance import accept
from verifier.appraisal_log import AppraisalLog
from verifier.files import FileUnreadable
from verifier.qe import QeIdentity
from verifier.quote import Quote
from verifier.tcb import TcbInfo
from verifier.validity import CollateralWindow

# Where each check does its work; one line for each link of the chain.
STEPS: dict[str, tuple[object, str]] = {
    "quote-format": (Quote, "parse"),
    "pck-chain": (verify, "authenticate_pck_chain"),
    "qe-report-signature": (verify, "verify_qe_report_signature"),
    "key-binding": (verify, "verify_attestation_key_binding"),
    "quote-signature": (verify, "verify_quote_signature"),
    "root-crl": (contents, "authenticate_crl"),
    "pck-crl": (contents, "authenticate_crl_issuer"),
    "tcb-info": (contents, "authenticate_tcb_info"),
    "qe-identity": (contents, "authenticate_qe_identity"),
    "validity": (CollateralWindow, "require"),
    "platform-match": (TcbInfo, "require_platform"),
    "qe-match": (QeIdentity, "require_described"),
    "qe-level": (QeIdentity, "level_of"),
    "tcb-level": (verify, "evaluate"),
}


def test_every_check_has_a_step() -> None:
    assert list(STEPS) == [check.value for check in verify.QuoteCheck]


@pytest.mark.parametrize("check", STEPS)
def test_an_error_in_any_step_is_the_verdict(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T25: swallowed once, an error of one check would be overwritten by the next that passes."""
    world = World.create()  # nothing of it is remembered yet
    place, name = STEPS[check]

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise FileUnreadable("step", expected="to pass", found="an injected error")

    with monkeypatch.context() as patched:
        patched.setattr(place, name, refuse)
        with refused(FileUnreadable, check=check):
            world.verify()
    with monkeypatch.context() as patched:
        patched.setattr(place, name, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.verify()
    accept(world.verify(at=AT))


class Two(StrEnum):
    FIRST = "first"
    SECOND = "second"


def test_a_check_that_was_left_out_leaves_no_appraisal() -> None:
    log = AppraisalLog(Two)
    with pytest.raises(AssertionError):
        log.check(Two.SECOND)
    with log.check(Two.FIRST):
        pass
    with pytest.raises(AssertionError):
        log.close()
    with log.check(Two.SECOND):
        pass
    assert log.close().stopped_at is None


def test_a_check_that_failed_cannot_be_closed_over() -> None:
    """T25: whoever swallows a refusal and goes on gets no appraisal in the end."""
    log = AppraisalLog(Two)
    for check in Two:
        with suppress(FileUnreadable), log.check(check):
            if check is Two.FIRST:
                raise FileUnreadable("step", expected="to pass", found="an injected error")
    with pytest.raises(AssertionError):
        log.close()
