"""dcap.md 5.7 to 5.9 for TDX: the module, the trust domain, levels, relaunch, acceptance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

from simulation.documents import qe_level, tcb_level, tdx_module, tdx_module_identity
from tests.vectors.casebook import DATE, GOOD, Book, Hook, TdBook, drop, put, scene
from tests.vectors.cases_tcb import PLATFORM_STATUSES, WITH_OUTDATED
from tests.vectors.cases_td_quote import quote, quote_1_5

W = scene()
SEPT_VE = 1 << 28


def filled(svns: Sequence[int]) -> tuple[int, ...]:
    return (*svns, *(0,) * (16 - len(svns)))


Level = tuple[Sequence[int], str]  # the first TDX components, status
Identities = dict[int, list[tuple[int, str]]]  # version: (SVN, status)
LATEST: list[Level] = [((5, 0, 2), GOOD), ((3, 0, 2), "OutOfDate")]
MODULES: Identities = {1: [(5, GOOD), (2, "OutOfDate")], 3: [(3, GOOD)]}


def judged(
    svn: Sequence[int] = (5, 1, 2),
    *,
    now: Sequence[int] | None = None,
    levels: Sequence[Level | dict[str, Any]] = LATEST,
    modules: Identities | None = MODULES,
    qe: str = GOOD,
    info: Hook = lambda d: d,
    **td: Any,
) -> dict[str, Any]:
    """A trust domain at this TEE_TCB_SVN, of TDX 1.5 where `now` is given, and its collateral.

    The levels differ in TDX components alone, unless they are given as documents.
    """
    tcb = W.platform.tcb
    entries = [
        entry
        if isinstance(entry, dict)
        else tcb_level(
            tcb.components, tcb.pce_svn, date=DATE, status=entry[1], tdx=filled(entry[0])
        )
        for entry in levels
    ]
    document: dict[str, Any] = {"tcbLevels": entries}
    if modules is not None:
        document["tdxModuleIdentities"] = [
            tdx_module_identity(v, [qe_level(n, date=DATE, status=s) for n, s in known])
            for v, known in modules.items()
        ]

    def hook(genuine: dict[str, Any]) -> dict[str, Any]:
        if modules is None:
            genuine = drop("tdxModuleIdentities")(genuine)
        return info({**genuine, **document})  # type: ignore[no-any-return]

    identity = put(tcbLevels=[qe_level(1, date=DATE, status=qe)])
    later = {} if now is None else {"tee_tcb_svn_2": bytes(filled(now))}
    return {
        "quote": quote(4 if now is None else 5, tee_tcb_svn=bytes(filled(svn)), **later, **td),
        "collateral": W.collateral(tdx=True, tcb_info=hook, qe_identity=identity),
    }


def described_module(version: int, **module: bytes) -> Hook:
    """TCB info in which the module of this version is described so."""
    form = tdx_module(**module)
    if version == 0:
        return put(tdxModule=form)
    return lambda d: {
        **d,
        "tdxModuleIdentities": [
            {**i, **form} if i["id"] == f"TDX_{version:02X}" else i
            for i in d["tdxModuleIdentities"]
        ],
    }


def specifics(shared: Book) -> None:
    """dcap.md 5.7."""
    book = TdBook(shared)
    module(book)
    module_levels(book)
    domain(book)


def module(book: TdBook) -> None:
    """N160 to N165: is the module the one that Intel describes."""
    mismatch, ones = "tdx-module-mismatch", b"\x01" * 48
    bit = b"\x01" + bytes(7)
    for version in (0, 1):
        svn, of = (5, version, 2), f"module of version {version}"
        book.line("N160")
        book.refuses(mismatch, f"{of} has another signer", **judged(svn, mr_signer_seam=ones))
        signed = described_module(version, mr_signer=ones)
        book.refuses(mismatch, f"{of} should have another signer", **judged(svn, info=signed))
        book.accepts(
            f"{of} has another signer, the one described",
            **judged(svn, info=signed, mr_signer_seam=ones),
        )
        book.line("N161")
        book.refuses(mismatch, f"{of} has an attribute", **judged(svn, seam_attributes=bit))
        last = bytes(7) + b"\x80"
        book.refuses(
            mismatch, f"{of} has the last of its attributes", **judged(svn, seam_attributes=last)
        )
        masked = described_module(version, attributes_mask=b"\xfe" + b"\xff" * 7)
        book.refuses(
            mismatch,
            f"{of} has an attribute outside the mask",
            **judged(svn, info=masked, seam_attributes=bit),
        )
        equal = described_module(version, attributes=bit)
        book.refuses(
            mismatch,
            f"{of} has an attribute that is described, and must have none",
            **judged(svn, info=equal, seam_attributes=bit),
        )
        book.line("N162")
        book.refuses(mismatch, f"{of} should have an attribute", **judged(svn, info=equal))
    book.line("N163")
    book.refuses(mismatch, "no module is described", **judged(modules=None))
    book.refuses(mismatch, "module of version 2 is not described", **judged((5, 2, 2)))
    book.refuses(mismatch, "module of version 0x13 is not described", **judged((5, 0x13, 2)))
    book.accepts("module of version 0 needs no identity", **judged((5, 0, 2), modules=None))
    book.line("N164")
    known = tdx_module_identity(10, [qe_level(5, date=DATE)])
    for name in ("tdx_0a", "TDX_0A", "Tdx_0a"):
        spelled = put(tdxModuleIdentities=[known | {"id": name}])
        does = f"module of version 10 is described as {name}"
        book.accepts(does, **judged((5, 10, 2), info=spelled))
    book.refuses(
        mismatch,
        "module of version 16 is not the one described as TDX_0A",
        **judged((5, 16, 2), modules={10: [(5, GOOD)]}),
    )
    book.line("N165")
    own = described_module(1, mr_signer=ones)
    book.accepts(
        "signer is the identity's and not tdxModule's", **judged(info=own, mr_signer_seam=ones)
    )
    book.refuses(
        mismatch,
        "signer is tdxModule's and not the identity's",
        **judged(info=own),
    )


def module_levels(book: TdBook) -> None:
    """N166 to N171: how current the module is, and with it the platform."""
    unmatched = "tdx-module-level-unmatched"
    book.line("N166")
    book.refuses(unmatched, "module is below every level", **judged((1, 1, 2)))
    book.refuses(unmatched, "module of version 3 is below its level", **judged((2, 3, 2)))
    book.line("N167")
    for svn in ((4, 1, 2), (2, 1, 2)):
        book.ends_with("OutOfDate", f"module SVN {svn[0]} is outdated", **judged(svn))
    book.line("N168")
    outdated: list[Level] = [((5, 0, 2), "OutOfDate")]
    book.ends_with("OutOfDate", "module is current, platform is not", **judged(levels=outdated))
    book.line("N169")
    revoked: Identities = {1: [(6, GOOD), (2, "Revoked")]}
    book.ends_with("Revoked", "module is revoked, platform is current", **judged(modules=revoked))
    gone: list[Level] = [((5, 0, 2), "Revoked")]
    book.ends_with("Revoked", "platform is revoked, module is current", **judged(levels=gone))
    book.line("N170")
    high: list[Level] = [((9, 9, 2), GOOD), ((0, 0, 0), "OutOfDate")]
    does = "module SVN and version are below TDX components 0 and 1 of a level, which is reached"
    book.accepts(does, **judged(levels=high))
    book.accepts("module of version 3 likewise", **judged((3, 3, 2), levels=high))
    book.line("N171")
    book.ends_with("OutOfDate", "module of version 0 has a lower SVN", **judged((4, 0, 2)))
    book.refuses(
        "tcb-level-unmatched", "module of version 0 is below every level", **judged((2, 0, 2))
    )
    book.ends_with(
        "OutOfDate",
        "microcode has a lower SVN",
        **judged(levels=[((0, 0, 3), GOOD), ((0, 0, 2), "OutOfDate")]),
    )
    book.refuses(
        "tcb-level-unmatched",
        "one of the last TDX components is below every level",
        **judged(levels=[((*(0,) * 15, 1), GOOD)]),
    )


def domain(book: TdBook) -> None:
    """N172 to N176: attributes of the trust domain itself."""

    def with_(**fields: Any) -> dict[str, Any]:
        return {"quote": quote(**fields)}

    book.line("N172")
    for bit in range(8):
        book.refuses(
            "td-debuggable",
            f"trust domain has attribute bit {bit}",
            status=GOOD,
            **with_(td_attributes=SEPT_VE | 1 << bit),
        )
    for bit in (8, 15, 16, 27, 29, 31, 32, 39, 56, 62):
        book.refuses(
            "td-attributes-unaccepted",
            f"trust domain has attribute bit {bit}",
            status=GOOD,
            **with_(td_attributes=SEPT_VE | 1 << bit),
        )
    book.line("N173")
    for value in (0, 1 << 30):
        book.refuses(
            "td-attributes-unaccepted",
            f"trust domain lacks SEPT_VE_DISABLE (attributes {value:#x})",
            status=GOOD,
            **with_(td_attributes=value),
        )
    book.line("N174")
    for name, bit in (("PKS", 30), ("PERFMON", 63)):
        book.accepts(f"trust domain has {name}", **with_(td_attributes=SEPT_VE | 1 << bit))
    both = SEPT_VE | 1 << 30 | 1 << 63
    book.accepts("trust domain has PKS and PERFMON", **with_(td_attributes=both))
    book.refuses(
        "td-attributes-unaccepted",
        "trust domain has KL, and nobody allowed it",
        status=GOOD,
        differs="KL is outside the default mask (dcap.md 4.10); who allows it says so",
        **with_(td_attributes=SEPT_VE | 1 << 31),
    )
    book.line("N175")
    bound = {"quote": quote_1_5(mr_service_td=b"\x5e" * 48)}
    last = {"quote": quote_1_5(mr_service_td=bytes(47) + b"\x01")}
    for does, case in (("a service domain", bound), ("one bit of a service domain", last)):
        does = f"trust domain has {does} bound to it"
        book.refuses("service-td-unaccepted", does, status=GOOD, **case)
    book.accepts("trust domain has no service domain", quote=quote_1_5())
    book.line("N176")
    for name, xfam in (
        ("nothing", 0),
        ("x87 alone", 0x1),
        ("SSE alone", 0x2),
        ("bit 3 (MPX)", 0x602E7 | 1 << 3),
        ("bit 10 (PASID)", 0x602E7 | 1 << 10),
        ("bit 63", 0x602E7 | 1 << 63),
    ):
        does = f"trust domain has {name} in XFAM"
        book.refuses("td-attributes-unaccepted", does, status=GOOD, **with_(xfam=xfam))
    for name, xfam in (
        ("x87 and SSE alone", 0x3),
        ("bit 8 (PT)", 0x602E7 | 1 << 8),
        ("everything that is allowed", 0x0006DBE7),
    ):
        book.accepts(f"trust domain has {name} in XFAM", **with_(xfam=xfam))


def evaluation(shared: Book) -> None:
    """dcap.md 5.8."""
    book = TdBook(shared)
    tcb = W.platform.tcb

    def level(
        status: str, tdx: Sequence[int], *, less: int = 0, advisories: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A level whose second SGX component is this much below the platform's."""
        first, second, *rest = tcb.components
        return tcb_level(
            (first, second - less, *rest),
            tcb.pce_svn,
            date=DATE,
            status=status,
            advisories=advisories,
            tdx=filled(tdx),
        )

    book.line("N180")
    for does, case in (
        ("version 4", judged()),
        ("version 5 of TDX 1.5", judged(now=(5, 1, 2))),
        ("module of version 3", judged((3, 3, 2))),
        ("module of version 0", judged((5, 0, 2))),
    ):
        book.accepts(f"everything is at the latest level ({does})", **case)
    book.line("N181")
    two: list[Level] = [((5, 0, 2), GOOD), ((0, 0, 0), "Revoked")]
    book.accepts("an older level is revoked", **judged(levels=two))
    book.line("N182")
    gone: list[Level] = [((5, 0, 2), "Revoked"), ((0, 0, 0), GOOD)]
    book.ends_with("Revoked", "latest level is revoked", **judged(levels=gone))
    book.line("N187")
    vector: list[Level] = [((0, 0, 2, 2, 3), GOOD), ((0, 0, 1, 2, 2), "OutOfDate")]
    book.ends_with(
        "OutOfDate",
        "(.., 2, 3, 2) is above (.., 2, 2, 3) as a number alone",
        **judged((5, 1, 2, 3, 2), levels=vector),
    )
    book.refuses(
        "tcb-level-unmatched",
        "(.., 9, 1) is above every level as a number alone",
        **judged((5, 1, 9, 1), levels=[((0, 0, 1, 2), GOOD)]),
    )
    convergence(book)
    book.line("N190")
    for status in ("OutOfDate", GOOD, "ConfigurationNeeded"):
        book.ends_with(
            status,
            f"SGX components alone reach a revoked level; all of them one that is {status}",
            **judged(levels=[level("Revoked", (0, 0, 9)), level(status, (0, 0, 2), less=1)]),
        )
    book.line("N191")
    shuffled = [
        level(GOOD, (0, 0, 9)),
        level("ConfigurationNeeded", (0, 0, 2), less=1),
        level("OutOfDate", (0, 0, 2), less=2),
        level("Revoked", (0, 0, 0), less=3),
    ]
    for order in list(permutations(range(4)))[::7]:
        book.ends_with(
            "ConfigurationNeeded",
            f"levels come in the order {order}",
            **judged(levels=[shuffled[n] for n in order]),
        )
    for svns in permutations(((6, GOOD), (5, "OutOfDate"), (2, "Revoked"))):
        book.ends_with(
            "OutOfDate",
            f"module levels come in the order {', '.join(str(n) for n, _ in svns)}",
            **judged(modules={1: list(svns)}),
        )
    relaunch(book)
    advisories(book, level)


