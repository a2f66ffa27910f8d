"""dcap.md 5.8 and 5.9 for SGX: levels, their convergence, acceptance, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

from simulation.documents import instant, qe_level, tcb_level
from tests.vectors.casebook import (
    AT,
    DATE,
    DAY,
    GOOD,
    SECOND,
    SGX,
    Book,
    Hook,
    Members,
    Scene,
    chain_of,
    form_of,
    put,
    scene,
)

W = scene()
Level = tuple[Sequence[int], int, str]  # the first components, PCESVN, status
NEW, OLD = (3, 3, 3), (2, 2, 2)
PLATFORM_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
# Platform status: what it becomes where a component (QE, TDX module) is out of date.
WITH_OUTDATED = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
    "OutOfDate": "OutOfDate",
    "OutOfDateConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "Revoked": "Revoked",
}


def filled(components: Sequence[int]) -> tuple[int, ...]:
    return (*components, *(0,) * (16 - len(components)))


def levels(*entries: Level) -> Hook:
    """TCB info with these levels; components that are not given are 0."""
    return put(tcbLevels=[tcb_level(filled(c), pce, date=DATE, status=s) for c, pce, s in entries])


def placed(components: Sequence[int], pce_svn: int, *entries: Level) -> dict[str, Any]:
    """A platform with this patch level, judged with these levels."""
    platform = W.another("levels", components=filled(components), pce_svn=pce_svn)
    other = Scene(W.intel, platform)
    return {"quote": other.quote(), "collateral": other.collateral(tcb_info=levels(*entries))}


def evaluation(book: Book) -> None:
    """dcap.md 5.8, SGX."""
    book.share(SGX, W.collateral())
    book.line("N180")
    book.accepts("platform and quoting enclave are at the latest level")
    two = [(NEW, 9, GOOD), (OLD, 5, "Revoked")]
    unmatched = "tcb-level-unmatched"
    book.line("N181")
    book.ends_with(GOOD, "latest level reached, an older one is revoked", **placed(NEW, 9, *two))
    book.ends_with(GOOD, "platform is newer than every level", **placed((9, 9, 9), 99, *two))
    book.line("N182")
    revoked = [(NEW, 9, "Revoked"), (OLD, 5, GOOD)]
    book.ends_with("Revoked", "latest level reached is revoked", **placed(NEW, 9, *revoked))
    book.refuses(
        "tcb-revoked",
        "accepts every other status, and the level is revoked",
        status="Revoked",
        accept_statuses=[s for s in PLATFORM_STATUSES if s != "Revoked"],
        **placed(NEW, 9, *revoked),
    )
    book.line("N183")
    low = [(NEW, 9, GOOD), (OLD, 5, "OutOfDate")]
    book.refuses(unmatched, "only PCESVN is newer", **placed((1, 1, 1), 99, *low))
    book.refuses(unmatched, "only PCESVN is older than every level", **placed((9, 9, 9), 4, *low))
    book.line("N184")
    book.ends_with(
        "Revoked", "one component is behind the latest level", **placed((3, 2, 3), 9, *two)
    )
    book.line("N185")
    book.ends_with("Revoked", "PCESVN alone is behind the latest level", **placed(NEW, 8, *two))
    book.line("N186")
    three = [*two, ((1, 1, 1), 5, "OutOfDate")]
    book.ends_with("OutOfDate", "platform is below a revoked level", **placed((1, 1, 1), 5, *three))
    book.ends_with(
        "OutOfDate",
        "it is below in PCESVN",
        **placed(OLD, 5, (OLD, 6, "Revoked"), *three[2:]),
    )
    book.line("N187")
    vector = [((1, 2, 3), 9, GOOD), ((1, 2, 2), 9, "OutOfDate")]
    book.ends_with(
        "OutOfDate",
        "platform (1, 3, 2) is above level (1, 2, 3) as a number, not in each component",
        **placed((1, 3, 2), 9, *vector),
    )
    book.refuses(
        unmatched,
        "platform (9, 9, 1) is above every level as a number",
        **placed((9, 9, 1), 9, *low),
    )
    book.refuses(
        unmatched,
        "the last component alone is behind",
        **placed((*NEW, *(5,) * 12, 1), 9, ((*NEW, *(5,) * 12, 2), 9, GOOD)),
    )
    convergence(book)
    book.line("N191")
    four = [*three, ((0, 0, 0), 0, "OutOfDateConfigurationNeeded")]
    for order in list(permutations(four))[::5]:
        words = ", ".join(str(entry[0][0]) for entry in order)
        book.ends_with(
            "Revoked", f"levels come in the order {words}", **placed((3, 2, 3), 9, *order)
        )
    known = {8: GOOD, 6: "OutOfDate", 3: "Revoked"}
    for svns in permutations(known):
        entries = [qe_level(n, date=DATE, status=known[n]) for n in svns]
        book.ends_with(
            "OutOfDate",
            f"QE levels come in the order {', '.join(map(str, svns))}",
            quote=W.quote(qe_report=lambda r: replace(r, isv_svn=7)),
            collateral=W.collateral(qe_identity=put(tcbLevels=entries)),
        )
    advisories(book)


def at_status(
    status: str, advisories: Sequence[str] = (), *, qe: str | None = None, **altered: Any
) -> Members:
    """Collateral in which the platform's level, and the quoting enclave's, have these statuses."""
    tcb = W.platform.tcb
    level = tcb_level(tcb.components, tcb.pce_svn, date=DATE, status=status, advisories=advisories)
    hooks: dict[str, Any] = {"tcb_info": put(tcbLevels=[level]), **altered}
    if qe is not None:
        hooks["qe_identity"] = put(tcbLevels=[qe_level(1, date=DATE, status=qe)])
    return W.collateral(**hooks)


def convergence(book: Book) -> None:
    """N188, N189: the part of the table that SGX has."""
    for line, statuses in (("N188", PLATFORM_STATUSES), ("N189", ("ConfigurationNeeded",))):
        for status in statuses:
            book.line(line)
            for qe, merged in (
                (GOOD, status),
                ("OutOfDate", WITH_OUTDATED[status]),
                ("Revoked", "Revoked"),
            ):
                if line == "N188" or qe == "OutOfDate":
                    does = f"SGX: platform {status}, quoting enclave {qe}"
                    book.ends_with(merged, does, collateral=at_status(status, qe=qe))


def advisories(book: Book) -> None:
    """N201, N202."""
    book.line("N201")
    entry = qe_level(1, date=DATE, status="OutOfDate", advisories=["INTEL-SA-1", "INTEL-SA-3"])
    united = at_status(
        "OutOfDate", ["INTEL-SA-2", "INTEL-SA-1"], qe_identity=put(tcbLevels=[entry])
    )
    every = ["INTEL-SA-2", "INTEL-SA-1", "INTEL-SA-3"]
    book.accepts(
        "SGX: platform and quoting enclave have advisories, one of them in common",
        collateral=united,
        status="OutOfDate",
        advisories=every,
        accept_statuses=["OutOfDate"],
        accept_advisories=every,
    )
    book.line("N202")
    informed = at_status(GOOD, ["INTEL-SA-1"])
    book.accepts(
        "an up-to-date level has an advisory", collateral=informed, advisories=["INTEL-SA-1"]
    )


def policy(book: Book) -> None:
    """dcap.md 5.9, as far as it needs no policy file."""
    book.share(SGX, W.collateral())
    book.line("N210")
    for status in PLATFORM_STATUSES:
        if status not in (GOOD, "Revoked"):
            collateral = at_status(status)
            book.ends_with(status, f"platform is {status}", collateral=collateral)
            book.accepts(
                f"accepts {status}, and the platform is that",
                status=status,
                collateral=collateral,
                accept_statuses=[status],
            )
    since: dict[str, Any] = {"status": "OutOfDate", "collateral": at_status("OutOfDate")}
    day, next_day = f"{DATE:%Y-%m-%d}", f"{DATE + timedelta(days=1):%Y-%m-%d}"
    book.accepts("is OutOfDate since a day that is accepted", accept_out_of_date_since=day, **since)
    book.refuses(
        "tcb-out-of-date-too-long",
        "is OutOfDate since the day before",
        accept_out_of_date_since=next_day,
        **since,
    )
    book.refuses(
        "tcb-out-of-date-too-long",
        "is OutOfDate since the day before, and that status is accepted",
        accept_out_of_date_since=next_day,
        accept_statuses=["OutOfDate"],
        **since,
    )
    book.line("N212")
    book.refuses(
        "enclave-debuggable",
        "debugs the enclave",
        status=GOOD,
        quote=W.quote(flags=0x07),
    )
    book.accepts(
        "does not debug the enclave (there is no option that accepts debug)",
        quote=W.quote(flags=0x05),
    )
    for does, flags in (
        ("did not initialise the enclave", 0x04),
        ("runs the enclave in 32 bits", 0x01),
        ("gave the enclave the provisioning key", 0x15),
        ("gave the enclave the launch key", 0x25),
        ("runs the enclave with reserved bit 3", 0x0D),
        ("runs the enclave with reserved bit 63", 0x05 | 1 << 63),
    ):
        code = "enclave-attributes-unaccepted"
        book.refuses(code, does, status=GOOD, quote=W.quote(flags=flags))
    for does, flags in (("CET", 0x45), ("KSS", 0x85), ("AEX-notify", 0x405)):
        book.accepts(f"runs the enclave with {does}", quote=W.quote(flags=flags))
    expiry(book)
    book.line("N219")
    entry = qe_level(1, date=DATE, advisories=["INTEL-SA-3"])
    only_qe = W.collateral(qe_identity=put(tcbLevels=[entry]))
    for accepted in ([], ["INTEL-SA-1"]):
        book.refuses(
            "advisory-unaccepted",
            f"has an advisory of the quoting enclave alone, and accepts {accepted or 'none'}",
            status=GOOD,
            advisories=["INTEL-SA-3"],
            collateral=only_qe,
            accept_advisories=accepted,
        )
    book.accepts(
        "accepts the advisory that the quoting enclave has",
        advisories=["INTEL-SA-3"],
        collateral=only_qe,
        accept_advisories=["INTEL-SA-3"],
    )
    book.line("N221")
    sister = Scene(W.intel, W.another("sister"))
    book.accepts(
        "uses the collateral of another platform of the same FMSPC and authority",
        collateral=sister.collateral(tcb_info=put()),
    )


def expiry(book: Book) -> None:
    """N215, N216: each dated part alone has ended."""
    book.line("N215")
    past = AT - SECOND

    def ended(place: str) -> Any:
        return replace(form_of(place), not_after=past).issue()

    genuine, root = W.collateral(), W.intel.root
    signer, authority = chain_of(ended("tcb_signer"), root), chain_of(ended("platform_ca"), root)
    certificate, crl = "certificate-not-current", "crl-not-current"
    document = "collateral-not-current"
    dates = put(issueDate=instant(AT - 9 * DAY), nextUpdate=instant(past))
    over = {"next_update": past}
    leaf = scene(pck=lambda c: replace(c, not_after=past))
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (
            "the root list",
            crl,
            {"collateral": W.collateral(root_crl=lambda c: replace(c, **over))},
        ),
        ("the PCK list", crl, {"collateral": W.collateral(pck_crl=lambda c: replace(c, **over))}),
        (
            "the PCK list's chain",
            certificate,
            {"collateral": genuine | {"pck_crl_issuer_chain": authority}},
        ),
        ("the PCK chain", certificate, {"quote": leaf.quote(), "collateral": leaf.collateral()}),
        (
            "TCB info's chain",
            certificate,
            {"collateral": genuine | {"tcb_info_issuer_chain": signer}},
        ),
        (
            "the QE identity's chain",
            certificate,
            {"collateral": genuine | {"qe_identity_issuer_chain": signer}},
        ),
        ("TCB info", document, {"collateral": W.collateral(tcb_info=dates)}),
        ("the QE identity", document, {"collateral": W.collateral(qe_identity=dates)}),
    ]
    for what, code, case in cases:
        book.refuses(code, f"{what} alone ended a second ago", **case)
    book.refuses(certificate, "everything ended years ago", at=AT + 4000 * DAY)
    book.refuses(certificate, "nothing has begun yet", at=AT - 4000 * DAY)
    book.refuses(
        "quote-signature-invalid",
        "forges a quote, and everything ended years ago",
        at=AT + 4000 * DAY,
        quote=W.quote(form=lambda f: replace(f, signature=bytes(64))),
        differs="what is forged is forged at any time (docs/decisions/0002)",
    )
    book.line("N216")
    for days in (1, 89, 91):
        late = put(issueDate=instant(AT - 99 * DAY), nextUpdate=instant(AT - days * DAY))
        book.refuses(
            document,
            f"TCB info ended {days} days ago",
            collateral=W.collateral(tcb_info=late),
        )
