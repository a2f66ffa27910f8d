"""dcap.md 5.1 to 5.3 for TDX, and for what else versions 4 and 5 brought."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulation.certificates import sign_raw
from simulation.quote import QuoteForm
from tests.vectors.casebook import Book, Stream, TdBook, key, scene, set_
from tests.vectors.cases_quote import BEGIN, DEGENERATE, signature_data_len

W = scene()
STRANGER = key("stranger")
CHAIN = len(W.platform.pck_chain)


def quote(version: int = 4, **altered: Any) -> bytes:
    """A TDX quote; of TDX 1.0 unless a field of 1.5 is given."""
    return W.td_quote(version=version, **altered)


def quote_1_5(**altered: Any) -> bytes:
    """A TDX quote of version 5, of TDX 1.5."""
    return W.td_quote(version=5, **{"mr_service_td": bytes(48), **altered})


def framing(shared: Book) -> None:
    """dcap.md 5.1."""
    book, malformed, unsupported = TdBook(shared), "quote-malformed", "quote-unsupported"
    book.line("N002")
    for version in (4, 5):
        book.refuses(
            malformed, f"cuts version {version} to 1019 bytes", quote=quote(version)[:1019]
        )
    book.line("N003")
    book.refuses(malformed, "cuts version 4 at any byte", quote=quote(), each="prefix")
    book.refuses(
        malformed, "cuts version 5 of TDX 1.5 at any byte", quote=quote_1_5(), each="prefix"
    )
    book.line("N005")
    for kind in (0, 1, 3):
        raw = quote(header=set_(attestation_key_type=kind))
        book.refuses(unsupported, f"declares attestation key type {kind}", quote=raw)
    book.line("N006")
    for tee in (1, 0x80, 0x82, 0x81000000):
        for version in (4, 5):
            raw = quote(version, header=set_(tee_type=tee))
            book.refuses(
                unsupported, f"declares technology {tee:#x} in version {version}", quote=raw
            )
    book.line("N007")
    book.refuses(unsupported, "declares version 3", quote=quote(header=set_(version=3)))
    newer_sgx(shared)
    book.line("N009")
    for version in (4, 5):
        raw = quote(version, header=set_(qe_vendor_id=bytes(16)))
        book.refuses(unsupported, f"has no QE vendor id in version {version}", quote=raw)
    book.line("N010")
    enclave, domain = W.quote(version=4, header=set_(tee_type=0x81)), quote(header=set_(tee_type=0))
    book.refuses(malformed, "puts an enclave's report under a TDX header", quote=enclave)
    book.refuses(
        malformed,
        "puts a trust domain's report under an SGX header of version 4, which is read here",
        quote=domain,
        newer_sgx=True,
    )
    book.refuses(
        unsupported,
        "puts a trust domain's report under an SGX header of version 4",
        quote=domain,
        differs="such a header is refused before what follows it is read",
    )
    described(book)
    book.line("N014")
    for does, raw in (
        ("puts signature data of version 3 into version 5", quote(5, form=set_(outer_type=None))),
        ("puts signature data of version 3 into version 4", quote(form=set_(outer_type=None))),
        ("puts signature data of version 4 into version 3", W.quote(form=set_(outer_type=6))),
    ):
        book.refuses(malformed, does, quote=raw)
    book.line("N015")
    for version in (4, 5):
        for change in (-1, 1):
            raw = quote(version, form=signature_data_len(change))
            book.refuses(
                malformed, f"version {version} has a length that is off by {change}", quote=raw
            )
        for size in (0, 583, 589, 0xFFFFFFFF):
            raw = quote(version, form=set_(signature_data_len=size))
            book.refuses(malformed, f"version {version} has a length of {size}", quote=raw)
    book.line("N016")
    book.refuses(malformed, "states 64 bytes fewer", quote=quote(form=signature_data_len(-64)))
    book.line("N017")
    for version in (4, 5):
        raw = quote(version, form=set_(trailing=b"\x01"))
        book.refuses(malformed, f"appends one byte to version {version}", quote=raw)
        raw = quote(version, form=set_(trailing=bytes(69) + b"\x01"))
        book.refuses(malformed, "hides one byte behind zero bytes", quote=raw, padded_file=True)
    book.line("N018")
    for does, raw in (("version 4", quote()), ("version 5", quote(5)), ("TDX 1.5", quote_1_5())):
        book.accepts(f"reads a padded file of {does}", quote=raw + bytes(70), padded_file=True)
        book.refuses(malformed, f"sends {does} and 70 zero bytes", quote=raw + bytes(70))
    book.line("N019")
    raw = quote(form=set_(certification_data=b"\n" * 70_000))
    book.refuses(malformed, "sends more than 64 KiB, all well framed", quote=raw)


def newer_sgx(book: Book) -> None:
    """N008: SGX quotes in the newer versions."""
    book.line("N008")
    for version in (4, 5):
        raw = W.quote(version=version)
        does = f"sends an SGX quote of version {version}"
        book.refuses("quote-unsupported", does, quote=raw)
        book.accepts(f"{does} to who asks for them", quote=raw, newer_sgx=True)
        raw = W.quote(version=version, form=lambda f: f.signed_by(STRANGER))
        book.refuses(
            "attestation-key-unbound",
            f"{does} to who asks for them, signed by a key of its own",
            quote=raw,
            newer_sgx=True,
            differs="read there, it is held to every other check",
        )
    for tdx in (True, False):
        book.refuses(
            "tcb-info-mismatch",
            "sends an SGX quote of version 4 with the collateral of TDX"
            if tdx
            else "sends a TDX quote with the collateral of SGX",
            quote=W.quote(version=4) if tdx else quote(),
            collateral=W.collateral(tdx=tdx),
            newer_sgx=True,
            differs="read there, it is held to every other check",
        )


def described(book: TdBook) -> None:
    """N011 to N013: what version 5 says about its body."""
    malformed, unsupported = "quote-malformed", "quote-unsupported"
    book.line("N011")
    extended_report = "extended-td-report-unsupported"
    for kind in (0, 4, 5, 0xFFFF):
        raw = quote(5, descriptor=set_(body_type=kind))
        code = extended_report if kind == 4 else unsupported
        book.refuses(code, f"describes a body of type {kind}", quote=raw)

    def extended(form: QuoteForm) -> QuoteForm:
        longer = replace(
            form, report=form.report + bytes(237), descriptor=struct.pack("<HI", 4, 885)
        )
        return longer.signed_by(W.platform.td_attestation_key)

    raw = quote_1_5(form=extended)
    book.refuses(extended_report, "sends a well-framed body of type 4, 885 bytes", quote=raw)
    book.line("N012")
    bodies: dict[int, Callable[..., bytes]] = {
        384: lambda **more: W.quote(version=5, **more),
        584: lambda **more: quote(5, **more),
        648: quote_1_5,
    }
    for size, whole in bodies.items():
        for stated in (size - 1, size + 1, 0, 0xFFFFFFFF):
            raw = whole(descriptor=set_(body_size=stated))
            does = f"describes a body of {size} bytes as one of {stated}"
            book.refuses(malformed, does, quote=raw, newer_sgx=size == 384)
    for does, raw in (
        ("describes TDX 1.0 as TDX 1.5", quote(5, descriptor=set_(body_type=3))),
        ("describes TDX 1.5 as TDX 1.0", quote_1_5(descriptor=set_(body_type=2))),
    ):
        book.refuses(malformed, does, quote=raw)
    for does, raw in (("TDX 1.0", quote(5)), ("TDX 1.5", quote_1_5())):
        book.accepts(f"describes {does} as it is", quote=raw)
    book.line("N013")
    for does, raw in (
        ("an SGX header over a body of TDX 1.0", quote(5, header=set_(tee_type=0))),
        ("an SGX header over a body of TDX 1.5", quote_1_5(header=set_(tee_type=0))),
        ("a TDX header over an enclave's body", W.quote(version=5, header=set_(tee_type=0x81))),
    ):
        for newer in (False, True):
            book.refuses(malformed, does, quote=raw, newer_sgx=newer)


def signature_data(shared: Book) -> None:
    """dcap.md 5.2."""
    book, malformed = TdBook(shared), "quote-malformed"

    def formed(**fields: Any) -> bytes:
        return quote(form=set_(**fields))

    book.line("N020")
    raw = formed(qe_auth_data_len=0xFFFF)
    book.refuses(malformed, "states more QE auth data than is left", quote=raw)
    book.line("N021")
    for size in (0, 31, 33, 64, 1024):
        raw = quote(qe_auth_data=b"\x07" * size)
        book.accepts(f"has {size} bytes of QE auth data", quote=raw)
    book.line("N022")
    for size in (CHAIN + 1, 0xFFFFFFFF):
        raw = formed(certification_data_len=size)
        book.refuses(malformed, "states more certification data than is left", quote=raw)
    for size in (0, 1 << 16, 0xFFFFFFFF):
        raw = formed(outer_len=size)
        book.refuses(malformed, f"states a QE report block of {size} bytes", quote=raw)
    book.line("N023")
    for size in (CHAIN - 1, 0):
        raw = formed(certification_data_len=size)
        book.refuses(malformed, f"states {size} bytes of inner certification data", quote=raw)
    book.line("N025")
    for does, fields in (
        ("inside the QE report block", {"inner_slack": bytes(8)}),
        ("behind the QE report block", {"slack": bytes(8)}),
        ("inside the QE report block (one byte, not zero)", {"inner_slack": b"\x01"}),
        ("behind the QE report block (one byte, not zero)", {"slack": b"\x01"}),
    ):
        for version in (4, 5):
            raw = quote(version, form=set_(**fields))
            book.refuses(malformed, f"version {version} has slack {does}", quote=raw)
    book.line("N027")
    for kind in (5, 1, 0, 7):
        raw = formed(outer_type=kind)
        book.refuses(malformed, f"declares the outer block as of type {kind}", quote=raw)
    book.line("N028")
    book.refuses(malformed, "nests type 6 in type 6", quote=formed(certification_data_type=6))
    book.line("N029")
    for kind in (0, 7, 0xFFFF):
        raw = formed(certification_data_type=kind)
        book.refuses(malformed, f"declares inner certification data of type {kind}", quote=raw)
    book.line("N030")
    for kind, size in ((1, 36), (2, 276), (3, 404)):
        data = Stream("ppid")(size)
        raw = formed(certification_data_type=kind, certification_data=data)
        book.refuses("quote-unsupported", f"only names its platform (type {kind})", quote=raw)
    leaf = W.chain[0].encode()
    raw = formed(certification_data_type=4, certification_data=leaf)
    book.refuses("quote-unsupported", "carries its PCK certificate alone (type 4)", quote=raw)
    book.line("N031")
    for size in ((1 << 20) + 1, 1 << 31):
        book.refuses(malformed, f"declares a block of {size} bytes", quote=formed(outer_len=size))
    raw = quote(qe_auth_data=bytes(1025))
    book.refuses(malformed, "brings 1025 bytes of QE auth data", quote=raw)
    leaf_pem, ca, root = W.chain
    book.line("N034")
    raw = formed(certification_data=(leaf_pem + ca).encode())
    book.refuses("certificate-malformed", "sends two certificates", quote=raw)
    book.line("N036")
    raw = formed(certification_data=(leaf_pem + ca + root).replace("\n", "\r\n").encode())
    book.accepts("ends the lines of its chain with CRLF", quote=raw)


def signatures(shared: Book) -> None:
    """dcap.md 5.3."""
    book, invalid = TdBook(shared), "quote-signature-invalid"
    own = W.platform.td_attestation_key
    book.line("N040")
    for does, raw in (("version 4", quote()), ("version 5 of TDX 1.5", quote_1_5())):
        to = raw.index(BEGIN.encode())
        book.refuses(invalid, f"flips any one bit of {does}", quote=raw, each="bit", to=to)
    book.line("N041")
    for name, signature in DEGENERATE.items():
        raw = quote(form=set_(signature=signature))
        book.refuses(invalid, f"signs with {name}", quote=raw)
    book.line("N042")
    raw = quote(form=lambda f: replace(f, signature=sign_raw(STRANGER, f.signed)))
    book.refuses(invalid, "signs with another key than the one inside", quote=raw)
    book.line("N043")
    for does, part in (
        ("header alone", lambda f: f.header),
        ("report alone", lambda f: f.report),
        ("header and report without the descriptor", lambda f: f.header + f.report),
        ("descriptor and report without the header", lambda f: f.descriptor + f.report),
    ):
        raw = quote_1_5(form=lambda f, part=part: replace(f, signature=sign_raw(own, part(f))))
        book.refuses(invalid, f"signs {does} (version 5)", quote=raw)
    raw = quote_1_5(form=lambda f: replace(f, signature=sign_raw(own, f.signed[:-64])))
    book.refuses(invalid, "signs all but what TDX 1.5 appends", quote=raw)
    book.line("N045")
    raw = quote(form=lambda f: f.signed_by(STRANGER))
    book.refuses("attestation-key-unbound", "puts a key of its own into the quote", quote=raw)
    raw = quote(form=lambda f: f.signed_by(W.platform.attestation_key))
    book.refuses("attestation-key-unbound", "puts the key of the SGX quoting enclave in", quote=raw)
    book.accepts("has another key, and it is vouched for", quote=quote(attestation_key=STRANGER))
    book.line("N047")
    raw = quote(qe_report=lambda r: replace(r, report_data=r.report_data[:32] + b"\1" * 32))
    book.refuses("attestation-key-unbound", "has ones behind the digest of its key", quote=raw)
    book.line("N048")
    book.refuses(
        "qe-report-signature-invalid",
        "signs the QE report with a key of its own",
        quote=quote(qe_key=STRANGER),
    )
    book.line("N049")
    raw = quote(qe_report=set_(mr_signer=b"\x66" * 32, isv_prod_id=7, isv_svn=99))
    book.refuses("qe-not-intels", "has an application vouch for the key", quote=raw)
