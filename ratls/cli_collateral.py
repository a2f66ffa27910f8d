"""`ratls collateral`: what Intel publishes about a platform, fetched and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json
from ratls.options import At, NewerSgx, NewestState
from verifier.errors import CollateralStaleError
from verifier.modes import with_simulation_option
from verifier.text import instant_text, printable
from verifier.usage import Commands

if TYPE_CHECKING:
    from verifier.anchors import TrustAnchors
    from verifier.contents import Contents
    from verifier.pcs import Fetched
    from verifier.pcs_requests import Service
    from verifier.shell import Shell
    from verifier.status import SvnLevel
    from verifier.tcb import TcbLevel
    from verifier.tdx_module import TdxModule

collateral = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What Intel publishes about a platform, in one bundle file.",
)

Root = Annotated[str, typer.Option(help="Root of trust that must have signed it.")]


def fetch(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")
    ],
    quotes: Annotated[
        list[Path] | None,
        typer.Argument(metavar="QUOTE...", help="Quotes of one kind of platform."),
    ] = None,
    enclaves: Annotated[
        list[str] | None,
        typer.Option(
            "--enclave",
            metavar="HOST:PORT",
            help="Take the quote that an enclave shows there. May be repeated.",
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="https://HOST[:PORT]",
            help="The service to ask: Intel's api.trustedservices.intel.com, or a caching service. "
            "Repeated: asked in turn until one has the collateral.",
        ),
    ] = None,
    ca: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Accept this TLS certificate (PEM), no other. Repeated: one for each --from, "
            "where `public` means the public authorities.",
        ),
    ] = None,
    early: Annotated[
        bool, typer.Option("--early", help="Fetch the early edition of TCB info and QE identity.")
    ] = False,
    accept_evaluation: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Go back to this TCB evaluation data number, though a higher one was seen: for "
            "when a service gave an early edition for the standard one.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds for everything together.")
    ] = 30,
    newer_sgx: NewerSgx = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Verified bundles, used if no service answers. Default: per user."
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor write a cache.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the cache alone, no network.")
    ] = False,
    state: NewestState = None,
    root: Root = "intel",
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Fetch the collateral of the quotes' platform; write it if all of it, and they, are genuine.

    A bundle that is already there is replaced, but never by an older one; what is older than
    anything seen of the platform before is refused. If no service has it, a cached bundle that
    still covers the present is used, and a note says so.

    Example: ratls collateral fetch --enclave enclave.example:7443 -o collateral.json
    --from https://api.trustedservices.intel.com
    """
    from verifier.shell import now, refusals_as_exit_status

    if not quotes and not enclaves:
        raise typer.BadParameter("name a quote's file, or --enclave", param_hint="QUOTE")
    asked = _sources_asked(sources or [], ca or [], offline=offline, no_cache=no_cache)
    with refusals_as_exit_status(json_output) as shell:
        from verifier.cache import Cache, obtain
        from verifier.files import read_file
        from verifier.marks import Marks
        from verifier.pcs import kept_bundle, store
        from verifier.pcs_requests import tls_trust
        from verifier.received import ReceivedQuote
        from verifier.user_folder import user_folder

        roots = shell.anchors(root, allow_simulation=allow_simulation)
        services, kept = _services(asked, ca or []), kept_bundle(output)
        named = {
            str(file): ReceivedQuote.of_file(read_file(file), newer_sgx=newer_sgx)
            for file in quotes or []
        }
        shown = {
            place: ReceivedQuote(_shown_quote(place, timeout), newer_sgx)
            for place in enclaves or []
        }
        fetched = obtain(
            named | shown,
            *services,
            roots=roots,
            trust=tls_trust(),
            clock=now,
            marks=Marks(state or user_folder("state")),
            cache=None
            if no_cache
            else Cache(cache or user_folder("cache"), lambda line: _tell(shell, line)),
            kept=kept,
            early=early,
            accept_evaluation=accept_evaluation,
            seconds=timeout,
        )
        store(fetched, output, kept=kept, roots=roots)
        _show_fetched(shell, output, fetched, roots, early=early)