def convergence(book: TdBook) -> None:
    """N188, N189: the whole table of platform, quoting enclave and module."""
    book.line("N188")
    for status in PLATFORM_STATUSES:
        level: list[Level] = [((5, 0, 2), status)]
        for name, merged, part in (
            ("nothing outdated", status, {}),
            ("quoting enclave OutOfDate", WITH_OUTDATED[status], {"qe": "OutOfDate"}),
            ("module OutOfDate", WITH_OUTDATED[status], {"modules": {1: [(5, "OutOfDate")]}}),
            ("quoting enclave Revoked", "Revoked", {"qe": "Revoked"}),
            ("module Revoked", "Revoked", {"modules": {1: [(5, "Revoked")]}}),
        ):
            book.ends_with(merged, f"platform {status}, {name}", **judged(levels=level, **part))
    book.line("N189")
    book.ends_with(
        "OutOfDateConfigurationNeeded",
        "platform ConfigurationNeeded, module and quoting enclave OutOfDate",
        **judged(
            levels=[((5, 0, 2), "ConfigurationNeeded")],
            modules={1: [(5, "OutOfDate")]},
            qe="OutOfDate",
        ),
    )


ADVISED, ADVISED_CONFIGURATION = "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"
OLD, NEW = (2, 1, 2), (5, 1, 2)  # module SVNs before and after an update


