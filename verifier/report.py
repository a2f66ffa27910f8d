"""One quote judged, and the answer written for programs or for people.

    received = find_quote(raw).received()
    report = report_quote(received, collateral, file="q.bin", roots=TrustAnchors.intel(), at=now)
    report.machine["verdict"], report.exit_status

The members of the JSON object are fixed: other programs rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from verifier.acceptance import accept
from verifier.anchors import Mode, TrustAnchors
from verifier.appraisal import Appraisal, Outcome
from verifier.collateral import Collateral
from verifier.errors import ConfigError, Exit, RatlsError
from verifier.genuine import GenuineQuote
from verifier.layout import Octets
from verifier.parts import Part, parts_as_json, parts_of
from verifier.pck import PlatformIdentity
from verifier.quote import EnclaveReport, Quote
from verifier.received import ReceivedQuote
from verifier.tcb import TcbStatus, TcbVerdict
from verifier.td import TdReport
from verifier.text import instant_text, printable
from verifier.verify import QuoteCheck, VerifiedQuote, verify_received

_WORDS = {
    Outcome.PASSED: "passed     ",
    Outcome.FAILED: "FAILED     ",
    Outcome.NOT_REACHED: "not reached",
}


@dataclass(frozen=True, slots=True)
class QuoteReport:
    """The answer on one quote."""

    file: str
    mode: Mode
    quote: Quote | None  #              as parsed, verified or not; None where it cannot be parsed
    verified: VerifiedQuote | None  #   the same, verified
    appraisal: Appraisal
    refusal: RatlsError | None
    form: str | None = None  #          in which it came; None where none was found

    @property
    def genuine(self) -> GenuineQuote | None:
        """What was authenticated: of a verified quote, or of one that is below every level."""
        if self.verified is not None:
            return self.verified.genuine
        return GenuineQuote.behind(self.refusal)

    @property
    def exit_status(self) -> Exit:
        return Exit.YES if self.refusal is None else self.refusal.exit_status

    @property
    def verdict(self) -> str:
        """accepted, refused, or undecided."""
        return self.exit_status.verdict

    @property
    def authentic(self) -> bool | None:
        """True or False only where it was decided: not for what is unreadable or out of date."""
        if self.genuine is not None:
            return True
        return False if self.exit_status is Exit.NOT_GENUINE else None

    @property
    def machine(self) -> dict[str, object]:
        """The line of `ratls verify quote --json`; other programs rely on it."""
        quote = self.quote
        return {
            "file": self.file,
            "form": self.form,
            "verdict": self.verdict,
            "authentic": self.authentic,
            "mode": self.mode.value,
            "tee": quote and quote.tee.value,
            "quote_version": quote and quote.header.version,
            **_status(self.verified),
            **_facts(self.genuine),
            "checks": self.appraisal.as_json(),
            "error": self.refusal and self.refusal.as_json(),
        }

    @property
    def people(self) -> str:
        """The answer for people, in several lines."""
        lines = [f"{self.file}: {self.exit_status.word}  mode={self.mode}"]
        if self.form not in (None, "raw"):
            lines.append(f"  read as    {self.form}")
        for record in self.appraisal.records:
            lines.append(f"  {_WORDS[record.outcome]}  {record.check:<20}{record.detail}".rstrip())
        refusal = self.refusal
        if self.genuine is not None:
            lines += [f"  {line}" for line in self._told(self.genuine)]
        if refusal is not None:
            lines.append(f"  {self.exit_status.word} [{refusal.code}] {refusal}")
            if refusal.fix:
                lines.append(f"  to do: {refusal.fix}")
        return "\n".join(map(printable, lines))

    def _told(self, genuine: GenuineQuote) -> list[str]:
        platform, verified = genuine.pck.extension.platform, self.verified
        lines = [
            *_measured(genuine.quote.report),
            f"platform   FMSPC {platform.fmspc.hex()}, PPID {platform.ppid.hex()}",
        ]
        if verified is not None:
            lines += explain_tcb(verified.tcb)
        lines += explain_parts(parts_of(genuine))
        if verified is not None and self.refusal is not None:
            lines += _what_accepting_takes(verified.tcb)
        return lines


def report_quote(
    received: ReceivedQuote,
    collateral: Collateral,
    *,
    file: str,
    roots: TrustAnchors,
    at: datetime,
    acceptance: Callable[[VerifiedQuote], Appraisal] = accept,
) -> QuoteReport:
    """Judge the quote in one file and say everything that is known about it.

    Args:
        received: The quote, from `verifier.forms`.
        collateral: The bundle to judge with.
        file: The file's name, for the answer only.
        roots: The root key that is trusted.
        at: Moment of judgement, timezone-aware.
        acceptance: Raises unless a genuine quote is good enough; its appraisal includes the
            quote's. `functools.partial(accept, statuses=…)`, or a policy's admission.

    Raises:
        ConfigError: The caller's own input is unusable; that is no verdict about the quote.
    """
    verified, refusal = None, None
    appraisal = Appraisal()
    try:
        verified = verify_received(received, collateral, roots=roots, at=at)
        appraisal = acceptance(verified)
    except ConfigError:
        raise
    except RatlsError as error:
        refusal, appraisal = error, error.appraisal or appraisal
    if verified is not None:
        quote: Quote | None = verified.quote
    elif appraisal.stopped_at == QuoteCheck.QUOTE_FORMAT:
        quote = None
    else:
        quote = received.quote
    return QuoteReport(file, roots.mode, quote, verified, appraisal, refusal, received.form)


def _status(verified: VerifiedQuote | None) -> dict[str, object]:
    """The merged status. Null where there is none: not verified, or below every level."""
    if verified is None:
        return dict.fromkeys(
            ("tcb_status", "tcb_date", "tcb_evaluation_data_number", "advisory_ids")
        )
    return {
        "tcb_status": verified.tcb.status.value,
        "tcb_date": instant_text(verified.tcb.date),
        "tcb_evaluation_data_number": verified.tcb.evaluation_data_number,
        "advisory_ids": list(verified.tcb.advisory_ids),
    }


def _facts(genuine: GenuineQuote | None) -> dict[str, object]:
    """What the quote says. Null where it is not known to be genuine."""
    if genuine is None:
        return dict.fromkeys(("parts", "collateral", "measurement", "platform"))
    window = genuine.contents.window
    return {
        "parts": parts_as_json(genuine),
        "collateral": {
            "earliest_issue": instant_text(window.earliest_issue),
            "earliest_expiration": instant_text(window.earliest_expiration),
        },
        "measurement": measurement(genuine.quote.report),
        "platform": platform_facts(genuine.pck.extension.platform),
    }


def platform_facts(platform: PlatformIdentity) -> dict[str, object]:
    """The `platform` member of the commands' JSON."""
    return {
        "fmspc": platform.fmspc.hex(),
        "ppid": platform.ppid.hex(),
        "piid": None if platform.piid is None else platform.piid.hex(),
        "pce_id": platform.pce_id.hex(),
    }


