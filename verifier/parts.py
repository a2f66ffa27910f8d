"""How far behind is each part of a platform, and what raises it? For people and monitoring.

    for part in parts_of(verified.genuine):
        part.name, part.status, part.level, part.newest, part.short

Platform, quoting enclave and TDX module are told each for itself, also where several are behind at
once, or below every level. Nothing is decided here: see `verifier.tcb.evaluate`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

from verifier.contents import Contents
from verifier.genuine import GenuineQuote
from verifier.pck import PlatformTcb
from verifier.qe import QeIdentity
from verifier.status import Short, SvnLevel, TcbStatus, Update
from verifier.tcb import TcbInfo, TcbLevel
from verifier.tdx_module import identity_for
from verifier.text import instant_text

Judged: TypeAlias = tuple[TcbInfo, QeIdentity, PlatformTcb, int, tuple[bytes, ...]]


class PartName(StrEnum):
    """A part with levels of its own. The last two are of TDX 1.5 after an update beneath it."""

    PLATFORM = "platform"
    QUOTING_ENCLAVE = "quoting enclave"
    TDX_MODULE = "TDX module"
    PLATFORM_NOW = "platform as it runs now"
    TDX_MODULE_NOW = "TDX module that runs now"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: the level that it reaches, the newest that there is, and what lies between."""

    name: PartName
    level: TcbLevel | SvnLevel | None  # None: it is below every level
    newest: TcbLevel | SvnLevel
    short: tuple[Short, ...]  #          of the newest level; empty at that level

    @property
    def status(self) -> TcbStatus | None:
        return None if self.level is None else self.level.status

    @property
    def behind(self) -> bool:
        """There is something to do, or to know, about this part."""
        return bool(self.short) or self.status is not TcbStatus.UP_TO_DATE

    @property
    def lines(self) -> list[str]:
        """For people."""
        level, newest = self.level, self.newest
        own = "below every level that Intel lists" if level is None else _told(level)
        if self.short:
            head = f"{self.name} is {own}; the newest level is {_told(newest)}"
        else:
            head = f"{self.name} is {own}, at the newest level"
        return [head, *(f"  {short}; raised by {short.raised_by}" for short in self.short)]

    def as_json(self) -> dict[str, object]:
        """An element of the `parts` of the commands' JSON; other programs rely on it."""
        return {
            "part": self.name.name.lower(),
            "status": self.status and self.status.value,
            "level": self.level and _as_json(self.level),
            "newest": _as_json(self.newest),
            "short": [
                {
                    "component": short.component,
                    "has": short.has,
                    "needs": short.needs,
                    "raised_by": short.raised_by.value,
                }
                for short in self.short
            ],
        }


def updates(parts: Iterable[Part]) -> tuple[Update, ...]:
    """What would raise all that is short, each once."""
    return tuple(dict.fromkeys(short.raised_by for part in parts for short in part.short))


@dataclass(frozen=True, slots=True)
class Announced:
    """A level that is `UpToDate` with advisories that are not accepted: it would be refused."""

    thing: str
    level: TcbLevel | SvnLevel
    advisory_ids: tuple[str, ...]  # those that are not accepted

    @property
    def text(self) -> str:
        return (
            f"ahead: {self.thing} is UpToDate as of {self.level.date:%Y-%m-%d} with "
            f"{', '.join(self.advisory_ids)}, not among the advisories that are accepted"
        )

    def as_json(self) -> dict[str, object]:
        """An element of `announced` in the commands' JSON."""
        return {
            "thing": self.thing,
            "date": instant_text(self.level.date),
            "advisory_ids": list(self.advisory_ids),
        }


def announced(
    levels: Iterable[tuple[str, TcbLevel | SvnLevel]], accepted: Collection[str]
) -> tuple[Announced, ...]:
    """Of these levels, by their names, those that are current and would be refused all the same.

    Args:
        levels: Of a bundle, or of the parts of a platform.
        accepted: The advisories that are accepted.
    """
    found = []
    for thing, level in levels:
        missing = tuple(a for a in level.advisory_ids if a not in accepted)
        if missing and level.status is TcbStatus.UP_TO_DATE:
            found.append(Announced(thing, level, missing))
    return tuple(found)


