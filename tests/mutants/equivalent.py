"""Mutants that no test can tell from the original, each with the reason. Keep it short."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mutant by its text, never by its line number."""

    module: str
    source: str
    removed: str
    because: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.source, self.removed


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "verifier.certificate",
        "return _INTEL_ROOT if raw == INTEL_ROOT else _parse(raw)",
        "always: _parse(raw)",
        "the published root is then read and verified each time, with the same outcome",
    ),
    Equivalent(
        "verifier.certificate",
        "if not certificate.present >= _REQUIRED:",
        "_REQUIRED without extensions.KEY_USAGE in: certificate.present >= _REQUIRED",
        "what is absent is not critical, which is refused as the same wrong role further down",
    ),
    Equivalent(
        "verifier.certificate",
        "if not certificate.present >= _REQUIRED:",
        "_REQUIRED without extensions.BASIC_CONSTRAINTS in: certificate.present >= _REQUIRED",
        "as key usage",
    ),
    Equivalent(
        "verifier.crl",
        "if not rest or rest[0][0] not in (der.UTC_TIME, der.GENERALIZED_TIME):",
        "without: rest[0][0] not in (der.UTC_TIME, der.GENERALIZED_TIME)",
        "reading it as a time refuses every other tag with the same leaf",
    ),
    Equivalent(
        "verifier.der",
        'text = ("19" if text >= "50" else "20") + text',
        "bound moved: text > '50'",
        "the text is longer than two digits, so the two are never equal",
    ),
    Equivalent(
        "verifier.der",
        "if not octets or octets[0] > 7 or (octets[0] and not octets[1:]):",
        "without: octets[0] and (not octets[1:])",
        "the number of unused bits then takes the place of the last byte, and never fits itself",
    ),
    Equivalent(
        "verifier.der",
        "if octets[0] and octets[-1] & ((1 << octets[0]) - 1):",
        "without: octets[0]",
        "no unused bit is a mask of no bit",
    ),
    Equivalent(
        "verifier.document",
        "if value.isascii():",
        "never taken: if value.isascii()",
        "the same answer, more slowly",
    ),
    Equivalent(
        "verifier.tcb",
        "module_identities=read_identities(fields) if tee is Tee.TDX else (),",
        "always: read_identities(fields)",
        "in TCB info for SGX the member was refused further up, and without it there are none",
    ),
)