def relaunch(book: TdBook) -> None:
    """N192 to N200: launched on one module, running on another."""
    good: list[Level] = [((5, 0, 2), GOOD)]
    book.line("N192")
    updated = judged(OLD, now=NEW, levels=good)
    does = "module was updated beneath the running domain"
    book.ends_with(ADVISED, does, **updated)
    book.accepts(
        f"{does}, and that is accepted", status=ADVISED, accept_statuses=[ADVISED], **updated
    )
    book.ends_with(
        ADVISED,
        f"{does}; software needs hardening",
        **judged(OLD, now=NEW, levels=[((5, 0, 2), "SWHardeningNeeded")]),
    )
    other: Identities = {1: [(5, "OutOfDate")], 3: [(3, GOOD)]}
    book.ends_with(
        ADVISED,
        "module was updated to another version",
        **judged(NEW, now=(3, 3, 2), modules=other),
    )
    book.line("N193")
    for status in ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"):
        case = judged(OLD, now=NEW, levels=[((5, 0, 2), status)])
        book.ends_with(ADVISED_CONFIGURATION, f"{does}; platform is {status}", **case)
        book.accepts(
            f"{does}; platform is {status}, and the verdict is accepted",
            status=ADVISED_CONFIGURATION,
            accept_statuses=[ADVISED_CONFIGURATION],
            **case,
        )
    before: list[Level] = [((0, 0, 3), GOOD), ((0, 0, 2), "OutOfDateConfigurationNeeded")]
    book.ends_with(
        ADVISED_CONFIGURATION,
        "microcode was updated; a configuration was needed at launch",
        **judged(NEW, now=(5, 1, 3), levels=before),
    )
    after: list[Level] = [((0, 0, 3), "ConfigurationNeeded"), ((0, 0, 2), "OutOfDate")]
    book.ends_with(
        ADVISED_CONFIGURATION,
        "microcode was updated; a configuration is needed now",
        **judged(NEW, now=(5, 1, 3), levels=after),
    )
    book.line("N194")
    book.ends_with(ADVISED, "both modules are of version 0", **judged((3, 0, 2), now=(5, 0, 2)))
    book.line("N195")
    late: Identities = {1: [(9, GOOD), (5, "OutOfDate"), (2, "OutOfDate")]}
    book.ends_with(
        "OutOfDate", "what runs now is outdated too", **judged(OLD, now=NEW, modules=late)
    )
    book.ends_with(
        "OutOfDate",
        "newest module level of all is outdated",
        **judged(OLD, now=NEW, modules={1: [(5, "OutOfDate"), (2, "OutOfDate")]}),
    )
    book.line("N196")
    gone: list[Level] = [((5, 0, 2), "Revoked"), ((3, 0, 2), "OutOfDate")]
    book.ends_with(
        "Revoked",
        "launch is outdated, what runs now is revoked",
        **judged((3, 0, 2), now=(5, 0, 2), levels=gone),
    )
    lost: Identities = {1: [(5, "Revoked"), (2, "OutOfDate")]}
    book.ends_with(
        "Revoked",
        "launch is on an outdated module, what runs now is a revoked one",
        **judged(OLD, now=NEW, modules=lost),
    )
    back: Identities = {1: [(5, GOOD), (2, "Revoked")]}
    book.ends_with(
        "Revoked",
        "launch is current, what runs now is revoked",
        **judged(NEW, now=OLD, modules=back),
    )
    book.ends_with(
        "Revoked",
        "launch is revoked, what runs now is current",
        **judged(OLD, now=NEW, modules=back),
    )
    book.line("N197")
    book.accepts("what runs now is older than what it was launched on", **judged(NEW, now=OLD))
    book.line("N198")
    book.ends_with(
        "OutOfDate",
        "module was updated, quoting enclave is outdated",
        **judged(OLD, now=NEW, levels=good, qe="OutOfDate"),
    )
    book.line("N199")
    book.ends_with("OutOfDate", "an old module in version 4", **judged(OLD, levels=good))
    case = judged(OLD, levels=good)
    case["quote"] = quote(5, tee_tcb_svn=bytes(filled(OLD)))
    book.ends_with("OutOfDate", "an old module in version 5, TDX 1.0", **case)
    book.line("N200")
    book.refuses(
        "tdx-module-mismatch",
        "what runs now is a module of a version that is not described",
        **judged(NEW, now=(5, 2, 2)),
    )
    book.refuses(
        "tdx-module-level-unmatched",
        "what runs now is below every level of its version",
        **judged(NEW, now=(2, 3, 2)),
    )
    book.refuses(
        "tcb-level-unmatched",
        "what runs now reaches no level",
        **judged(NEW, now=(5, 1, 1)),
    )


