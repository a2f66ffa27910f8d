"""A first policy.toml: known values are filled in, the rest are examples in comments.

Its text is `draft.toml`, where a word after `$` stands for a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from string import Template

from policy.statement import instant_text
from policy.trust_domain import REGISTERS
from verifier.quote import EnclaveReport
from verifier.td import TdReport

PLACEHOLDER = "<64 hex>"


def draft_policy(
    *,
    study: str,
    party_blocks: Sequence[str],
    enclave: str,
    root: str,
    machines: Sequence[str],
    not_before: datetime,
    expires: datetime,
) -> str:
    """The text of a draft. `lint` refuses placeholders that were not replaced."""
    listed = "[" + ", ".join(f'"{machine}"' for machine in machines) + "]"
    if not machines:
        listed += '    # "ppid:<32 hex>" or "piid:<32 hex>" of each machine that may run it'
    template = Template(files("policy").joinpath("draft.toml").read_text("utf-8"))
    return template.substitute(
        study=study,
        not_before=instant_text(not_before),
        expires=instant_text(expires),
        parties="\n".join(party_blocks),
        enclave=enclave,
        root=root,
        machines=listed,
    )


def enclave_block(mr_enclave: str = PLACEHOLDER, isv_prod_id: int = 1, min_isv_svn: int = 1) -> str:
    """An `[[enclave]]` for SGX."""
    return (
        f'[[enclave]]\nname = "joint-training"\ntee = "sgx"\nmr_enclave = "{mr_enclave}"\n'
        f"isv_prod_id = {isv_prod_id}\nmin_isv_svn = {min_isv_svn}\n"
    )


_MEANING = {
    "mr_td": "the firmware, and it alone",
    "rtmr0": "CPUs, memory and devices: another shape of machine is another [[enclave]]",
    "rtmr1": "the kernel",
    "rtmr2": "its command line, and the initrd",
    "rtmr3": 'or "extended at run time", and rtmr3_events = [..] with each event\'s digest',
}


def domain_block(report: TdReport | None = None) -> str:
    """An `[[enclave]]` for TDX, with the registers of a report or with placeholders."""
    blank = "<96 hex>"
    values = {n: getattr(report, n).hex() if report else blank for n in REGISTERS}
    seam = report.mr_seam.hex() if report else blank
    floor = min(report.svns).hex() if report else "<32 hex>"
    lines = ["[[enclave]]", 'name = "joint-training"', 'tee = "tdx"']
    for name, value in values.items():
        if name in _MEANING:
            lines.append(f"# {_MEANING[name]}")
        lines.append(f'{name} = "{value}"')
    lines += [
        "# SEPT_VE_DISABLE on, PKS and PERFMON free, debug, profiling, migration and all else off:",
        "# td_attributes, td_attributes_mask, xfam and xfam_mask say it otherwise, as in a quote",
        '# the TDX module; or the words "any TDX module by Intel"',
        f'mr_seam = ["{seam}"]',
        f'min_tee_tcb_svn = "{floor}"',
        '# service_tds = ["<96 hex>"]  # service domains that may act on it; by default none',
    ]
    return "\n".join(lines) + "\n"


def block_of(report: EnclaveReport | TdReport) -> str:
    """The `[[enclave]]` that lists what a quote says; whether to list it is for its author."""
    if isinstance(report, TdReport):
        return domain_block(report)
    return enclave_block(str(report.mr_enclave), report.isv_prod_id, report.isv_svn)
