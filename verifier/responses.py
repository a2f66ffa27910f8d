"""The answers of Intel's collateral service, and a folder of them, read as one bundle.

    collateral = read_folder({"tcb": b'{"tcbInfo":…', "tcb.headers": b"HTTP/1.1 200 OK…", …})

Such a folder is what `curl -D PART.headers -o PART ADDRESS` leaves for each part, or with both in
one file what `curl -i -o PART ADDRESS` leaves:

    rootcacrl   the root's revocation list, from …/rootcacrl or IntelSGXRootCA.der
    pckcrl      the PCK authority's, and in pckcrl.headers its issuer chain
    tcb         TCB info, and in tcb.headers its issuer chain
    identity    the QE identity, from …/qe/identity, and in identity.headers its issuer chain

A body's name may end in .json, .der, .pem, .crl or .body (`tcb.json`, then `tcb.json.headers` or
`tcb.headers`). In place of its headers an issuer chain may stand beside it as PEM: `tcb.chain.pem`,
or by the names of Intel's sample and of bundles (`tcbSignChain.pem`, `tcb_info_issuer_chain.pem`).
No other file may be there. Headers and bodies: version 4 of the interface.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from verifier.certificate import ROOT, read_chain
from verifier.collateral import Collateral
from verifier.crl import crl_der, parse_crl
from verifier.document import CollateralMalformed, parse_object
from verifier.errors import CollateralFetchError, ConfigError, RatlsError, placed

MAX_ANSWER = 1 << 20  # bytes; genuine ones have some tens of kilobytes
MAX_FILES = 16  #        of a folder: four bodies, headers, chains, and what is left aside

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]  # in their order; names in any case


class PcsAnswerMalformed(CollateralFetchError):
    """An answer of the collateral service cannot be read, lacks a part, or has one twice."""

    code = "pcs-answer-malformed"
    default_fix = (
        "ask another service, or the operator of this one: what came is no answer of version 4 of "
        "Intel's interface; no signature was reached, so nothing is known to be forged"
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with status 200, from an address or out of a file."""

    source: str
    headers: Headers
    body: bytes
    issuers: bytes | None = None  # PEM, from a file beside it, in place of the header

    def chain(self, header: str) -> str:
        """The issuer chain in a header: PEM of two certificates, percent-encoded.

        Raises:
            PcsAnswerMalformed: There is not exactly one such header, or it is not encoded so.
            CertificateMalformed, CertificateRoleWrong: Not two certificates.
        """
        if self.issuers is not None:
            return issuer_first(self.issuers, f"{self.source}, issuer chain")
        wanted = header.lower().encode("ascii")  # in any case: RFC 9110, section 5.1
        values = [value for name, value in self.headers if name.lower() == wanted]
        if len(values) != 1:
            # Of two, which one counts would depend on who reads them.
            raise PcsAnswerMalformed(self.source, expected=f"one {header}", found=str(len(values)))
        # RFC 3986, section 2.1, and not form decoding: a `+` of the base64 that a proxy left bare
        # is a `+`.
        raw = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), values[0])
        try:
            pem = raw.decode("ascii")
        except UnicodeDecodeError as error:
            raise PcsAnswerMalformed(
                f"{self.source}, {header}", expected="encoded PEM", found="other bytes"
            ) from error
        read_chain(pem, 2, f"{self.source}, {header}")
        return pem

    def crl(self, title: str) -> str:
        """A revocation list, whichever of its three forms the service uses, as hexadecimal text.

        Raises:
            CrlMissing, CrlMalformed: There is none, or it cannot be read.
        """
        with placed(self.source):
            parse_crl(self.body, title)
            return crl_der(self.body, title).hex()

    def signed(self, member: str) -> tuple[str, str]:
        """The text that was signed, and its signature, out of `{"MEMBER":{…},"signature":"…"}`.

        The text is cut out as it came: written again from what was parsed, it might differ.

        Raises:
            CollateralMalformed: Another form; a third member too, for it is not signed.
        """
        with placed(self.source):
            try:
                text = self.body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise CollateralMalformed(
                    member, expected="UTF-8", found=f"byte {error.start} is not"
                ) from error
            if came := _something_else(self.body):
                raise CollateralMalformed("answer", expected=member, found=came)
            parse_object(text, "answer").require_only({member, "signature"})
            match = re.fullmatch(_SIGNED % member, text, re.DOTALL)
            if match is None:
                raise CollateralMalformed(
                    "answer", expected=f"{member}, then a signature of 64 bytes", found="neither"
                )
            return match[1], match[2]


def _something_else(body: bytes) -> str | None:
    """What is often sent in place of a document, by its name."""
    start = body.strip()[:3]
    if not start:
        return "nothing"
    if start.startswith(b"<"):
        return "a web page"
    return "a byte order mark before it" if start == b"\xef\xbb\xbf" else None


