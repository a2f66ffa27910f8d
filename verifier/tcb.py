"""How current is the platform: Intel's TCB info, the level that fits, and the merged verdict.

Levels are ordered lexicographically but matched component by component; a level that a newer
component alone would reach is not reached (dcap-qvl once compared vectors as numbers).
Source: Intel's "TCB Info" of the Provisioning Certification Service, version 4 of the interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from verifier.document import Fields, parse_object
from verifier.errors import (
    CollateralMalformed,
    TcbInfoMismatch,
    TcbInfoVersionOutdated,
    TcbLevelUnmatched,
)
from verifier.pck import PlatformIdentity, PlatformTcb


class TcbStatus(StrEnum):
    """Intel's words for a patch level, as written in TCB info. A closed list."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


class TcbInfoId(StrEnum):
    """Which technology a TCB info is for."""

    SGX = "SGX"
    TDX = "TDX"


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """One patch level, and what Intel says about platforms that have it."""

    components: tuple[int, ...]  #  16 SVNs
    labels: tuple[str, ...]  #      16 words on what each component is; may be empty
    pce_svn: int
    status: TcbStatus
    date: datetime  #               advisories published up to here were taken into account
    advisory_ids: tuple[str, ...]

    @classmethod
    def read(cls, fields: Fields) -> Self:
        tcb = fields.object("tcb")
        # Exactly 16: a shorter list once let every platform pass (GHSA-6q6c-vvf9-fj3w).
        entries = tcb.objects("sgxtcbcomponents", count=16)
        words = [(e.optional_text("category"), e.optional_text("type")) for e in entries]
        return cls(
            components=tuple(entry.integer("svn", high=255) for entry in entries),
            labels=tuple(", ".join(filter(None, pair)) for pair in words),
            pce_svn=tcb.integer("pcesvn", high=65535),
            status=fields.member_of("tcbStatus", TcbStatus),
            date=fields.instant("tcbDate"),
            advisory_ids=fields.optional_texts("advisoryIDs"),
        )

    def reached_by(self, tcb: PlatformTcb) -> bool:
        """Every single component, and the PCE, is at least this level's."""
        pairs = zip(tcb.components, self.components, strict=True)
        return all(has >= needs for has, needs in pairs) and tcb.pce_svn >= self.pce_svn


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """Intel's statement about one kind of platform. Parse it only once its signature holds."""

    issued: datetime
    next_update: datetime
    fmspc: bytes  #   6
    pce_id: bytes  #  2
    evaluation_data_number: int
    levels: tuple[TcbLevel, ...]  #  highest first, whatever the order on the wire

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read TCB info of version 3 for SGX.

        Raises:
            CollateralMalformed: Not that.
            TcbInfoVersionOutdated: Version 2, which Intel no longer serves.
            TcbInfoMismatch: TCB info for TDX.
        """
        fields = parse_object(text, "TCB info")
        version = fields.integer("version", high=65535)
        if version == 2:
            raise TcbInfoVersionOutdated("TCB info version", expected="3", found="2")
        if version != 3:
            raise CollateralMalformed("TCB info version", expected="3", found=str(version))
        if fields.member_of("id", TcbInfoId) is not TcbInfoId.SGX:
            raise TcbInfoMismatch("TCB info", expected="id SGX", found="id TDX")
        if fields.members.keys() & {"tdxModule", "tdxModuleIdentities"}:
            raise CollateralMalformed("TCB info", expected="no TDX module", found="one")
        fields.integer("tcbType", high=0)
        issued, next_update = read_issue_dates(fields)
        levels = sorted(
            (TcbLevel.read(level) for level in fields.objects("tcbLevels")),
            key=lambda level: (level.components, level.pce_svn),
            reverse=True,
        )
        if len({(level.components, level.pce_svn) for level in levels}) != len(levels):
            # Which of two equal levels counts would depend on the order on the wire.
            raise CollateralMalformed("TCB info", expected="distinct levels", found="equal ones")
        return cls(
            issued=issued,
            next_update=next_update,
            fmspc=fields.hex("fmspc", 6),
            pce_id=fields.hex("pceId", 2),
            evaluation_data_number=fields.integer("tcbEvaluationDataNumber", high=2**31),
            levels=tuple(levels),
        )

    def require_platform(self, platform: PlatformIdentity) -> None:
        """This statement is about this kind of platform; both identifiers, decoded.

        Raises:
            TcbInfoMismatch: It is about another one.
        """
        for field, expected, found in (
            ("fmspc", platform.fmspc, self.fmspc),
            ("pceId", platform.pce_id, self.pce_id),
        ):
            if expected != found:
                raise TcbInfoMismatch(
                    f"TCB info {field}",
                    expected=f"{expected.hex()}, as in the PCK certificate",
                    found=found.hex(),
                )

    def level_of(self, tcb: PlatformTcb) -> TcbLevel:
        """The highest level that the platform reaches in every component.

        Raises:
            TcbLevelUnmatched: It reaches none.
        """
        for level in self.levels:
            if level.reached_by(tcb):
                return level
        raise TcbLevelUnmatched(
            "TCB level of the platform",
            expected="at least the lowest listed level",
            found="; ".join(shortfall(self.levels[-1], tcb)),
        )


def read_issue_dates(fields: Fields) -> tuple[datetime, datetime]:
    """issueDate and nextUpdate, in that order in time."""
    issued, next_update = fields.instant("issueDate"), fields.instant("nextUpdate")
    if issued >= next_update:
        raise CollateralMalformed(
            fields.where, expected="issueDate before nextUpdate", found="the reverse"
        )
    return issued, next_update


def shortfall(level: TcbLevel, tcb: PlatformTcb) -> tuple[str, ...]:
    """What keeps the platform from this level, for people: one text per component."""
    triples = zip(tcb.components, level.components, level.labels, strict=True)
    behind = [
        f"component {number}{f' ({label})' if label else ''} {has} < {needs}"
        for number, (has, needs, label) in enumerate(triples, start=1)
        if has < needs
    ]
    if tcb.pce_svn < level.pce_svn:
        behind.append(f"PCE {tcb.pce_svn} < {level.pce_svn}")
    return tuple(behind)


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """How current platform and quoting enclave are. Authentic, but accepted by nobody yet."""

    status: TcbStatus
    date: datetime  #                    the older of the two matched levels'
    advisory_ids: tuple[str, ...]  #     platform's, then the quoting enclave's; no repeats
    evaluation_data_number: int  #       the smaller of TCB info's and QE identity's
    platform_status: TcbStatus
    qe_status: TcbStatus
    behind_newest: tuple[str, ...]  #    what separates the platform from Intel's newest level


_WITH_OUTDATED_QE = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.REVOKED: TcbStatus.REVOKED,
}


def converge(platform: TcbStatus, qe: TcbStatus) -> TcbStatus:
    """One status for platform and quoting enclave. Not a maximum: a configuration need stays."""
    if qe is TcbStatus.REVOKED:
        return TcbStatus.REVOKED
    return platform if qe is TcbStatus.UP_TO_DATE else _WITH_OUTDATED_QE[platform]


def without_repeats(*lists: Sequence[str]) -> tuple[str, ...]:
    """The union, in the order of first appearance."""
    return tuple(dict.fromkeys(item for items in lists for item in items))
