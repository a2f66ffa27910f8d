"""What people hand over in place of a quote: each thing by its name, and the command that helps.

    require_no_other(content, "FILE")        # of bytes
    require_no_other_text(content, "FILE")   # of text

Named by what it starts with, and never by its file's name. What is not known here passes, and is
refused where it is read as a quote.
"""

from __future__ import annotations

import re
import shlex

from verifier.errors import QuoteFormError
from verifier.quote import INTEL_QE_VENDOR, described_end

_GET_QUOTE_HEADER = 24  # GHCI 1.5, section 3.3: version, status, and two lengths
_TD_REPORT_SIZE = 1024
_ASK_SERVICE = "ratls attest quote --report-data HEX -o quote.bin"


class NotAQuote(QuoteFormError):
    """Something else than a quote: a report, a log, a certificate, a dump."""

    code = "not-a-quote"
    says = "{thing} is no quote, but {found}"
    default_fix = "name the file that holds the quote itself"


class QuoteTextDamaged(QuoteFormError):
    """A quote, or a text with one, that was converted as text on its way."""

    code = "quote-text-damaged"
    says = "{thing} was damaged on its way: {found}"
    default_fix = "carry the file over again, as binary"


def require_no_other(raw: bytes, name: str) -> None:
    """The bytes are nothing that is known to be something else.

    Args:
        raw: A whole input, or what a text holds.
        name: What the file is called in commands that are recommended.

    Raises:
        NotAQuote: They are.
        QuoteTextDamaged: A quote that was converted as text.
    """
    file = shlex.quote(name)
    _require_not_converted(raw, file)
    if raw[:4] == b"HCLA":
        raise _hcl_report(raw, file)
    if len(raw) == _TD_REPORT_SIZE and raw[:2] == b"\x81\0" and raw[3] == 0:
        raise _other(
            "a TDREPORT, which is good on its own machine alone",
            f"have the quoting service make a quote of it, in the guest: {_ASK_SERVICE}",
        )
    if raw[4:8] == b"\3\0\0\0" and raw[32:48] == b"Spec ID Event03\0":
        raise _other(
            "an event log of a TDX guest (CCEL)",
            f"hold it against the guest's quote: ratls verify eventlog {file} --quote quote.bin",
        )
    if raw[:4] == b"CCEL":
        raise _other(
            "the ACPI table that says where the event log is",
            f"get the quote, in the guest: {_ASK_SERVICE}",
        )
    if raw[:8] == b"\1" + bytes(7) and len(raw) >= _GET_QUOTE_HEADER:
        raise _get_quote(raw, file)
    if raw[:2] == b"\x30\x82" and int.from_bytes(raw[2:4], "big") + 4 == len(raw):
        raise _certificate("a certificate, or another DER structure", file)
    vendor = raw.find(INTEL_QE_VENDOR, 0, 512)
    if vendor > 12:
        raise _other(f"a quote behind {vendor - 12} other bytes", _cut_out(raw, vendor - 12, file))


def _other(found: str, fix: str) -> NotAQuote:
    return NotAQuote("input", expected="a quote", found=found, fix=fix)


def _certificate(found: str, file: str) -> NotAQuote:
    return _other(
        found,
        f"judge a certificate with: ratls verify cert {file} --agreement AGREEMENT "
        "--collateral BUNDLE",
    )


def _hcl_report(raw: bytes, file: str) -> NotAQuote:
    if raw[32:34] != b"\x81\0":
        return _other(
            "an Azure HCL report of another technology than TDX",
            "name a quote: an HCL report is none, and AMD's are not read",
        )
    return _other(
        "an Azure HCL report",
        "get the quote from the guest's IMDS: "
        f"tail -c +33 {file} | head -c 1024 | basenc --base64url -w0 | "
        """sed 's/.*/{"report":"&"}/' | curl -s -H Content-Type:application/json -d @- """
        "http://169.254.169.254/acc/tdquote > quote.json",
    )


def _get_quote(raw: bytes, file: str) -> NotAQuote:
    status, size = raw[8:16], int.from_bytes(raw[20:24], "little")
    vendor = raw.find(INTEL_QE_VENDOR, _GET_QUOTE_HEADER, 512)
    if any(status) or not size or vendor < _GET_QUOTE_HEADER + 12:
        return _other(
            f"the buffer of a GetQuote call that brought none (status {status[::-1].hex()})",
            f"ask again: {_ASK_SERVICE}",
        )
    return _other(
        "the buffer of a GetQuote call, with its header", _cut_out(raw, vendor - 12, file)
    )


def _cut_out(raw: bytes, start: int, file: str) -> str:
    end = described_end(raw[start:])
    return f"cut the quote out: tail -c +{start + 1} {file} | head -c {end} > quote.bin"


def _require_not_converted(raw: bytes, file: str) -> None:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise QuoteTextDamaged(
            "text",
            expected="ASCII",
            found="it is in UTF-16, as some shells redirect it",
            fix=f"write it as plain text: iconv -f utf-16 -t ascii {file} > quote.txt",
        )
    if raw[:3] == b"\xef\xbb\xbf":
        raise QuoteTextDamaged(
            "text",
            expected="nothing before it",
            found="it begins with a byte order mark",
            fix=f"cut that off: tail -c +4 {file} > quote.txt",
        )
    if raw[:2] not in (b"\3\0", b"\4\0", b"\5\0"):
        return
    whole = raw.replace(b"\r\n", b"\n")
    if raw.count(b"\n") == raw.count(b"\r\n") and described_end(whole) == len(whole) < len(raw):
        raise QuoteTextDamaged(
            "quote",
            expected=f"{len(whole)} bytes",
            found=f"each of its {len(raw) - len(whole)} line feeds became CR LF",
            fix=f"undo that: LC_ALL=C sed 's/\\r$//' {file} > quote.bin",
        )
    if b"\xef\xbf\xbd" * 2 in raw[:32]:
        raise QuoteTextDamaged(
            "quote",
            expected="its own bytes",
            found="bytes that were no UTF-8 were replaced",
            fix="that cannot be undone: carry the file over again, as binary",
        )


# Text

_DUMP = re.compile(rb"0{6,8}(:?)([ \t]+)[0-9A-Fa-f]")
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")


def require_no_other_text(text: bytes, name: str) -> None:
    """As `require_no_other`, of a text as it is, not of what it holds.

    Raises:
        NotAQuote: A dump with offsets, certificates, a key, a web page.
    """
    file = shlex.quote(name)
    if (dump := _DUMP.match(text)) is not None:
        if dump[1]:
            fix = f"turn it back: xxd -r {file} quote.bin"
        elif dump[2] == b"  ":
            fix = f"turn it back: sed 's/  */ /g' {file} | xxd -r - quote.bin"
        else:
            fix = "print it again where the quote is, without offsets: xxd -p quote.bin"
        raise _other("a dump with offsets", fix)
    if (label := _LABEL.match(text)) is not None:
        if label[1].endswith(b"CERTIFICATE"):
            raise _certificate("a certificate", file)
        if label[1].endswith((b"KEY", b"CRL", b"REQUEST")):
            raise _other(f"PEM of {label[1].decode()}", NotAQuote.default_fix)
    if text[:1] == b"<":
        raise _other("a web page", "look at it: it may say why the service gave no quote")
