"""The answers of Intel's collateral service, and a folder of them, read as one bundle.

    collateral = read_folder({"tcb": b'{"tcbInfo":…', "tcb.headers": b"HTTP/1.1 200 OK…", …})

Such a folder is what `curl -D PART.headers -o PART ADDRESS` leaves for each part:

    rootcacrl   the root's revocation list, from …/rootcacrl or IntelSGXRootCA.der
    pckcrl      the PCK authority's, and in pckcrl.headers its issuer chain
    tcb         TCB info, and in tcb.headers its issuer chain
    identity    the QE identity, from …/qe/identity, and in identity.headers its issuer chain

A body's name may end in .json, .der, .pem or .crl (`tcb.json`, then `tcb.json.headers` or
`tcb.headers`). No other file may be there. Headers and bodies: version 4 of the interface.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from verifier.certificate import read_chain
from verifier.collateral import Collateral
from verifier.crl import crl_der, parse_crl
from verifier.document import CollateralMalformed, parse_object
from verifier.errors import CollateralFetchError, ConfigError, RatlsError, placed

MAX_ANSWER = 1 << 20  # bytes; genuine ones have some tens of kilobytes
MAX_FILES = 8  #         of a folder: four bodies, and the headers of each

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

    def chain(self, header: str) -> str:
        """The issuer chain in a header: PEM of two certificates, percent-encoded.

        Raises:
            PcsAnswerMalformed: There is not exactly one such header, or it is not encoded so.
            CertificateMalformed, CertificateRoleWrong: Not two certificates.
        """
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
            parse_object(text, "answer").require_only({member, "signature"})
            match = re.fullmatch(_SIGNED % member, text, re.DOTALL)
            if match is None:
                raise CollateralMalformed(
                    "answer", expected=f"{member}, then a signature of 64 bytes", found="neither"
                )
            return match[1], match[2]


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
_PARTS = {name: part for part, name in _PROPER.items()} | {"IntelSGXRootCA": "root_crl"}
_NAME = re.compile(rf"({'|'.join(_PARTS)})(?:\.(?:json|der|pem|crl))?(\.headers)?")


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
    bodies, headers = _sorted_out(sorted(files))
    answers = {}
    for part, proper in _PROPER.items():
        if part not in bodies:
            raise ResponseFileMissing("folder of answers", expected=proper, found="none")
        if part != "root_crl" and part not in headers:
            raise ResponseFileMissing(
                "folder of answers", expected=f"{proper}.headers", found="none"
            )
        name, beside = bodies[part], headers.get(part)
        said = parse_headers(beside, files[beside]) if beside is not None else ()
        answers[part] = Answer(name, said, files[name])
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


def _sorted_out(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The body and the headers of each part, by file name."""
    bodies: dict[str, str] = {}
    headers: dict[str, str] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise ResponseFileUnexpected(
                ascii(name)[:80],
                expected=f"one of {', '.join(_PROPER.values())}",
                found="another name",
            )
        kind, part = headers if match[2] else bodies, _PARTS[match[1]]
        if part in kind:
            # Which of the two counts would depend on who lists them.
            raise ResponseFileUnexpected(
                ascii(name)[:80], expected="one such file", found=f"{ascii(kind[part])[:80]} too"
            )
        kind[part] = name
    return bodies, headers


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
        found.append((match[1], match[2]))
    return tuple(found)


# RFC 9112, section 4 and RFC 9112, section 5.
_STATUS = re.compile(rb"HTTP/[0-9.]{1,3} ([0-9]{3})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
