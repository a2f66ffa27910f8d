"""How current is the platform: Intel's TCB info, the level reached, and the merged verdict.

Levels are ordered lexicographically but matched component by component; a level that a newer
component alone would reach is not reached (dcap-qvl once compared vectors as numbers). Source:
Intel's PCS API v4, `/sgx/certification/v4/tcb` and PCS API v4, `/tdx/certification/v4/tcb`;
members in docs/dcap.md 3.4, levels in docs/dcap.md 4.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from itertools import starmap
from operator import ge
from typing import NamedTuple, Self, TypeAlias

from verifier.document import CollateralMalformed, Fields, Table, parse_object
from verifier.errors import BelowEveryLevelError, CollateralMismatchError, CollateralStaleError
from verifier.pck import PlatformIdentity, PlatformTcb
from verifier.quote import EnclaveReport, Tee
from verifier.status import (
    OF_PLATFORMS,
    Short,
    SvnLevel,
    Update,
    converge,
    relaunch,
    without_repeats,
)
from verifier.status import TcbStatus as TcbStatus
from verifier.td import TdReport
from verifier.tdx_module import TdxModule, TdxModuleIdentity, identity_for, read_identities

COMPONENTS = 16


class TcbInfoId(StrEnum):
    """The technology that a TCB info is for, in Intel's words."""

    SGX = "SGX"
    TDX = "TDX"


class TcbLevel(NamedTuple):
    """One patch level, and what Intel says about platforms that have it."""

    components: tuple[int, ...]  #      16 SVNs
    pce_svn: int
    status: TcbStatus
    date: datetime  #                   advisories published up to here were taken into account
    advisory_ids: tuple[str, ...]
    tdx_components: tuple[int, ...] = ()  # 16 SVNs; none in TCB info for SGX

    @property
    def order(self) -> tuple[object, ...]:
        """What levels are sorted and distinguished by."""
        return self.components, self.pce_svn, self.tdx_components

    def reached_by(self, tcb: PlatformTcb, tee_tcb_svn: bytes | None = None) -> bool:
        """Every single component, and the PCE, is at least this level's.

        Args:
            tcb: The platform's, from its PCK certificate.
            tee_tcb_svn: 16 bytes, of a trust domain; None for an enclave.
        """
        # Strict: where the shorter list ends the comparison, nothing is left that could refuse.
        pairs = zip(tcb.components, self.components, strict=True)
        if not all(starmap(ge, pairs)) or tcb.pce_svn < self.pce_svn:
            return False
        if tee_tcb_svn is None:
            return True
        first = _first_compared(tee_tcb_svn)
        pairs = zip(tee_tcb_svn[first:], self.tdx_components[first:], strict=True)
        return all(starmap(ge, pairs))


Label: TypeAlias = tuple[str, str]  # category and type of a component; either may be empty
Labels: TypeAlias = tuple[Label, ...]


def _read_levels(table: Table, tee: Tee) -> tuple[tuple[TcbLevel, ...], Labels, Labels]:
    """The levels, highest first, in any order on the wire; what each component is."""
    tcbs = table.table("tcb")
    # Exactly 16: a shorter list once let every platform pass (GHSA-6q6c-vvf9-fj3w).
    components = tcbs.joined("sgxtcbcomponents", count=COMPONENTS)
    tdx: list[tuple[int, ...]] = [()] * len(table.rows)
    tdx_labels: Labels = ()
    if tee is Tee.TDX:
        tdx_components = tcbs.joined("tdxtcbcomponents", count=COMPONENTS)
        tdx, tdx_labels = _svns(tdx_components), _labels(tdx_components)
    columns = zip(
        _svns(components),
        tcbs.integers("pcesvn", high=65535),
        table.words("tcbStatus", OF_PLATFORMS),
        table.instants("tcbDate"),
        table.optional_lists("advisoryIDs"),
        tdx,
        strict=True,
    )
    levels = {level.order: level for level in starmap(TcbLevel, columns)}
    if len(levels) != len(table.rows):
        # Which of two equal levels counts would depend on the order on the wire.
        raise CollateralMalformed(table.where, expected="distinct levels", found="equal ones")
    ranked = tuple(levels[order] for order in sorted(levels, reverse=True))
    return ranked, _labels(components), tdx_labels


def _svns(components: Table) -> list[tuple[int, ...]]:
    """16 for each level."""
    svns = iter(components.integers("svn", high=255))
    return list(zip(*[svns] * COMPONENTS, strict=True))


def _labels(components: Table) -> Labels:
    first = components.head(COMPONENTS)  # the same in every level, so the first will do
    return tuple(zip(first.optional_texts("category"), first.optional_texts("type"), strict=True))


def _first_compared(tee_tcb_svn: bytes) -> int:
    # The first two are the TDX module's; from version 1 on its own identity judges it.
    return 2 if tee_tcb_svn[1] else 0


class TcbInfoVersionOutdated(CollateralStaleError):
    """TCB info of version 2, which Intel no longer serves: it is not current."""

    code = "tcb-info-version-outdated"
    default_fix = "fetch the collateral from version 4 of Intel's service"


