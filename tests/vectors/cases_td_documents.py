"""dcap.md 5.5 and 5.6 for TDX: its TCB info, the modules in it, and its quoting enclave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulation.documents import qe_level, tcb_level, tdx_module_identity
from tests.vectors.casebook import DATE, Book, Hook, TdBook, drop, put, scene, set_
from tests.vectors.cases_documents import in_member
from tests.vectors.cases_td_levels import filled, judged
from tests.vectors.cases_td_quote import quote

W = scene()


def tcb_info(shared: Book) -> None:
    """dcap.md 5.5."""
    book, malformed = TdBook(shared), "collateral-malformed"

    def info(hook: Hook) -> dict[str, Any]:
        return {"collateral": W.collateral(tdx=True, tcb_info=hook)}

    book.line("N106")
    book.refuses(
        "tcb-info-version-outdated",
        "TCB info is of version 2",
        differs="genuine once and silent about today: undecided, whatever the quote",
        **info(lambda d: {**drop("id")(d), "version": 2}),
    )
    for version in (1, 4, "3"):
        book.refuses(malformed, f"TCB info is of version {version!r}", **info(put(version=version)))
    book.line("N107")
    genuine = W.collateral(tdx=True)
    sgx = W.collateral()
    members = ("tcb_info", "tcb_info_signature")
    swapped = genuine | {name: sgx[name] for name in members}
    mismatch = "tcb-info-mismatch"
    book.refuses(mismatch, "gives TCB info of SGX for a trust domain", collateral=swapped)
    book.refuses(
        mismatch,
        "gives TCB info of TDX for an enclave",
        quote=W.quote(),
        collateral=sgx | {name: genuine[name] for name in members},
    )
    for name in ("tdx", "TDX ", "TD_QE"):
        book.refuses(malformed, f"TCB info has {name!r} for id", **info(put(id=name)))
    book.line("N111")
    book.refuses(mismatch, "gives TCB info of another FMSPC", **info(put(fmspc="90C06F000000")))
    book.line("N112")
    book.refuses(mismatch, "gives TCB info of another PCE", **info(put(pceId="0001")))

    def in_first(change: Hook) -> Hook:
        return lambda d: {
            **d,
            "tcbLevels": [
                {**d["tcbLevels"][0], "tcb": change(d["tcbLevels"][0]["tcb"])},
                *d["tcbLevels"][1:],
            ],
        }

    def tdx(change: Hook) -> Hook:
        return in_first(lambda t: {**t, "tdxtcbcomponents": change(t["tdxtcbcomponents"])})

    book.line("N118")
    for does, hook in (
        ("has a level without TDX components", in_first(drop("tdxtcbcomponents"))),
        ("has null for TDX components", in_first(put(tdxtcbcomponents=None))),
        ("has no entry among its TDX components", tdx(lambda c: [])),
        ("has 15 TDX components", tdx(lambda c: c[:15])),
        ("has 17 TDX components", tdx(lambda c: [*c, c[0]])),
        ("has a number for a TDX component", tdx(lambda c: [5, *c[1:]])),
        ("has a TDX component of 256", tdx(lambda c: [{"svn": 256}, *c[1:]])),
        ("has a TDX component of -1", tdx(lambda c: [{"svn": -1}, *c[1:]])),
        ("has text for a TDX component", tdx(lambda c: [{"svn": "5"}, *c[1:]])),
    ):
        book.refuses(malformed, f"TCB info {does}", **info(hook))
    book.line("N120")
    book.refuses(
        malformed,
        "TCB info has one level twice, with another status",
        **info(
            lambda d: {
                **d,
                "tcbLevels": [{**d["tcbLevels"][0], "tcbStatus": "Revoked"}, *d["tcbLevels"]],
            }
        ),
    )
    low = tcb_level(
        W.platform.tcb.components, W.platform.tcb.pce_svn, date=DATE, tdx=filled((4, 0, 2))
    )
    book.accepts(
        "TCB info has two levels that differ in a TDX component alone",
        **info(lambda d: {**d, "tcbLevels": [*d["tcbLevels"], low]}),
    )
    book.line("N122")
    book.refuses(malformed, "TCB info has no TDX module", **info(drop("tdxModule")))
    others: list[object] = [None, [], "module"]
    for module in others:
        book.refuses(
            malformed, f"TCB info has {module!r} for its TDX module", **info(put(tdxModule=module))
        )
    modules(book, info)


def modules(book: TdBook, info: Callable[[Hook], dict[str, Any]]) -> None:
    """N123, N124: members of `tdxModule` and of `tdxModuleIdentities`."""
    malformed = "collateral-malformed"

    def in_module(change: Hook) -> Hook:
        return lambda d: {**d, "tdxModule": change(d["tdxModule"])}

    def in_identity(change: Hook) -> Hook:
        return lambda d: {
            **d,
            "tdxModuleIdentities": [
                change(d["tdxModuleIdentities"][0]),
                *d["tdxModuleIdentities"][1:],
            ],
        }

    def in_level(change: Hook) -> Hook:
        return in_identity(
            lambda i: {**i, "tcbLevels": [change(i["tcbLevels"][0]), *i["tcbLevels"][1:]]}
        )

    def in_tcb(change: Hook) -> Hook:
        return in_level(lambda level: {**level, "tcb": change(level["tcb"])})

    sizes = {"mrsigner": 48, "attributes": 8, "attributesMask": 8}
    places: list[tuple[str, Callable[[Hook], Hook], str]] = [
        ("N123", in_module, "tdxModule"),
        ("N124", in_identity, "a TDX module identity"),
    ]
    for line, wrap, title in places:
        book.line(line)
        for name, size in sizes.items():
            good = "00" * size
            values: list[object] = [0, good[2:], good + "00", "zz" + good[2:]]
            for does, hook in in_member(name, values, wrap):
                book.refuses(malformed, f"{title} {does}", **info(hook))
    book.line("N124")
    entry = tdx_module_identity(1, [qe_level(1, date=DATE)])
    for does, hook in (
        ("an empty list of identities", put(tdxModuleIdentities=[])),
        ("null for its identities", put(tdxModuleIdentities=None)),
        ("an object for its identities", put(tdxModuleIdentities=entry)),
        ("a text among its identities", put(tdxModuleIdentities=["TDX_01"])),
        ("one identity twice", put(tdxModuleIdentities=[entry, entry])),
        (
            "one identity twice, in another case",
            put(tdxModuleIdentities=[entry, {**entry, "id": "tdx_01"}]),
        ),
    ):
        book.refuses(malformed, f"TCB info has {does}", **info(hook))
    wrong: list[tuple[Callable[[Hook], Hook], str, list[object]]] = [
        (in_identity, "id", [1, "TDX_1", "TDX_001", "TDX_0G", "SGX_01", "TDX_\uff10\uff11"]),
        (in_identity, "tcbLevels", [[], {}, ["level"], [{}]]),
        (in_level, "tcb", [[], {}]),
        (in_level, "tcbDate", [20290101, "2029-13-01T00:00:00Z"]),
        (in_level, "tcbStatus", ["ConfigurationNeeded", "SWHardeningNeeded", "Great", "uptodate"]),
        (in_tcb, "isvsvn", [-1, 65536, "3", True]),
    ]
    for wrap, name, values in wrong:
        for does, hook in in_member(name, values, wrap):
            book.refuses(malformed, f"a TDX module identity {does}", **info(hook))


def identity(shared: Book) -> None:
    """dcap.md 5.6."""
    book, not_intels = TdBook(shared), "qe-not-intels"
    genuine, sgx = W.collateral(tdx=True), W.collateral()
    members = ("qe_identity", "qe_identity_signature")
    book.line("N144")
    book.refuses(
        "qe-identity-mismatch",
        "gives the identity of the SGX quoting enclave",
        collateral=genuine | {name: sgx[name] for name in members},
    )
    book.refuses(
        "qe-identity-mismatch",
        "gives the identity of its quoting enclave for an SGX quote",
        quote=W.quote(),
        collateral=sgx | {name: genuine[name] for name in members},
    )
    for enclave in ("QVE", "QAE"):
        book.refuses(
            "qe-identity-mismatch",
            f"gives the identity of {enclave}",
            collateral=W.collateral(tdx=True, qe_identity=put(id=enclave)),
        )
    book.line("N146")
    signer = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
    raw = quote(qe_report=set_(mr_signer=signer))
    book.refuses(
        not_intels, "quotes with an enclave of the SGX quoting enclave's signer", quote=raw
    )
    book.line("N147")
    raw = quote(qe_report=set_(isv_prod_id=1))
    book.refuses(not_intels, "quotes with the SGX quoting enclave's product", quote=raw)
    book.line("N150")
    raw = quote(qe_report=lambda r: replace(r, flags=r.flags | 0x02))
    book.refuses(not_intels, "debugs the quoting enclave", quote=raw)
    book.line("N151")
    raw = quote(qe_report=set_(isv_svn=1))
    book.refuses("qe-tcb-level-unmatched", "has too old a quoting enclave", quote=raw)
    book.line("N152")
    raw = quote(qe_report=set_(isv_svn=3))
    book.ends_with(
        "OutOfDate", "has an outdated quoting enclave", quote=raw, advisories=["INTEL-SA-99999"]
    )
    book.line("N153")
    book.ends_with("Revoked", "has a revoked quoting enclave", **judged(qe="Revoked"))
