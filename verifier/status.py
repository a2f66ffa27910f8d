"""Intel's words for how current something is, and how those for its parts become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from verifier.document import Fields
from verifier.errors import CollateralMalformed


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


_RELAUNCH = {
    TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}
_CONFIGURATION = {
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_OUT_OF_DATE = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
# A platform's status, and what it becomes beside a component that is out of date.
_WITH_OUTDATED_COMPONENT = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.REVOKED: TcbStatus.REVOKED,
}


# What a level of a component may say, and what it means: between current and revoked there is
# nothing but outdated.
_OF_COMPONENTS = {
    TcbStatus.UP_TO_DATE: TcbStatus.UP_TO_DATE,
    TcbStatus.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.REVOKED: TcbStatus.REVOKED,
}


def platform_status(fields: Fields) -> TcbStatus:
    """The `tcbStatus` of a platform's level.

    Raises:
        CollateralMalformed: Another word; a relaunch is advised by no document.
    """
    status = fields.member_of("tcbStatus", TcbStatus)
    if status in _RELAUNCH:
        raise CollateralMalformed(
            f"{fields.where}.tcbStatus", expected="a platform's status", found=status
        )
    return status


def converge(platform: TcbStatus, *components: TcbStatus) -> TcbStatus:
    """One status for a platform and its components (quoting enclave, TDX module).

    Not a maximum: a configuration need stays beside a component that is out of date.
    """
    if TcbStatus.REVOKED in components:
        return TcbStatus.REVOKED
    if all(component is TcbStatus.UP_TO_DATE for component in components):
        return platform
    return _WITH_OUTDATED_COMPONENT[platform]


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The status of a trust domain, from that of its launch and that of what runs beneath it now.

    An update beneath a running domain helps only once the domain is launched anew.
    """
    if launch not in _OUT_OF_DATE:
        # What was good at the launch does not outlive what runs now.
        return TcbStatus.REVOKED if current is TcbStatus.REVOKED else launch
    if current in _OUT_OF_DATE or current is TcbStatus.REVOKED:
        return launch
    if {launch, current} & _CONFIGURATION:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


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
    def read(cls, fields: Fields) -> Self:
        status = platform_status(fields)
        if status not in _OF_COMPONENTS:
            raise CollateralMalformed(
                f"{fields.where}.tcbStatus",
                expected=f"one of {', '.join(_OF_COMPONENTS)}",
                found=status,
            )
        return cls(
            isv_svn=fields.object("tcb").integer("isvsvn", high=65535),
            status=_OF_COMPONENTS[status],
            date=fields.instant("tcbDate"),
            advisory_ids=fields.optional_texts("advisoryIDs"),
        )

    @classmethod
    def read_all(cls, fields: Fields) -> tuple[Self, ...]:
        """The `tcbLevels` of a component, highest first, whatever the order on the wire."""
        levels = [cls.read(level) for level in fields.objects("tcbLevels")]
        if len({level.isv_svn for level in levels}) != len(levels):
            # Which of two equal levels counts would depend on the order on the wire.
            raise CollateralMalformed(fields.where, expected="distinct levels", found="equal ones")
        return tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))


def without_repeats(*lists: Sequence[str]) -> tuple[str, ...]:
    """The union, in the order of first appearance."""
    return tuple(dict.fromkeys(item for items in lists for item in items))
