"""Intel's `platform_collaterals.json`: what its admin tools fetch for many platforms, in one file.

    if is_platform_collaterals(content):
        bundles = read_platform_collaterals(content)   # one for each kind of platform

A bundle for each FMSPC, technology, and PCK authority whose chain is in the file. TCB info is in it
as JSON objects and not as the text that was signed, so it is written again as Intel serves it, in
the order of the file and without white space. The signature is checked over that text, and that
text is what is read: one that comes out differently is refused. Of the early editions a file may
hold, none is used where there is a standard one. Layout: `pccsadmin.py fetch` of Intel's PCCS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from verifier.collateral import Collateral
from verifier.crl import crl_der
from verifier.document import CollateralMalformed, Fields
from verifier.errors import CrlMissing, RatlsError
from verifier.responses import Answer, PcsAnswerMalformed
from verifier.strict_json import JsonError, read_object

_WHERE = "platform_collaterals.json"
_AUTHORITIES = {"PROCESSOR": "processorCrl", "PLATFORM": "platformCrl"}
_IDENTITIES = {"sgx": "qeidentity", "tdx": "tdqeidentity"}
_EDITIONS = ("", "_early")  # the first that is there counts
_FIX = "mend that member: it must be as `pccsadmin fetch` of Intel's PCCS writes it"


def is_platform_collaterals(raw: bytes) -> bool:
    """Does it look like such a file? Only a reason to read it as one."""
    return b'"collaterals"' in raw and b'"tcbinfos"' in raw


def read_platform_collaterals(raw: bytes) -> tuple[Collateral, ...]:
    """The bundles in such a file, in its order; at least one.

    Raises:
        CollateralMalformed: It is none, or lacks a member that a bundle needs.
        CrlMissing, CrlMalformed, CertificateMalformed, CertificateRoleWrong: See `Answer`.
    """
    try:
        document = Fields(read_object(raw.decode("utf-8")), _WHERE)
    except (JsonError, UnicodeDecodeError) as error:
        raise CollateralMalformed(
            _WHERE, expected="one JSON object", found=str(error)[:200]
        ) from error
    with _naming_the_member():
        found = tuple(_bundles(document.object("collaterals")))
        if not found:
            raise CollateralMalformed(
                f"{_WHERE}.collaterals.tcbinfos", expected="some TCB info", found="none"
            )
    return found


@contextmanager
def _naming_the_member() -> Iterator[None]:
    """The remedy is about this file's layout; what the service once said is another matter."""
    try:
        yield
    except PcsAnswerMalformed as refusal:
        raise CollateralMalformed(
            f"{_WHERE}: {refusal.thing}", expected=refusal.expected, found=refusal.found, fix=_FIX
        ) from refusal
    except RatlsError as refusal:
        refusal.fix = _FIX
        raise


def _bundles(all_of_it: Fields) -> Iterator[Collateral]:
    certificates = all_of_it.object("certificates")
    issuers = certificates.object("SGX-PCK-Certificate-Issuer-Chain")
    lists = all_of_it.object("pckcacrl")
    documents = _chain(certificates, "TCB-Info-Issuer-Chain")
    identities = _chain(certificates, "SGX-Enclave-Identity-Issuer-Chain")
    root_crl = _crl(all_of_it, "rootcacrl", "root CRL")
    for entry in all_of_it.table("tcbinfos").objects():
        for tee, edition, info in _tcb_infos(entry):
            name = f"{_IDENTITIES[tee]}{edition}"
            identity = _signed(all_of_it, name, "enclaveIdentity")
            for authority, list_name in _AUTHORITIES.items():
                if not issuers.members.get(authority):
                    continue  # no platform in this file is certified by it
                members = {
                    "pck_crl_issuer_chain": _chain(issuers, authority),
                    "root_ca_crl": root_crl,
                    "pck_crl": _crl(lists, list_name, "PCK CRL"),
                    "tcb_info_issuer_chain": documents,
                    "tcb_info": info[0],
                    "tcb_info_signature": info[1],
                    "qe_identity_issuer_chain": identities,
                    "qe_identity": identity[0],
                    "qe_identity_signature": identity[1],
                }
                text = json.dumps(members, indent=1, ensure_ascii=False)
                yield Collateral.parse(text.encode("utf-8", "surrogatepass") + b"\n")


def _tcb_infos(entry: Fields) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Technology, edition, and the signed text with its signature, of one FMSPC."""
    for tee in _IDENTITIES:
        for edition in _EDITIONS:
            name = f"{tee}_tcbinfo{edition}"
            if entry.members.get(name) is not None:
                yield tee, edition, _signed(entry, name, "tcbInfo")
                break


def _signed(fields: Fields, name: str, member: str) -> tuple[str, str]:
    value = fields.members.get(name)
    if isinstance(value, dict):
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    else:
        text = fields.text(name)
    answer = Answer(f"{fields.where}.{name}", (), text.encode("utf-8", "surrogatepass"))
    return answer.signed(member)


def _chain(fields: Fields, name: str) -> str:
    value = fields.text(name).encode("utf-8")
    return Answer(f"{fields.where}.{name}", ((b"chain", value),), b"").chain("chain")


def _crl(fields: Fields, name: str, title: str) -> str:
    if not fields.members.get(name):
        raise CrlMissing(f"{fields.where}.{name}", expected="a revocation list", found="nothing")
    return crl_der(fields.text(name).encode("utf-8"), title).hex()
