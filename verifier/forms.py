"""The form in which a quote came: its own bytes, or a text that holds them.

    found = find_quote(content)
    found.raw     # the quote's bytes, not parsed
    found.form    # "raw", "base64", "JSON, member tdx.quote: hexadecimal", …

Hexadecimal, base64, base64url, PEM armour, and JSON of which one member holds one of these or a
list of numbers. The whole input has one form, or it is refused. What is something else than a
quote is named by `verifier.no_quotes`. Nothing is verified here: that is for `verify_quote`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from verifier.errors import QuoteFormError, placed
from verifier.no_quotes import NotAQuote, require_no_other, require_no_other_text
from verifier.quote import MIN_SIZE, described_end
from verifier.received import ReceivedQuote
from verifier.strict_json import members_once

RAW = "raw"
Steps: TypeAlias = tuple[str | int, ...]  # from the top of a document: names, and places in lists

_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[([0-9]{1,6})\]", re.ASCII)
_WHITE = b" \t\r\n"
_HEX = re.compile(rb"(?:0[xX])?((?:[0-9A-Fa-f]{2})+)")
_BASE64 = re.compile(rb"([A-Za-z0-9+/]+)={0,2}")
_BASE64URL = re.compile(rb"([A-Za-z0-9_-]+)={0,2}")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----([^-]*)-----END ([A-Z0-9 ]{1,64})-----")


class QuoteTextMalformed(QuoteFormError):
    """A text that holds a quote in none of the forms that are read."""

    code = "quote-text-malformed"
    default_fix = "give the quote's own bytes, or these as hexadecimal, base64, PEM or JSON"


class QuoteMemberUnclear(QuoteFormError):
    """A JSON document does not hold exactly one quote, or none where it was said to be."""

    code = "quote-member-unclear"
    default_fix = "say which member holds the quote, as in --json-path evidence.quote[0]"


@dataclass(frozen=True, slots=True)
class FoundQuote:
    """What is to be read as a quote, and the form in which it came."""

    raw: bytes
    form: str

    def received(self, *, newer_sgx: bool = False) -> ReceivedQuote:
        """To be judged, perhaps also as an SGX quote of version 4 or 5."""
        return ReceivedQuote(self.raw, newer_sgx, self.form)


def parse_path(text: str) -> Steps:
    """Read `a.b[0]`.

    Raises: ValueError, for anything else.
    """
    steps: list[str | int] = []
    end = 0
    for match in _STEP.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        steps.append(match[1] if match[1] is not None else int(match[2]))
    if end != len(text) or not steps:
        raise ValueError("not a path like a.b[0]")
    return tuple(steps)


def find_quote(content: bytes, path: Steps | None = None, *, name: str = "FILE") -> FoundQuote:
    """The quote in a file's content, or on standard input.

    Args:
        content: All of it.
        path: Where in a JSON document it is; None: wherever there is one alone.
        name: What the file is called in commands that are recommended.

    Raises:
        NotAQuote, QuoteTextDamaged: It is another thing, which is named, or was damaged.
        QuoteTextMalformed: A text in none of the forms.
        QuoteMemberUnclear: JSON that does not hold exactly one quote, or none at `path`.
    """
    if path is None and _starts_a_quote(content):
        return _without_padding(content, RAW, name)
    text = content.strip(_WHITE)
    if path is not None or text[:1] in (b"{", b"[", b'"'):
        return _in_json(text, path, name)
    require_no_other(content, name)
    if not text or not _is_text(text):
        return FoundQuote(content, RAW)  # `Quote.parse` says what is wrong
    require_no_other_text(text, name)
    found = _in_text(text)
    if found is not None:
        require_no_other(found.raw, name)
    # Hexadecimal that was cut is base64 of something else: what that decodes to must start like
    # a quote, with a number of two bytes.
    if found is None or (found.form.startswith("base64") and found.raw[1] != 0):
        raise QuoteTextMalformed(
            "text", expected="a quote as hexadecimal, base64 or PEM", found=_first_odd(text)
        )
    return _without_padding(found.raw, found.form, name)


def _starts_a_quote(raw: bytes) -> bool:
    """Versions 3 to 5. No text begins like this: these are control characters."""
    return raw[1:2] == b"\0" and raw[0] in (3, 4, 5)


def _without_padding(raw: bytes, form: str, name: str) -> FoundQuote:
    end = described_end(raw)
    if end < len(raw) and not any(raw[end:]):
        return FoundQuote(raw[:end], f"{form}, padded with {len(raw) - end} zero bytes")
    if end != len(raw):
        require_no_other(raw, name)
    return FoundQuote(raw, form)


# Text


def _is_text(raw: bytes) -> bool:
    """Printable ASCII and white space."""
    return not raw.translate(None, _TEXT)


_TEXT = bytes(range(32, 127)) + b"\t\r\n"


def _in_text(text: bytes) -> FoundQuote | None:
    """What one of the forms makes of a whole text; None if none does."""
    if (match := _PEM.fullmatch(text)) is not None:
        raw = _base64(match[2].translate(None, _WHITE)) if match[1] == match[3] else None
        return None if raw is None else FoundQuote(raw[0], f"PEM of {match[1].decode()}")
    packed = text.translate(None, _WHITE)
    if (match := _HEX.fullmatch(packed)) is not None:
        return FoundQuote(binascii.unhexlify(match[1]), "hexadecimal")
    decoded = _base64(packed)
    # Nearly every word is base64 of something.
    return None if decoded is None or len(decoded[0]) < MIN_SIZE else FoundQuote(*decoded)


def _first_odd(text: bytes) -> str:
    """Why a text is none of the forms, for people."""
    odd = (
        f"{chr(letter)!a} as character {place}"
        for place, letter in enumerate(text, start=1)
        if letter not in _LETTERS
    )
    return next(odd, f"{len(text)} characters that decode to no quote")


_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=" + _WHITE


def _base64(packed: bytes) -> tuple[bytes, str] | None:
    """Base64 of RFC 4648, section 4 or section 5, padded or not; no other bits in its end."""
    for alphabet, form, extra in ((_BASE64, "base64", b"+/"), (_BASE64URL, "base64url", b"-_")):
        match = alphabet.fullmatch(packed)
        if match is None or len(match[1]) % 4 == 1:
            continue
        if len(packed) != len(match[1]) and len(packed) % 4:
            continue  # padded, but not to a multiple of four
        raw = base64.b64decode(match[1] + b"=" * (-len(match[1]) % 4), altchars=extra)
        if base64.b64encode(raw, altchars=extra).rstrip(b"=") == match[1]:
            return raw, form
    return None


# JSON


def _in_json(text: bytes, path: Steps | None, name: str) -> FoundQuote:
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=members_once)
    # A hundred thousand levels end in RecursionError.
    except (ValueError, RecursionError) as error:
        raise QuoteTextMalformed("text", expected="one JSON document", found=str(error)) from error
    if path is not None:
        value = _at(document, path)
        found = _of_value(value)
        if found is None:
            raise QuoteMemberUnclear(
                f"JSON member {path_text(path)}",
                expected="a quote as text, or as a list of numbers",
                found=_called(value),
            )
    else:
        path, found = _only_quote(document, name)
    with placed(f"JSON member {path_text(path)}"):
        require_no_other(found.raw, name)
        return _without_padding(found.raw, f"JSON, {path_text(path)}: {found.form}", name)


def _only_quote(document: Any, name: str) -> tuple[Steps, FoundQuote]:
    """The one quote in a document; where several members hold it, the first of them."""
    quotes: dict[bytes, tuple[Steps, FoundQuote]] = {}
    other: NotAQuote | None = None
    for path, value in _values(document):
        found = _of_value(value) if len(value) >= MIN_SIZE else None
        if found is None:
            continue
        if _starts_a_quote(found.raw):
            quotes.setdefault(found.raw, (path, found))
        elif other is None:
            other = _named(found.raw, path, name)
    if len(quotes) == 1:
        return next(iter(quotes.values()))
    if quotes:
        paths = [path_text(path) for path, _ in quotes.values()]
        raise QuoteMemberUnclear(
            "JSON",
            expected="one quote",
            found=f"{len(paths)}: {', '.join(paths[:8])}",
            fix=f"say which: --json-path {paths[0]}",
        )
    if isinstance(document, dict) and document.keys() & _OF_BUNDLES:
        raise NotAQuote(
            "JSON",
            expected="a quote",
            found="a bundle of collateral",
            fix=f"name it with --collateral {name}, and the quote itself as the file",
        )
    if other is not None:
        raise other
    raise QuoteMemberUnclear("JSON", expected="one member with a quote", found="none")


_OF_BUNDLES = {"tcb_info", "qe_identity", "tcbInfo", "enclaveIdentity", "collaterals"}


def _named(raw: bytes, path: Steps, name: str) -> NotAQuote | None:
    try:
        with placed(f"JSON member {path_text(path)}"):
            require_no_other(raw, name)
    except NotAQuote as refusal:
        return refusal
    return None


def _values(document: Any) -> Iterator[tuple[Steps, str | list[Any]]]:
    """Every text, and every list of numbers, with its place; in the order of the document."""
    waiting: list[tuple[Steps, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        inside: list[tuple[Steps, Any]] = []
        if isinstance(value, str) or _octets(value) is not None:
            yield path, value
        elif isinstance(value, dict):
            inside = [((*path, key), entry) for key, entry in value.items()]
        elif isinstance(value, list):
            inside = [((*path, place), entry) for place, entry in enumerate(value)]
        waiting += reversed(inside)


def _of_value(value: Any) -> FoundQuote | None:
    """What a text or a list of numbers holds, in whichever form."""
    if isinstance(value, str):
        return _in_text(value.encode("utf-8", "surrogatepass").strip(_WHITE))
    octets = _octets(value)
    return None if octets is None else FoundQuote(octets, "numbers")


def _octets(value: Any) -> bytes | None:
    """A list of numbers from 0 to 255, as bytes; True is no number."""
    if not isinstance(value, list) or set(map(type, value)) != {int}:
        return None
    return bytes(value) if min(value) >= 0 and max(value) <= 255 else None


def _at(document: Any, path: Steps) -> Any:
    value = document
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError) as error:  # TypeError: it has no such members at all
            raise QuoteMemberUnclear(
                "JSON",
                expected=f"a member {path_text(path)}",
                found=f"no {path_text((step,))} in {_called(value)}",
            ) from error
    return value


def path_text(path: Steps) -> str:
    """As `parse_path` reads it, for people."""
    if not path:
        return "(all of it)"
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return ascii(text.removeprefix("."))[1:-1][:200]


def _called(value: Any) -> str:
    match value:
        case dict():
            return f"an object of {', '.join(sorted(map(ascii, value)))[:200] or 'nothing'}"
        case list():
            return f"a list of {len(value)}"
        case str():
            return f"a text of {len(value)} characters"
    return type(value).__name__