def issuer_first(pem: bytes, thing: str) -> str:
    """A chain of two as PEM, with the root last: Intel's own sample writes it first.

    Raises:
        CertificateMalformed, CertificateRoleWrong: Not two certificates.
    """
    first, second = read_chain(pem, 2, thing)
    if first.common_name in ROOT.common_names:
        first, second = second, first
    return "".join(map(certificate_pem, (first.der, second.der)))


def certificate_pem(der: bytes) -> str:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# Of a text that `parse_object` took with exactly two members: what ends it is the second one.
_SIGNED = r'\s*\{\s*"%s"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9A-Fa-f]{128})"\s*\}\s*'


@dataclass(frozen=True, slots=True)
class Answers:
    """All that a verifier needs about one platform. Not verified."""

    root_crl: Answer
    pck_crl: Answer
    tcb: Answer
    identity: Answer

    def as_bundle(self, fetched: str | None = None) -> Collateral:
        """One bundle, which holds all that is needed to judge the same quote in ten years.

        Args:
            fetched: A remark on when, for people; it decides nothing.

        Raises:
            PcsAnswerMalformed, CertificateMalformed, CertificateRoleWrong: See `Answer.chain`.
            CollateralMalformed, CrlMissing, CrlMalformed: A body is not what it should be.
        """
        tcb_info, tcb_info_signature = self.tcb.signed("tcbInfo")
        qe_identity, qe_identity_signature = self.identity.signed("enclaveIdentity")
        members = {
            "pck_crl_issuer_chain": self.pck_crl.chain("SGX-PCK-CRL-Issuer-Chain"),
            "root_ca_crl": self.root_crl.crl("root CRL"),
            "pck_crl": self.pck_crl.crl("PCK CRL"),
            "tcb_info_issuer_chain": self.tcb.chain("TCB-Info-Issuer-Chain"),
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_info_signature,
            "qe_identity_issuer_chain": self.identity.chain("SGX-Enclave-Identity-Issuer-Chain"),
            "qe_identity": qe_identity,
            "qe_identity_signature": qe_identity_signature,
        }
        if fetched is not None:
            members["fetched"] = fetched
        return Collateral.parse(json.dumps(members, indent=1, ensure_ascii=False).encode() + b"\n")


def read_answers(answers: Answers, fetched: str) -> Collateral:
    """The bundle that the answers of a service make; not verified.

    Raises:
        PcsAnswerMalformed: One of them is unreadable, whatever is wrong with it (5). A service
            that causes this could as well have been silent.
    """
    try:
        return answers.as_bundle(fetched)
    except PcsAnswerMalformed:
        raise
    except RatlsError as refusal:
        raise PcsAnswerMalformed(
            refusal.thing, expected=refusal.expected, found=refusal.found
        ) from refusal


# A folder of them

# The file of each member of `Answers`.
_PROPER = {"root_crl": "rootcacrl", "pck_crl": "pckcrl", "tcb": "tcb", "identity": "identity"}
_PARTS = {name: part for part, name in _PROPER.items()} | {
    **dict.fromkeys(("IntelSGXRootCA", "rootCaCrl", "root_ca_crl"), "root_crl"),
    **dict.fromkeys(("intermediateCaCrl", "pck_crl"), "pck_crl"),
    **dict.fromkeys(("tcbInfo", "tcb_info"), "tcb"),
    **dict.fromkeys(("qeIdentity", "qe_identity"), "identity"),
}
_NAME = re.compile(rf"({'|'.join(_PARTS)})(?:\.(?:json|der|pem|crl|body))?(\.headers)?")
_CHAIN = re.compile(rf"({'|'.join(_PARTS)})\.chain(?:\.pem)?")
# Chains by other names, and of which parts each is: Intel's sample has one for both documents.
_CHAINS = {
    "pckSignChain.pem": ("pck_crl",),
    "tcbSignChain.pem": ("tcb", "identity"),
    "pck_crl_issuer_chain.pem": ("pck_crl",),
    "tcb_info_issuer_chain.pem": ("tcb",),
    "qe_identity_issuer_chain.pem": ("identity",),
}
# Of Intel's sample too; the root that is trusted never comes out of a folder.
_LEFT_ASIDE = {"trustedRootCaCert.pem", "pckCert.pem", "qveIdentity.json"}


class ResponseFileMissing(ConfigError):
    """A folder of answers lacks a part."""

    code = "response-file-missing"
    default_fix = "ask the service for this part too: curl -D PART.headers -o PART ADDRESS"


class ResponseHeadersMalformed(ConfigError):
    """The file of an answer's headers cannot be read, or lacks the issuer chain."""

    code = "response-headers-malformed"
    default_fix = "ask the service again: curl -D PART.headers -o PART ADDRESS"


