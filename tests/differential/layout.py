"""Where the parts of a quote lie, so that a mutant can hit each of them: dcap.md 1.1 to 1.6."""

from __future__ import annotations

from dataclasses import dataclass

_SGX_BODY = {
    "cpu_svn": 16,
    "misc_select": 4,
    "reserved_1": 12,
    "isv_ext_prod_id": 16,
    "flags": 8,
    "xfrm": 8,
    "mr_enclave": 32,
    "reserved_2": 32,
    "mr_signer": 32,
    "reserved_3": 32,
    "config_id": 64,
    "isv_prod_id": 2,
    "isv_svn": 2,
    "config_svn": 2,
    "reserved_4": 42,
    "isv_family_id": 16,
    "report_data": 64,
}
_TD_BODY = {
    "tee_tcb_svn": 16,
    "mr_seam": 48,
    "mr_signer_seam": 48,
    "seam_attributes": 8,
    "td_attributes": 8,
    "xfam": 8,
    "mr_td": 48,
    "mr_config_id": 48,
    "mr_owner": 48,
    "mr_owner_config": 48,
    "rtmr0": 48,
    "rtmr1": 48,
    "rtmr2": 48,
    "rtmr3": 48,
    "report_data": 64,
}
_TD_15 = {"tee_tcb_svn_2": 16, "mr_service_td": 48}
_HEADER = {
    "version": 2,
    "key_type": 2,
    "tee_type": 4,
    "qe_svn": 2,
    "pce_svn": 2,
    "qe_vendor_id": 16,
    "user_data": 20,
}
_QE_BODY = {f"qe_{name}": size for name, size in _SGX_BODY.items()}
# Where a small change of the number decides how the rest is read.
NUMBERS = {
    *("version", "key_type", "tee_type", "body_type", "body_size", "auth_size"),
    *("outer_type", "outer_size", "qe_auth_size", "certification_type", "certification_size"),
}


@dataclass(frozen=True, slots=True)
class Region:
    """One field of a quote: its name, and its bytes as start and end."""

    name: str
    start: int
    end: int


def regions(quote: bytes) -> list[Region]:
    """The fields of a quote of version 3, 4 or 5, in order and without gaps.

    Lengths are believed as far as there are bytes: a damaged quote has empty fields at its end.
    """
    found: list[Region] = []
    at = 0

    def fields(sizes: dict[str, int]) -> None:
        nonlocal at
        for name, size in sizes.items():
            found.append(Region(name, min(at, len(quote)), min(at + size, len(quote))))
            at += size

    def last_number() -> int:
        return int.from_bytes(quote[found[-1].start : found[-1].end], "little")

    fields(_HEADER)
    version, tdx = quote[0], quote[4] == 0x81
    if version == 5:
        fields({"body_type": 2})
        body_type = last_number()
        fields({"body_size": 4})
        fields(_SGX_BODY if body_type == 1 else _TD_BODY)
        fields(_TD_15 if body_type == 3 else {})
    else:
        fields(_TD_BODY if tdx else _SGX_BODY)
    fields({"auth_size": 4, "signature": 64, "attestation_key": 64})
    if version > 3:
        fields({"outer_type": 2, "outer_size": 4})
    fields({**_QE_BODY, "qe_report_signature": 64, "qe_auth_size": 2})
    fields({"qe_auth_data": last_number()})
    fields({"certification_type": 2, "certification_size": 4})
    fields({"certification_data": last_number()})
    return found
