"""The interface of an attester, which makes quotes for this enclave.

`ratls.evidence.make_evidence` is the only caller of `Attester.quote`. A second caller could have
evidence made over bytes of another form.
"""

from __future__ import annotations

from typing import Protocol

from verifier.anchors import Mode


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
