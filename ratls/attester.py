"""Where quotes come from: the one question that an attester answers.

`ratls.evidence.make_evidence` is the only caller of `Attester.quote`: whoever could have
other bytes quoted could have evidence made that this project never wrote.
"""

from __future__ import annotations

from typing import Protocol

from verifier.anchors import Mode


class Attester(Protocol):
    """The hardware, or its simulation, that vouches for the running enclave.

    With the enclave, the attester of RFC 9334, section 4.1.
    """

    mode: Mode

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote whose report carries exactly these 64 bytes.

        They are the `sgx_report_data_t` of `sgx_report.h`.
        """
        ...
