"""dcap.md 5.1 to 5.3: header and framing, signature data, the signatures inside the quote."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from simulation.certificates import public_point, sign_raw
from simulation.quote import HeaderForm, QuoteForm, ReportForm, qe_binding
from tests.vectors.casebook import SGX, Book, Hook, Stream, key, scene, set_
from verifier.ecdsa import ORDER

W = scene()
STRANGER = key("stranger")
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def header(**fields: Any) -> bytes:
    """A quote whose header declares something else; signed."""
    return W.quote(header=set_(**fields))


def formed(**fields: Any) -> bytes:
    """A quote with fields of its finished form set."""
    return W.quote(form=set_(**fields))


def signature_data_len(change: int) -> Hook:
    """The length before the signature data, off by this much."""

    def alter(form: QuoteForm) -> QuoteForm:
        real = struct.unpack_from("<I", form.encode(), len(form.signed))[0]
        return replace(form, signature_data_len=real + change)

    return alter


def framing(book: Book) -> None:
    """dcap.md 5.1, SGX."""
    book.share(SGX, W.collateral())
    book.line("N001")
    for size in (0, 1, 47):
        book.refuses("quote-malformed", f"sends {size} bytes for a quote", quote=W.quote()[:size])
    book.refuses(
        "quote-unsupported",
        "sends 2 KiB of random bytes",
        quote=Stream("garbage")(2048),
        differs="long enough to have a header, which is judged first: its version is unknown",
    )
    book.refuses(
        "quote-malformed",
        "sends random bytes behind the header of a quote",
        quote=W.quote()[:48] + Stream("garbage")(2000),
    )
    book.line("N002")
    book.refuses("quote-malformed", "cuts a quote to 1019 bytes", quote=W.quote()[:1019])
    book.line("N003")
    book.refuses("quote-malformed", "cuts a quote at any byte (each proper prefix)", each="prefix")
    book.line("N004")
    for version in (0, 1, 2, 6, 0xFFFF):
        book.refuses(
            "quote-unsupported", f"declares version {version}", quote=header(version=version)
        )
    book.line("N005")
    for kind in (0, 1, 3, 0xFFFF):
        book.refuses(
            "quote-unsupported",
            f"declares attestation key type {kind}",
            quote=header(attestation_key_type=kind),
        )
    book.line("N006")
    for tee in (1, 0x80, 0x82, 0x81000000):
        book.refuses(
            "quote-unsupported", f"declares technology {tee:#x}", quote=header(tee_type=tee)
        )
    book.line("N007")
    book.refuses(
        "quote-unsupported", "declares TDX in a quote of version 3", quote=header(tee_type=0x81)
    )
    book.line("N009")
    for bit in (0, 127):
        vendor = int.from_bytes(HeaderForm().qe_vendor_id, "big") ^ 1 << bit
        book.refuses(
            "quote-unsupported",
            f"flips bit {bit} of the QE vendor id and signs again",
            quote=header(qe_vendor_id=vendor.to_bytes(16, "big")),
        )
    book.line("N015")
    for change in (-1, 1):
        book.refuses(
            "quote-malformed",
            f"states a signature data length that is off by {change}",
            quote=W.quote(form=signature_data_len(change)),
        )
    for size in (0, 583, 584, 0xFFFFFFFF):
        book.refuses(
            "quote-malformed",
            f"states a signature data length of {size}",
            quote=formed(signature_data_len=size),
        )
    book.line("N016")
    for change in (-64, -1024):
        book.refuses(
            "quote-malformed",
            f"states {-change} bytes of signature data fewer than there are",
            quote=W.quote(form=signature_data_len(change)),
        )
    book.line("N017")
    book.refuses("quote-malformed", "appends one byte to a quote", quote=formed(trailing=b"\x01"))
    book.refuses(
        "quote-malformed",
        "hides one byte behind the zero bytes of a padded file",
        quote=formed(trailing=bytes(69) + b"\x01"),
        padded_file=True,
    )
    book.line("N018")
    book.accepts(
        "reads a file that its driver padded with 70 zero bytes",
        quote=formed(trailing=bytes(70)),
        padded_file=True,
    )
    book.accepts(
        "reads a file that its driver padded with 3065 zero bytes",
        quote=formed(trailing=bytes(3065)),
        padded_file=True,
    )
    book.refuses(
        "quote-malformed",
        "sends 70 zero bytes behind a quote inside evidence",
        quote=formed(trailing=bytes(70)),
    )
    book.line("N019")
    book.refuses(
        "quote-malformed",
        "sends more than 64 KiB, all well framed",
        quote=formed(certification_data=b"\n" * 70_000),
    )


def signature_data(book: Book) -> None:
    """dcap.md 5.2, SGX."""
    book.share(SGX, W.collateral())
    book.line("N020")
    book.refuses(
        "quote-malformed",
        "states more QE auth data than there is left",
        quote=formed(qe_auth_data_len=0xFFFF),
    )
    book.line("N021")
    for size in (0, 31, 33, 64, 1024):
        book.accepts(
            f"has a quoting enclave with {size} bytes of auth data",
            quote=W.quote(qe_auth_data=b"\x07" * size),
        )
    book.line("N022")
    for excess in (1, None):
        real = len(W.platform.pck_chain)
        book.refuses(
            "quote-malformed",
            "states more certification data than there is left",
            quote=formed(certification_data_len=real + excess if excess else 0xFFFFFFFF),
        )
    book.line("N024")
    book.refuses(
        "quote-malformed",
        "states one byte of certification data fewer than there is (version 3)",
        quote=formed(certification_data_len=len(W.platform.pck_chain) - 1),
    )
    book.line("N026")
    book.refuses(
        "quote-malformed",
        "puts certification data of type 6 into version 3",
        quote=formed(certification_data_type=6),
    )
    book.line("N029")
    for kind in (0, 7, 0xFFFF):
        book.refuses(
            "quote-malformed",
            f"declares certification data of type {kind}",
            quote=formed(certification_data_type=kind),
        )
    book.line("N030")
    for kind, size in ((1, 36), (2, 276), (3, 404)):
        book.refuses(
            "quote-unsupported",
            f"sends a quote that only names its platform (type {kind})",
            quote=formed(certification_data_type=kind, certification_data=Stream("ppid")(size)),
        )
    book.refuses(
        "quote-unsupported",
        "sends a quote with its PCK certificate alone (type 4)",
        quote=formed(certification_data_type=4, certification_data=W.chain[0].encode()),
    )
    book.line("N031")
    for size in (1 << 20, (1 << 20) + 1, 1 << 31):
        book.refuses(
            "quote-malformed",
            f"declares {size} bytes of certification data",
            quote=formed(certification_data_len=size),
        )
    book.refuses(
        "quote-malformed",
        "brings 1025 bytes of QE auth data, one above the cap",
        quote=W.quote(qe_auth_data=bytes(1025)),
    )
    book.refuses(
        "quote-malformed",
        "brings 16 KiB and one byte of PCK chain",
        quote=formed(certification_data=b"".join(map(str.encode, W.chain)).ljust(16385, b"\n")),
    )
    pem_text(book)


def pem_text(book: Book) -> None:
    """dcap.md 5.2: the text that should hold the PCK chain."""
    leaf, ca, root = W.chain

    def swapped(pem: str) -> str:
        return pem.replace(BEGIN, "@").replace(END, BEGIN).replace("@", END)

    def bad(does: str, text: str | bytes, code: str = "certificate-malformed") -> None:
        data = text if isinstance(text, bytes) else text.encode()
        book.refuses(code, does, quote=formed(certification_data=data))

    def good(does: str, text: str) -> None:
        book.accepts(does, quote=formed(certification_data=text.encode()))

    book.line("N032")
    bad("leaves the PCK chain empty", b"")
    bad("sends nothing but NUL bytes for a PCK chain", bytes(9))
    bad("sends a PCK chain that is not ASCII", ("é" * 40).encode())
    bad("puts a letter outside ASCII into the PCK chain", (leaf + ca + root).replace("A", "Á", 1))
    book.line("N033")
    for place, text in enumerate(
        (swapped(leaf) + ca + root, leaf + swapped(ca) + root, leaf + ca + swapped(root)), start=1
    ):
        bad(f"swaps BEGIN and END of certificate {place}", text)
    bad("drops a dash of the first BEGIN", (leaf + ca + root).replace("-----B", "----B", 1))
    bad("drops the first BEGIN", (leaf + ca + root).replace(BEGIN, "", 1))
    bad("drops the last END", leaf + ca + root.replace(END, ""))
    book.line("N034")
    bad("sends white space and no certificate", "\n")
    bad("sends the leaf alone", leaf)
    bad("sends leaf and authority", leaf + ca)
    bad("sends four certificates", leaf + ca + root + root)
    bad("sends the leaf twice", leaf + leaf + ca + root)
    book.line("N035")
    bad("writes text between two certificates", leaf + "text\n" + ca + root)
    bad("writes a NUL between two certificates", leaf + "\0" + ca + root)
    bad("writes text behind the last certificate", leaf + ca + root + "junk")
    bad("writes text behind the NUL at the end", leaf + ca + root + "\0junk")
    book.line("N036")
    good("has a producer that ends lines with CRLF", (leaf + ca + root).replace("\n", "\r\n"))
    good("has a producer that writes blank lines", f"\n{leaf}\n\n{ca}  \n{root}\n")
    good("has a producer that writes no NUL at the end", leaf + ca + root)
    good("has a producer that writes several NUL bytes at the end", leaf + ca + root + "\0\0\0")
    book.line("N037")
    bad("sends root, authority, leaf", root + ca + leaf, "certificate-role-wrong")
    bad("sends authority, leaf, root", ca + leaf + root, "certificate-role-wrong")
    book.accepts(
        "sends leaf, root, authority",
        quote=formed(certification_data=(leaf + root + ca).encode()),
        differs="old genuine platforms write the root before the authority; each certificate has "
        "to hold its own place all the same (docs/decisions/0002)",
    )


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


DEGENERATE = {
    "all zero": bytes(64),
    "r = 0": raw(0, 1),
    "s = 0": raw(1, 0),
    "r = n": raw(ORDER, 1),
    "s = n": raw(1, ORDER),
    "r = s = 1": raw(1, 1),
    "all ones": b"\xff" * 64,
}


def little_endian(signature: bytes) -> bytes:
    return signature[:32][::-1] + signature[32:][::-1]


def signatures(book: Book) -> None:
    """dcap.md 5.3, SGX."""
    book.share(SGX, W.collateral())
    attestation = W.platform.attestation_key
    book.line("N040")
    # Up to the text of the chain: header, report, lengths, signatures, key, QE report, auth data.
    book.refuses(
        "quote-signature-invalid",
        "flips any one bit before the text of the PCK chain (another refusal will do as well)",
        each="bit",
        to=W.quote().index(BEGIN.encode()),
    )
    book.line("N041")
    for name, signature in DEGENERATE.items():
        book.refuses(
            "quote-signature-invalid",
            f"signs the quote with {name}",
            quote=formed(signature=signature),
        )

    def negate(form: QuoteForm) -> QuoteForm:
        r, s = (int.from_bytes(form.signature[i : i + 32], "big") for i in (0, 32))
        return replace(form, signature=raw(r, ORDER - s))

    book.accepts(
        "writes n - s for s, which is as valid: a signature identifies nothing",
        quote=W.quote(form=negate),
    )
    book.line("N042")
    book.refuses(
        "quote-signature-invalid",
        "signs with another key than the one inside",
        quote=W.quote(form=lambda f: replace(f, signature=sign_raw(STRANGER, f.signed))),
    )
    book.refuses(
        "quote-signature-invalid",
        "puts the report of another enclave under a genuine signature",
        quote=formed(report=ReportForm(mr_enclave=b"\x77" * 32).encode()),
    )
    book.line("N043")
    for name, part in (("header", slice(48)), ("report", slice(48, None))):
        book.refuses(
            "quote-signature-invalid",
            f"signs the {name} alone",
            quote=W.quote(
                form=lambda f, part=part: replace(
                    f, signature=sign_raw(attestation, f.signed[part])
                )
            ),
        )
    book.line("N044")
    prime = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
    for name, point in (
        ("a point off the curve", raw(1, 1)),
        ("zero", bytes(64)),
        ("an x that is the field's prime", raw(prime, 0)),
        ("an x above the field's prime", raw(prime + 5, 1)),
    ):
        book.refuses(
            "quote-signature-invalid",
            f"has the quoting enclave vouch for {name} as attestation key",
            quote=W.quote(
                qe_report=lambda r, point=point: replace(
                    r, report_data=qe_binding(point, bytes(range(32)))
                ),
                form=set_(attestation_key=point),
            ),
        )
    book.line("N045")
    book.refuses(
        "attestation-key-unbound",
        "signs with a key of its own and puts that key into a genuine quote",
        quote=W.quote(form=lambda f: f.signed_by(STRANGER)),
    )
    book.accepts(
        "has another attestation key, and the quoting enclave vouches for it",
        quote=W.quote(attestation_key=STRANGER),
    )
    point, auth = public_point(attestation), bytes(range(32))
    bindings = {
        "N046": (
            ("the key alone", qe_binding(point, b"")),
            ("auth data, then key", qe_binding(auth, point)),
            ("nothing", bytes(64)),
        ),
        "N047": (
            ("the key, with ones behind the digest", qe_binding(point, auth)[:32] + b"\1" * 32),
            ("the key, with one bit behind the digest", qe_binding(point, auth)[:63] + b"\1"),
        ),
    }
    for line, entries in bindings.items():
        book.line(line)
        for name, report_data in entries:
            book.refuses(
                "attestation-key-unbound",
                f"has a quoting enclave that vouches for {name}",
                quote=W.quote(qe_report=set_(report_data=report_data)),
            )
    book.line("N048")
    for name, wrong in (
        ("the attestation key", attestation),
        ("the intermediate authority's key", W.intel.platform_ca.ec_key),
        ("the TCB signer's key", W.intel.tcb_signer.ec_key),
        ("the PCK key of another platform", W.another("sister").pck.ec_key),
        ("a key of its own", STRANGER),
    ):
        book.refuses(
            "qe-report-signature-invalid",
            f"signs the QE report with {name}",
            quote=W.quote(qe_key=wrong),
        )
    for name, signature in DEGENERATE.items():
        book.refuses(
            "qe-report-signature-invalid",
            f"signs the QE report with {name}",
            quote=formed(qe_report_signature=signature),
        )
    book.line("N049")
    book.refuses(
        "qe-not-intels",
        "has the machine's PCK key sign the report of an application that vouches for a key",
        quote=W.quote(qe_report=set_(mr_signer=b"\x66" * 32, isv_prod_id=7, isv_svn=99)),
    )
    book.line("N050")
    book.refuses(
        "quote-signature-invalid",
        "writes r and s little-endian",
        quote=W.quote(form=lambda f: replace(f, signature=little_endian(f.signature))),
    )
    book.refuses(
        "qe-report-signature-invalid",
        "writes r and s of the QE report's signature little-endian",
        quote=W.quote(
            form=lambda f: replace(f, qe_report_signature=little_endian(f.qe_report_signature))
        ),
        differs="the other signature of a quote, which is looked at first",
    )
