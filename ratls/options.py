"""Options of several commands, and what they show of an enclave. Loads little."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.text import digest_text

if TYPE_CHECKING:
    from ratls.appraise import AdmittedCertificate, FreshEvidence
    from verifier.quote import EnclaveReport
    from verifier.td import TdReport

CollateralFile = Annotated[Path, typer.Option(help="Collateral bundle of the platform.")]
NewestState = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Remembers the newest collateral. Default: per user."),
]
AgreementFile = Annotated[Path, typer.Option(help="The agreement, signed by the parties.")]
At = Annotated[
    str | None, typer.Option(help="Moment of judgement: RFC 3339 or unix. Default: now.")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON on stdout.")]
NewerSgx = Annotated[
    bool, typer.Option("--newer-sgx", help="Also read SGX quotes of versions 4 and 5.")
]


def measurements(report: EnclaveReport | TdReport) -> dict[str, str]:
    """What names the code, by Intel's names: MRENCLAVE, or the registers of a trust domain."""
    from policy.trust_domain import REGISTERS
    from verifier.td import TdReport

    if isinstance(report, TdReport):
        return {name: getattr(report, name).hex() for name in REGISTERS}
    return {"mr_enclave": str(report.mr_enclave)}


def enclave_facts(proof: AdmittedCertificate | FreshEvidence) -> dict[str, Any]:
    """An enclave that was admitted, for machines."""
    verified = proof.verified
    return {
        "enclave": proof.admission.enclave.name,
        **measurements(verified.quote.report),
        "instance": proof.claims.instance.hex(),
        "policy_digest": digest_text(proof.claims.policy_hash),
        "tcb_status": verified.tcb.status.value,
        "advisory_ids": list(verified.tcb.advisory_ids),
        "checks": proof.appraisal.as_json(),
    }
