"""dcap.md 5.5 and 5.6: TCB info, QE identity, and the quoting enclave held against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from simulation.documents import instant, qe_level
from tests.vectors.casebook import (
    AT,
    DATE,
    DAY,
    SECOND,
    SGX,
    Book,
    Hook,
    Members,
    chain_of,
    drop,
    form_of,
    key,
    put,
    scene,
    set_,
)

W = scene()
GENUINE = W.collateral()
STRANGER = key("stranger")
SKEW = 300 * SECOND
MALFORMED = "collateral-malformed"
INFO, IDENTITY = "tcb_info", "qe_identity"
TITLES = {INFO: "TCB info", IDENTITY: "QE identity"}


def written(change: dict[str, Any]) -> Members:
    """Genuine members, some of them replaced as they stand."""
    return GENUINE | {k: v if isinstance(v, bytes) else v.encode() for k, v in change.items()}


def bundle(hook: Hook = lambda b: b) -> bytes:
    """A whole bundle, as JSON."""
    text = {name: value.decode() for name, value in GENUINE.items()}
    return json.dumps(hook(text), indent=1).encode() + b"\n"


def first_level(change: Hook) -> Hook:
    return lambda d: {**d, "tcbLevels": [change(d["tcbLevels"][0]), *d["tcbLevels"][1:]]}


def in_tcb(change: Hook) -> Hook:
    return first_level(lambda level: {**level, "tcb": change(level["tcb"])})


def components(change: Hook) -> Hook:
    return in_tcb(lambda t: {**t, "sgxtcbcomponents": change(t["sgxtcbcomponents"])})


def first_component(entry: object) -> Hook:
    return components(lambda entries: [entry, *entries[1:]])


BAD_DATES: list[object] = [
    20300101,
    None,
    "2029-12-15T12:00:00",
    "2029-12-15T12:00:00+01:00",
    "2029-12-15T12:00:00.5Z",
    "2029-13-15T12:00:00Z",
    "2029-02-30T12:00:00Z",
    "2029-12-15t12:00:00Z",
    "2029-12-15T12:00:00z",
    "2029-12-5T12:00:00Z",
    "2029-12-15T12:00:60Z",
    "\uff12029-12-15T12:00:00Z",
]


def bad_hex(size: int) -> list[object]:
    good = "00" * size
    return [0, good[2:], good + "00", "zz" + good[2:], " " + good[1:]]


def in_member(
    name: str, values: list[object], wrap: Callable[[Hook], Hook] = lambda h: h
) -> Iterator[tuple[str, Hook]]:
    """The member absent, then with each of these values."""
    yield f"has no {name}", wrap(drop(name))
    for value in values:
        yield f"has {json.dumps(value)} for {name}", wrap(put(**{name: value}))


def refuse_each(book: Book, slot: str, cases: Iterator[tuple[str, Hook]]) -> None:
    """Signed documents that cannot be read."""
    for does, hook in cases:
        book.refuses(MALFORMED, f"{TITLES[slot]} {does}", collateral=W.collateral(**{slot: hook}))


def tcb_info(book: Book) -> None:
    """dcap.md 5.5, SGX."""
    book.share(SGX, GENUINE)
    outer(book)
    signed_by(book, INFO, "N102", "N103")
    signer_chain(book, INFO, "N104")
    signer_time(book)
    members: dict[str, list[Iterator[tuple[str, Hook]]]] = {
        "N106": [in_member("version", ["3", 1, 4, True])],
        "N107": [in_member("id", [5, "sgx", "QE", ""])],
        "N108": [in_member("issueDate", BAD_DATES), in_member("nextUpdate", BAD_DATES)],
        "N111": [in_member("fmspc", bad_hex(6))],
        "N112": [in_member("pceId", bad_hex(2))],
        "N113": [in_member("tcbType", ["0", 1, False])],
        "N114": [in_member("tcbEvaluationDataNumber", ["21", -1, True])],
        "N115": [in_member("tcbLevels", [{}, [], ["level"], [{}], [[]]])],
        "N116": [
            in_member("tcb", [[], "x", {}], first_level),
            in_member("tcbStatus", ["Great", "uptodate", "UpToDate ", 5], first_level),
            in_member("tcbDate", [20290101, "2029-01-01"], first_level),
        ],
        "N117": [in_member("sgxtcbcomponents", [{}, []], in_tcb)],
        "N119": [in_member("pcesvn", [-1, 65536, "13", True], in_tcb)],
        "N121": [
            iter(
                (f"has {json.dumps(v)} for advisoryIDs", first_level(put(advisoryIDs=v)))
                for v in ("INTEL-SA-00001", ["INTEL-SA-00001", 5], None)
            )
        ],
    }
    for line, groups in members.items():
        book.line(line)
        for group in groups:
            refuse_each(book, INFO, group)
    more_members(book)
    meaning(book)
    readings(book, INFO)


def outer(book: Book) -> None:
    """N100, N101: what is handed over in the place of a bundle or of its parts."""
    book.line("N100")
    for does, raw in (
        ("nothing", b""),
        ("a sentence", b"not JSON"),
        ("an array", b"[]"),
        ("a bundle without TCB info", bundle(drop(INFO))),
        ("a bundle without the TCB info's signature", bundle(drop("tcb_info_signature"))),
        ("a bundle with null for TCB info", bundle(put(tcb_info=None))),
        ("a bundle with an object for TCB info", bundle(put(tcb_info={"id": "SGX"}))),
    ):
        book.refuses(MALFORMED, f"hands over {does}", collateral=raw)
    for does, text in (
        ("empty", ""),
        ("no JSON", "not JSON"),
        ("an array", "[]"),
        ("null", "null"),
    ):
        altered = W.collateral(tcb_info_text=lambda _, text=text: text)
        book.refuses(MALFORMED, f"TCB info is {does}, and signed", collateral=altered)
    book.line("N101")
    for does, value in (
        ("a number", 5),
        ("a byte too short", "ab" * 63),
        ("a byte too long", "ab" * 65),
        ("no hexadecimal text", "xy" * 64),
        ("hexadecimal text with white space", " " + "ab" * 63 + " "),
    ):
        raw = bundle(put(tcb_info_signature=value))
        book.refuses(MALFORMED, f"TCB info's signature is {does}", collateral=raw)
    upper = GENUINE["tcb_info_signature"].upper()
    book.accepts(
        "TCB info's signature is in upper case", collateral=written({"tcb_info_signature": upper})
    )


def signed_by(book: Book, slot: str, altered_line: str, signer_line: str) -> None:
    """N102, N103 and N143: altered texts, and signatures of somebody else."""
    title, text = TITLES[slot], GENUINE[slot].decode()
    code = f"{slot.replace('_', '-')}-signature-invalid"
    book.line(altered_line)
    reordered = json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))
    for does, other in (
        ("an outdated level made current", text.replace("OutOfDate", "UpToDate")),
        ("one letter of a member's name in upper case", text.replace("issue", "Issue")),
        ("a space after a colon", text.replace(":", ": ", 1)),
        ("a space before its end", text[:-1] + " }"),
        ("a line feed behind it", text + "\n"),
        ("its members in another order", reordered),
    ):
        book.refuses(code, f"hands on {title} with {does}", collateral=written({slot: other}))
    book.line(signer_line)
    evil = scene("evil")
    for does, wrong in (
        ("a key of its own", STRANGER),
        ("the PCK key", W.platform.pck.ec_key),
        ("the attestation key", W.platform.attestation_key),
        ("the root's key", W.intel.root.ec_key),
        ("the TCB signing key of another root", evil.intel.tcb_signer.ec_key),
    ):
        book.refuses(
            code, f"signs {title} with {does}", collateral=W.collateral(**{f"{slot}_key": wrong})
        )
    for does, signature in (
        ("zero", "00" * 64),
        ("ones", "00" * 31 + "01" + "00" * 31 + "01"),
        ("the largest number twice", "ff" * 64),
    ):
        book.refuses(
            code,
            f"signs {title} with {does}",
            collateral=written({f"{slot}_signature": signature}),
        )
    scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    encoded = W.intel.tcb_signer.ec_key.sign(text.encode(), scheme).hex()
    book.refuses(
        MALFORMED,
        f"writes the signature of {title} as DER",
        collateral=bundle(put(**{f"{slot}_signature": encoded})),
        differs="the field holds r and s, 64 bytes: another length cannot be read",
    )
    book.refuses(
        code,
        f"writes the first 64 bytes of a DER signature for that of {title}",
        collateral=written({f"{slot}_signature": encoded[:128]}),
    )
    member = f"{slot}_issuer_chain"
    book.refuses(
        "root-untrusted",
        f"brings the signer of another root, of the same name, and its {title}",
        collateral=written(
            {
                member: chain_of(evil.intel.tcb_signer, evil.intel.root),
                f"{slot}_signature": evil.collateral()[f"{slot}_signature"],
            }
        ),
    )
    book.refuses(
        "certificate-not-issued",
        f"brings the signer of another root below the genuine root for {title}",
        collateral=written({member: chain_of(evil.intel.tcb_signer, W.intel.root)}),
    )


def signer_chain(book: Book, slot: str, line: str) -> None:
    """N104, and N143 of the identity: chains in which nobody may sign this."""
    book.line(line)
    title, intel = TITLES[slot], W.intel
    signer, root, ca = intel.tcb_signer, intel.root, intel.platform_ca
    role, form = "certificate-role-wrong", "issuer-chain-malformed"
    for does, chain, code in (
        ("has one certificate", chain_of(signer), form),
        ("has three certificates", chain_of(signer, ca, root), form),
        ("has the signer for its root", chain_of(signer, signer), role),
        ("has an authority for its signer", chain_of(ca, root), role),
        ("has a PCK certificate for its signer", chain_of(W.platform.pck, ca), role),
        ("has a PCK certificate below the root", chain_of(W.platform.pck, root), role),
        ("has the root first", chain_of(root, signer), role),
        ("is no PEM", b"no PEM", form),
        ("is empty", b"", form),
    ):
        book.refuses(
            code,
            f"{title}'s chain {does}",
            collateral=written({f"{slot}_issuer_chain": chain}),
        )
    genuine = form_of("tcb_signer")
    bent: list[tuple[str, Hook, str]] = [
        ("with another name", lambda c: c.named("Intel SGX TCB Signing 2"), role),
        (
            "that is a CA",
            lambda c: c.extended(x509.BasicConstraints(True, 0), critical=True),
            role,
        ),
        ("signed by another key", set_(signer=STRANGER), "certificate-not-issued"),
        ("signed with SHA-384", set_(algorithm=hashes.SHA384()), form),
    ]
    for does, hook, code in bent:
        other = chain_of(hook(genuine).issue(), root)
        book.refuses(
            code,
            f"{title} has a signer {does}",
            collateral=written({f"{slot}_issuer_chain": other}),
        )


def signer_time(book: Book) -> None:
    """N105: each of these parts alone."""
    book.line("N105")
    signer = form_of("tcb_signer")
    ended = chain_of(replace(signer, not_after=AT - SECOND).issue(), W.intel.root)
    book.refuses(
        "certificate-not-current",
        "TCB info's signer ended a second ago",
        collateral=written({"tcb_info_issuer_chain": ended}),
    )
    old_root = replace(form_of("root"), not_after=AT - SECOND).issue()
    book.refuses(
        "certificate-not-current",
        "TCB info comes with an edition of the root that ended a second ago",
        collateral=written({"tcb_info_issuer_chain": chain_of(W.intel.tcb_signer, old_root)}),
    )
    book.refuses(
        "certificate-revoked",
        "TCB info's signer is in the root list",
        collateral=W.collateral(root_crl=set_(revoked=(W.intel.tcb_signer.serial,))),
    )
    other = replace(signer, serial=4711).issue()
    chained = {"tcb_info_issuer_chain": chain_of(other, W.intel.root)}
    book.accepts("TCB info comes with another edition of its signer", collateral=written(chained))
    revoked = W.collateral(root_crl=set_(revoked=(4711,)))
    book.refuses(
        "certificate-revoked",
        "TCB info comes with an edition of its signer that is in the root list",
        collateral=revoked | chained,
    )
    book.refuses(
        "crl-not-current",
        "the root list ended a second ago",
        collateral=W.collateral(root_crl=set_(next_update=AT - SECOND)),
    )


def more_members(book: Book) -> None:
    """N106 to N122: what is no plain member with a wrong value."""
    book.line("N106")
    book.refuses(
        "tcb-info-version-outdated",
        "TCB info is of version 2, as Intel served it until 2023",
        collateral=W.collateral(tcb_info=lambda d: {**drop("id")(d), "version": 2}),
        differs="genuine once and silent about today: undecided",
    )
    float_version = W.collateral(tcb_info_text=lambda t: t.replace('"version":3', '"version":3.0'))
    book.refuses(MALFORMED, "TCB info has 3.0 for version", collateral=float_version)
    book.line("N108")
    book.refuses(
        MALFORMED,
        "TCB info ends when it begins",
        collateral=W.collateral(tcb_info=lambda d: {**d, "nextUpdate": d["issueDate"]}),
    )
    book.line("N114")
    as_float = W.collateral(tcb_info_text=lambda t: t.replace('Number":21', 'Number":21.0'))
    book.refuses(MALFORMED, "TCB info has 21.0 for its number", collateral=as_float)
    exponent = W.collateral(tcb_info_text=lambda t: t.replace('Number":21', 'Number":2e1'))
    book.refuses(MALFORMED, "TCB info has 2e1 for its number", collateral=exponent)
    digits = W.collateral(tcb_info_text=lambda t: t.replace('Number":21', 'Number":' + "9" * 5000))
    book.refuses(MALFORMED, "TCB info has a number of 5000 digits", collateral=digits)
    book.line("N117")
    for does, hook in (
        ("15 components", components(lambda c: c[:15])),
        ("17 components", components(lambda c: [*c, c[0]])),
        ("a number for a component", first_component(5)),
        ("a component without svn", first_component({})),
        *(
            (f"a component with {json.dumps(entry)}", first_component(entry))
            for entry in (
                {"svn": "1"},
                {"svn": -1},
                {"svn": 256},
                {"svn": True},
                {"svn": 15, "category": 5},
                {"svn": 15, "type": []},
            )
        ),
    ):
        book.refuses(MALFORMED, f"TCB info has {does}", collateral=W.collateral(tcb_info=hook))
    book.line("N120")
    for does, hook in (
        ("the same level twice", lambda d: {**d, "tcbLevels": d["tcbLevels"][:1] * 2}),
        (
            "two levels that differ in status alone",
            lambda d: {
                **d,
                "tcbLevels": [{**d["tcbLevels"][0], "tcbStatus": "OutOfDate"}, *d["tcbLevels"]],
            },
        ),
    ):
        book.refuses(MALFORMED, f"TCB info has {does}", collateral=W.collateral(tcb_info=hook))
    book.line("N122")
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    for does, hook in (
        ("a TDX module", put(tdxModule=module)),
        ("TDX module identities", put(tdxModuleIdentities=[])),
        ("null for a TDX module", put(tdxModule=None)),
    ):
        book.refuses(MALFORMED, f"SGX TCB info has {does}", collateral=W.collateral(tcb_info=hook))


def meaning(book: Book) -> None:
    """N109 to N112, N128: dates, identifiers and order, all well formed."""
    edges(book, INFO, "N109", "N110")
    mismatch = "tcb-info-mismatch"
    book.line("N111")
    book.refuses(
        mismatch,
        "gives TCB info of another kind of platform",
        collateral=W.collateral(tcb_info=put(fmspc="00906ED50000")),
    )
    book.refuses(
        mismatch,
        "gives TCB info whose FMSPC differs in one bit",
        collateral=W.collateral(tcb_info=put(fmspc="00606A000001")),
    )
    lettered = scene(fmspc=bytes.fromhex("abcdef123456"), pce_id=b"\xab\xcd")
    for line, member in (("N111", "fmspc"), ("N112", "pceId")):
        book.line(line)
        for name, case in (("lower", str.lower), ("upper", str.upper)):
            book.accepts(
                f"TCB info has {member} in {name} case",
                world=lettered,
                quote=lettered.quote(),
                collateral=lettered.collateral(
                    tcb_info=lambda d, member=member, case=case: {**d, member: case(d[member])}
                ),
            )
    book.line("N112")
    for other in ("0001", "0100"):
        book.refuses(
            mismatch,
            f"gives TCB info of PCE {other}",
            collateral=W.collateral(tcb_info=put(pceId=other)),
        )
    book.line("N111")
    own, other = (
        "".join((p.pck.pem, p.ca.pem, p.root.pem)) for p in (W.platform, W.another("chain"))
    )
    for does, chain in (("null for", None), ("this quote's", own)):
        book.accepts(
            f"a bundle has {does} PCK chain", collateral=bundle(put(pck_certificate_chain=chain))
        )
    book.refuses(
        "pck-chain-of-another-quote",
        "a bundle has the PCK chain of another machine of this FMSPC",
        collateral=bundle(put(pck_certificate_chain=other)),
    )
    book.line("N128")
    book.accepts(
        "TCB info lists its levels from the lowest up",
        collateral=W.collateral(tcb_info=lambda d: {**d, "tcbLevels": d["tcbLevels"][::-1]}),
    )


def edges(book: Book, slot: str, end_line: str, start_line: str) -> None:
    """The instants at which a document ends and begins."""
    title = TITLES[slot]
    earlier = instant(AT - 9 * DAY)
    cases = (
        (end_line, "ends in a second", "nextUpdate", AT + SECOND, True),
        (end_line, "ends at this instant", "nextUpdate", AT, False),
        (end_line, "ended a second ago", "nextUpdate", AT - SECOND, False),
        (start_line, "was issued 300 s from now, as clocks differ", "issueDate", AT + SKEW, True),
        (start_line, "was issued 301 s from now", "issueDate", AT + SKEW + SECOND, False),
    )
    for line, does, member, when, good in cases:
        book.line(line)
        dates = {"issueDate": earlier, member: instant(when)}
        collateral = W.collateral(**{slot: put(**dates)})
        if good:
            book.accepts(f"{title} {does}", collateral=collateral)
        else:
            book.refuses("collateral-not-current", f"{title} {does}", collateral=collateral)


def readings(book: Book, slot: str) -> None:
    """N125 to N127: signed texts that two parsers would read differently."""
    title = TITLES[slot]
    signed: dict[str, list[tuple[str, Hook]]] = {
        "N125": [
            (
                "has fmspc twice",
                lambda t: t.replace('"fmspc"', '"fmspc":"00906ED50000","fmspc"', 1),
            ),
            (
                "has a status twice in one level",
                lambda t: t.replace('"tcbStatus"', '"tcbStatus":"UpToDate","tcbStatus"', 1),
            ),
            (
                "has an unknown member twice",
                lambda t: t[:-1] + ',"x":1,"x":1}',
            ),
        ],
        "N126": [
            ("is nested 33 deep", lambda t: t[:-1] + ',"x":' + "[" * 32 + "]" * 32 + "}"),
            ("is nested 100000 deep", lambda t: t[:-1] + ',"x":' + "[" * 100_000),
        ],
        "N127": [
            ("has a letter behind its end", lambda t: t + "x"),
            ("is there twice", lambda t: t + t),
            ("begins with a BOM", lambda t: "\ufeff" + t),
            ("has NaN in it", lambda t: t[:-1] + ',"x":NaN}'),
            ("has -Infinity in it", lambda t: t[:-1] + ',"x":-Infinity}'),
        ],
    }
    for line, cases in signed.items():
        book.line(line)
        for does, hook in cases:
            altered = W.collateral(**{f"{slot}_text": hook})
            book.refuses(MALFORMED, f"{title} {does}, and signed so", collateral=altered)
    book.line("N125")
    twice = bundle()[:-3] + b',"pck_crl":""}'
    book.refuses(MALFORMED, "hands over a bundle with one member twice", collateral=twice)
    book.line("N126")
    deep = ',"x":' + "[" * 31 + "]" * 31 + ',"y":"' + "[{" * 100 + '\\"[[["}'
    book.accepts(
        "TCB info is nested 32 deep, and has brackets in a string",
        collateral=W.collateral(tcb_info_text=lambda t: t[:-1] + deep),
    )
    book.refuses(MALFORMED, "hands over 33 objects in each other", collateral=b'{"a":' * 33)
    book.refuses(MALFORMED, "hands over 100000 brackets", collateral=b"[" * 100_000)
    book.line("N127")
    for does, raw in (
        ("a letter behind its end", bundle() + b"x"),
        ("a second document behind it", bundle() + b"{}"),
        ("a BOM", b"\xef\xbb\xbf" + bundle()),
        ("a member that no signature covers", bundle(put(tcbInfo=""))),
        ("another encoding (UTF-16)", bundle().decode().encode("utf-16-le")),
        ("more than a mebibyte of white space", bundle()[:-2] + b" " * (1 << 20) + b"}"),
    ):
        book.refuses(MALFORMED, f"hands over a bundle with {does}", collateral=raw)
    book.accepts(
        "signs members that did not exist before",
        collateral=W.collateral(tcb_info=put(new=1), qe_identity=put(new=[{"x": "y"}])),
    )


def identity(book: Book) -> None:
    """dcap.md 5.6, SGX."""
    book.share(SGX, GENUINE)
    book.line("N140")
    for group in (
        in_member("id", [5, "qe", "SGX", ""]),
        in_member("version", ["2", True]),
        in_member("issueDate", BAD_DATES),
        in_member("nextUpdate", BAD_DATES[:5]),
        in_member("tcbEvaluationDataNumber", ["21", -1, True]),
        in_member("miscselect", bad_hex(4)),
        in_member("miscselectMask", bad_hex(4)),
        in_member("attributes", bad_hex(16)),
        in_member("attributesMask", bad_hex(16)),
        in_member("mrsigner", bad_hex(32)),
        in_member("isvprodid", ["1", -1, 65536, True]),
        in_member("tcbLevels", [{}, ["level"], [{}]]),
        in_member("tcb", [[], {}], first_level),
        in_member("isvsvn", ["8", -1, 65536, True], in_tcb),
        in_member("tcbDate", [20290101, "2029-01-01"], first_level),
        in_member("tcbStatus", ["Great", "uptodate", 5], first_level),
        iter([("has text for advisoryIDs", first_level(put(advisoryIDs="INTEL-SA-00001")))]),
        iter(
            [
                (
                    "has a miscselect bit outside its own mask",
                    put(miscselect="01000000", miscselectMask="00000000"),
                ),
                ("has attributes outside their own mask", put(attributesMask="00" * 16)),
                (
                    "has two levels of one ISVSVN",
                    lambda d: {**d, "tcbLevels": d["tcbLevels"][:1] * 2},
                ),
            ]
        ),
    ):
        refuse_each(book, IDENTITY, group)
    book.line("N141")
    refuse_each(book, IDENTITY, iter((f"is of version {v}", put(version=v)) for v in (1, 3)))
    book.line("N142")
    refuse_each(book, IDENTITY, iter([("has no levels", put(tcbLevels=[]))]))
    signed_by(book, IDENTITY, "N143", "N143")
    signer_chain(book, IDENTITY, "N143")
    book.line("N144")
    for enclave in ("TD_QE", "QVE", "QAE"):
        book.refuses(
            "qe-identity-mismatch",
            f"gives the identity of {enclave} for an SGX quote",
            collateral=W.collateral(qe_identity=put(id=enclave)),
        )
    edges(book, IDENTITY, "N145", "N145")
    match(book)


def match(book: Book) -> None:
    """N146 to N155: the quoting enclave's report held against the identity."""

    def qe(**fields: Any) -> bytes:
        return W.quote(qe_report=set_(**fields))

    not_intels = "qe-not-intels"
    flags = 0x15  # INIT, MODE64BIT, PROVISION_KEY
    book.line("N146")
    other = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
    book.refuses(
        not_intels, "uses a quoting enclave of another signer", quote=qe(mr_signer=b"f" * 32)
    )
    book.refuses(not_intels, "uses Intel's TD quoting enclave's signer", quote=qe(mr_signer=other))
    book.line("N147")
    for number in (0, 2, 0x0100):
        book.refuses(
            not_intels, f"uses an enclave of product {number}", quote=qe(isv_prod_id=number)
        )
    book.line("N148")
    masked = W.collateral(qe_identity=put(miscselectMask="FEFFFFFF"))
    book.refuses(not_intels, "uses a quoting enclave with MISCSELECT 1", quote=qe(misc_select=1))
    book.accepts("MISCSELECT differs outside the mask", quote=qe(misc_select=1), collateral=masked)
    book.refuses(
        not_intels,
        "MISCSELECT differs inside a mask that leaves out another bit",
        quote=qe(misc_select=2),
        collateral=masked,
    )
    book.line("N149")
    for does, value in (
        ("without PROVISION_KEY", flags & ~0x10),
        ("that is not initialised", flags & ~0x01),
        ("with KSS", flags | 0x80),
        ("with a reserved bit", flags | 1 << 63),
    ):
        book.refuses(not_intels, f"uses a quoting enclave {does}", quote=qe(flags=value))
    book.accepts("quoting enclave lacks MODE64BIT, outside the mask", quote=qe(flags=flags & ~0x04))
    book.accepts("quoting enclave has another XFRM, outside the mask", quote=qe(xfrm=7))
    book.accepts("quoting enclave has another MRENCLAVE", quote=qe(mr_enclave=bytes(32)))
    book.line("N150")
    forgetful = W.collateral(qe_identity=put(attributesMask="F9FFFFFFFFFFFFFF0000000000000000"))
    book.refuses(not_intels, "debugs the quoting enclave", quote=qe(flags=flags | 0x02))
    book.refuses(
        not_intels,
        "debugs the quoting enclave, and the identity's mask leaves DEBUG out",
        quote=qe(flags=flags | 0x02),
        collateral=forgetful,
    )
    book.accepts("the identity's mask leaves DEBUG out", collateral=forgetful)
    book.line("N151")
    for svn in (5, 0):
        book.refuses(
            "qe-tcb-level-unmatched",
            f"uses a quoting enclave of ISVSVN {svn}, below every level",
            quote=qe(isv_svn=svn),
        )
    book.accepts("uses a quoting enclave newer than every level", quote=qe(isv_svn=9))
    book.line("N152")
    for svn in (7, 6):
        book.refuses(
            "tcb-status-unaccepted",
            f"uses a quoting enclave of ISVSVN {svn} on an up-to-date platform",
            quote=qe(isv_svn=svn),
            status="OutOfDate",
            advisories=["INTEL-SA-99999"],
        )
    book.accepts(
        "accepts OutOfDate and the advisory of the quoting enclave",
        quote=qe(isv_svn=7),
        status="OutOfDate",
        advisories=["INTEL-SA-99999"],
        accept_statuses=["UpToDate", "OutOfDate"],
        accept_advisories=["INTEL-SA-99999"],
    )
    book.line("N153")
    revoked = put(tcbLevels=[qe_level(1, date=DATE, status="Revoked")])
    book.refuses(
        "tcb-revoked",
        "uses a quoting enclave that is revoked, on an up-to-date platform",
        collateral=W.collateral(qe_identity=revoked),
        status="Revoked",
    )
    book.line("N154")
    for does, hook in (
        ("without a QE identity", drop(IDENTITY)),
        ("with null for the QE identity", put(qe_identity=None)),
        ("without the QE identity's signature", drop("qe_identity_signature")),
        ("without the QE identity's chain", drop("qe_identity_issuer_chain")),
    ):
        book.refuses(MALFORMED, f"hands over a bundle {does}", collateral=bundle(hook))
    empty = W.collateral(qe_identity_text=lambda _: "")
    book.refuses(MALFORMED, "signs an empty QE identity", collateral=empty)
    book.line("N155")
    book.refuses(
        not_intels,
        "runs an enclave of its own on a genuine machine, which signs its report as it signs all",
        quote=qe(mr_enclave=b"e" * 32, mr_signer=b"e" * 32, flags=0x05, isv_svn=99),
    )
