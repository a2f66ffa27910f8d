"""`ratls collateral`: what Intel publishes about a platform, fetched and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from ratls.cli_collateral_show import Root, show, summary
from ratls.options import JsonPath, NewerSgx, NewestState, json_path_steps, parse_span
from ratls.profile_options import at_addresses
from verifier.modes import with_simulation_option
from verifier.text import printable
from verifier.usage import Commands

if TYPE_CHECKING:
    from verifier.anchors import TrustAnchors
    from verifier.kind import PlatformKind
    from verifier.pcs import Fetched
    from verifier.pcs_requests import Service
    from verifier.shell import Shell

collateral = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What Intel publishes about a platform, in one bundle file.",
)


Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")
]
Quotes = Annotated[
    list[Path] | None,
    typer.Argument(metavar="QUOTE...", help="Quotes of one kind of platform; - is standard input."),
]
Enclaves = Annotated[
    list[str] | None,
    typer.Option(
        "--enclave",
        metavar="HOST:PORT|NAME",
        callback=at_addresses,
        help="Take the quote that an enclave shows there. May be repeated.",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="https://HOST[:PORT]",
        help="The service to ask: Intel's api.trustedservices.intel.com, or a caching service. "
        "Repeated: asked in turn until one has the collateral.",
    ),
]
Ca = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="Accept this TLS certificate (PEM), no other. Repeated: one for each --from, "
        "where `public` means the public authorities.",
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        metavar="http://HOST:PORT", help="Go through this proxy; the environment's is not used."
    ),
]
Fmspc = Annotated[
    str | None,
    typer.Option(metavar="HEX", help="For which platforms, without a quote; with --tee."),
]
TeeName = Annotated[
    str | None, typer.Option(metavar="sgx|tdx", help="With --fmspc: for which technology.")
]
PckCa = Annotated[
    str,
    typer.Option(
        metavar="platform|processor",
        help="With --fmspc: which authority certifies these platforms. Servers: platform.",
    ),
]
Early = Annotated[
    bool, typer.Option("--early", help="Fetch the early edition of TCB info and QE identity.")
]
EvaluationDataNumber = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        min=1,
        help="Ask for the edition with this TCB evaluation data number, and take no other.",
    ),
]
AcceptEvaluation = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        min=1,
        help="Ask for the usual edition, and take this number of it though a higher one was "
        "seen: for when a service once gave an early edition for the standard one.",
    ),
]
MaxAge = Annotated[
    str | None,
    typer.Option(
        metavar="14d|36h", help="Refuse TCB info and QE identity issued longer ago than this."
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for everything together.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Verified bundles, used if no service answers. Default: per user."
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write a cache.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use the cache alone, no network.")]


def fetch(
    output: Output,
    quotes: Quotes = None,
    enclaves: Enclaves = None,
    sources: Sources = None,
    ca: Ca = None,
    proxy: Proxy = None,
    fmspc: Fmspc = None,
    tee: TeeName = None,
    pck_ca: PckCa = "platform",
    early: Early = False,
    evaluation_data_number: EvaluationDataNumber = None,
    accept_evaluation: AcceptEvaluation = None,
    max_age: MaxAge = None,
    timeout: Timeout = 30,
    newer_sgx: NewerSgx = False,
    json_path: JsonPath = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    offline: Offline = False,
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

    Without a quote: ratls collateral fetch --fmspc 00806f050000 --tee tdx -o tdx.json
    --from https://api.trustedservices.intel.com
    """
    from verifier.shell import now, refusals_as_exit_status

    kind = _kind_named(fmspc, tee, pck_ca)
    if (kind is None) == (not quotes and not enclaves):
        raise typer.BadParameter(
            "name a quote's file, or --enclave, or else --fmspc", param_hint="QUOTE"
        )
    if evaluation_data_number is not None and (early or accept_evaluation is not None):
        raise typer.BadParameter(
            "says already which edition: remove --early and --accept-evaluation",
            param_hint="--evaluation-data-number",
        )
    oldest = None if max_age is None else parse_span(max_age, "--max-age")
    steps = json_path_steps(json_path)
    asked = _sources_asked(sources or [], ca or [], offline=offline, no_cache=no_cache)
    with refusals_as_exit_status(json_output) as shell:
        from verifier.cache import Cache, obtain
        from verifier.marks import Marks
        from verifier.pcs import kept_bundle, store
        from verifier.pcs_requests import parse_proxy, tls_trust
        from verifier.quote_files import read_quote_file, read_stdin_once
        from verifier.received import ReceivedQuote
        from verifier.user_folder import user_folder

        roots = shell.anchors(root, allow_simulation=allow_simulation)
        services, kept = _services(asked, ca or []), kept_bundle(output)
        stdin = read_stdin_once(quotes or [])
        named = {
            str(file): read_quote_file(str(file), steps, newer_sgx=newer_sgx, stdin=stdin)
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
            number=evaluation_data_number,
            proxy=None if proxy is None else parse_proxy(proxy),
            kind=kind,
            max_age=oldest,
            accept_evaluation=accept_evaluation,
            seconds=timeout,
        )
        store(fetched, output, kept=kept, roots=roots)
        edition = "early" if early else "standard"
        if evaluation_data_number is not None:
            edition = f"evaluation {evaluation_data_number}"
        _show_fetched(shell, output, fetched, roots, edition)


def _kind_named(fmspc: str | None, tee: str | None, pck_ca: str) -> PlatformKind | None:
    """The platforms of --fmspc, --tee and --pck-ca. Raises: BadParameter."""
    import re

    from verifier.kind import PlatformKind
    from verifier.quote import Tee

    if fmspc is None and tee is None:
        return None
    if fmspc is None or re.fullmatch("[0-9A-Fa-f]{12}", fmspc, re.ASCII) is None:
        raise typer.BadParameter("write 12 hexadecimal digits", param_hint="--fmspc")
    if tee not in ("sgx", "tdx"):
        raise typer.BadParameter("say sgx or tdx", param_hint="--tee")
    if pck_ca not in ("platform", "processor"):
        raise typer.BadParameter("say platform or processor", param_hint="--pck-ca")
    return PlatformKind(Tee(tee), bytes.fromhex(fmspc), pck_ca)


def _shown_quote(place: str, timeout: float) -> bytes:
    """The quote in the certificate that the enclave shows; `obtain` verifies it."""
    from ratls.address import Address
    from ratls.appraise import presented_quote
    from ratls.probe import probe_any
    from verifier.shell import now

    _, der, _ = probe_any(Address.parse(place), timeout)
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
    shell: Shell, output: Path, fetched: Fetched, roots: TrustAnchors, edition: str
) -> None:
    facts = {
        "file": str(output),
        "from": fetched.source,
        "fetched": fetched.collateral.fetched,
        "passed_over": [
            {"from": p.source, "code": p.refusal.code, "message": str(p.refusal)}
            for p in fetched.passed_over
        ],
        "update": edition,
        "quotes": len(fetched.verified) + len(fetched.below),
        **summary(fetched.contents, roots),
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


for command in (fetch, show):
    collateral.command(command.__name__)(with_simulation_option(command))
