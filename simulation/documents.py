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
_SGX_ANNOTATIONS = (
    {"category": "BIOS", "type": "Early Microcode Update"},
    {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    {"category": "OS/VMM", "type": "TXT SINIT"},
    {"category": "BIOS"},
)
_TDX_ANNOTATIONS = (
    {"category": "OS/VMM", "type": "TDX Module"},
    {"category": "OS/VMM", "type": "TDX Module"},
    {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
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
    tdx: Sequence[int] | None = None,
) -> Document:
    """One level of a TCB info: 16 component SVNs and the PCE's, and what they are worth.

    Args:
        tdx: 16 further SVNs, which a trust domain's TEE_TCB_SVN has to reach.
    """
    tcb = {"sgxtcbcomponents": _components(components, _SGX_ANNOTATIONS), "pcesvn": pce_svn}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = _components(tdx, _TDX_ANNOTATIONS)
    return _level(tcb, date, status, advisories)


def _components(svns: Sequence[int], annotations: Sequence[Document]) -> list[Document]:
    padded = (*annotations, *({},) * (16 - len(annotations)))
    return [{"svn": s, **a} for s, a in zip(svns, padded, strict=False)]


def qe_level(
    isv_svn: int, *, date: datetime, status: str = "UpToDate", advisories: Sequence[str] = ()
) -> Document:
    """One level of a QE identity, or of a TDX module's."""
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
    module: Document | None = None,
    identities: Sequence[Document] | None = None,
) -> Document:
    """TCB info of a platform, version 3: for SGX; with a module, for TDX.

    Args:
        module: What describes a TDX module of version 0, from `tdx_module`.
        identities: The modules of later versions, from `tdx_module_identity`; None leaves the
            member out.
    """
    members: Document = {
        "id": "SGX" if module is None else "TDX",
        "version": 3,
        "issueDate": instant(issue),
        "nextUpdate": instant(next_update),
        "fmspc": fmspc.hex().upper(),
        "pceId": pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
    }
    if module is not None:
        members["tdxModule"] = module
    if identities is not None:
        members["tdxModuleIdentities"] = list(identities)
    return {**members, "tcbLevels": list(levels)}


def tdx_module(
    *,
    mr_signer: bytes = bytes(48),
    attributes: bytes = bytes(8),
    attributes_mask: bytes = b"\xff" * 8,
) -> Document:
    """How a TDX module identifies itself. The defaults are Intel's."""
    return {
        "mrsigner": mr_signer.hex().upper(),
        "attributes": attributes.hex().upper(),
        "attributesMask": attributes_mask.hex().upper(),
    }


def tdx_module_identity(
    version: int, levels: Sequence[Document], *, module: Document | None = None
) -> Document:
    """The TDX module of one major version, with levels from `qe_level`."""
    return {"id": f"TDX_{version:02X}", **(module or tdx_module()), "tcbLevels": list(levels)}


def qe_identity(
    *,
    mr_signer: bytes,
    issue: datetime,
    next_update: datetime,
    levels: Sequence[Document],
    tdx: bool = False,
) -> Document:
    """Identity of a quoting enclave, version 2: of SGX, or of TDX."""
    return {
        "id": "TD_QE" if tdx else "QE",
        "version": 2,
        "issueDate": instant(issue),
        "nextUpdate": instant(next_update),
        "tcbEvaluationDataNumber": EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": mr_signer.hex().upper(),
        "isvprodid": 2 if tdx else 1,
        "tcbLevels": list(levels),
    }


def compact(document: Document) -> str:
    """JSON without whitespace, members in the order given: the text that is signed."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def signature(key: ec.EllipticCurvePrivateKey, text: str) -> str:
    """r || s over the UTF-8 text, 128 hex digits."""
    return sign_raw(key, text.encode()).hex()
