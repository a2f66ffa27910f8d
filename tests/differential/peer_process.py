"""`dcap-qvl` in a process of its own: frames of a question on stdin, a JSON line each on stdout.

Some inputs end its process (a panic that cannot unwind); nobody else's must end with it.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import BinaryIO

import dcap_qvl

FRAME = struct.Struct("<qIII")  # instant; sizes of root (0: the built-in one), quote and bundle
MEMBERS = (
    *("pck_crl_issuer_chain", "root_ca_crl", "pck_crl"),
    *("tcb_info_issuer_chain", "tcb_info", "tcb_info_signature"),
    *("qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"),
)
_HEXADECIMAL = {"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"}


def answer(root: bytes, quote: bytes, bundle: bytes, at: int) -> dict[str, object]:
    """Its status and advisories, or its reason; a bundle is read leniently, as its client would."""
    try:
        members = json.loads(bundle)
        parts = (
            bytes.fromhex(members[name]) if name in _HEXADECIMAL else members[name]
            for name in MEMBERS
        )
        collateral = dcap_qvl.QuoteCollateralV3(*parts)
        if root:
            report = dcap_qvl.verify_with_root_ca(quote, collateral, root, at)
        else:
            report = dcap_qvl.verify(quote, collateral, at)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        return {"reason": " ".join(str(error).split())}
    except BaseException as error:
        # A panic that does unwind arrives as a BaseException of the binding's own.
        if type(error).__name__ != "PanicException":
            raise
        return {"reason": f"panic: {error}", "crashed": True}
    return {"status": report.status, "advisories": report.advisory_ids}


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the other side closes the pipe."""
    while head := source.read(FRAME.size):
        at, *sizes = FRAME.unpack(head)
        root, quote, bundle = (source.read(size) for size in sizes)
        sink.write(json.dumps(answer(root, quote, bundle, at)).encode() + b"\n")
        sink.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