def _shown_quote(place: str, timeout: float) -> bytes:
    """The quote in the certificate that the enclave shows; `obtain` verifies it."""
    from ratls.address import Address
    from ratls.appraise import presented_quote
    from ratls.probe import probe_name
    from verifier.shell import now

    _, der = probe_name(Address.parse(place), timeout)
    return presented_quote(der, at=now())


def _sources_asked(
    sources: list[str], ca: list[str], *, offline: bool, no_cache: bool
) -> list[str]:
    """The services to ask; none when offline.

    Raises:
        typer.BadParameter: The options contradict each other, or say nothing (2).
    """
    if offline and no_cache:
        raise typer.BadParameter(
            "--offline needs the cache; remove --no-cache", param_hint="--offline"
        )
    if not sources and not offline:
        raise typer.BadParameter("name a service, or use --offline", param_hint="--from")
    if len(ca) > 1 and len(ca) != len(sources):
        raise typer.BadParameter("give one for all, or one for each --from", param_hint="--ca")
    return [] if offline else sources


def _services(sources: list[str], ca: list[str]) -> list[Service]:
    """Each source with the certificates that it may show."""
    from verifier.pcs_requests import Service, tls_trust

    named = [None if file == "public" else Path(file) for file in ca] or [None]
    trusts = [tls_trust(file) for file in named]
    if len(trusts) == 1:
        trusts *= len(sources)
    return [Service.parse(text, trust) for text, trust in zip(sources, trusts, strict=True)]


def _tell(shell: Shell, line: str) -> None:
    """A note on stderr, printed with `--json` too."""
    from rich.markup import escape

    shell.err.print(f"[yellow]note[/] {escape(printable(line))}")


