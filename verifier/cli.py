"""`ratls collateral`: what Intel publishes about a platform, fetched and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.modes import with_simulation_option

if TYPE_CHECKING:
    from datetime import datetime

    from verifier.anchors import TrustAnchors
    from verifier.contents import Contents
    from verifier.status import SvnLevel
    from verifier.tcb import TcbLevel

collateral = typer.Typer(
    no_args_is_help=True, help="What Intel publishes about a platform, in one bundle file."
)

Root = Annotated[str, typer.Option("--root", help="Root of trust that must have signed it.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]


def fetch(
    quotes: Annotated[
        list[Path], typer.Argument(metavar="QUOTE...", help="Quotes of one kind of platform.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="https://HOST[:PORT]",
            help="Whom to ask: Intel's api.trustedservices.intel.com, or a caching service.",
        ),
    ],
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Believe this TLS certificate (PEM), no other."),
    ] = None,
    early: Annotated[
        bool,
        typer.Option("--early", help="What holds at disclosure, not after the grace period."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds for everything together.")
    ] = 30,
    root: Root = "intel",
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Fetch the collateral of the quotes' platform; write it if all of it, and they, are genuine.

    A bundle that is already there is replaced, but never by an older one.

    Example: ratls collateral fetch quote.bin -o collateral.json
    --from https://api.trustedservices.intel.com
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.files import read_file
        from verifier.pcs import Service, fetch_collateral, kept_bundle, store, tls_trust
        from verifier.quote import strip_file_padding

        roots = shell.anchors(root, allow_simulation=allow_simulation)
        service, trust, kept = Service.parse(source), tls_trust(ca), kept_bundle(output)
        fetched = fetch_collateral(
            {str(file): strip_file_padding(read_file(file)) for file in quotes},
            service,
            roots=roots,
            trust=trust,
            clock=lambda: parse_instant(None),
            seconds=timeout,
            early=early,
        )
        store(fetched, output, kept=kept, roots=roots)
        facts = {
            "file": str(output),
            "from": service.origin,
            "update": "early" if early else "standard",
            "quotes": len(fetched.verified),
            **_summary(fetched.contents, roots),
        }
        shell.answer(
            facts,
            f"{output}: FMSPC {facts['fmspc']}, good until {facts['earliest_expiration']}; "
            f"mode={facts['mode']}",
        )


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle.")],
    at: Annotated[
        str | None, typer.Option("--at", help="Does it cover this instant? Default: now.")
    ] = None,
    root: Root = "intel",
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """What is in a bundle, whose is it, and is it good at this instant?

    Everything shown is authentic. A bundle that does not cover the instant ends with status 5.

    Example: ratls collateral show collateral.json
    """
    from verifier.shell import parse_instant, refusal_as_json, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.collateral import Collateral
        from verifier.contents import Contents
        from verifier.errors import placed
        from verifier.files import parse_file

        instant = parse_instant(at)
        bundle = parse_file(file, Collateral.parse)
        roots = shell.anchors(root, allow_simulation=allow_simulation)
        with placed(str(file)):
            contents = Contents.authenticate(bundle, roots)
        refusal = _refusal_at(contents, instant)
        facts = {
            "file": str(file),
            **_summary(contents, roots),
            **_details(contents),
            "error": refusal_as_json(refusal) if refusal else None,
        }
        shell.answer(facts, _for_people(facts))
        if refusal is not None:
            if not shell.json_output:
                shell.show_refusal(refusal)
            raise typer.Exit(int(refusal.exit_status))


def _refusal_at(contents: Contents, at: datetime) -> Any:
    """Why the bundle decides nothing at this instant, or None."""
    from verifier.errors import CollateralStaleError

    try:
        contents.window(at)
    except CollateralStaleError as refusal:
        return refusal
    return None


def _summary(contents: Contents, roots: TrustAnchors) -> dict[str, Any]:
    """Which platforms it is for, and its dates."""
    from verifier.validity import Period, rfc3339

    info, identity, parts = contents.tcb_info, contents.qe_identity, contents.periods().values()
    ends = [p.ends for p in (*parts, *map(Period.of_certificate, contents.certificates))]
    return {
        "mode": roots.mode.value,
        "root": roots.name,
        "authority": contents.authority.common_name,
        "fmspc": info.fmspc.hex(),
        "pce_id": info.pce_id.hex(),
        "tcb_info_evaluation_data_number": info.evaluation_data_number,
        "qe_identity_evaluation_data_number": identity.evaluation_data_number,
        "earliest_issue": rfc3339(min(part.starts for part in parts)),
        "earliest_expiration": rfc3339(min(ends)),
    }


def _details(contents: Contents) -> dict[str, Any]:
    """Each part with its dates, and every level."""
    from verifier.validity import rfc3339

    info, identity = contents.tcb_info, contents.qe_identity
    return {
        "parts": [
            {"part": part.thing, "issued": rfc3339(part.starts), "until": rfc3339(part.ends)}
            for part in contents.periods().values()
        ],
        "revoked": {crl.title: len(crl.serials) for crl in (contents.root_crl, contents.pck_crl)},
        "tcb_levels": [
            _level(level) | {"components": list(level.components), "pce_svn": level.pce_svn}
            for level in info.levels
        ],
        "qe_levels": [_level(level) | {"isv_svn": level.isv_svn} for level in identity.levels],
    }


def _level(level: TcbLevel | SvnLevel) -> dict[str, Any]:
    from verifier.validity import rfc3339

    return {
        "status": level.status.value,
        "date": rfc3339(level.date),
        "advisory_ids": list(level.advisory_ids),
    }


def _for_people(facts: dict[str, Any]) -> str:
    numbers = {
        "TCB info": f"evaluation {facts['tcb_info_evaluation_data_number']}",
        "QE identity": f"evaluation {facts['qe_identity_evaluation_data_number']}",
        **{title: f"{count} revoked" for title, count in facts["revoked"].items()},
    }
    lines = [
        f"{facts['file']}: FMSPC {facts['fmspc']}, PCE {facts['pce_id']}, "
        f"{facts['authority']}; mode={facts['mode']}",
        f"good until {facts['earliest_expiration']}",
        *(
            f"  {part['part']:<12} {part['issued']} to {part['until']}  {numbers[part['part']]}"
            for part in facts["parts"]
        ),
        "levels of the platform, the newest first",
        *(
            f"  {level['status']:<34} as of {level['date'][:10]}  "
            f"{' '.join(map(str, level['components']))}  PCE {level['pce_svn']}  "
            f"{', '.join(level['advisory_ids'])}".rstrip()
            for level in facts["tcb_levels"]
        ),
        "levels of the quoting enclave",
        *(
            f"  {level['status']:<34} as of {level['date'][:10]}  version {level['isv_svn']}  "
            f"{', '.join(level['advisory_ids'])}".rstrip()
            for level in facts["qe_levels"]
        ),
    ]
    return "\n".join(lines)


for command in (fetch, show):
    collateral.command(command.__name__)(with_simulation_option(command))
