"""`ratls verify cert|server --format NAME`: a certificate of another attested-TLS project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratls.cli_verify_shared import Reader
from ratls.errors import FreshnessError
from ratls.options import measurements
from verifier.errors import CollateralFetchError

if TYPE_CHECKING:
    from datetime import datetime

    from ratls.foreign_formats import Format
    from verifier.appraisal import Appraisal
    from verifier.errors import RatlsError
    from verifier.shell import Shell
    from verifier.verify import VerifiedQuote

FormatName = Annotated[
    str | None,
    typer.Option(
        "--format",
        "--profile",
        metavar="NAME",
        help="Another project's certificate, in this format alone: gramine, open-enclave, ego, "
        "intel-sdk, rats-tls, dstack, … See docs/channel.md 2.1.",
    ),
]
Stapled = Annotated[
    bool,
    typer.Option("--stapled", help="Judge with the collateral that the certificate itself holds."),
]
Root = Annotated[
    str | None, typer.Option(help="With --format: root of trust. Default: intel, or the policy's.")
]


class CollateralNotNamed(CollateralFetchError):
    """There is no collateral to judge a quote with."""

    code = "collateral-not-named"
    default_fix = (
        "run `ratls collateral fetch --enclave HOST:PORT -o FILE "
        "--from https://api.trustedservices.intel.com`, then add --collateral FILE"
    )
    says = "{thing}: no --collateral was named to judge its quote with"


class ProfileNeverFresh(FreshnessError):
    """A certificate of another project answers no challenge, so it could be an old copy."""

    code = "profile-never-fresh"
    default_fix = "use --certificate-only if a certificate that may be an old copy is enough"
    says = "{thing}: {expected} certificates answer no challenge; this could be an old copy"


def format_named(name: str) -> Format:
    """The format with this name. Raises: BadParameter."""
    from ratls.foreign_formats import FORMATS

    if name not in FORMATS:
        raise typer.BadParameter(
            f"no such format: {name}; there are {', '.join(FORMATS)}", param_hint="--format"
        )
    return FORMATS[name]


def require_fitting(
    format: str | None,
    agreement: Path | None,
    asked: tuple[object, ...],
    stapled: bool,
    collateral: object,
) -> None:
    """What is typed belongs together; `asked` goes with a format alone. Raises: BadParameter."""
    if format is None and agreement is None:
        raise typer.BadParameter(
            "name the agreement; or, for another project's certificate, its --format",
            param_hint="--agreement",
        )
    if any(asked) and (format is None or agreement is not None):
        raise typer.BadParameter(
            "--root, --accept-status and --accept-advisory go with --format; a policy says itself "
            "what it accepts",
            param_hint="--agreement",
        )
    if stapled and (format is not None or collateral is not None):
        raise typer.BadParameter(
            "cannot be combined with --collateral or --format", param_hint="--stapled"
        )
    if format is not None:
        format_named(format)  # before anything is read


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the quote: by an agreement, or else by the options that go with a format."""

    reader: Reader
    root: str | None
    accepting: tuple[list[str] | None, list[str] | None]  # --accept-status, --accept-advisory
    at: datetime

    def read(
        self, shell: Shell
    ) -> tuple[Callable[[VerifiedQuote], Appraisal], str, RatlsError | None]:
        """What accepts the quote, under which root, and the doubt about the agreement."""
        if self.reader.agreement is None:
            from ratls.cli_verify_quote import usual_acceptance

            root = "intel" if self.root is None else self.root
            return usual_acceptance(*self.accepting), root, None
        from policy.admission import admit

        at = self.at
        agreed, doubt = self.reader.policy(shell, lambda complete: complete.in_force(at).policy)
        admitted = partial(admit, agreed, at=at)
        return lambda verified: admitted(verified).appraisal, agreed.platform.root, doubt


def show_foreign(
    shell: Shell,
    content: bytes,
    format: Format,
    facts: dict[str, Any],
    demand: Demand,
    *,
    collateral: Path | None,
    save_quote: Path | None = None,
    allow_simulation: bool,
    certificate_only: bool,
) -> None:
    """Judge it, say what it does not prove, and answer.

    Raises:
        RatlsError: The leaf of the first check that failed; without `certificate_only`, that no
            such certificate is fresh.
    """
    from ratls.foreign_certificate import appraise_foreign, foreign_der, foreign_quote
    from verifier.bundles import read_collateral
    from verifier.files import write_new

    place, der = next(iter(facts.values())), foreign_der(content, format)
    if save_quote is not None:
        write_new(save_quote, foreign_quote(der, format), mode=0o644)
        shell.say(f"the quote, not verified, is in {save_quote}")
    if collateral is None:
        raise CollateralNotNamed(place, expected="a bundle to judge with", found="none")
    accept, root_name, doubt = demand.read(shell)
    roots = shell.anchors(root_name, allow_simulation=allow_simulation)
    bundle = read_collateral(collateral)
    found = appraise_foreign(der, format, bundle, accept, roots=roots, at=demand.at)
    if doubt is None and not certificate_only:
        doubt = ProfileNeverFresh(place, expected=format.name, found="a certificate alone")
    measured = measurements(found.verified.quote.report)
    facts |= {
        "format": format.name,
        "fresh": False,
        "binds": format.binds,
        "unbound": list(format.unbound),
        "subject": found.subject,
        "authority": found.authority,
        **measured,
        "tcb_status": found.verified.tcb.status.value,
        "advisory_ids": list(found.verified.tcb.advisory_ids),
        "checks": found.appraisal.as_json(),
        "verdict": "undecided" if doubt else "accepted",
        "mode": roots.mode.value,
        "error": doubt.as_json() if doubt else None,
    }
    if not shell.json_output:
        shell.show_appraisal(found.appraisal)
    lines = [
        f"{place}: a certificate of {format.producer}, whose quote is genuine and names its key",
        *(f"  {name} {value}" for name, value in measured.items()),
        "  not fresh, and it does not bind",
        *(f"    {sentence}" for sentence in format.unbound),
    ]
    if demand.reader.agreement is None:
        lines.append("  which enclave this is was not asked: compare its measurement yourself")
    shell.answer(facts, "\n".join(lines) + f"\n  mode={roots.mode}")
    shell.end_with(doubt)
