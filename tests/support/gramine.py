"""A stand-in for Gramine's `/dev/attestation`, by its known behaviour, on a simulated platform.

    device = StandInDevice(world.platform)
    GramineAttester(device.files).quote(report_data)
    GramineAttester(StandInDevice(world.platform, kind="none").files)      # refused

It answers only the four calls that reach the device, so the attester's own reading and writing
is what is tested. Reports and quotes are made at open, over one variable that anyone may set.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ratls.gramine import DEVICE, AttestationDevice
from simulation.platform import Platform
from simulation.quote import ReportForm

Alter = Callable[[bytes], bytes]
MR_ENCLAVE = b"\xc3" * 32
WRITABLE = {"user_report_data", "target_info"}
PRESENT = WRITABLE | {"attestation_type", "my_target_info", "report", "quote"}


@dataclass
class StandInDevice:
    """`ratls.gramine.FileCalls`. A field that a test sets is the one thing that goes wrong."""

    platform: Platform
    kind: str | None = "dcap"  #  None: gramine-direct, which has only the folder `keys`
    mr_enclave: bytes = MR_ENCLAVE
    refuses: dict[str, int] = field(default_factory=dict)  # file name to errno of its opening
    taken: int | None = None  #   what a write says it took
    breaks: str = ""  #           the file that cannot be read once it is open
    report: Alter = bytes  #      what becomes of the local report
    answer: Alter | None = None  # what the quoting service answers, instead of its genuine answer
    made: int = 0  #              quotes so far
    open_files: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pending = bytes(64)
        self._turn = threading.Event()
        self._numbers = itertools.count(1000)

    @property
    def files(self) -> AttestationDevice:
        """The device, where production looks for it."""
        return AttestationDevice(calls=self)

    def genuine(self, report_data: bytes) -> bytes:
        """The answer of an honest quoting service."""
        return self.platform.quote(report_data, mr_enclave=self.mr_enclave)

    def open(self, path: str, flags: int, /) -> int:
        """The moment at which a report or a quote is made."""
        name = str(Path(path).relative_to(DEVICE))
        if name in self.refuses:
            raise _error(self.refuses[name])
        if self.kind is None or name not in PRESENT or (name, self.kind) == ("quote", "none"):
            raise _error(errno.ENOENT)
        writing = flags == os.O_WRONLY
        assert writing or flags == os.O_RDONLY, "the device is never created or truncated"
        if writing and name not in WRITABLE:
            raise _error(errno.EACCES)
        handle = next(self._numbers)
        self.open_files[handle] = name, b"" if writing else self._load(name)
        return handle

    def _load(self, name: str) -> bytes:
        if name == "attestation_type":
            return (self.kind or "").encode()
        if name == "report":
            form = ReportForm(mr_enclave=self.mr_enclave, report_data=self._pending)
            return self.report(form.encode() + bytes(48))
        assert name == "quote", name
        self._turn.wait(0.001)  # the others' turn: here an attester without a lock is mixed up
        self.made += 1
        return (self.answer or self.genuine)(self._pending)

    def read(self, handle: int, size: int, /) -> bytes:
        """A piece at a time, of what was made at open."""
        name, rest = self.open_files[handle]
        if name == self.breaks:
            raise _error(errno.EIO)
        piece = rest[: min(size, 1000)]
        self.open_files[handle] = name, rest[len(piece) :]
        return piece

    def write(self, handle: int, data: bytes, /) -> int:
        """Replaces the whole value: shorter data is padded, longer cut, neither with an error."""
        name, _ = self.open_files[handle]
        assert name == "user_report_data"
        self._pending = data[:64].ljust(64, b"\0")
        return len(data) if self.taken is None else self.taken

    def close(self, handle: int, /) -> None:
        """Let go; a test may look whether all were."""
        del self.open_files[handle]


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
