"""Verify Intel SGX and TDX quotes: is this evidence genuine, and how current is the platform?

    verified = verify_quote(raw, collateral, roots=TrustAnchors.intel(), at=now)
    verified.quote.report.mr_enclave    # verified from here on
    accept(verified)                    # refuses debug enclaves and unpatched platforms

Bytes, collateral, a root and an instant go in, a `VerifiedQuote` or a typed refusal comes out:
no network, no clock, no environment. Which enclave you *want* is another question: see
`policy.admission`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verifier.acceptance import AcceptanceCheck, accept
    from verifier.anchors import Mode, TrustAnchors
    from verifier.appraisal import Appraisal
    from verifier.collateral import Collateral
    from verifier.forms import find_quote
    from verifier.pck import PlatformIdentity
    from verifier.quote import EnclaveReport, MrEnclave, MrSigner, Quote, Tee, strip_file_padding
    from verifier.tcb import TcbStatus, TcbVerdict
    from verifier.td import TdReport
    from verifier.validity import CollateralWindow
    from verifier.verify import QuoteCheck, VerifiedQuote, verify_quote

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: verifier"

__all__ = [
    "AcceptanceCheck",
    "Appraisal",
    "Collateral",
    "CollateralWindow",
    "EnclaveReport",
    "Mode",
    "MrEnclave",
    "MrSigner",
    "PlatformIdentity",
    "Quote",
    "QuoteCheck",
    "TcbStatus",
    "TcbVerdict",
    "TdReport",
    "Tee",
    "TrustAnchors",
    "VerifiedQuote",
    "accept",
    "find_quote",
    "strip_file_padding",
    "verify_quote",
]
# Loaded when asked for: every command imports this package, and `ratls --help` needs none of it.
_HOMES = (
    "acceptance",
    "anchors",
    "appraisal",
    "collateral",
    "forms",
    "pck",
    "quote",
    "tcb",
    "td",
    "validity",
    "verify",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"verifier.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
