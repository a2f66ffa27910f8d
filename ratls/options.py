"""Options of several commands, and what they show of an enclave. Loads little."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.text import digest_text

if TYPE_CHECKING:
    from ratls.appraise import AdmittedCertificate, FreshEvidence
    from verifier.forms import Steps
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
JsonPath = Annotated[
    str | None,
    typer.Option(
        metavar="a.b[0]", help="Where in JSON the quote is. Default: where there is one alone."
    ),
]
WheelFolder = Annotated[
    Path | None,
    typer.Option(
        "--wheels", metavar="DIR", help="Take wheels from it. Default: pip downloads them."
    ),
]
DebFolder = Annotated[
    Path | None,
    typer.Option(
        "--debs",
        metavar="DIR",
        help="Take Debian packages from it. Default: apt-get downloads them.",
    ),
]
ForComputations = Annotated[
    str | None,
    typer.Option(
        "--computations", metavar="NAME,…", help="Only what these computations load. Default: all."
    ),
]


def json_path_steps(text: str | None) -> Steps | None:
    """`--json-path`, read. Raises: BadParameter."""
    from verifier.forms import parse_path

    if text is None:
        return None
    try:
        return parse_path(text)
    except ValueError as error:
        raise typer.BadParameter("write it as a.b[0]", param_hint="--json-path") from error


_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def parse_span(text: str, option: str) -> timedelta:
    """`14d`, `36h` or `90m`: a number from 1 to 99999 and its unit; BadParameter otherwise."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text, re.ASCII)
    if found is None:
        raise typer.BadParameter("write it as 14d, 36h or 90m", param_hint=option)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


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
