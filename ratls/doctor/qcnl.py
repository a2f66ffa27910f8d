"""`/etc/sgx_default_qcnl.conf`: where quotes get their PCK certificate and collateral from.

    Qcnl.parse(b'{"pccs_url": "https://pccs.example:8081/sgx/certification/v4/"}').use_secure_cert

Intel's library reads it leniently: a key that it does not know, or a value of another type, counts
as absent, and a file that is no JSON as empty, so that a missing comma asks `localhost`. Here each
of these is a refusal, and so is a key that appears twice (RFC 8259, section 4, leaves open which
one counts). Two forms: JSON with `//` and `/* */` comments, and the older `NAME=VALUE`.
Interface: Quote Generation Library API, appendix A.1, and the file that its package installs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from verifier.errors import ConfigError
from verifier.strict_json import JsonError, read_object

MAX_SIZE = 1 << 16
_URL = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~-]{0,64}){1,16}",
    re.ASCII,
)
_LINE = re.compile(r"([A-Z_]{1,40})=(\S{0,300})", re.ASCII)
# A text or a comment that does not end reaches to the end of the file: so each byte is read once.
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*+(?:"|\n|\\?\Z)|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_SHOWN = re.compile(r"[A-Za-z_]{1,40}", re.ASCII)


class QcnlMalformed(ConfigError):
    """The configuration of Intel's quote provider is not what Intel's library reads as meant."""

    code = "qcnl-malformed"
    default_fix = "write it as the package libsgx-dcap-default-qpl installs it, without other keys"


def _text(wanted: str, pattern: re.Pattern[str]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(wanted)
        return value

    return read


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _number(most: int) -> Callable[[object], object]:
    def read(value: object) -> object:
        # True is an int for Python, and none for the library.
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"a whole number from 0 to {most}")
        return value

    return read


def _options(value: object) -> object:
    """Headers and parameters for a cloud's service: may hold keys, so nothing of them is kept."""
    if not isinstance(value, dict):
        raise ValueError("an object")
    return {}


_address = _text("an http(s) address with a path, without user, query or fragment", _URL)
MOST_HOURS = 2160  # more counts as this many: `CACHE_MAX_EXPIRY_HOURS`
_VALUES: Mapping[str, Callable[[object], object]] = MappingProxyType(
    {
        "pccs_url": _address,
        "use_secure_cert": _flag,
        "collateral_service": _address,
        "pccs_api_version": _text('"3.0" or "3.1"', re.compile(r"3\.[01]")),
        "tcb_update_type": _text('"standard" or "early"', re.compile("standard|early")),
        "retry_times": _number(1000),
        "retry_delay": _number(86400),
        "local_pck_url": _address,
        "pck_cache_expire_hours": _number(MOST_HOURS),
        "verify_collateral_cache_expire_hours": _number(MOST_HOURS),
        "local_cache_only": _flag,
        "custom_request_options": _options,
    }
)
_LINE_FLAGS = {"TRUE": True, "true": True, "FALSE": False, "false": False}


@dataclass(frozen=True, slots=True)
class Qcnl:
    """What the file says, and what the library takes where it says nothing."""

    values: Mapping[str, Any]  # those that are written, and nothing of `custom_request_options`

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read either form.

        Raises:
            QcnlMalformed: Too large, no UTF-8, neither form, an unknown key, one that is there
                twice, or a value that the library would ignore. No value stands in the message.
        """
        if len(raw) > MAX_SIZE:
            raise _malformed("size", f"at most {MAX_SIZE} bytes", "more")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _malformed("text", "UTF-8", f"byte {error.start} is not") from error
        found = _of_json(text) if text.lstrip(" \t\r\n").startswith(("{", "/")) else _of_lines(text)
        values = {}
        for name, value in found.items():
            read = _VALUES.get(name)
            if read is None:
                shown = f"`{name}`" if _SHOWN.fullmatch(name) else "another"
                raise _malformed("keys", "those that Intel's library reads", shown)
            try:
                values[name] = read(value)
            except ValueError as error:
                raise _malformed(name, str(error), "another value") from error
        return cls(MappingProxyType(values))

    @property
    def pccs_url(self) -> str:
        """Where PCK certificates come from."""
        return str(self.values.get("pccs_url", "https://localhost:8081/sgx/certification/v4/"))

    @property
    def collateral_service(self) -> str:
        """Where collateral comes from."""
        return str(self.values.get("collateral_service", self.pccs_url))

    @property
    def use_secure_cert(self) -> bool:
        """Is the service's TLS certificate checked?"""
        return bool(self.values.get("use_secure_cert", True))

    def text(self) -> str:
        """The same in its one form, to be shown to others; reads as the same again."""
        return json.dumps(dict(self.values), sort_keys=True) + "\n"


def _malformed(thing: str, expected: str, found: str) -> QcnlMalformed:
    return QcnlMalformed(thing, expected=expected, found=found)


def _of_json(text: str) -> dict[str, Any]:
    try:
        return read_object(_COMMENT.sub(_blank, text))
    except JsonError as error:
        raise _malformed("JSON", "one object, each key once", str(error)) from error


def _blank(match: re.Match[str]) -> str:
    """A comment becomes blanks, so that places in messages stay right. The rest stays: a text, and
    a comment without an end, which no JSON has.
    """
    found = match[0]
    kept = found[0] == '"' or (found[1] == "*" and not (found.endswith("*/") and len(found) > 3))
    return found if kept else re.sub(r"[^\n]", " ", found)


def _of_lines(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _malformed(f"line {number}", "NAME=VALUE, a comment or nothing", "neither")
        name, value = match[1].lower(), match[2]
        if name in found:
            raise _malformed(f"line {number}", "each name once", "one that was there before")
        if name == "custom_request_options":  # only the other form has it
            raise _malformed(f"line {number}", "a name that Intel's library reads", "another")
        found[name] = _of_line(name, value)
    return found


def _of_line(name: str, value: str) -> object:
    if name in ("use_secure_cert", "local_cache_only"):
        return _LINE_FLAGS.get(value)  # None, which is no flag: refused
    if name.endswith(("_times", "_delay", "_hours")):
        return int(value) if re.fullmatch(r"[0-9]{1,6}", value, re.ASCII) else None
    return value
