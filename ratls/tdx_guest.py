"""The attester of a TDX guest: quotes through the kernel's `configfs-tsm`.

    attester = TdxAttester()          # refuses anywhere but inside a trust domain
    attester.quote(report_data)

The kernel's text is `Documentation/ABI/testing/configfs-tsm-report`: a folder made below
`/sys/kernel/config/tsm/report` is a request; what is written to its `inblob` goes into the report,
and reading its `outblob` has the host's quoting service make a quote. Each call makes a folder of
its own, as the text advises, so that nobody else writes into it; and `generation`, which counts
writes, says whether somebody did. An error of the write never arrives here: the kernel takes
`inblob` when the file is closed, and drops what that returns. What comes back is compared with what
was asked, and with the guest's own registers: tdx.md 2. Since Linux 6.16 they are files, too
(`Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`); before, they are taken from the
first quote.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, Protocol

from policy.trust_domain import MAX_EVENTS
from ratls.errors import AttesterError, AttesterMixedUp, EvidenceMissingError
from ratls.gramine import FileCalls, QuoteNotMade
from verifier.anchors import Mode
from verifier.errors import Exit, placed
from verifier.event_log import REGISTER_SIZE, replay
from verifier.files import read_file
from verifier.quote import MAX_SIZE, Quote, QuoteUnsupported, strip_file_padding
from verifier.td import TdReport
from verifier.text import cause

REPORTS = Path("/sys/kernel/config/tsm/report")
MEASUREMENTS = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
PROVIDER = b"tdx_guest"
REPORT_DATA_SIZE = 64
_DIGEST = re.compile(r"[0-9a-f]{96}", re.ASCII)
_MAX_FILE = MAX_SIZE  # quotes have about 5,000 bytes; the kernel's own limit is larger
# One request at a time is with the host, for the whole guest. The kernel waits 30 s for an answer;
# a request that it gave up keeps the place until the host does answer.
_TRIES, _WAIT = 10, 0.5  # seconds between tries

# Of the process: the kernel would let two threads wait for each other with an error for one.
_ONE_AT_A_TIME = threading.Lock()

# What cannot change while a guest runs, by the kernel's names; RTMR3 is for what is measured later.
_FILES = MappingProxyType({
    "mr_td": "mrtd:sha384",
    "rtmr0": "rtmr0:sha384",
    "rtmr1": "rtmr1:sha384",
    "rtmr2": "rtmr2:sha384",
    "mr_config_id": "mrconfigid",
    "mr_owner": "mrowner",
    "mr_owner_config": "mrownerconfig",
})  # fmt: skip
_FIXED = (*_FILES, "td_attributes", "xfam")


class FolderCalls(FileCalls, Protocol):
    """The functions of the module `os` that touch `configfs`."""

    def mkdir(self, path: str, mode: int, /) -> None:
        """Make a request: the kernel puts its files into the new folder."""

    def rmdir(self, path: str, /) -> None:
        """End a request."""


class TdxAbsent(EvidenceMissingError):
    """This process does not run inside a TDX guest whose kernel makes reports."""

    code = "tdx-absent"
    exit_status = Exit.UNUSABLE  # it is this machine that has no evidence, not a peer
    default_fix = (
        "start it inside a TDX guest with a kernel of 6.7 or later, the module tdx_guest loaded "
        "and configfs mounted at /sys/kernel/config"
    )


class TdxNotPermitted(AttesterError):
    """The kernel lets only its administrator ask for reports."""

    code = "tdx-not-permitted"
    default_fix = "run it as root of the guest, or give that user /sys/kernel/config/tsm/report"


class TdxReportUnusable(AttesterError):
    """A file of the kernel's report interface does not behave as the kernel documents."""

    code = "tdx-report-unusable"
    default_fix = "look at the guest's kernel log (dmesg); use a kernel of 6.7 or later"


class TdxReportBusy(AttesterError):
    """An earlier request of this guest is still with the host's quoting service."""

    code = "tdx-report-busy"
    default_fix = "restart the host's quoting service (qgsd), then try again"


class QuoteOfAnotherDomain(AttesterError):
    """The host's quoting service answered with a quote of another trust domain."""

    code = "quote-of-another-domain"
    default_fix = "restart the host's quoting service; if it happens again, use another host"


