"""Intel's statuses of how current something is, and how several are merged into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice, starmap
from typing import NamedTuple, Self

from verifier.document import CollateralMalformed, Fields, Table
from verifier.errors import RatlsError


class TcbStatus(StrEnum):
    """A patch level, in Intel's words. A closed list; the last two are verdicts of a verifier."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    # A trust domain that was launched before its TDX module was updated, and still runs.
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


_CONFIGURATION = {
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_OUT_OF_DATE = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
# A platform's status, and what it becomes beside a component that is out of date.
# `TDRelaunchAdvised` appears in no document; `relaunch` derives it.
_WITH_OUTDATED_COMPONENT = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.REVOKED: TcbStatus.REVOKED,
}


# What a platform's level may say.
OF_PLATFORMS = {status.value: status for status in _WITH_OUTDATED_COMPONENT}
# What a level of a component may say, and what it means: between current and revoked there is
# nothing but outdated.
_OF_QUOTING_ENCLAVES = {
    TcbStatus.UP_TO_DATE.value: TcbStatus.UP_TO_DATE,
    TcbStatus.OUT_OF_DATE.value: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED.value: TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED.value: TcbStatus.OUT_OF_DATE,
    TcbStatus.REVOKED.value: TcbStatus.REVOKED,
}
_OF_MODULES = {
    status.value: status
    for status in (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED)
}


def converge(platform: TcbStatus, *components: TcbStatus) -> TcbStatus:
    """One status for a platform and its components (quoting enclave, TDX module).

    Not a maximum: a configuration need stays beside a component that is out of date.
    """
    if TcbStatus.REVOKED in components:
        return TcbStatus.REVOKED
    if set(components) <= {TcbStatus.UP_TO_DATE}:
        return platform
    return _WITH_OUTDATED_COMPONENT[platform]


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The status of a trust domain, from that of its launch and that of what runs beneath it now.

    An update beneath a running domain helps only once the domain is launched again. What either of
    them lost by being revoked, the other does not give back: a launch that is not merely out of
    date decides by itself.
    """
    if current is TcbStatus.REVOKED:
        return current
    if launch not in _OUT_OF_DATE or current in _OUT_OF_DATE:
        return launch
    if {launch, current} & _CONFIGURATION:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


class Update(StrEnum):
    """What an operator installs to raise a component."""

    FIRMWARE = "BIOS/microcode"
    MODULE = "TDX module"
    PACKAGE = "PSW/QGS package"


class Short(NamedTuple):
    """A component that is below what a level needs."""

    component: str
    has: int
    needs: int
    raised_by: Update
    counts: str = "SVN"  # what is counted

    def __str__(self) -> str:
        return f"{self.component}: {self.counts} {self.has}, needs {self.needs}"


@dataclass(frozen=True, slots=True, eq=False)
class SvnLevel:
    """One security version of the quoting enclave, or of the TDX module."""

    isv_svn: int
    status: TcbStatus  #  UpToDate, OutOfDate or Revoked
    date: datetime
    advisory_ids: tuple[str, ...]

    @property
    def summary(self) -> str:
        return f"{self.status!s}, from ISVSVN {self.isv_svn} on"

    @classmethod
    def reached(
        cls, levels: Sequence[Self], svn: int, thing: str, refusal: type[RatlsError]
    ) -> Self:
        """The first of these levels, highest first, that `svn` reaches. Raises: `refusal`."""
        for level in levels:
            if svn >= level.isv_svn:
                return level
        raise refusal(thing, expected=f"at least {levels[-1].isv_svn}", found=str(svn))

    @classmethod
    def of_quoting_enclave(cls, identity: Fields) -> tuple[Self, ...]:
        """The levels of a QE identity, highest first."""
        table = identity.table("tcbLevels")
        return cls._ranked(cls._read(table, _OF_QUOTING_ENCLAVES), table.where)

    @classmethod
    def of_modules(cls, identities: Table) -> list[tuple[Self, ...]]:
        """The levels of each TDX module, highest first."""
        counts, table = identities.tables("tcbLevels")
        levels = iter(cls._read(table, _OF_MODULES))
        return [cls._ranked([*islice(levels, count)], table.where) for count in counts]

    @classmethod
    def _read(cls, table: Table, meanings: Mapping[str, TcbStatus]) -> list[Self]:
        columns = zip(
            table.table("tcb").integers("isvsvn", high=65535),
            table.words("tcbStatus", meanings),
            table.instants("tcbDate"),
            table.optional_lists("advisoryIDs"),
            strict=True,
        )
        return list(starmap(cls, columns))

    @classmethod
    def _ranked(cls, wire: list[Self], where: str) -> tuple[Self, ...]:
        """Highest first; on the wire they may be in any order."""
        levels = {level.isv_svn: level for level in wire}
        if len(levels) != len(wire):
            # Which of two equal levels counts would depend on the order on the wire.
            raise CollateralMalformed(where, expected="distinct levels", found="equal ones")
        return tuple(levels[svn] for svn in sorted(levels, reverse=True))


def without_repeats(*lists: Sequence[str]) -> tuple[str, ...]:
    """The union, in the order of first appearance."""
    return tuple(dict.fromkeys(item for items in lists for item in items))
