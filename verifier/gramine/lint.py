"""What a reviewing party asks of a signed manifest, as a pure function over its bytes.

    findings = lint(SignedManifest.parse(raw))
    refusals(findings)          # empty for a manifest that a party may accept

A closed list: keys, environment, mounts and values that may be, never those that may not.
docs/gramine.md 3. Rows M01 to M04, M06, M09, M12.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w

from verifier.gramine.errors import MeasurementError
from verifier.gramine.findings import Finding, Level, placed, refusals, refuse, shown
from verifier.gramine.known import LIBSYSDBS
from verifier.gramine.measurement import least_size
from verifier.gramine.rules import RULES, SHOWN, THREAD_COUNTS, WARNED, flat
from verifier.gramine.signed import ManifestSizesInvalid, SignedManifest
from verifier.gramine.trusted import (
    MANY_FILES,
    folder_findings,
    mount_findings,
    root_of,
    runtime_of,
    trusted_findings,
)

# Without the pools of libraries: idle ones, Gramine's own, and one for each open call.
THREADS_BESIDE_POOLS = 9 + 4 + 80


class ManifestRefused(MeasurementError):
    """A manifest says what a party must not accept."""

    code = "manifest-refused"
    default_fix = "see all findings with `ratls enclave lint`; mend the template, and sign again"
    says = "{thing}: {found}"


def lint(manifest: SignedManifest, *, libsysdbs: frozenset[str] = LIBSYSDBS) -> tuple[Finding, ...]:
    """All findings: first those of the text, then by key.

    Args:
        libsysdbs: SHA-256 of Gramine's library OS, in hex: the builds that a party knows.
    """
    text = list(_text_findings(manifest))
    keys = list(_key_findings(manifest, libsysdbs))
    return (*text, *placed(keys, lines_of(manifest.text)))


def require_acceptable(findings: tuple[Finding, ...], thing: str = "manifest") -> None:
    """Raises: ManifestRefused, with the first finding that refuses."""
    refused = refusals(findings)
    if refused:
        more = f"{len(refused)} findings that refuse it, the first in " if len(refused) > 1 else ""
        raise ManifestRefused(thing, expected="none that refuses", found=f"{more}{refused[0]}")


def _text_findings(manifest: SignedManifest) -> Iterator[Finding]:
    """M12: Gramine is written in C, and its reader ends a string where a TOML reader goes on."""
    for path, string in manifest.strings():
        strange = next((c for c in string if not " " <= c <= "~"), None)
        if strange is None:
            continue
        found = shown(string)
        if "\0" in string:
            found = f"{shown(string)}, which Gramine reads as {shown(string.partition(chr(0))[0])}"
        yield Finding(Level.REFUSE, shown(path)[1:-1], "printable ASCII", found)
    canonical = tomli_w.dumps(manifest.document)
    if canonical != manifest.text:
        pairs = zip(manifest.text.splitlines(), canonical.splitlines(), strict=False)
        line, found = next(
            ((n, a) for n, (a, b) in enumerate(pairs, 1) if a != b), (None, "its end")
        )
        yield Finding(Level.REFUSE, "text", "the form that the signer writes", shown(found), line)


def lines_of(text: str) -> dict[str, int]:
    """The line of each key in a canonical text, by its dotted path."""
    lines: dict[str, int] = {}
    table, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("[["):
            name = line.strip("[]")
            table = f"{name}[{counts.get(name, 0)}]"
            counts[name] = counts.get(name, 0) + 1
            lines.setdefault(name, number)
        elif line.startswith("["):
            table = line.strip("[]")
        elif " = " in line and not line.startswith(" "):
            name = line.partition(" = ")[0]
            lines[f"{table}.{name}" if table else name] = number
            continue
        else:
            continue
        lines.setdefault(table, number)
    return lines


def _key_findings(manifest: SignedManifest, libsysdbs: frozenset[str]) -> Iterator[Finding]:
    given = dict(flat(manifest.document))
    wrong = set()
    for key, value in given.items():
        rule = RULES.get(key)
        if rule is None:
            yield refuse(shown(key)[1:-1], "only known keys", value)
        elif not rule.holds(value):
            wrong.add(key)
            yield refuse(key, rule.expected, value)
    for key in [name for name in RULES if name not in given]:
        wrong.add(key)
        yield Finding(Level.REFUSE, key, RULES[key].expected, "nothing")
    digest = given.get("loader.entrypoint.sha256")
    if "loader.entrypoint.sha256" not in wrong and digest not in libsysdbs:
        wanted = "the library OS of a known build of Gramine"
        yield refuse("loader.entrypoint.sha256", wanted, digest)
    yield from _file_findings(given, manifest.document, wrong)
    yield from _size_findings(given, manifest, wrong)
    for key, (unusual, better) in WARNED.items():
        if given.get(key) is unusual:
            yield Finding(Level.WARN, key, better, shown(unusual))
    for key, says in SHOWN.items():
        value = manifest.table("sgx", "cpu_features") if "cpu" in key else given.get(key)
        if value is not None:
            yield Finding(Level.SHOW, key, says, shown(value, 200))


def _file_findings(given: dict[str, Any], document: Any, wrong: set[str]) -> Iterator[Finding]:
    if wrong & {"fs.root", "fs.mounts", "sgx.trusted_files"}:
        return
    image, runtime = root_of(document), runtime_of(given["fs.mounts"])
    yield from mount_findings(given["fs.mounts"])
    yield from folder_findings(image, runtime)
    yield from trusted_findings(given["sgx.trusted_files"], image, runtime)
    count = len(given["sgx.trusted_files"])
    if count > MANY_FILES:
        wanted = f"fewer than {MANY_FILES}, for a start within a minute"
        yield Finding(Level.WARN, "sgx.trusted_files", wanted, str(count))
    yield Finding(Level.SHOW, "sgx.trusted_files", "each is listed with its hash", str(count))


def _size_findings(
    given: dict[str, Any], manifest: SignedManifest, wrong: set[str]
) -> Iterator[Finding]:
    counts = [f"loader.env.{name}" for name in THREAD_COUNTS]
    if not wrong & {"sgx.max_threads", *counts}:
        # The compute threads of Arrow follow OpenMP's, so that these count twice.
        openmp, blas, arrow = (int(given[key]) for key in counts)
        least = THREADS_BESIDE_POOLS + 2 * openmp + blas + arrow
        if given["sgx.max_threads"] < least:
            wanted = f"at least {least}, one for each call and pool"
            yield refuse("sgx.max_threads", wanted, given["sgx.max_threads"])
    if wrong & {"sgx.max_threads", "sgx.enclave_size", "sgx.edmm_enable"}:
        return
    try:
        sizes = manifest.sizes()
    except ManifestSizesInvalid as refusal:
        yield Finding(Level.REFUSE, "sgx.enclave_size", refusal.expected, refusal.found)
        return
    if sizes.enclave < (least := least_size(manifest, sizes)):
        yield refuse("sgx.enclave_size", f"at least {least} bytes", given["sgx.enclave_size"])