class TcbInfoMismatch(CollateralMismatchError):
    """Genuine TCB info, but of another kind of platform than the one that made the quote."""

    code = "tcb-info-mismatch"
    default_fix = "fetch the collateral for this quote's own FMSPC and PCE"


class TcbLevelUnmatched(BelowEveryLevelError):
    """The platform is genuine, and below every TCB level that Intel lists for it."""

    code = "tcb-level-unmatched"
    default_fix = "update the platform, then make a new quote; no option accepts this one"
    says = "the platform is below {expected}; short of the nearest one: {found}"


@dataclass(frozen=True, slots=True, eq=False)
class TcbInfo:
    """Intel's statement about one kind of platform. Parse it only once its signature is checked."""

    tee: Tee
    issued: datetime
    next_update: datetime
    fmspc: bytes  #   6
    pce_id: bytes  #  2
    evaluation_data_number: int
    levels: tuple[TcbLevel, ...]  #  highest first
    labels: Labels  #                of the components
    tdx_labels: Labels
    module: TdxModule | None = None  #  of TDX alone, as the identities are
    module_identities: tuple[TdxModuleIdentity, ...] = field(default=())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read TCB info of version 3, for SGX or TDX.

        Raises:
            CollateralMalformed: Not that.
            TcbInfoVersionOutdated: Version 2, which Intel no longer serves.
        """
        fields = parse_object(text, "TCB info")
        version = fields.integer("version", high=65535)
        if version == 2:
            raise TcbInfoVersionOutdated("TCB info version", expected="3", found="2")
        if version != 3:
            raise CollateralMalformed("TCB info version", expected="3", found=str(version))
        tee = Tee.SGX if fields.member_of("id", TcbInfoId) is TcbInfoId.SGX else Tee.TDX
        if tee is Tee.SGX and fields.members.keys() & {"tdxModule", "tdxModuleIdentities"}:
            raise CollateralMalformed("TCB info for SGX", expected="no TDX module", found="one")
        fields.integer("tcbType", high=0)
        issued, next_update = read_issue_dates(fields)
        levels, labels, tdx_labels = _read_levels(fields.table("tcbLevels"), tee)
        return cls(
            tee=tee,
            issued=issued,
            next_update=next_update,
            fmspc=fields.hex("fmspc", 6),
            pce_id=fields.hex("pceId", 2),
            evaluation_data_number=fields.integer("tcbEvaluationDataNumber", high=2**31),
            levels=levels,
            labels=labels,
            tdx_labels=tdx_labels,
            module=TdxModule.read(fields.object("tdxModule")) if tee is Tee.TDX else None,
            module_identities=read_identities(fields) if tee is Tee.TDX else (),
        )

    def require_platform(self, tee: Tee, platform: PlatformIdentity) -> None:
        """This statement is about this technology on this kind of platform; decoded, not as text.

        Raises:
            TcbInfoMismatch: It is about another one.
        """
        if self.tee is not tee:
            raise TcbInfoMismatch("TCB info", expected=f"for {tee}", found=f"for {self.tee}")
        for name, expected, found in (
            ("fmspc", platform.fmspc, self.fmspc),
            ("pceId", platform.pce_id, self.pce_id),
        ):
            if expected != found:
                raise TcbInfoMismatch(
                    f"TCB info {name}",
                    expected=f"{expected.hex()}, as in the PCK certificate",
                    found=found.hex(),
                )

    def require_module(self, report: EnclaveReport | TdReport) -> None:
        """The TDX module beneath a trust domain is one described here; an enclave has none.

        The report describes the module of the launch; that which runs now must be listed too.

        Raises:
            TdxModuleMismatch: It is another one.
        """
        if isinstance(report, EnclaveReport):
            return
        identity = identity_for(self.module_identities, report.tee_tcb_svn)
        if report.tee_tcb_svn_2 is not None:
            identity_for(self.module_identities, report.tee_tcb_svn_2)
        module = identity.module if identity else self.module
        assert module is not None, "TCB info for TDX describes a module"
        module.require_described(report)

    def level_of(self, tcb: PlatformTcb, tee_tcb_svn: bytes | None = None) -> TcbLevel:
        """The highest level that is reached in every component; arguments of `reached_by`.

        Raises:
            TcbLevelUnmatched: None is.
        """
        for level in self.levels:
            if level.reached_by(tcb, tee_tcb_svn):
                return level

        def missing(level: TcbLevel) -> tuple[Short, ...]:
            return self.shortfall(level, tcb, tee_tcb_svn)

        nearest = min(reversed(self.levels), key=lambda level: len(missing(level)))
        raise TcbLevelUnmatched(
            "TCB level of the platform",
            expected="every TCB level that Intel lists",
            found="; ".join(map(str, missing(nearest))),
            fix=f"update {', '.join(dict.fromkeys(s.raised_by for s in missing(nearest)))} of the "
            "platform, then make a new quote; no option accepts this one",
        )

    def shortfall(
        self, level: TcbLevel, tcb: PlatformTcb, tee_tcb_svn: bytes | None = None
    ) -> tuple[Short, ...]:
        """Each component that keeps the platform from this level, for people."""
        behind = _short("SGX", tcb.components, level.components, self.labels, 0)
        if tcb.pce_svn < level.pce_svn:
            behind.append(Short("PCE", tcb.pce_svn, level.pce_svn, Update.PACKAGE))
        if tee_tcb_svn is not None:
            first = _first_compared(tee_tcb_svn)
            behind += _short("TDX", tee_tcb_svn, level.tdx_components, self.tdx_labels, first)
        return tuple(behind)


def _short(
    kind: str, own: Sequence[int], wanted: Sequence[int], labels: Labels, first: int
) -> list[Short]:
    """The components that are below what is wanted, from the one at `first` on."""
    return [
        Short(
            _named(kind, number, *labels[number]),
            has,
            needs,
            _raised_by(kind, number),
        )
        for number, (has, needs) in enumerate(zip(own, wanted, strict=True))
        if number >= first and has < needs
    ]


def _named(kind: str, number: int, category: str, name: str) -> str:
    component = f"{kind} component {number + 1}"
    return f"{name or category} ({component})" if name or category else component


def _raised_by(kind: str, number: int) -> Update:
    of_module = kind == "TDX" and number < 2  # by whatever name
    return Update.MODULE if of_module else Update.FIRMWARE


def read_issue_dates(fields: Fields) -> tuple[datetime, datetime]:
    """issueDate and nextUpdate, in that order in time."""
    issued, next_update = fields.instant("issueDate"), fields.instant("nextUpdate")
    if issued >= next_update:
        raise CollateralMalformed(
            fields.where, expected="issueDate before nextUpdate", found="the reverse"
        )
    return issued, next_update


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """How current all of it is. Authentic, but not yet accepted."""

    status: TcbStatus
    date: datetime  #                    the oldest of the matched levels'
    advisory_ids: tuple[str, ...]  #     platform's, quoting enclave's, TDX module's; no repeats
    evaluation_data_number: int  #       the smaller of TCB info's and QE identity's
    platform_status: TcbStatus
    qe_status: TcbStatus
    module_status: TcbStatus | None = None  #   of the TDX module; none for SGX and version 0
    current_status: TcbStatus | None = None  #  TDX 1.5: of what runs now beneath the domain

    @property
    def summary(self) -> str:
        return f"{self.status!s}, as of {self.date.date().isoformat()}"


class _Evaluation(NamedTuple):
    """The levels that one set of SVNs reaches, merged."""

    platform: TcbLevel
    parts: tuple[TcbLevel | SvnLevel, ...]
    module: SvnLevel | None
    status: TcbStatus


def _evaluate(
    info: TcbInfo, tcb: PlatformTcb, qe_level: SvnLevel, tee_tcb_svn: bytes | None
) -> _Evaluation:
    platform, module = info.level_of(tcb, tee_tcb_svn), None
    if tee_tcb_svn is not None:
        identity = identity_for(info.module_identities, tee_tcb_svn)
        module = identity.level_of(tee_tcb_svn[0]) if identity else None
    components = (qe_level, module) if module else (qe_level,)
    status = converge(platform.status, *(level.status for level in components))
    return _Evaluation(platform, (platform, *components), module, status)


@lru_cache(maxsize=1024)  # pure; each statement, platform and level is remembered as an object
def evaluate(
    info: TcbInfo,
    tcb: PlatformTcb,
    qe_level: SvnLevel,
    evaluation_data_number: int,
    svns: tuple[bytes, ...],
) -> TcbVerdict:
    """One verdict on platform, quoting enclave and, for a trust domain, TDX module.

    A domain of TDX 1.5 is judged twice: by what it was launched on, and by what runs now.

    Args:
        info: TCB info for this platform.
        tcb: The platform's patch level.
        qe_level: The quoting enclave's.
        evaluation_data_number: The smaller one of TCB info's and the QE identity's.
        svns: A trust domain's TEE_TCB_SVNs, of its launch and of now; empty for an enclave.

    Raises:
        TcbLevelUnmatched, TdxModuleLevelUnmatched, TdxModuleMismatch: Below everything listed.
    """
    launched = svns[0] if svns else None
    launch = _evaluate(info, tcb, qe_level, launched)
    current = _evaluate(info, tcb, qe_level, svns[1]) if len(svns) > 1 else None
    # What runs now is what the rows meet: its levels count beside those of the launch.
    levels = launch.parts if current is None else launch.parts + current.parts
    return TcbVerdict(
        status=launch.status if current is None else relaunch(launch.status, current.status),
        date=min(level.date for level in levels),
        advisory_ids=without_repeats(*(level.advisory_ids for level in levels)),
        evaluation_data_number=evaluation_data_number,
        platform_status=launch.platform.status,
        qe_status=qe_level.status,
        module_status=launch.module.status if launch.module else None,
        current_status=current.status if current else None,
    )
