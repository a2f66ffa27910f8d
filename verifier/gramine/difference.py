"""Two manifests by what they mean: what a reviewer of a new release looks at.

for change in differences(old, new): print(change)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verifier.gramine.findings import shown
from verifier.gramine.listing import listed
from verifier.gramine.rules import flat
from verifier.gramine.signed import SignedManifest
from verifier.gramine.trusted import PACKAGES

_ORDER = ("arguments", "environment", "mounts", "sizes", "identity", "gramine", "other")
_PREFIXES = {
    "loader.argv": "arguments",
    "libos.entrypoint": "arguments",
    "loader.env": "environment",
    "fs.": "mounts",
    "sgx.allowed_files": "mounts",
    "sgx.enclave_size": "sizes",
    "sgx.max_threads": "sizes",
    "sys.stack": "sizes",
    "sgx.edmm_enable": "sizes",
    "sgx.isv": "identity",
    "loader.entrypoint": "gramine",
}
OURS = ("enclave_app", "policy", "ratls", "verifier")


@dataclass(frozen=True, slots=True)
class Change:
    """One key or file that differs."""

    kind: str  #  arguments, environment, mounts, sizes, identity, gramine, other, code, files
    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}: {self.before} -> {self.after}"

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind, "key": self.key, "before": self.before, "after": self.after}


def differences(old: SignedManifest, new: SignedManifest) -> list[Change]:
    """First the settings, then our own code, then all other files, each by name."""
    settings = sorted(_settings(old, new), key=lambda c: (_ORDER.index(c.kind), c.key))
    files = sorted(_files(old, new), key=lambda c: (c.kind, c.key))
    return settings + files


def _settings(old: SignedManifest, new: SignedManifest) -> Iterator[Change]:
    before, after = (dict(flat(m.document)) for m in (old, new))
    for key in before.keys() | after.keys():
        if key != "sgx.trusted_files" and before.get(key) != after.get(key):
            kind = next((k for p, k in _PREFIXES.items() if key.startswith(p)), "other")
            left, right = before.get(key), after.get(key)
            if isinstance(left, list) and isinstance(right, list):
                # Whole, two long lists would look alike: what is only in one of them is shown.
                gone, new_ones = _only(left, right), _only(right, left)
                left, right = (gone, new_ones) if gone or new_ones else (left, right)
            yield Change(kind, key, shown(left), shown(right))


def _only(these: list[Any], others: list[Any]) -> list[Any]:
    return [one for one in these if one not in others]


def _files(old: SignedManifest, new: SignedManifest) -> Iterator[Change]:
    before, after = _relative(old), _relative(new)
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path):
            code = path.startswith(tuple(f"{PACKAGES}/{name}/" for name in OURS))
            yield Change(
                "code" if code else "files",
                path,
                before.get(path, "nothing"),
                after.get(path, "nothing"),
            )


def _relative(manifest: SignedManifest) -> dict[str, str]:
    """Files by their path in the enclave: that the image lies elsewhere is no other file."""
    root = manifest.table("fs", "root").get("uri")
    above = root.removeprefix("file:") if isinstance(root, str) else "\0"
    return {
        path[len(above) :] if path.startswith(f"{above}/") else path: digest
        for path, digest in listed(manifest).items()
    }
