"""Whose files lie in packages of our names? A scan of all metadata: for refusals, and the doctor.

    owners("scheduler")   # ("scheduler 0.8.2",) after `pip install scheduler`

Imports nothing of ours but `ratls.names`, so that it works where the verifier itself was replaced.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

from ratls.names import Foreign

_OURS = frozenset({"ratls", "ratls-enclave", "ratls-simulation"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
OWN_ENVIRONMENT = "python3 -m venv ratls-env && ratls-env/bin/pip install ratls"


def owners(package: str) -> tuple[str, ...]:
    """Name and version of each distribution, ours apart, that has files in this package."""
    found = set()
    for dist in distributions():
        name = _name(dist)
        if re.sub(r"[-_.]+", "-", name).lower() not in _OURS and _has_files(dist, package):
            found.add(f"{name} {_version(dist)}".strip())
    return tuple(sorted(found))


def _has_files(dist: Distribution, package: str) -> bool:
    try:
        files = dist.files or ()
    except Exception:  # noqa: BLE001 - metadata of others, in any state
        return False
    return any(file.parts[:1] == (package,) or file.parts == (f"{package}.py",) for file in files)


def _name(dist: Distribution) -> str:
    name = dist.metadata["Name"] if dist.metadata is not None else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else "a distribution of no name"


def _version(dist: Distribution) -> str:
    version = dist.metadata["Version"] if dist.metadata is not None else None
    return version if isinstance(version, str) and _NAME.fullmatch(version) else ""


def fix(names: Iterable[str]) -> str:
    """The command that mends it: distributions, as `owners` names them, go, and ours comes back."""
    gone = [shlex.quote(name.split()[0]) for name in names]
    if not gone:  # a folder that comes first on the path, or files that were deleted
        return f"start elsewhere and without PYTHONPATH; or: {OWN_ENVIRONMENT}"
    return (
        f"{OWN_ENVIRONMENT}; or, here: pip uninstall {' '.join(gone)} "
        "&& pip install --force-reinstall --no-deps ratls"
    )


def refusal(found: Iterable[Foreign]) -> tuple[str, str]:
    """Sentence and remedy of `foreign-package`, with the owners' names."""
    sentences: list[str] = []
    all_owners: list[str] = []
    for one in found:
        names = owners(one.name)
        all_owners += names
        sentences.append(f"{one}{' of ' + ', '.join(names) if names else ''}")
    return "; ".join(sentences), fix(dict.fromkeys(all_owners))
