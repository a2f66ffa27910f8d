"""T04: in which forms a quote may come, what else people hand over, and what is no form at all."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import count_refusal, refused
from tests.verifier.world import world
from verifier import Quote, find_quote, strip_file_padding
from verifier.errors import QuoteFormatError
from verifier.forms import QuoteMemberUnclear, QuoteTextMalformed, parse_path, path_text
from verifier.no_quotes import NotAQuote, QuoteTextDamaged
from verifier.quote import MIN_SIZE, QuoteMalformed, QuoteNotBytes
from verifier.verify import QuoteCheck

W = world()
SGX, TD = W.quote(), W.platform.td_quote()
TD5 = W.platform.td_quote(version=5)
HEX, BASE64 = TD.hex().encode(), base64.b64encode(TD)
# Of lengths that are known: no padding, and two characters of it.
WHOLE = base64.b64encode(TD + bytes(-len(TD) % 3))
TWO_PADDED = base64.b64encode(TD + bytes((1 - len(TD)) % 3))
URL = base64.urlsafe_b64encode(TD)


def wrapped(text: bytes, width: int = 60, end: bytes = b"\n") -> bytes:
    return b"".join(text[at : at + width] + end for at in range(0, len(text), width))


def armoured(body: bytes, label: bytes = b"QUOTE", other: bytes | None = None) -> bytes:
    last = label if other is None else other
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, body, last)


FORMS: list[Any] = [
    pytest.param(HEX, "hexadecimal", id="hex"),
    pytest.param(HEX.upper(), "hexadecimal", id="upper-case"),
    pytest.param(b"0x" + HEX, "hexadecimal", id="0x"),
    pytest.param(b"0X" + HEX + b"\n", "hexadecimal", id="0X-line"),
    pytest.param(wrapped(HEX), "hexadecimal", id="xxd-p"),
    pytest.param(wrapped(HEX, end=b"\r\n"), "hexadecimal", id="CRLF-lines"),
    pytest.param(wrapped(HEX, 2, b" "), "hexadecimal", id="spaced"),
    pytest.param(BASE64, "base64", id="base64"),
    pytest.param(BASE64.rstrip(b"="), "base64", id="base64-unpadded"),
    pytest.param(wrapped(BASE64, 76), "base64", id="base64-wrapped"),
    pytest.param(URL, "base64url", id="base64url"),
    pytest.param(URL.rstrip(b"="), "base64url", id="base64url-unpadded"),
    pytest.param(wrapped(URL, 64, b"\r\n"), "base64url", id="base64url-wrapped"),
    pytest.param(armoured(wrapped(BASE64, 64)), "PEM of QUOTE", id="PEM"),
    pytest.param(
        b"\n" + armoured(BASE64 + b"\r\n", b"INTEL TDX QUOTE"), "PEM of INTEL TDX QUOTE", id="PEM-2"
    ),
]


@pytest.mark.parametrize(("text", "form"), FORMS)
def test_a_form_in_which_quotes_come(text: bytes, form: str) -> None:
    found = find_quote(text)
    assert (found.raw, found.form) == (TD, form)


@pytest.mark.parametrize("raw", [SGX, TD, TD5], ids=["version-3", "version-4", "version-5"])
def test_bytes_stay_what_they_are(raw: bytes) -> None:
    assert find_quote(raw).raw is raw
    assert find_quote(raw).form == "raw"
    padded = find_quote(raw + bytes(307))
    assert (padded.raw, padded.form) == (raw, "raw, padded with 307 zero bytes")
    assert find_quote(raw.hex().encode()).raw == raw
    assert find_quote(base64.b64encode(raw + bytes(5))).form == "base64, padded with 5 zero bytes"


@given(st.sampled_from([SGX, TD, TD5]), st.integers(0, 90), st.data())
def test_whichever_way_a_quote_is_written_it_is_the_same_quote(
    raw: bytes, padding: int, data: st.DataObject
) -> None:
    write = data.draw(
        st.sampled_from([bytes.hex, lambda r: base64.b64encode(r).decode(), _url_text, list])
    )
    value: Any = write(raw + bytes(padding))
    if data.draw(st.booleans()):
        for step in data.draw(st.lists(st.text(max_size=5) | st.none(), max_size=4)):
            value = [value] if step is None else {step: value, step + "'": 1.5}
        content = json.dumps(value).encode()
    else:
        text = value if isinstance(value, str) else raw.hex()
        content = wrapped(text.encode(), data.draw(st.integers(1, 200)))
    assert find_quote(content).raw == raw


def _url_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(
    st.binary(max_size=400)
    | st.text(max_size=400).map(str.encode)
    | st.from_regex(rb"[0-9a-fA-F+/=_\s{}\[\]\",:-]{0,300}")
)
def test_anything_is_a_quote_to_be_parsed_or_a_refusal(content: bytes) -> None:
    count_refusal()
    try:
        found = find_quote(content)
    except QuoteFormatError:
        return
    assert found.raw == content or found.form != "raw"


@given(st.integers(0, len(BASE64) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_one_letter_of_a_text_is_another(place: int, letter: str) -> None:
    """What comes out is never another reading of the same bytes: strict in the whole input."""
    altered = BASE64[:place] + letter.encode() + BASE64[place + 1 :]
    count_refusal()
    try:
        found = find_quote(altered)
    except QuoteFormatError:
        return
    packed = altered.translate(None, b" \t\r\n")
    # An `A` in the place of a `=` is a zero byte after the quote.
    padded = [found.raw + bytes(zeros) for zeros in range(3)]
    again = [
        encode(raw) for raw in padded for encode in (base64.b64encode, base64.urlsafe_b64encode)
    ]
    assert packed.rstrip(b"=") in [text.rstrip(b"=") for text in again]


# No form at all

NO_FORM: list[Any] = [
    pytest.param(HEX + b"\n" + BASE64, id="two-forms"),
    pytest.param(HEX[:-1], id="odd-hex"),
    pytest.param(b"0x0x" + HEX, id="0x-twice"),
    pytest.param(HEX[:100] + b"0x" + HEX[100:], id="0x-inside"),
    pytest.param(HEX[:100] + b":" + HEX[100:], id="colon"),
    pytest.param(BASE64[:-9] + b"+-" + BASE64[-7:], id="two-alphabets"),
    pytest.param(b"=" + BASE64, id="padding-first"),
    pytest.param(BASE64 + b"=", id="too-much-padding"),
    pytest.param(WHOLE[:-3] + b"=", id="odd-padding"),
    pytest.param(TWO_PADDED[:-1], id="half-padding"),
    pytest.param(WHOLE + b"=", id="padding-of-nothing"),
    pytest.param(TWO_PADDED[:-3] + b"B==", id="bits-in-the-end"),
    pytest.param(b"'" + BASE64 + b"'", id="quoted"),
    pytest.param(b"hello world", id="words"),
    pytest.param(b"Hello, world!", id="sentence"),
    pytest.param(BASE64[:1000], id="short"),
    pytest.param(armoured(BASE64, other=b"OTHER"), id="PEM-other-end"),
    pytest.param(armoured(BASE64) + armoured(BASE64), id="PEM-twice"),
    pytest.param(armoured(BASE64) + b"more", id="PEM-and-more"),
    pytest.param(b"Quote:\n" + armoured(BASE64), id="PEM-after-text"),
    pytest.param(armoured(BASE64[:40] + b"#" + BASE64[41:]), id="PEM-no-base64"),
    pytest.param(armoured(b"Version: 1\n\n" + BASE64), id="PEM-headers"),
    pytest.param(b"{", id="JSON-cut"),
    pytest.param(b'{"quote":"' + HEX + b'","quote":"00"}', id="JSON-member-twice"),
    pytest.param(b'{"quote":"' + HEX + b'"} x', id="JSON-and-more"),
    pytest.param(b'{"quote":"\xff"}', id="JSON-no-UTF-8"),
    pytest.param(b"[" * 200_000, id="N126-depth"),
]


@pytest.mark.parametrize("text", NO_FORM)
def test_text_in_no_form(text: bytes) -> None:
    with refused(QuoteTextMalformed):
        find_quote(text)


@pytest.mark.parametrize("content", [b"", b" \n", b"\x00\x01", b"\x03", bytes(2000), b"\xff" * 99])
def test_bytes_that_nobody_knows_are_refused_as_a_quote(content: bytes) -> None:
    """What is not recognised goes on as it is, and the parser names what is wrong."""
    assert find_quote(content).raw == content
    with pytest.raises(QuoteFormatError):
        Quote.parse(find_quote(content).raw)
    count_refusal()


@pytest.mark.parametrize("raw", [b"\x00\x01", b"\xff" * 99, SGX[1:]])
def test_hexadecimal_of_bytes_that_nobody_knows(raw: bytes) -> None:
    """Two digits for each byte are a form without doubt, whatever the bytes are."""
    assert find_quote(raw.hex().encode()).raw == raw
    with pytest.raises(QuoteFormatError):
        Quote.parse(raw)
    count_refusal()


def test_base64_of_less_than_any_quote() -> None:
    """Nearly every word is base64 of something, so what is too short is called a text."""
    assert find_quote(base64.b64encode(TD[:MIN_SIZE])).raw == TD[:MIN_SIZE]
    with refused(QuoteTextMalformed):
        find_quote(base64.b64encode(TD[: MIN_SIZE - 1]))


def test_a_quote_in_which_no_byte_is_a_line_feed() -> None:
    """Nothing in it could have been converted."""
    raw = TD.replace(b"\n", b" ")
    assert find_quote(raw.hex().encode()).raw == raw


def test_text_for_bytes_in_python() -> None:
    """And the refusal names the function that reads texts, as that of padding names its own."""
    with refused(QuoteNotBytes) as seen:
        Quote.parse(TD.hex())  # type: ignore[arg-type]
    assert "find_quote" in seen.error.fix
    with refused(QuoteNotBytes, check=QuoteCheck.QUOTE_FORMAT):
        W.verify(quote=SGX.hex())  # type: ignore[arg-type]
    with refused(QuoteMalformed) as padded:
        Quote.parse(TD + bytes(3))
    assert "strip_file_padding" in padded.error.fix
    with refused(QuoteMalformed) as longer:
        Quote.parse(TD + b"\0\1")
    assert longer.error.fix == QuoteMalformed.default_fix
    with refused(QuoteMalformed) as shorter:
        Quote.parse(TD[:-1])
    assert shorter.error.fix == QuoteMalformed.default_fix
    assert Quote.parse(strip_file_padding(TD + bytes(3))).signed == TD[:632]


# JSON


def in_json(document: Any, path: str | None = None) -> tuple[bytes, str]:
    found = find_quote(json.dumps(document).encode(), parse_path(path) if path else None)
    return found.raw, found.form


TEXT = BASE64.decode()


@pytest.mark.parametrize(
    ("document", "form"),
    [
        pytest.param({"quote": TEXT}, "JSON, quote: base64", id="quote"),
        pytest.param({"a": 1.5, "intel_quote": TD.hex()}, "JSON, intel_quote: hexadecimal", id="2"),
        pytest.param({"x": [{"evidence": list(TD)}]}, "JSON, x[0].evidence: numbers", id="numbers"),
        pytest.param(list(TD), "JSON, (all of it): numbers", id="all-numbers"),
        pytest.param(TEXT, "JSON, (all of it): base64", id="all-text"),
        pytest.param({"a": TEXT, "b": TD.hex()}, "JSON, a: base64", id="the-same-twice"),
        pytest.param({"q": TEXT, "log": "Zm9v" * 999}, "JSON, q: base64", id="a-log-beside-it"),
        pytest.param({"version": "0400", "q": TEXT}, "JSON, q: base64", id="a-number-beside-it"),
        pytest.param({"q": "0x" + TD.hex() + "\n"}, "JSON, q: hexadecimal", id="0x-line"),
        pytest.param({"q": armoured(BASE64).decode()}, "JSON, q: PEM of QUOTE", id="PEM-inside"),
    ],
)
def test_a_quote_in_json(document: Any, form: str) -> None:
    assert in_json(document) == (TD, form)


@pytest.mark.parametrize(
    ("path", "raw"), [("a.b[0]", TD), ("a.b[1]", SGX), ("c", TD5), ("a.b[2].d", SGX)]
)
def test_a_path_says_which_of_several(path: str, raw: bytes) -> None:
    document = {
        "a": {"b": [TEXT, list(SGX), {"d": SGX.hex()}]},
        "c": base64.b64encode(TD5).decode(),
    }
    with refused(QuoteMemberUnclear) as seen:
        in_json(document)
    assert "--json-path a.b[0]" in seen.error.fix
    assert in_json(document, path)[0] == raw


@pytest.mark.parametrize(
    "path",
    ["x", "a.x", "a[0]", "a.b.c", "a.b[9]", "a.b[0].c", "a.b[0][0]", "a.n[0]", "a", "a.b", "a.t"],
)
def test_a_path_to_nothing(path: str) -> None:
    with refused(QuoteMemberUnclear):
        in_json({"a": {"b": [TEXT], "n": None, "t": True}}, path)


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        {"quote": "none"},
        {"quote": None},
        {"q": [256] * 2000},
        {"q": [-1] * 2000},
        {"q": [True] * 2000},
        {"q": [4.0] * 2000},
        {"q": "\u00e4" * 2000},
        {"q": "\ud800" * 2000},
    ],
)
def test_json_without_a_quote(document: Any) -> None:
    with pytest.raises((QuoteMemberUnclear, QuoteTextMalformed, QuoteMalformed)):
        Quote.parse(in_json(document)[0])
    count_refusal()


def test_a_path_to_something_else() -> None:
    with refused(NotAQuote):
        in_json({"quote": TEXT, "report": TD_REPORT.hex()}, "report")


def test_the_shortest_value_that_may_be_a_quote() -> None:
    document = {"q": list(TD[:MIN_SIZE]), "shorter": list(SGX[: MIN_SIZE - 1])}
    assert in_json(document) == (TD[:MIN_SIZE], "JSON, q: numbers")


def test_a_path_needs_json() -> None:
    with refused(QuoteTextMalformed):
        find_quote(TD, ("quote",))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", ("a",)),
        ("a.b[0]", ("a", "b", 0)),
        ("[12].x-y", (12, "x-y")),
        ("a[0][1]", ("a", 0, 1)),
    ],
)
def test_a_path(text: str, steps: tuple[str | int, ...]) -> None:
    assert parse_path(text) == steps
    assert path_text(steps) == text


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "a[", "a[]", "a[x]", "a[-1]", "a]", "[0"])
def test_not_a_path(text: str) -> None:
    count_refusal()
    with pytest.raises(ValueError, match="path"):
        parse_path(text)


# What is no quote


def tagged(raw: bytes, **put: bytes) -> bytes:
    changed = bytearray(raw)
    for place, octets in put.items():
        at = int(place[1:])
        changed[at : at + len(octets)] = octets
    return bytes(changed)


TD_REPORT = b"\x81\0\1\0" + bytes(1020)
HCL = b"HCLA" + bytes(28) + TD_REPORT + bytes(40)
CCEL = bytes(4) + b"\3\0\0\0" + bytes(20) + b"\x21\0\0\0Spec ID Event03\0" + bytes(90)
BUFFER = b"\1" + bytes(15) + (64).to_bytes(4, "little") + len(TD).to_bytes(4, "little")
LINES = [TD[at : at + 16] for at in range(0, len(TD), 16)]


def dump(form: str) -> bytes:
    return "".join(
        form.format(at=16 * number, hex=line.hex(" ")) for number, line in enumerate(LINES)
    ).encode()


NO_QUOTES: list[Any] = [
    pytest.param(HCL, "Azure HCL", "acc/tdquote", id="HCL"),
    pytest.param(tagged(HCL, _32=b"\2\0"), "another technology", "AMD", id="HCL-of-AMD"),
    pytest.param(TD_REPORT, "TDREPORT", "ratls attest quote", id="TDREPORT"),
    pytest.param(CCEL, "event log", "ratls verify eventlog FILE --quote", id="CCEL"),
    pytest.param(b"CCEL" + bytes(52), "ACPI table", "ratls attest quote", id="CCEL-table"),
    pytest.param(BUFFER + TD + bytes(99), "GetQuote", "tail -c +25", id="GetQuote"),
    pytest.param(
        tagged(BUFFER, _15=b"\x80") + TD, "brought none", "ask again", id="GetQuote-failed"
    ),
    pytest.param(tagged(BUFFER, _20=bytes(4)) + TD, "brought none", "ask again", id="GetQuote-0"),
    pytest.param(BUFFER + bytes(2000), "brought none", "ask again", id="GetQuote-empty"),
    pytest.param(BUFFER, "brought none", "ask again", id="GetQuote-header"),
    pytest.param(b"\0\0\x13\x37" + TD, "behind 4 other bytes", "tail -c +5", id="a-length-first"),
    pytest.param(W.intel.root.der, "certificate", "ratls verify cert", id="certificate"),
    pytest.param(W.intel.root.pem.encode(), "certificate", "ratls verify cert", id="PEM"),
    pytest.param(
        2 * W.intel.root.pem.encode(), "certificate", "ratls verify cert", id="certificates"
    ),
    pytest.param(
        armoured(b"AAAA\n", b"EC PRIVATE KEY"), "EC PRIVATE KEY", "the quote itself", id="key"
    ),
    pytest.param(armoured(b"AAAA\n", b"X509 CRL"), "X509 CRL", "the quote itself", id="CRL"),
    pytest.param(dump("{at:08x}: {hex}  ....\n"), "dump", "xxd -r FILE", id="xxd"),
    pytest.param(dump("{at:08x}  {hex}  |....|\n"), "dump", "sed", id="hexdump-C"),
    pytest.param(dump("{at:07o} {hex}\n"), "dump", "xxd -p", id="od"),
    pytest.param(b"<!DOCTYPE html><html>", "web page", "look at it", id="web-page"),
    pytest.param(
        json.dumps({"quote": TD_REPORT.hex() + "00"[:0]}).encode(), "TDREPORT", "ratls", id="JSON"
    ),
    pytest.param(
        W.intel.collateral(W.platform), "bundle of collateral", "--collateral FILE", id="bundle"
    ),
    *(
        pytest.param(
            b'{"%s": {}}' % name, "bundle of collateral", "--collateral FILE", id=name.decode()
        )
        for name in (b"tcb_info", b"qe_identity", b"tcbInfo", b"enclaveIdentity", b"collaterals")
    ),
    pytest.param(base64.b64encode(HCL), "Azure HCL", "acc/tdquote", id="HCL-in-base64"),
    pytest.param(TD_REPORT.hex().encode(), "TDREPORT", "ratls attest quote", id="TDREPORT-in-hex"),
]


@pytest.mark.parametrize(("content", "called", "command"), NO_QUOTES)
def test_what_is_no_quote_is_named(content: bytes, called: str, command: str) -> None:
    with refused(NotAQuote) as seen:
        find_quote(content)
    assert called in seen.error.found
    assert command in seen.error.fix


DAMAGED: list[Any] = [
    *(
        pytest.param(raw.replace(b"\n", b"\r\n"), "sed 's/\\r$//'", id=f"CRLF-{raw[0]}")
        for raw in (SGX, TD, TD5)
    ),
    pytest.param(TD.decode("utf-8", "replace").encode(), "cannot be undone", id="replaced"),
    pytest.param(HEX.decode().encode("utf-16"), "iconv -f utf-16", id="UTF-16"),
    pytest.param(
        b"\xfe\xff" + HEX.decode().encode("utf-16-be"), "iconv -f utf-16", id="UTF-16-big-endian"
    ),
    pytest.param(b"\xef\xbb\xbf" + HEX, "tail -c +4", id="BOM"),
]


@pytest.mark.parametrize(("content", "command"), DAMAGED)
def test_what_was_converted_as_text_is_named(content: bytes, command: str) -> None:
    with refused(QuoteTextDamaged) as seen:
        find_quote(content)
    assert command in seen.error.fix


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(tagged(TD_REPORT, _3=b"\1"), id="TDREPORT-reserved"),
        pytest.param(tagged(TD_REPORT, _0=b"\0"), id="TDREPORT-of-another-type"),
        pytest.param(TD_REPORT + b"\0", id="TDREPORT-and-more"),
        pytest.param(tagged(CCEL, _4=b"\4"), id="CCEL-other-event"),
        pytest.param(tagged(CCEL, _32=b"s"), id="CCEL-other-signature"),
        pytest.param(tagged(BUFFER, _0=b"\2") + bytes(99), id="GetQuote-other-version"),
        pytest.param(BUFFER[:23], id="GetQuote-cut"),
        pytest.param(W.intel.root.der + b"\0", id="DER-and-more"),
        pytest.param(tagged(W.intel.root.der, _0=b"\x31"), id="DER-of-a-set"),
        pytest.param(TD[:-1].replace(b"\n", b"\r\n"), id="CRLF-and-cut"),
        pytest.param(TD.replace(b"\n", b"\r\n", 3), id="some-CRLF"),
    ],
)
def test_what_only_looks_like_it_is_not_named(content: bytes) -> None:
    assert find_quote(content).raw == content
    with pytest.raises(QuoteFormatError):
        Quote.parse(content)
    count_refusal()


def test_names_in_recommended_commands_are_safe_to_type() -> None:
    """A file's name is its owner's choice, and is pasted into a shell."""
    with refused(NotAQuote) as seen:
        find_quote(dump("{at:08x}: {hex}\n"), name="a; rm -rf ~")
    assert "xxd -r 'a; rm -rf ~' quote.bin" in seen.error.fix


@pytest.mark.parametrize(
    ("file", "called"),
    [("hclreport", "Azure HCL"), ("tdreport", "TDREPORT"), ("ccel", "event log")],
)
def test_genuine_things_that_are_no_quotes(vectors: Path, file: str, called: str) -> None:
    with refused(NotAQuote) as seen:
        find_quote((vectors / f"field/no-quotes/{file}.bin").read_bytes())
    assert called in seen.error.found


def test_genuine_quotes_in_every_form(vectors: Path) -> None:
    for file in sorted((vectors / "field/quotes").glob("*.bin")):
        raw = file.read_bytes()
        for text in (raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
            assert find_quote(text).raw == find_quote(raw).raw == raw