def ahead_of(parts: Iterable[Part]) -> list[tuple[str, TcbLevel | SvnLevel]]:
    """The newest level of each part that has not reached it."""
    return [
        (f"the newest level of the {part.name}", part.newest)
        for part in parts
        if part.level is not part.newest
    ]


def levels_of(contents: Contents) -> list[tuple[str, TcbLevel | SvnLevel]]:
    """Every level in a bundle."""
    info = contents.tcb_info
    return [
        *(("a level of the platform", level) for level in info.levels),
        *(("a level of the quoting enclave", level) for level in contents.qe_identity.levels),
        *(
            (f"a level of the TDX module TDX_{identity.version:02X}", level)
            for identity in info.module_identities
            for level in identity.levels
        ),
    ]


def parts_of(genuine: GenuineQuote) -> tuple[Part, ...]:
    """Every part, in the order of the verdict: platform, quoting enclave, TDX module."""
    return _parts(*_judged(genuine))


def parts_as_json(genuine: GenuineQuote) -> list[dict[str, object]]:
    """The `parts` of the commands' JSON, the same objects for all quotes of a platform."""
    return _parts_as_json(*_judged(genuine))


def _judged(genuine: GenuineQuote) -> Judged:
    contents, quote = genuine.contents, genuine.quote
    isv_svn = quote.auth.qe_report.isv_svn
    tcb = genuine.pck.extension.tcb
    return contents.tcb_info, contents.qe_identity, tcb, isv_svn, quote.report.svns


@lru_cache(maxsize=1024)
def _parts_as_json(*judged: *Judged) -> list[dict[str, object]]:
    return [part.as_json() for part in _parts(*judged)]


@lru_cache(maxsize=1024)  # pure, as `verifier.tcb.evaluate`
def _parts(
    info: TcbInfo, identity: QeIdentity, tcb: PlatformTcb, isv_svn: int, svns: tuple[bytes, ...]
) -> tuple[Part, ...]:
    enclave = Short("quoting enclave", isv_svn, 0, Update.PACKAGE, "ISVSVN")
    platform = _platform(PartName.PLATFORM, info, tcb, svns[0] if svns else None)
    parts = [platform, _by_svn(PartName.QUOTING_ENCLAVE, identity.levels, enclave)]
    if svns:
        parts += _module(PartName.TDX_MODULE, info, svns[0])
    if len(set(svns)) > 1:
        now = _platform(PartName.PLATFORM_NOW, info, tcb, svns[1])
        if (now.level, now.short) != (platform.level, platform.short):
            parts.append(now)
        parts += _module(PartName.TDX_MODULE_NOW, info, svns[1])
    return tuple(parts)


def _platform(name: PartName, info: TcbInfo, tcb: PlatformTcb, svn: bytes | None) -> Part:
    level = next((one for one in info.levels if one.reached_by(tcb, svn)), None)
    newest = info.levels[0]
    return Part(name, level, newest, info.shortfall(newest, tcb, svn))


def _module(name: PartName, info: TcbInfo, svn: bytes) -> list[Part]:
    """Nothing for version 0, which has no levels: it is judged with the platform."""
    identity = identity_for(info.module_identities, svn)
    if identity is None:
        return []
    module = f"TDX module TDX_{identity.version:02X}"
    return [_by_svn(name, identity.levels, Short(module, svn[0], 0, Update.MODULE))]


def _by_svn(name: PartName, levels: Sequence[SvnLevel], has: Short) -> Part:
    newest = levels[0]
    short = has._replace(needs=newest.isv_svn)
    level = next((one for one in levels if has.has >= one.isv_svn), None)
    return Part(name, level, newest, (short,) if short.has < short.needs else ())


def _told(level: TcbLevel | SvnLevel) -> str:
    return f"{level.status} as of {level.date:%Y-%m-%d}"


def _as_json(level: TcbLevel | SvnLevel) -> dict[str, object]:
    svn = {"isv_svn": level.isv_svn} if isinstance(level, SvnLevel) else {"pce_svn": level.pce_svn}
    return {
        "status": level.status.value,
        "date": instant_text(level.date),
        "advisory_ids": list(level.advisory_ids),
        **svn,
    }