def advisories(book: TdBook, level: Callable[..., dict[str, Any]]) -> None:
    """N201, N202."""
    module = qe_level(5, date=DATE, status="OutOfDate", advisories=["INTEL-SA-3", "INTEL-SA-4"])
    enclave = qe_level(1, date=DATE, status="OutOfDate", advisories=["INTEL-SA-1", "INTEL-SA-3"])
    platform = level("OutOfDate", (5, 0, 2), advisories=["INTEL-SA-2", "INTEL-SA-1"])
    every = ["INTEL-SA-2", "INTEL-SA-1", "INTEL-SA-3", "INTEL-SA-4"]
    info = put(tcbLevels=[platform], tdxModuleIdentities=[tdx_module_identity(1, [module])])
    united = W.collateral(tdx=True, tcb_info=info, qe_identity=put(tcbLevels=[enclave]))
    book.line("N201")
    book.accepts(
        "platform, quoting enclave and module have advisories, some in common",
        collateral=united,
        status="OutOfDate",
        advisories=every,
        accept_statuses=["OutOfDate"],
        accept_advisories=every,
    )
    now = quote(5, tee_tcb_svn=bytes(filled(NEW)), tee_tcb_svn_2=bytes(filled(OLD)))
    older = qe_level(2, date=DATE, status="OutOfDate", advisories=["INTEL-SA-5"])
    modules = [tdx_module_identity(1, [qe_level(5, date=DATE, advisories=["INTEL-SA-4"]), older])]
    told = W.collateral(tdx=True, tcb_info=put(tdxModuleIdentities=modules))
    both = ["INTEL-SA-4", "INTEL-SA-5"]
    book.accepts(
        "what runs now has an advisory that the launch has not",
        quote=now,
        collateral=told,
        advisories=both,
        accept_advisories=both,
    )
    for accepted in (None, ["INTEL-SA-4"]):
        book.refuses(
            "advisory-unaccepted",
            f"what runs now has an advisory, and accepted is {accepted or 'what only informs'}",
            status=GOOD,
            advisories=both,
            quote=now,
            collateral=told,
            accept_advisories=accepted,
            differs="each part has its advisories, and one of them is not accepted",
        )
    book.line("N202")
    book.accepts(
        "an up-to-date level has an advisory",
        collateral=W.collateral(
            tdx=True,
            tcb_info=put(tcbLevels=[level(GOOD, (5, 0, 2), advisories=["INTEL-SA-1"])]),
        ),
        advisories=["INTEL-SA-1"],
    )


