"""The names of the checks of a quote."""

from __future__ import annotations

from enum import StrEnum


class QuoteCheck(StrEnum):
    """The checks, in the order in which they run.

    First the quote against the root alone: what fails there is forged, at any time. Then what
    Intel says, and whether all of it covers the instant; only then what it says is used, so
    that an old bundle leads to `undecided` and not to a verdict about the platform.
    """

    QUOTE_FORMAT = "quote-format"
    PCK_CHAIN = "pck-chain"
    QE_REPORT_SIGNATURE = "qe-report-signature"
    KEY_BINDING = "key-binding"
    QUOTE_SIGNATURE = "quote-signature"
    ROOT_CRL = "root-crl"
    PCK_CRL = "pck-crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    VALIDITY = "validity"
    PLATFORM_MATCH = "platform-match"
    QE_MATCH = "qe-match"
    QE_LEVEL = "qe-level"
    TCB_LEVEL = "tcb-level"
