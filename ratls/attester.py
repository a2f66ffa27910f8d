"""The interface of an attester, which makes quotes for this enclave.

`ratls.evidence.make_evidence` is the only caller of `Attester.quote` in an enclave. A second caller
could have evidence made over bytes of another form. `ratls attest quote`, which is not part of an
enclave, refuses report data of the form that evidence has.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from verifier.anchors import Mode
from verifier.quote import MrEnclave


class Attester(Protocol):
    """The hardware, or its simulation, that quotes the running enclave.

    With the enclave, the attester of RFC 9334, section 4.1.
    """

    mode: Mode

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote; its report contains exactly these 64 bytes.

        They are the `sgx_report_data_t` of `sgx_report.h`.
        """
        ...


@runtime_checkable
class KnowsItself(Protocol):
    """An attester that knows, before any quote, which enclave it is in."""

    mr_enclave: MrEnclave


@runtime_checkable
class StatesEvents(Protocol):
    """An attester of a trust domain that knows what was measured at run time."""

    def rtmr3_events(self) -> tuple[bytes, ...]:
        """Digests of 48 bytes that extended RTMR3 until now, the first one first.

        Nobody believes them: a verifier lets them add up to the RTMR3 of the quote.
        """
        ...


def stated_events(attester: Attester) -> tuple[bytes, ...] | None:
    """What the attester states; None where it states nothing."""
    return attester.rtmr3_events() if isinstance(attester, StatesEvents) else None