def policy(shared: Book) -> None:
    """dcap.md 5.9."""
    book = TdBook(shared)
    book.line("N210")
    for status in PLATFORM_STATUSES:
        if status not in (GOOD, "Revoked"):
            case = judged(levels=[((5, 0, 2), status)])
            book.ends_with(status, f"platform is {status}", **case)
            book.accepts(f"accepts {status}", status=status, accept_statuses=[status], **case)
    book.line("N219")
    module = tdx_module_identity(1, [qe_level(5, date=DATE, advisories=["INTEL-SA-4"])])
    only_module = W.collateral(tdx=True, tcb_info=put(tdxModuleIdentities=[module]))
    for accepted in ([], ["INTEL-SA-1"]):
        book.refuses(
            "advisory-unaccepted",
            f"has an advisory of the module alone, and accepts {accepted or 'none'}",
            status=GOOD,
            advisories=["INTEL-SA-4"],
            collateral=only_module,
            accept_advisories=accepted,
        )
    book.accepts(
        "accepts the advisory that the module has",
        advisories=["INTEL-SA-4"],
        collateral=only_module,
        accept_advisories=["INTEL-SA-4"],
    )
    book.line("N221")
    sister = W.another("sister")
    told = W.intel.collateral(sister, tdx=True)
    book.accepts("uses the collateral of another platform of its FMSPC", collateral=told)
