"""What every role needs: our own packages, the clock, the locale, limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from ratls.doctor.finding import Finding, Question, Role
from ratls.doctor.snapshot import Answer, Snapshot
from ratls.owners import fix as owners_fix
from verifier.text import instant_text, printable

# No clock of a machine that runs this is before the day on which this was written.
EARLIEST = datetime(2026, 11, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# Seen of the enclave under Gramine: 264 handles, one for each library that is mapped.
LEAST_FILES = 1024


def everywhere(snapshot: Snapshot, role: Role) -> Iterator[Finding]:
    """The rows of every role."""
    yield from _packages(snapshot)
    yield _interpreter(snapshot)
    if role is Role.PROVIDER:
        yield _libraries(snapshot)
    yield _clock(snapshot)
    yield _locale(snapshot)
    yield _open_files(snapshot)
    if role is Role.ENCLAVE:
        yield _address_space(snapshot)


def _packages(snapshot: Snapshot) -> Iterator[Finding]:
    asked = Question(
        "packages", "our own packages", "each package of ratls is ours", owners_fix(())
    )
    packages = snapshot.facts.packages
    if packages is None:
        yield asked.unknown("not looked at")
        return
    foreign = {name: owner for name, owner in packages.items() if owner}
    if not foreign:
        yield asked.ready(", ".join(packages))
    for name, owner in foreign.items():
        found = f"`{name}` is of {printable(owner)}"
        yield asked.not_ready(found, owners_fix(_distributions(owner)))


def _distributions(owner: str) -> list[str]:
    """Of `scheduler 0.8.2, x 1`, as `ratls.owners` names them; none of a path."""
    parts = owner.split(", ")
    return parts if all(re.fullmatch(r"[\w.-]+(?: [\w.-]+)?", p, re.ASCII) for p in parts) else []


def _interpreter(snapshot: Snapshot) -> Finding:
    asked = Question(
        "python", "Python", "3.11 to 3.13", "install one of these, and make the environment anew"
    )
    found = snapshot.facts.python
    if found is None:
        return asked.unknown("not looked at")
    return asked.judged((3, 11) <= found < (3, 14), ".".join(map(str, found)))


def _libraries(snapshot: Snapshot) -> Finding:
    asked = Question(
        "libraries",
        "libraries of a provider",
        "all of the set `provider`",
        'pip install "ratls[provider]"',
    )
    found = snapshot.facts.libraries
    if found is None:
        return asked.unknown("not looked at")
    missing = [printable(name) for name, there in found.items() if not there]
    return asked.judged(not missing, "no " + ", ".join(missing) if missing else "all of them")


def _clock(snapshot: Snapshot) -> Finding:
    asked = Question(
        "clock",
        "the clock",
        "a time within the dates of today's collateral",
        "synchronise it: timedatectl set-ntp true",
    )
    now = snapshot.facts.now
    if now is None:
        return asked.unknown("not looked at")
    at = _instant(now)
    if at is None or not EARLIEST <= at < _LATEST:
        return asked.not_ready("no such time" if at is None else instant_text(at))
    said = instant_text(at)
    dates = [a for a in snapshot.facts.services.values() if a.fault is None]
    if not dates:
        return asked.note(
            f"{said}; no collateral to compare it with",
            "name a service whose dates it is compared with: --from https://HOST",
        )
    return asked.judged(all(_covers(a, now) for a in dates), _compared(said, dates[0]))


def _covers(answer: Answer, now: int) -> bool:
    return answer.issued <= now < answer.next_update


def _compared(said: str, answer: Answer) -> str:
    issued, following = _instant(answer.issued), _instant(answer.next_update)
    if issued is None or following is None:
        return f"{said}, and dates that do not exist"
    return f"{said}; collateral covers {instant_text(issued)} to {instant_text(following)}"


def _instant(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _locale(snapshot: Snapshot) -> Finding:
    asked = Question(
        "locale", "names of files", "UTF-8", "set a UTF-8 locale: export LC_ALL=C.UTF-8"
    )
    found = snapshot.facts.encoding
    if found is None:
        return asked.unknown("not looked at")
    shown = printable(found[:40])
    return asked.ready(shown) if found.lower() in ("utf-8", "utf8") else asked.note(shown)


def _limit(snapshot: Snapshot, name: str) -> int | None:
    """The soft limit; a number beyond any for `unlimited`, None where nobody knows.

    Linux, `Documentation/filesystems/proc.rst`, limits.
    """
    for line in snapshot.excerpt("/proc/self/limits").splitlines():
        if line.startswith(name):
            soft = line.removeprefix(name).split()[0]
            return 1 << 63 if soft == "unlimited" else int(soft) if soft.isdigit() else None
    return None


def _open_files(snapshot: Snapshot) -> Finding:
    asked = Question(
        "open-files",
        "limit of open files",
        f"at least {LEAST_FILES}",
        f"ulimit -n {LEAST_FILES}, or LimitNOFILE={LEAST_FILES} in the unit",
    )
    found = _limit(snapshot, "Max open files")
    if found is None:
        return asked.unknown(snapshot.node("/proc/self/limits").said)
    return asked.judged(found >= LEAST_FILES, "unlimited" if found >> 62 else str(found))


def _address_space(snapshot: Snapshot) -> Finding:
    asked = Question("address-space", "limit of address space", "unlimited", "ulimit -v unlimited")
    found = _limit(snapshot, "Max address space")
    if found is None:
        return asked.unknown(snapshot.node("/proc/self/limits").said)
    return asked.judged(found >> 62 > 0, "unlimited" if found >> 62 else f"{found} bytes")