class ReportFolder:
    """`/sys/kernel/config/tsm/report`. The arguments are for tests: production names none."""

    def __init__(
        self,
        folder: Path = REPORTS,
        calls: FolderCalls = os,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._calls, self._wait = folder, calls, wait

    def registers(self) -> dict[str, bytes]:
        """This guest's own, by their names in a quote; none from a kernel before 6.16."""
        found: dict[str, bytes] = {}
        for name, file in _FILES.items():
            try:
                found[name] = self._read(MEASUREMENTS / file)
            except TdxAbsent:
                if found:  # all of them or none
                    raise
                return {}
            if len(found[name]) != REGISTER_SIZE:
                raise TdxReportUnusable(
                    str(MEASUREMENTS / file),
                    expected=f"{REGISTER_SIZE} bytes",
                    found=str(len(found[name])),
                )
        return found

    def quote(self, report_data: bytes) -> bytes:
        """What the host's quoting service answers over these 64 bytes; not looked at."""
        with _ONE_AT_A_TIME, self._request() as request:
            provider = self._read(request / "provider").rstrip(b"\n")
            if provider != PROVIDER:
                raise TdxAbsent(
                    str(request / "provider"),
                    expected=PROVIDER.decode(),
                    found=ascii(provider.decode("latin-1")),
                )
            before = self._generation(request)
            self._write(request / "inblob", report_data)
            raw = self._when_free(request / "outblob")
            after = self._generation(request)
        if after != before + 1:
            # Somebody else wrote here too, or our write was dropped: whose quote is this?
            raise AttesterMixedUp(
                "attester", expected="one write, ours", found=f"{after - before} writes"
            )
        return raw

    @contextmanager
    def _request(self) -> Iterator[Path]:
        """A folder that is made for one request and removed again."""
        # A name that nobody else guesses, and that a crash leaves behind without harm.
        request = self._folder / f"ratls-{secrets.token_hex(8)}"
        with _named(self._folder):
            self._calls.mkdir(str(request), 0o700)
        try:
            yield request
        finally:
            with suppress(OSError):  # the answer counts, not the folder
                self._calls.rmdir(str(request))

    def _generation(self, request: Path) -> int:
        text = self._read(request / "generation").strip()
        if not text.isdigit():
            raise TdxReportUnusable(
                str(request / "generation"),
                expected="a number",
                found=ascii(text.decode("latin-1")[:40]),
            )
        return int(text)

    def _when_free(self, path: Path) -> bytes:
        """Read `outblob`; while an earlier request is with the host, again."""
        for _ in range(_TRIES - 1):
            with suppress(TdxReportBusy):
                return self._read(path)
            self._wait(_WAIT)
        return self._read(path)

    def _read(self, path: Path) -> bytes:
        with self._opened(path, os.O_RDONLY) as handle:
            content = b""
            while piece := self._calls.read(handle, _MAX_FILE):
                content += piece
                if len(content) > _MAX_FILE:
                    raise TdxReportUnusable(
                        str(path), expected=f"at most {_MAX_FILE} bytes", found="more"
                    )
            return content

    def _write(self, path: Path, data: bytes) -> None:
        """Write all of it at once, and close: only then the kernel takes it."""
        with self._opened(path, os.O_WRONLY) as handle:
            taken = self._calls.write(handle, data)
            if taken != len(data):
                raise TdxReportUnusable(
                    str(path), expected=f"{len(data)} bytes taken", found=str(taken)
                )

    @contextmanager
    def _opened(self, path: Path, flags: int) -> Iterator[int]:
        with _named(path):
            handle = self._calls.open(str(path), flags)
            try:
                yield handle
            finally:
                self._calls.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Each error of the kernel becomes the refusal that says what to do."""
    try:
        yield
    except OSError as error:
        _refuse(path, error)


def _refuse(path: Path, error: OSError) -> NoReturn:
    found, number, thing = cause(error), error.errno, str(path)
    if number in (errno.ENOENT, errno.ENXIO, errno.ENOTTY, errno.ENODEV):
        # No configfs or an older kernel; no provider registered; a provider that has gone.
        raise TdxAbsent(thing, expected="reports of a TDX guest", found=found) from error
    if number in (errno.EACCES, errno.EPERM):
        raise TdxNotPermitted(thing, expected="a folder to write in", found=found) from error
    if number in (errno.EBUSY, errno.EINTR):
        raise TdxReportBusy(thing, expected="no earlier request", found=found) from error
    if number == errno.EAGAIN:  # written to 2^64 times without a read, or just now by another
        raise AttesterMixedUp("attester", expected="one write, ours", found=found) from error
    if number in (errno.ETIMEDOUT, errno.EIO):
        raise QuoteNotMade(
            thing,
            expected="a quote",
            found=found,
            fix="look whether the host's quoting service (qgsd) runs and reaches this guest",
        ) from error
    raise TdxReportUnusable(thing, expected="a file that works", found=found) from error


class TdxAttester:
    """Implements `ratls.attester.Attester` with the quotes of the guest it runs in."""

    mode: Mode = Mode.PRODUCTION

    def __init__(self, reports: ReportFolder | None = None, *, events: Path | None = None) -> None:
        """Have a first quote made: it says which guest this is, and that quotes are made at all.

        It is over 64 zero bytes, the digest of no claims, so that it is evidence of nothing.

        Args:
            events: The file in which the guest keeps what extended RTMR3, a digest a line; None:
                nothing is stated of that. It is read anew each time.

        Raises:
            TdxAbsent: Not in a TDX guest. Nothing is served instead.
            TdxNotPermitted, TdxReportUnusable, TdxReportBusy, QuoteNotMade: No quote is made.
            RunTimeEventsUnfit: The file of events does not explain RTMR3.
            AttesterMixedUp, QuoteOfAnotherDomain, QuoteFormatError: As `quote`.
        """
        self._reports = reports or ReportFolder()
        self._own: dict[str, object] = {**self._reports.registers()}
        report = self._checked(bytes(REPORT_DATA_SIZE))[1]
        self._own = {name: getattr(report, name) for name in _FIXED}
        if events is not None:
            self.rtmr3_events = partial(_read_events, events)
            if replay(self.rtmr3_events()) != report.rtmr3:
                raise RunTimeEventsUnfit(
                    str(events), expected=f"RTMR3 {report.rtmr3.hex()}", found="another value"
                )

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote of this guest over exactly these 64 bytes.

        Raises:
            AttesterMixedUp: The quote that came back is over other bytes.
            QuoteOfAnotherDomain: It is about another trust domain.
            QuoteFormatError: It is no quote of a trust domain.
            AttesterError, TdxAbsent: None was made.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            # The kernel refuses another length, but only where the quote is read.
            raise ValueError(f"report_data has {REPORT_DATA_SIZE} bytes")
        return self._checked(report_data)[0]

    def _checked(self, report_data: bytes) -> tuple[bytes, TdReport]:
        raw = strip_file_padding(self._reports.quote(report_data))
        if not raw:  # the kernel passes on an error of the host's service as no bytes at all
            raise QuoteNotMade(
                "quote from this guest",
                expected="a quote",
                found="an empty answer",
                fix="look at the host's quoting service (qgsd): it answered with an error",
            )
        with placed("quote from this guest"):
            report = Quote.parse(raw).report
            if not isinstance(report, TdReport):
                raise QuoteUnsupported("quote", expected="a TDX domain's", found="an enclave's")
        if report.report_data != report_data:
            raise AttesterMixedUp(
                "attester", expected="a quote over what was asked", found="a quote over other bytes"
            )
        for name, own in self._own.items():
            if getattr(report, name) != own:
                raise QuoteOfAnotherDomain(
                    "quote from this guest", expected=f"its own {name}", found="another one"
                )
        return raw, report


class RunTimeEventsUnfit(AttesterError):
    """The file of what was measured at run time cannot be read, or does not explain RTMR3."""

    code = "run-time-events-unfit"
    default_fix = "write each digest that extended RTMR3 into it, in order: 96 hex digits a line"


def _read_events(path: Path) -> tuple[bytes, ...]:
    lines = read_file(path, cap=_MAX_FILE).decode("ascii", "replace").splitlines()
    if len(lines) > MAX_EVENTS or not all(_DIGEST.fullmatch(line) for line in lines):
        raise RunTimeEventsUnfit(
            str(path), expected=f"at most {MAX_EVENTS} lines of 96 hex digits", found="others"
        )
    return tuple(map(bytes.fromhex, lines))