_OF_TD_1_5 = ("tee_tcb_svn_2", "mr_service_td")  # null in reports of TDX 1.0


def measurement(report: EnclaveReport | TdReport) -> dict[str, object]:
    """The report's fields: byte fields in hex as on the wire, small numbers as numbers."""
    if isinstance(report, TdReport):
        always = [name for name, part in vars(TdReport).items() if isinstance(part, Octets)]
        octets = {name: getattr(report, name) for name in (*always, *_OF_TD_1_5)}
        return {
            "td_attributes": report.td_attributes.to_bytes(8, "little").hex(),
            "xfam": report.xfam.to_bytes(8, "little").hex(),
            **{name: None if value is None else value.hex() for name, value in octets.items()},
        }
    return {
        "mr_enclave": str(report.mr_enclave),
        "mr_signer": str(report.mr_signer),
        "isv_prod_id": report.isv_prod_id,
        "isv_svn": report.isv_svn,
        "flags": report.flags.to_bytes(8, "little").hex(),
        "xfrm": report.xfrm.to_bytes(8, "little").hex(),
        "misc_select": report.misc_select.to_bytes(4, "little").hex(),
        "cpu_svn": report.cpu_svn.hex(),
        "config_id": report.config_id.hex(),
        "config_svn": report.config_svn,
        "isv_ext_prod_id": report.isv_ext_prod_id.hex(),
        "isv_family_id": report.isv_family_id.hex(),
        "report_data": report.report_data.hex(),
    }


def _measured(report: EnclaveReport | TdReport) -> list[str]:
    if isinstance(report, TdReport):
        return [f"MRTD       {report.mr_td.hex()}"] + [
            f"RTMR{number}      {rtmr.hex()}"
            for number, rtmr in enumerate((report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3))
        ]
    return [
        f"MRENCLAVE  {report.mr_enclave}",
        f"MRSIGNER   {report.mr_signer}",
        f"product {report.isv_prod_id}, version {report.isv_svn}",
    ]


def explain_tcb(tcb: TcbVerdict) -> list[str]:
    """The TCB status in words, as of when, and with which advisories."""
    lines = [
        f"TCB        {tcb.status} as of {instant_text(tcb.date)}: platform {tcb.platform_status}, "
        f"quoting enclave {tcb.qe_status}"
        + (f", TDX module {tcb.module_status}" if tcb.module_status else "")
        + f"; evaluation {tcb.evaluation_data_number}"
    ]
    if tcb.current_status not in (None, tcb.status):
        lines.append(f"what runs now beneath the trust domain is {tcb.current_status}")
    if tcb.advisory_ids:
        lines.append(f"advisories {', '.join(tcb.advisory_ids)}")
    return lines


def explain_parts(parts: Sequence[Part]) -> list[str]:
    """Each part that is behind, what of it is short, and what raises that."""
    lines = [line for part in parts if part.behind for line in part.lines]
    if any(part.short for part in parts):
        lines.append(
            "a quote does not change, Intel's levels do: each security update can make it out of "
            "date; update the platform and make a new quote"
        )
    return lines


def _what_accepting_takes(tcb: TcbVerdict) -> list[str]:
    if tcb.status is TcbStatus.REVOKED:
        return ["a revoked level is never accepted"]
    if tcb.status is TcbStatus.UP_TO_DATE:
        return []
    options = [f"--accept-status {tcb.status}"]
    if tcb.status is TcbStatus.OUT_OF_DATE:  # the narrower one: what is older stays refused
        options = [f"--accept-out-of-date-since {tcb.date:%Y-%m-%d}"]
    options += [f"--accept-advisory {advisory}" for advisory in tcb.advisory_ids]
    return [f"accepting it as it is would take: {' '.join(options)}"]
