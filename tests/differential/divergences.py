"""Where the two verifiers differ on purpose, each by name, with the line that says who is right.

A divergence explains a pair of answers only where its predicate finds its cause in the question
itself. What no predicate recognises is a finding. `row` names a section of `docs/dcap.md`, and a
row of its table where the section is 6.1.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from tests.differential.layout import regions
from tests.differential.question import Answer, Question
from verifier.pck import PckExtension

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_SKEW = 300
_OUTDATED = ("OutOfDate", "OutOfDateConfigurationNeeded")

Predicate = Callable[[Question, Answer, Answer], bool]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One known difference: its name, its row in dcap.md, and how to recognise it."""

    name: str
    row: str
    recognises: Predicate


# What a predicate looks at. Only questions that one side accepted come here, so their form holds.


def _document(question: Question, name: str) -> Any:
    return json.loads(json.loads(question.bundle)[name])


def _field(quote: bytes, name: str) -> bytes:
    return next((quote[r.start : r.end] for r in regions(quote) if r.name == name), b"")


def _certificates(question: Question) -> list[x509.Certificate]:
    """Every certificate of quote and bundle, the PCK leaf first."""
    text = _field(question.quote, "certification_data").decode("latin-1")
    members: Mapping[str, str] = json.loads(question.bundle)
    text += "".join(chain for name, chain in members.items() if name.endswith("_chain"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of serial numbers that are not positive
        return [x509.load_pem_x509_certificate(block.encode()) for block in _PEM.findall(text)]


def _extension(question: Question) -> PckExtension:
    value = _certificates(question)[0].extensions.get_extension_for_oid(_SGX_EXTENSION).value
    return PckExtension.parse(value.public_bytes())


def _because(question: Question, theirs: Answer, *texts: str) -> bool:
    return not theirs.accepted and any(text in theirs.reason for text in texts)


# Accepted here, refused or judged otherwise there.


def _qe_auth_size(question: Question, ours: Answer, theirs: Answer) -> bool:
    return len(_field(question.quote, "qe_auth_data")) != 32 and _because(
        question, theirs, "Invalid QE auth data length"
    )


def _issued_within_the_skew(question: Question, ours: Answer, theirs: Answer) -> bool:
    if not _because(question, theirs, "issue date is in the future"):
        return False
    issued = (
        datetime.fromisoformat(_document(question, name)["issueDate"]).timestamp()
        for name in ("tcb_info", "qe_identity")
    )
    return question.at < max(issued) <= question.at + _SKEW


def _other_octets(question: Question, ours: Answer, theirs: Answer) -> bool:
    tcb = _extension(question).tcb
    return tcb.cpu_svn != bytes(tcb.components) and (
        theirs.accepted or _because(question, theirs, "No matching TCB level", "Revoked")
    )


def _wide_pce_svn(question: Question, ours: Answer, theirs: Answer) -> bool:
    return _extension(question).tcb.pce_svn >= 0x8000 and _because(
        question, theirs, "PceSvn length mismatch"
    )


def _wide_module_svn(question: Question, ours: Answer, theirs: Answer) -> bool:
    identities = _document(question, "tcb_info").get("tdxModuleIdentities", [])
    svns = [level["tcb"]["isvsvn"] for i in identities for level in i["tcbLevels"]]
    return max(svns, default=0) > 255 and _because(question, theirs, "expected u8")


def _extended_key_usage(question: Question, ours: Answer, theirs: Answer) -> bool:
    usages = [
        extension
        for certificate in _certificates(question)
        for extension in certificate.extensions
        if isinstance(extension.value, x509.ExtendedKeyUsage)
    ]
    return bool(usages) and _because(question, theirs, "RequiredEkuNotFound")


def _qe_levels_as_written(question: Question, ours: Answer, theirs: Answer) -> bool:
    """There, the first level on the wire that the enclave reaches; here, the highest."""
    svn = int.from_bytes(_field(question.quote, "qe_isv_svn"), "little")
    levels = _document(question, "qe_identity")["tcbLevels"]
    reached = [level for level in levels if level["tcb"]["isvsvn"] <= svn]
    return bool(reached) and reached[0] != max(reached, key=lambda level: level["tcb"]["isvsvn"])


def _module_levels(question: Question, tee_tcb_svn: bytes) -> list[Any]:
    """The levels of the module that this TEE_TCB_SVN names and reaches, as written."""
    name = f"TDX_{tee_tcb_svn[1]:02X}"
    identities = _document(question, "tcb_info").get("tdxModuleIdentities", [])
    levels: list[Any] = next((i["tcbLevels"] for i in identities if i["id"].upper() == name), [])
    return [level for level in levels if level["tcb"]["isvsvn"] <= tee_tcb_svn[0]]


def _module_levels_as_written(question: Question, ours: Answer, theirs: Answer) -> bool:
    """The same of the levels of the TDX module: that of the launch, or that which runs now."""
    for field in ("tee_tcb_svn", "tee_tcb_svn_2"):
        svns = _field(question.quote, field)
        reached = _module_levels(question, svns) if svns and svns[1] else []
        if reached and reached[0] != max(reached, key=lambda level: level["tcb"]["isvsvn"]):
            return True
    return False


def _qe_configuration(question: Question, ours: Answer, theirs: Answer) -> bool:
    """A QE level that needs configuration counts as outdated here; there it is a lesser evil."""
    svn = int.from_bytes(_field(question.quote, "qe_isv_svn"), "little")
    levels = _document(question, "qe_identity")["tcbLevels"]
    reached = [level for level in levels if level["tcb"]["isvsvn"] <= svn]
    highest = max(reached, key=lambda level: level["tcb"]["isvsvn"])
    return (
        highest["tcbStatus"] in ("ConfigurationNeeded", "OutOfDateConfigurationNeeded")
        and ours.advisories == theirs.advisories
        and ours.reason in _OUTDATED
    )


def _advisories_of_what_runs_now(question: Question, ours: Answer, theirs: Answer) -> bool:
    """Here, advisories of what runs now are demanded beside those of the launch: never fewer."""
    launch, now = (_field(question.quote, name) for name in ("tee_tcb_svn", "tee_tcb_svn_2"))
    return (
        bool(now) and launch != now and ours.reason == theirs.reason
    ) and ours.advisories > theirs.advisories


ACCEPTED_HERE: tuple[Divergence, ...] = (
    Divergence("qe-auth-data-of-any-length", "dcap.md 6.1, qe_auth length", _qe_auth_size),
    Divergence(
        "issued-within-the-skew", "dcap.md 6.1, issueDate in future", _issued_within_the_skew
    ),
    Divergence("svns-of-the-components", "dcap.md 6.1, TCB comps source", _other_octets),
    Divergence("qe-levels-by-height", "dcap.md 6.1, level order", _qe_levels_as_written),
    Divergence("module-levels-by-height", "dcap.md 6.1, level order", _module_levels_as_written),
    Divergence("extended-key-usage-is-no-role", "dcap.md 6.1, cert roles", _extended_key_usage),
    Divergence("pce-svn-of-sixteen-bits", "dcap.md 2.1, PCESVN 0..65535", _wide_pce_svn),
    Divergence("module-svn-of-sixteen-bits", "dcap.md 3.4, isvsvn 0..65535", _wide_module_svn),
)
OTHER_VERDICT: tuple[Divergence, ...] = (
    Divergence("svns-of-the-components", "dcap.md 6.1, TCB comps source", _other_octets),
    Divergence("qe-levels-by-height", "dcap.md 6.1, level order", _qe_levels_as_written),
    Divergence("module-levels-by-height", "dcap.md 6.1, level order", _module_levels_as_written),
    Divergence(
        "qe-configuration-is-outdated", "dcap.md 6.1, platform + module status", _qe_configuration
    ),
    Divergence(
        "advisories-of-what-runs-now", "dcap.md 6.1, TD relaunch", _advisories_of_what_runs_now
    ),
)


# Refused here, accepted there: the safe direction. Named where the table has a row.


def _refused_as(*codes: str) -> Predicate:
    return lambda question, ours, theirs: ours.reason in codes


def _lower(other: Predicate) -> Predicate:
    """A level is reached here that refuses, or none, where another one is reached there."""
    codes = ("tcb-level-unmatched", "tcb-revoked", "tdx-module-level-unmatched")
    return lambda question, ours, theirs: ours.reason in codes and other(question, ours, theirs)


def _bytes_behind(question: Question, ours: Answer, theirs: Answer) -> bool:
    """Something follows a quote that is whole without it, or its lengths promise more."""
    return ours.reason == "quote-malformed" and not (
        _wrapper(question, ours, theirs) or _body_size(question, ours, theirs)
    )


def _wrapper(question: Question, ours: Answer, theirs: Answer) -> bool:
    kind = _field(question.quote, "outer_type")
    return ours.reason == "quote-malformed" and kind not in (b"", b"\6\0")


def _body_size(question: Question, ours: Answer, theirs: Answer) -> bool:
    body = {2: 584, 3: 648}.get(int.from_bytes(_field(question.quote, "body_type"), "little"))
    said = int.from_bytes(_field(question.quote, "body_size"), "little")
    return ours.reason == "quote-malformed" and body is not None and said != body


def _report_data_tail(question: Question, ours: Answer, theirs: Answer) -> bool:
    return ours.reason == "attestation-key-unbound" and any(
        _field(question.quote, "qe_report_data")[32:]
    )


def _other_pce(question: Question, ours: Answer, theirs: Answer) -> bool:
    if ours.reason != "tcb-info-mismatch":
        return False
    said = _document(question, "tcb_info")["pceId"].lower()
    return bool(said != _extension(question).platform.pce_id.hex())


def _expiry_at_the_second(question: Question, ours: Answer, theirs: Answer) -> bool:
    if ours.reason not in ("collateral-not-current", "crl-not-current"):
        return False
    ends = {
        int(datetime.fromisoformat(_document(question, name)["nextUpdate"]).timestamp())
        for name in ("tcb_info", "qe_identity")
    }
    for name in ("root_ca_crl", "pck_crl"):
        crl = x509.load_der_x509_crl(bytes.fromhex(json.loads(question.bundle)[name]))
        if crl.next_update_utc:
            ends.add(int(crl.next_update_utc.timestamp()))
    return question.at in ends


def _list_from_the_future(question: Question, ours: Answer, theirs: Answer) -> bool:
    if ours.reason != "crl-not-current":
        return False
    starts = [
        x509.load_der_x509_crl(bytes.fromhex(json.loads(question.bundle)[name])).last_update_utc
        for name in ("root_ca_crl", "pck_crl")
    ]
    return question.at < max(start.timestamp() for start in starts) - _SKEW


ACCEPTED_THERE: tuple[Divergence, ...] = (
    Divergence("outer-type-six", "dcap.md 6.1, outer cert type 6 check", _wrapper),
    Divergence("body-size-exact", "dcap.md 6.1, v5 body_size vs type", _body_size),
    Divergence("no-byte-behind-the-quote", "dcap.md 6.1, trailing bytes", _bytes_behind),
    Divergence("qe-report-data-whole", "dcap.md 6.1, QE report_data upper half", _report_data_tail),
    Divergence("pce-id-compared", "dcap.md 6.1, PCEID compare", _other_pce),
    Divergence("nextupdate-is-expired", "dcap.md 4.8, now < nextUpdate", _expiry_at_the_second),
    Divergence("list-from-the-future", "dcap.md 4.8, CRL thisUpdate", _list_from_the_future),
    Divergence(
        "exact-roles-and-links",
        "dcap.md 6.1, cert roles",
        _refused_as("certificate-role-wrong", "certificate-not-issued"),
    ),
    Divergence(
        "exact-chains",
        "dcap.md 4.2 and 4.4, number of certificates and white space",
        _refused_as("certificate-malformed"),
    ),
    Divergence(
        "every-certificate-shown-counts",
        "dcap.md 6.1, root compare",
        _refused_as("certificate-not-current", "root-untrusted"),
    ),
    Divergence(
        "pck-extension-exact",
        "dcap.md 2.1, element count and ranges",
        _refused_as("pck-extension-malformed"),
    ),
    Divergence(
        "documents-exact",
        "dcap.md 3.6, parser requirements",
        _refused_as("collateral-malformed", "tcb-info-version-outdated"),
    ),
    Divergence(
        "lists-exact",
        "dcap.md 3.8, CRL rules",
        _refused_as("crl-malformed", "crl-of-another-issuer"),
    ),
    Divergence("svns-of-the-components", "dcap.md 6.1, TCB comps source", _lower(_other_octets)),
    Divergence("qe-levels-by-height", "dcap.md 6.1, level order", _lower(_qe_levels_as_written)),
    Divergence(
        "module-levels-by-height", "dcap.md 6.1, level order", _lower(_module_levels_as_written)
    ),
    Divergence(
        "module-identity-needed",
        "dcap.md 6.1, module version > 0",
        _refused_as("tdx-module-mismatch"),
    ),
    Divergence(
        "attributes-by-default",
        "dcap.md 4.10, reserved and key attributes",
        _refused_as("enclave-attributes-unaccepted", "td-attributes-unaccepted"),
    ),
)
