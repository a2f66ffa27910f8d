"""The attester of an enclave that runs under Gramine: quotes through `/dev/attestation`.

    attester = GramineAttester()          # refuses anywhere but inside SGX
    attester.quote(report_data)

Gramine makes a quote when the file is *opened*, over what any thread wrote last, and passes
on what the host's quoting service answered without looking at it. So one lock is held from the
write to the close, and what comes back is compared before it is used: docs/gramine.md 2.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ratls.errors import AttesterError, AttesterMixedUp, EvidenceMissingError
from verifier.anchors import Mode
from verifier.errors import Exit, placed
from verifier.quote import MrEnclave, Quote, strip_file_padding
from verifier.text import cause

DEVICE = Path("/dev/attestation")
REPORT_DATA_SIZE = 64  #    `sgx_report_data_t` in `sgx_report.h`
REPORT_SIZE = 432  #        `sgx_report_t` in `sgx_report.h`: 384 bytes of body, key id, MAC
MR_ENCLAVE = slice(64, 96)  # in that body
MAX_FILE = 8192  #          no file of the device is larger; quotes have about 4,700 bytes

# Of the process, not of an attester: the data to be quoted is one variable inside Gramine.
_ONE_AT_A_TIME = threading.Lock()


class FileCalls(Protocol):
    """The four functions of the module `os` that touch the device."""

    def open(self, path: str, flags: int, /) -> int:
        """A descriptor; here the report or the quote is made."""

    def read(self, handle: int, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def write(self, handle: int, data: bytes, /) -> int:
        """Replaces the whole value; the number of bytes taken."""

    def close(self, handle: int, /) -> None:
        """Let go of the descriptor."""


class RemoteAttestationOff(EvidenceMissingError):
    """The enclave's manifest does not ask for DCAP quotes."""

    code = "remote-attestation-off"
    exit_status = Exit.UNUSABLE
    default_fix = 'set sgx.remote_attestation = "dcap" in the manifest, and sign it again'


class SgxAbsent(EvidenceMissingError):
    """This process does not run inside an SGX enclave under Gramine."""

    code = "sgx-absent"
    exit_status = Exit.UNUSABLE  # it is this machine that has no evidence, not a peer
    default_fix = "start the enclave with gramine-sgx; gramine-direct protects nothing"


class QuoteNotMade(AttesterError):
    """The platform or its quoting service could not make a report or a quote."""

    code = "quote-not-made"
    default_fix = "look for the AESM error in Gramine's log on the host"


class AttestationDevice:
    """The files of `/dev/attestation`. The arguments are for tests: production names none."""

    def __init__(self, folder: Path = DEVICE, calls: FileCalls = os) -> None:
        self._folder, self._calls = folder, calls

    def read(self, name: str) -> bytes:
        """The whole of one file, from an open of its own."""
        with self._opened(name, os.O_RDONLY) as handle:
            content = b""
            # One read may bring less than there is, and a quote has no size known beforehand.
            while piece := self._calls.read(handle, MAX_FILE):
                content += piece
                if len(content) > MAX_FILE:
                    raise _unusable(self._folder / name, f"at most {MAX_FILE} bytes", "more")
            return content

    def write(self, name: str, data: bytes) -> None:
        """Replace one file's value by `data`, in a single unbuffered write."""
        with self._opened(name, os.O_WRONLY) as handle:
            # A second write for what is left would not append: it would replace the first.
            taken = self._calls.write(handle, data)
            if taken != len(data):
                raise _unusable(self._folder / name, f"{len(data)} bytes taken", str(taken))

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        path = self._folder / name
        try:
            handle = self._calls.open(str(path), flags)
            try:
                yield handle
            finally:
                self._calls.close(handle)
        except OSError as error:
            found = cause(error)
            if error.errno == errno.ENOENT and name == "quote":
                raise RemoteAttestationOff(str(path), expected="a file", found=found) from error
            if error.errno == errno.ENOENT:
                raise SgxAbsent(str(path), expected="a file", found=found) from error
            if error.errno == errno.EACCES:
                raise QuoteNotMade(str(path), expected="a file that opens", found=found) from error
            raise _unusable(path, "a file that works", found) from error


class AttestationDeviceUnusable(AttesterError):
    """A file of the attestation device does not behave as Gramine documents."""

    code = "attestation-device-unusable"
    default_fix = "run the enclave under the Gramine version that its manifest was made for"


def _unusable(path: Path, expected: str, found: str) -> AttestationDeviceUnusable:
    return AttestationDeviceUnusable(str(path), expected=expected, found=found)


class QuoteOfAnotherEnclave(AttesterError):
    """The host's quoting service answered with a quote of another enclave."""

    code = "quote-of-another-enclave"
    default_fix = "restart the host's quoting service; if it happens again, use another host"


class GramineAttester:
    """Implements `ratls.attester.Attester` with the processor's own quotes."""

    mode: Mode = Mode.PRODUCTION

    def __init__(self, device: AttestationDevice | None = None) -> None:
        """Read this enclave's measurement, and check that its platform makes quotes.

        Raises:
            SgxAbsent: Not in SGX. The host may have chosen that, so nothing is served instead.
            RemoteAttestationOff: The manifest asks for no DCAP quotes.
            QuoteNotMade, AttestationDeviceUnusable: The device does not work.
        """
        self._device = device or AttestationDevice()
        with _ONE_AT_A_TIME:
            report = self._device.read("report")
            kind = self._device.read("attestation_type")
        if len(report) != REPORT_SIZE:
            raise AttestationDeviceUnusable(
                "local report", expected=f"{REPORT_SIZE} bytes", found=str(len(report))
            )
        if kind != b"dcap":
            raise RemoteAttestationOff(
                "attestation type", expected="dcap", found=kind.decode("ascii", "replace")
            )
        self.mr_enclave = MrEnclave(report[MR_ENCLAVE])

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote of this enclave over exactly these 64 bytes.

        Raises:
            AttesterMixedUp: The quote that came back is over other bytes.
            QuoteOfAnotherEnclave: It is about another enclave.
            QuoteFormatError: It is no quote.
            AttesterError, RemoteAttestationOff: None was made.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            # The device would silently pad or cut it, and quote something else.
            raise ValueError(f"report_data has {REPORT_DATA_SIZE} bytes")
        with _ONE_AT_A_TIME:
            self._device.write("user_report_data", report_data)
            raw = self._device.read("quote")
        # Producers pad; a quote inside evidence has its exact length.
        raw = strip_file_padding(raw)
        with placed("quote from this machine"):
            report = Quote.parse(raw).enclave
        if report.report_data != report_data:
            raise AttesterMixedUp(
                "attester", expected="a quote over what was asked", found="a quote over other bytes"
            )
        if report.mr_enclave != self.mr_enclave:
            raise QuoteOfAnotherEnclave(
                "quote from this machine",
                expected=f"of enclave {self.mr_enclave}",
                found=str(report.mr_enclave),
            )
        return raw
