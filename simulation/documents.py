"""The two JSON documents that Intel signs, in Intel's member order. Shapes: dcap.md 3.4 and 3.5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import sign_raw

Document: TypeAlias = dict[str, Any]
EVALUATION_DATA_NUMBER = 21
# What the first components stand for on servers; informational, signed all the same.
_ANNOTATIONS = (
    {"category": "BIOS", "type": "Early Microcode Update"},
    {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    {"category": "OS/VMM", "type": "TXT SINIT"},
    {"category": "BIOS"},
)


def instant(at: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`, the only form of an instant in these documents."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def tcb_level(
    components: Sequence[int],
    pce_svn: int,
    *,
    date: datetime,
    status: str = "UpToDate",
    advisories: Sequence[str] = (),
) -> Document:
    """One level of a TCB info: 16 component SVNs and the PCE's, and what they are worth."""
    annotations = (*_ANNOTATIONS, *({},) * (16 - len(_ANNOTATIONS)))
    entries = [{"svn": s, **a} for s, a in zip(components, annotations, strict=False)]
    tcb = {"sgxtcbcomponents": entries, "pcesvn": pce_svn}
    return _level(tcb, date, status, advisories)


def qe_level(
    isv_svn: int, *, date: datetime, status: str = "UpToDate", advisories: Sequence[str] = ()
) -> Document:
    """One level of a QE identity."""
    return _level({"isvsvn": isv_svn}, date, status, advisories)


def _level(tcb: Document, date: datetime, status: str, advisories: Sequence[str]) -> Document:
    level: Document = {"tcb": tcb, "tcbDate": instant(date), "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def tcb_info(
    *,
    fmspc: bytes,
    pce_id: bytes,
    issue: datetime,
    next_update: datetime,
    levels: Sequence[Document],
) -> Document:
    """TCB info of an SGX platform, version 3."""
    return {
        "id": "SGX",
        "version": 3,
        "issueDate": instant(issue),
        "nextUpdate": instant(next_update),
        "fmspc": fmspc.hex().upper(),
        "pceId": pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
        "tcbLevels": list(levels),
    }


def qe_identity(
    *, mr_signer: bytes, issue: datetime, next_update: datetime, levels: Sequence[Document]
) -> Document:
    """Identity of the SGX quoting enclave, version 2."""
    return {
        "id": "QE",
        "version": 2,
        "issueDate": instant(issue),
        "nextUpdate": instant(next_update),
        "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": mr_signer.hex().upper(),
        "isvprodid": 1,
        "tcbLevels": list(levels),
    }


def compact(document: Document) -> str:
    """JSON without whitespace, members in the order given: the text that is signed."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def signature(key: ec.EllipticCurvePrivateKey, text: str) -> str:
    """r || s over the UTF-8 text, 128 hex digits."""
    return sign_raw(key, text.encode()).hex()