def read_folder(files: Mapping[str, bytes]) -> Collateral:
    """The bundle that these files make, each by its name.

    Raises:
        ResponseFileUnexpected, ResponseFileMissing, ResponseHeadersMalformed: Not such a folder.
        CollateralMalformed, CrlMissing, CrlMalformed, CertificateMalformed,
            CertificateRoleWrong: A file is not what its name says.
    """
    found = _sorted_out(sorted(files))
    answers = {}
    for part, proper in _PROPER.items():
        if part not in found.bodies:
            raise ResponseFileMissing("folder of answers", expected=proper, found="none")
        name, beside, chain = found.bodies[part], found.headers.get(part), found.chains.get(part)
        said, body = _recorded(name, files[name])
        if said is not None and (beside or chain):
            raise ResponseFileUnexpected(
                ascii(beside or chain)[:80], expected="headers once", found=f"some in {name} too"
            )
        if beside is not None:
            said = parse_headers(beside, files[beside])
        if part != "root_crl" and said is None and chain is None:
            raise ResponseFileMissing(
                "folder of answers",
                expected=f"{proper}.headers or {proper}.chain.pem",
                found="none",
            )
        answers[part] = Answer(name, said or (), body, None if chain is None else files[chain])
    try:
        # A header is named with its own file, a body with its own.
        return Answers(**answers).as_bundle()
    except PcsAnswerMalformed as refusal:
        raise ResponseHeadersMalformed(
            f"headers of {refusal.thing}", expected=refusal.expected, found=refusal.found
        ) from refusal


class ResponseFileUnexpected(ConfigError):
    """A folder of answers holds a file that is no known part, or a part twice."""

    code = "response-file-unexpected"
    default_fix = "leave one file for each part in the folder, by the names in the help"


@dataclass(frozen=True, slots=True)
class _Files:
    """The file of each part, by name."""

    bodies: dict[str, str]
    headers: dict[str, str]
    chains: dict[str, str]


def _sorted_out(names: list[str]) -> _Files:
    found = _Files({}, {}, {})
    kind: dict[str, str]
    parts: tuple[str, ...]
    for name in names:
        if name in _LEFT_ASIDE:
            continue
        if (chain := _CHAIN.fullmatch(name)) is not None:
            kind, parts = found.chains, (_PARTS[chain[1]],)
        elif name in _CHAINS:
            kind, parts = found.chains, _CHAINS[name]
        elif (match := _NAME.fullmatch(name)) is not None:
            kind, parts = found.headers if match[2] else found.bodies, (_PARTS[match[1]],)
        else:
            raise ResponseFileUnexpected(
                ascii(name)[:80],
                expected=f"one of {', '.join(_PROPER.values())}",
                found="another name",
            )
        for part in parts:
            # A chain, and headers that have one too: which counts would depend on who reads.
            others = [kind]
            if kind is not found.bodies:
                others = [found.headers, found.chains]
            for other in others:
                if part in other:
                    raise ResponseFileUnexpected(
                        ascii(name)[:80],
                        expected="one such file",
                        found=f"{ascii(other[part])[:80]} too",
                    )
            kind[part] = name
    return found


def _recorded(name: str, raw: bytes) -> tuple[Headers | None, bytes]:
    """The headers and the body of a file that may hold both, as `curl -i` writes them.

    None where it holds the body alone.
    """
    said: Headers | None = None
    while raw.startswith(b"HTTP/"):
        head, end, raw = raw.partition(b"\r\n\r\n")
        said = parse_headers(name, head) if not raw.startswith(b"HTTP/") else ()
        if not end:
            break
    return said, raw


def parse_headers(name: str, raw: bytes) -> Headers:
    """The headers of an answer as `curl -D` writes them, with its status line or without.

    Where a proxy, or a request to try again, was answered before, the last answer counts.

    Raises:
        ResponseHeadersMalformed: Another status than 200, or lines that are none.
    """
    blocks = re.split(rb"(?:\r?\n){2,}", raw.strip(b"\r\n"))
    lines = re.split(rb"\r?\n", blocks[-1])
    if status := _STATUS.fullmatch(lines[0]):
        if status[1] != b"200":
            raise ResponseHeadersMalformed(
                name, expected="status 200", found=status[1].decode("ascii")
            )
        lines = lines[1:]
    found = []
    for number, line in enumerate(lines, start=1):
        match = _HEADER.fullmatch(line)
        if match is None:
            raise ResponseHeadersMalformed(
                f"{name}, header {number}", expected="`Name: value`", found="something else"
            )
        found.append((match[1], match[2].strip(b" \t")))
    return tuple(found)


# RFC 9112, section 4 and RFC 9112, section 5.
_STATUS = re.compile(rb"HTTP/[0-9.]{1,3} ([0-9]{3})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
