"""What Gramine 1.9's signer adds to a manifest, and the one text that it makes of it.

    raw = write(complete(document, Trusted(uri, sha256), files))

The order of keys is measured too, so it is the signer's: defaults come behind what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import tomli_w

from verifier.gramine.signed import ManifestMalformed

_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("max_threads", 4),
    ("isvprodid", 0),
    ("isvsvn", 0),
    ("remote_attestation", "none"),
    ("debug", False),
    ("enable_stats", False),
    ("edmm_enable", False),
    ("enclave_size", None),  # depends on the one before
    ("use_exinfo", False),
    ("cpu_features", None),
)
_FEATURES = {
    **dict.fromkeys(("avx", "avx512", "amx"), "unspecified"),
    **dict.fromkeys(("mpx", "pkru"), "disabled"),
}


@dataclass(frozen=True, slots=True)
class Trusted:
    """A file with its hash, as a signed manifest lists it."""

    uri: str
    sha256: str

    def as_table(self) -> dict[str, str]:
        return {"uri": self.uri, "sha256": self.sha256}


def trusted_entries(document: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The URI of each entry of `sgx.trusted_files`, and its hash where the author gave one.

    Raises: ManifestMalformed.
    """
    entries = _table(document, "sgx").get("trusted_files", [])
    if not isinstance(entries, list):
        raise _malformed("sgx.trusted_files", "a list", entries)
    found: list[tuple[str, str | None]] = []
    for number, entry in enumerate(entries):
        table = {"uri": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict) or not {"uri"} <= table.keys() <= {"uri", "sha256"}:
            raise _malformed(f"sgx.trusted_files[{number}]", "a URI, or a table of uri", entry)
        uri, digest = table["uri"], table.get("sha256")
        if not isinstance(uri, str) or not uri.startswith("file:"):
            raise _malformed(f"sgx.trusted_files[{number}]", "a file: URI", uri)
        if not isinstance(digest, str | None):
            raise _malformed(f"sgx.trusted_files[{number}].sha256", "hex digits", digest)
        found.append((uri, digest))
    return found


def libsysdb_entry(document: Mapping[str, Any], default: str) -> tuple[str, str | None]:
    """URI of the library OS, as it stands there or where Gramine has it; the author's hash of it.

    Raises: ManifestMalformed.
    """
    entry = _table(_table(document, "loader"), "entrypoint")
    uri, digest = entry.get("uri", f"file:{default}"), entry.get("sha256")
    if not isinstance(uri, str) or not uri.startswith("file:"):
        raise _malformed("loader.entrypoint.uri", "a file: URI", uri)
    if not isinstance(digest, str | None):
        raise _malformed("loader.entrypoint.sha256", "hex digits", digest)
    return uri, digest


def complete(
    document: Mapping[str, Any], libsysdb: Trusted, files: Iterable[Trusted]
) -> dict[str, Any]:
    """The document of the signed manifest. A hash that stands in it is replaced by `libsysdb`'s.

    Raises: ManifestMalformed.
    """
    made = deepcopy(dict(document))
    sgx = made.setdefault("sgx", {})
    sgx["trusted_files"] = [file.as_table() for file in files]
    for name, default in _DEFAULTS:
        if name == "enclave_size":
            default = "1024G" if sgx["edmm_enable"] else "256M"
        elif name == "cpu_features":
            default = {}
        sgx.setdefault(name, default)
    features = _table(sgx, "cpu_features")
    sgx["cpu_features"] = dict(features) | {
        name: word for name, word in _FEATURES.items() if name not in features
    }
    entry = _table(made.setdefault("loader", {}), "entrypoint")
    made["loader"]["entrypoint"] = dict(entry) | libsysdb.as_table()
    return made


def write(document: Mapping[str, Any]) -> bytes:
    """The bytes of `.manifest.sgx`."""
    return tomli_w.dumps(document).encode("utf-8")


def _table(above: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = above.get(name, {})
    if not isinstance(found, dict):
        raise _malformed(name, "a table", found)
    return found


def _malformed(where: str, expected: str, found: object) -> ManifestMalformed:
    return ManifestMalformed(f"manifest: {where}", expected=expected, found=ascii(found)[:60])
