"""The page `docs/errors.md` and `ratls/refusals.json`, made from the classes (`make errors`)."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

from verifier.errors import RatlsError

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation")


def leaves(*packages: str) -> list[type[RatlsError]]:
    """Every leaf class of these packages (default: of all), ordered by package, branch and code."""
    packages = packages or PACKAGES
    for package in packages:  # a leaf stands beside its check, so in any module
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            importlib.import_module(module.name)
    found: set[type[RatlsError]] = set()
    todo: list[type[RatlsError]] = [RatlsError]
    while todo:
        for sub in todo.pop().__subclasses__():
            todo.append(sub)
            if sub.code and sub.__module__.split(".")[0] in packages:
                found.add(sub)
    return sorted(found, key=lambda c: (_order(c), branch(c), c.code))


def _order(leaf: type[RatlsError]) -> int:
    return PACKAGES.index(leaf.__module__.split(".")[0])


def branch(leaf: type[RatlsError]) -> str:
    """The name of the branch a leaf stands under: its nearest ancestor without a code."""
    return next(c.__name__ for c in leaf.__mro__[1:] if not getattr(c, "code", "x"))


def page() -> str:
    """The whole page."""
    lines = [
        "# Every refusal, by code",
        "",
        "A refusal prints `[code] thing: expected …, found …` and, below it, what to do. Codes",
        "never change their meaning; messages may. `--json` carries the code in `error.code`.",
        "Made from the classes by `make errors`.",
        "",
        "Exit statuses: 0 yes; 1 a bug of ours; 2 usage; 3 unusable local input; 4 not genuine;",
        "5 could not decide; 6 genuine but not admitted, agreement or task not valid; 7 the other",
        "side failed or refused; 130 interrupted.",
    ]
    for package in PACKAGES:
        rows = [c for c in leaves() if c.__module__.split(".")[0] == package]
        if not rows:
            continue
        lines += ["", f"## {package}", "", "| code | branch | exit | meaning | to do |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [
            f"| `{c.code}` | `{branch(c)}` | {int(c.exit_status)} | {_first_line(c)} "
            f"| {c.default_fix or 'see the message'} |"
            for c in rows
        ]
    return "\n".join(lines) + "\n" + _classes()


def _classes() -> str:
    names = json.loads((ROOT / "tests" / "vectors" / "codes.json").read_text("utf-8"))
    lines = ["", "## Classes of failure in [`dcap.md`](dcap.md), 4.11", ""]
    lines += ["| failure class | our codes |", "| --- | --- |"]
    lines += [
        f"| `{name}` | {', '.join(f'`{c}`' for c in codes)} |"
        for name, codes in names["dcap"].items()
    ]
    return "\n".join(lines) + "\n"


def data() -> str:
    """What `ratls explain` prints, by code; the same words as on the page, and all of them."""
    entries = {
        leaf.code: {
            "package": leaf.__module__.split(".")[0],
            "branch": branch(leaf),
            "exit": int(leaf.exit_status),
            "meaning": inspect.cleandoc(leaf.__doc__ or ""),
            "fix": leaf.default_fix or None,
        }
        for leaf in sorted(leaves(), key=lambda leaf: leaf.code)
    }
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def _first_line(leaf: type[RatlsError]) -> str:
    return (leaf.__doc__ or "").strip().split("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    (ROOT / "docs" / "errors.md").write_text(page(), "utf-8")
    (ROOT / "ratls" / "refusals.json").write_text(data(), "utf-8")