def _show_fetched(
    shell: Shell, output: Path, fetched: Fetched, roots: TrustAnchors, *, early: bool
) -> None:
    facts = {
        "file": str(output),
        "from": fetched.source,
        "fetched": fetched.collateral.fetched,
        "passed_over": [
            {"from": p.source, "code": p.refusal.code, "message": str(p.refusal)}
            for p in fetched.passed_over
        ],
        "update": "early" if early else "standard",
        "quotes": len(fetched.verified) + len(fetched.below),
        **_summary(fetched.contents, roots),
    }
    for passed in fetched.passed_over:
        _tell(shell, f"{passed.source} did not give it: [{passed.refusal.code}] {passed.refusal}")
    for refusal in fetched.below:
        _tell(shell, f"genuine, but no use of this bundle will accept it: {refusal}")
    if fetched.source == "cache":
        why = "no service had it" if fetched.passed_over else "no service was asked"
        _tell(shell, f"from the cache, as it was fetched {facts['fetched']}: {why}")
    shell.answer(
        facts,
        f"{output}: {facts['tee']}, FMSPC {facts['fmspc']}, good until "
        f"{facts['earliest_expiration']}; from {fetched.source}; mode={facts['mode']}",
    )


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle, or a folder.")],
    at: At = None,
    root: Root = "intel",
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """What is in a bundle, for which platforms, and is it current at this instant?

    Everything shown is authentic. A bundle that does not cover the instant ends with status 5.

    A folder of the service's answers is read too: rootcacrl, pckcrl, tcb, identity, and of the
    last three the headers as pckcrl.headers and so on, as curl -D tcb.headers -o tcb leaves them.

    Example: ratls collateral show collateral.json
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.bundles import read_collateral
        from verifier.contents import Contents
        from verifier.errors import placed

        instant = parse_instant(at)
        bundle = read_collateral(file)
        roots = shell.anchors(root, allow_simulation=allow_simulation)
        with placed(str(file)):
            contents = Contents.authenticate(bundle, roots)
        refusal = None
        try:
            contents.require_current(instant)
        except CollateralStaleError as stale:
            refusal = stale
        facts = {
            "file": str(file),
            "fetched": bundle.fetched or None,
            **_summary(contents, roots),
            **_details(contents),
            "error": refusal.as_json() if refusal else None,
        }
        shell.answer(facts, _for_people(facts))
        shell.end_with(refusal)


def _summary(contents: Contents, roots: TrustAnchors) -> dict[str, Any]:
    """Which platforms it is for, and its dates."""
    info, identity, window = contents.tcb_info, contents.qe_identity, contents.window
    return {
        "mode": roots.mode.value,
        "root": roots.name,
        "tee": info.tee.value,
        "authority": contents.authority.common_name,
        "fmspc": info.fmspc.hex(),
        "pce_id": info.pce_id.hex(),
        "tcb_info_evaluation_data_number": info.evaluation_data_number,
        "qe_identity_evaluation_data_number": identity.evaluation_data_number,
        "earliest_issue": instant_text(window.earliest_issue),
        "earliest_expiration": instant_text(window.earliest_expiration),
    }


def _details(contents: Contents) -> dict[str, Any]:
    """Each part with its dates, and every level."""
    info, identity = contents.tcb_info, contents.qe_identity
    return {
        "parts": [
            {
                "part": part.thing,
                "issued": instant_text(part.starts),
                "until": instant_text(part.ends),
            }
            for part in contents.window.issued
        ],
        "revoked": {crl.title: len(crl.serials) for crl in (contents.root_crl, contents.pck_crl)},
        "tcb_levels": [
            _level(level)
            | {
                "components": list(level.components),
                "pce_svn": level.pce_svn,
                "tdx_components": list(level.tdx_components),
            }
            for level in info.levels
        ],
        "tdx_module": _module(info.module) if info.module else None,
        "tdx_module_identities": [
            {
                "id": f"TDX_{identity.version:02X}",
                **_module(identity.module),
                "levels": [_level(level) | {"isv_svn": level.isv_svn} for level in identity.levels],
            }
            for identity in info.module_identities
        ],
        "qe_levels": [_level(level) | {"isv_svn": level.isv_svn} for level in identity.levels],
    }


def _module(module: TdxModule) -> dict[str, str]:
    return {
        "mr_signer": module.mr_signer.hex(),
        "attributes": module.attributes.to_bytes(8, "little").hex(),
        "attributes_mask": module.attributes_mask.to_bytes(8, "little").hex(),
    }


def _level(level: TcbLevel | SvnLevel) -> dict[str, Any]:
    return {
        "status": level.status.value,
        "date": instant_text(level.date),
        "advisory_ids": list(level.advisory_ids),
    }


def _for_people(facts: dict[str, Any]) -> str:
    numbers = {
        "TCB info": f"evaluation {facts['tcb_info_evaluation_data_number']}",
        "QE identity": f"evaluation {facts['qe_identity_evaluation_data_number']}",
        **{title: f"{count} revoked" for title, count in facts["revoked"].items()},
    }
    made = f"; fetched {printable(facts['fetched'])[:40]}, it says" if facts["fetched"] else ""
    lines = [
        f"{facts['file']}: {facts['tee']}, FMSPC {facts['fmspc']}, PCE {facts['pce_id']}, "
        f"{facts['authority']}; mode={facts['mode']}",
        f"good until {facts['earliest_expiration']}{made}",
        *(
            f"  {part['part']:<12} {part['issued']} to {part['until']}  {numbers[part['part']]}"
            for part in facts["parts"]
        ),
        "levels of the platform, the newest first",
        *(_platform_line(level) for level in facts["tcb_levels"]),
        "levels of the quoting enclave",
        *map(_svn_line, facts["qe_levels"]),
    ]
    for identity in facts["tdx_module_identities"]:
        lines.append(f"levels of the TDX module {identity['id']}")
        lines.append(f"  MRSIGNER {identity['mr_signer']}")
        lines += map(_svn_line, identity["levels"])
    return "\n".join(lines)


def _platform_line(level: dict[str, Any]) -> str:
    tdx = f"  TDX {' '.join(map(str, level['tdx_components']))}" if level["tdx_components"] else ""
    return _line(level, f"{' '.join(map(str, level['components']))}  PCE {level['pce_svn']}{tdx}")


def _svn_line(level: dict[str, Any]) -> str:
    return _line(level, f"version {level['isv_svn']}")


def _line(level: dict[str, Any], versions: str) -> str:
    advisories = ", ".join(level["advisory_ids"])
    told = f"{level['status']:<34} as of {level['date'][:10]}  {versions}  {advisories}"
    return f"  {told}".rstrip()


for command in (fetch, show):
    collateral.command(command.__name__)(with_simulation_option(command))
