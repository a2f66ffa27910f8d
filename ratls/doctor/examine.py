"""What a snapshot means for a role. Pure: no file, clock or network is asked here.

verdict(examine(snapshot, Role.ENCLAVE))   # Exit.YES: ready
"""

from __future__ import annotations

from collections.abc import Iterable

from ratls.doctor.everywhere import everywhere
from ratls.doctor.finding import Finding, Role
from ratls.doctor.processor import processor
from ratls.doctor.sgx_machine import sgx_machine
from ratls.doctor.sgx_service import service, sgx_service
from ratls.doctor.snapshot import Snapshot
from ratls.doctor.tdx_guest import is_tdx_guest, tdx_guest


def examine(snapshot: Snapshot, role: Role, services: Iterable[str] = ()) -> tuple[Finding, ...]:
    """Every finding, in the order in which to mend them.

    Args:
        services: Addresses of collateral services that this role is to use, besides the one that
            the quote provider is told to ask.
    """
    found: list[Finding] = []
    if role is Role.ENCLAVE:
        if is_tdx_guest(snapshot):
            found += tdx_guest(snapshot)
        else:
            found += processor(snapshot)
            found += sgx_machine(snapshot)
            found += sgx_service(snapshot)
    named = {finding.what for finding in found if finding.check == "collateral-service"}
    found += [service(snapshot, address) for address in services if address not in named]
    found += everywhere(snapshot, role)
    return tuple(found)
