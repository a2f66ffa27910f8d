"""`ratls verify`: is it genuine, is it the agreed enclave, and is it there now?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import (
    Json,
    KnownDigest,
    KnownState,
    OwnParty,
    PassphraseFile,
    own_party,
)
from ratls.cli_verify_eventlog import eventlog
from ratls.cli_verify_forecast import forecast
from ratls.cli_verify_foreign import (
    CollateralNotNamed,
    Demand,
    FormatName,
    Root,
    Stapled,
    format_named,
    require_fitting,
    show_foreign,
)
from ratls.cli_verify_quote import AcceptAdvisory, AcceptStatus, quote
from ratls.cli_verify_receipt import receipt
from ratls.cli_verify_shared import Reader, end_with_answer
from ratls.errors import FreshnessError
from ratls.options import At, NewestState, enclave_facts
from ratls.profile_options import at_address
from verifier.modes import simulation_installed, with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.document import Policy
    from ratls.appraise import AdmittedCertificate, Expectation, FreshEvidence
    from verifier.anchors import TrustAnchors
    from verifier.errors import RatlsError
    from verifier.shell import Shell

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Is it genuine, and is it what was agreed on?"
)


OptionalAgreement = Annotated[
    Path | None, typer.Option("--agreement", help="The agreement, signed by the parties.")
]
OptionalCollateral = Annotated[
    Path | None, typer.Option("--collateral", help="Collateral bundle of the platform.")
]


# Certificates and servers


def cert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate, DER or PEM.")],
    agreement: OptionalAgreement = None,
    collateral: OptionalCollateral = None,
    format: FormatName = None,
    stapled: Stapled = False,
    root: Root = None,
    accept_status: AcceptStatus = None,
    accept_advisory: AcceptAdvisory = None,
    party: OwnParty = None,
    digest: KnownDigest = None,
    at: At = None,
    state: KnownState = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Is this the certificate of an agreed enclave? Whether the enclave still runs is not asked.

    Without --party or --digest the agreement's digest is shown, and nothing is decided. With
    --format it is another project's certificate: is its quote genuine, and about its own key?

    Example: ratls verify cert enclave.pem --agreement policy.agreement.json
    --collateral collateral.json --party alice
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    require_fitting(format, agreement, (root, accept_status, accept_advisory), stapled, collateral)
    if collateral is None and not stapled:
        raise typer.BadParameter("name a bundle, or say --stapled", param_hint="--collateral")
    with refusals_as_exit_status(json_output) as shell:
        from ratls.appraise import appraise_certificate
        from ratls.certificate import as_der
        from verifier.files import read_file

        instant, reader = parse_instant(at), Reader(agreement, party, digest, state)
        if format is not None:
            show_foreign(
                shell,
                read_file(file),
                format_named(format),
                {"file": str(file)},
                Demand(reader, root, (accept_status, accept_advisory), instant),
                collateral=collateral,
                allow_simulation=allow_simulation,
                certificate_only=True,
            )
            return
        der = as_der(read_file(file))
        agreed, doubt = reader.policy(shell, lambda complete: complete.in_force(instant).policy)
        expectation = _expectation(agreed, collateral or der, allow_simulation, shell)
        admitted = appraise_certificate(der, expectation, at=instant)
        _show(shell, {"file": str(file), "fresh": False}, admitted, expectation.roots, doubt)


def server(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT|NAME",
            callback=at_address,
            help="Where it listens; or its name in ratls.toml.",
        ),
    ],
    agreement: OptionalAgreement = None,
    collateral: OptionalCollateral = None,
    format: FormatName = None,
    stapled: Stapled = False,
    root: Root = None,
    accept_status: AcceptStatus = None,
    accept_advisory: AcceptAdvisory = None,
    party: OwnParty = None,
    digest: KnownDigest = None,
    certificate_only: Annotated[
        bool, typer.Option("--certificate-only", help="Do not ask for a fresh proof.")
    ] = False,
    save_quote: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the quote of its certificate; not verified yet."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    state: NewestState = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for each step.")] = 10,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Is an agreed enclave listening there, and can it prove that now?

    With --party the enclave, which answers only to parties, is challenged. Otherwise only its
    certificate is judged, which might be an old copy: the answer is undecided, unless
    --certificate-only says that this is enough. The agreement must then be named by its --digest.
    With --format it is another project's server, of which no certificate is fresh.

    Example: ratls verify server enclave.example:7443 --agreement policy.agreement.json
    --collateral collateral.json --party alice
    """
    from verifier.shell import now, refusals_as_exit_status

    if party is not None and certificate_only:
        raise typer.BadParameter("cannot be combined with --party", param_hint="--certificate-only")
    require_fitting(format, agreement, (root, accept_status, accept_advisory), stapled, collateral)
    if collateral is None and save_quote is None and not stapled:
        raise typer.BadParameter(
            f"name a bundle; ratls collateral fetch --enclave {address} makes one",
            param_hint="--collateral",
        )
    with refusals_as_exit_status(json_output) as shell:
        from policy.journal import Reading, has_begun
        from policy.seen import require_newest
        from ratls.address import Address
        from ratls.appraise import appraise_certificate, presented_quote
        from ratls.environment import prepare_process
        from ratls.pin import ChannelIdentity
        from ratls.probe import probe_any, probe_name
        from verifier.files import write_new
        from verifier.user_folder import user_folder

        prepare_process()  # before anything loads gRPC, which reads the environment once
        place, reader = Address.parse(address), Reader(agreement, party, digest, state)
        if format is not None:
            place, shown = probe_name(place, timeout, ours=False)
            show_foreign(
                shell,
                shown,
                format_named(format),
                {"address": address},
                Demand(reader, root, (accept_status, accept_advisory), now()),
                collateral=collateral,
                save_quote=save_quote,
                allow_simulation=allow_simulation,
                certificate_only=certificate_only,
            )
            return
        agreed, doubt = reader.policy(shell, lambda complete: complete.in_force(now()).policy)
        local = None if party is None else own_party(party, passphrase_file)
        identity = None if local is None else ChannelIdentity.of(local)
        place, shown, protocol = probe_any(place, timeout)
        if save_quote is not None:
            write_new(save_quote, presented_quote(shown, at=now()), mode=0o644)
            shell.say(f"the quote, not verified, is in {save_quote}")
        if collateral is None and not stapled:
            raise CollateralNotNamed(address, expected="a bundle to judge with", found="none")
        expectation = _expectation(agreed, collateral or shown, allow_simulation, shell)
        folder = state or user_folder("state")
        records = Reading.of(folder).records if has_begun(folder) else ()
        require_newest(folder, records, expectation.collateral, expectation.roots)
        found = appraise_certificate(shown, expectation, at=now())
        proof: AdmittedCertificate | FreshEvidence = found
        if identity is not None:
            proof = _challenge(place, protocol, found, identity, expectation, timeout)
        elif doubt is None and not certificate_only:
            doubt = NoFreshProof(address, expected="a fresh proof", found="a certificate alone")
        facts = {"address": address, "fresh": identity is not None}
        _show(shell, facts, proof, expectation.roots, doubt)


def _challenge(
    place: Any,
    protocol: bytes,
    found: AdmittedCertificate,
    identity: Any,
    expectation: Expectation,
    timeout: float,
) -> FreshEvidence:
    """Whatever transport of this project it is: the checks are the same."""
    from ratls.claims import NO_TASK
    from ratls.client_call import AnswerNotOpened
    from ratls.client_stream import open_exchange
    from ratls.framing import Kind
    from ratls.sockets import Verifier, connect
    from ratls.tls import ALPN
    from verifier.shell import now

    verifier = Verifier(lambda: expectation)
    if protocol == ALPN:  # a tunnel, or a service behind `ratls.sockets` or `ratls.http`
        with connect(place, identity, verifier, timeout=timeout) as connection:
            assert connection.fresh is not None  # it has proved itself
            return connection.fresh
    asked: Any = {"task": b"", "task_digest": NO_TASK, "dataset": "", "timeout": timeout}
    held: Any = {"expectation": expectation, "clock": now}
    try:
        with open_exchange(Kind.ATTEST, place, found, identity, **asked, **held) as exchange:
            return exchange.fresh
    except AnswerNotOpened as refusal:  # no Flight there: it may be a service of `ratls.grpc`
        proof = _grpc_proof(place, found, identity, verifier, timeout)
        if proof is None:
            raise refusal
        return proof


def _grpc_proof(
    place: Any, found: AdmittedCertificate, identity: Any, verifier: Any, timeout: float
) -> FreshEvidence | None:
    """None where that is not served either."""
    import hashlib

    import grpc

    from ratls.flight_data import PIN
    from ratls.grpc_server import CHALLENGE
    from ratls.pin import ending, pinned_channel
    from ratls.session import Challenger, read_message, write_message

    challenger = Challenger(found, identity.spki_sha256, verifier)
    nonce, pinned = challenger.nonce(), hashlib.sha256(found.spki).digest()
    with ending(pinned_channel(place, found, identity)) as channel:
        call: Any = channel.unary_unary(CHALLENGE)
        hello = write_message("hello", nonce=nonce)
        try:
            answer = call(hello, timeout=timeout, metadata=[(PIN, pinned)])
        except grpc.RpcError:
            return None
    return challenger.appraise(nonce, read_message(answer, "evidence")[1]["evidence"])


class NoFreshProof(FreshnessError):
    """Only the certificate was judged, and it could be a copy of an old one."""

    code = "no-fresh-proof"
    default_fix = "name your party with --party DIR, or use --certificate-only if that is enough"
    says = "{thing}: only its certificate was checked, which could be an old copy"


# Shared


def _expectation(
    agreed: Policy, source: Path | bytes, allow_simulation: bool, shell: Shell
) -> Expectation:
    from ratls.appraise import Expectation
    from ratls.endorsements import stapled_collateral
    from verifier.bundles import read_collateral

    roots = shell.anchors(agreed.platform.root, allow_simulation=allow_simulation)
    # Of a certificate: what it carries is signed by Intel, or refused like any other bundle.
    if isinstance(source, bytes):
        return Expectation(agreed, stapled_collateral(source), roots)
    return Expectation(agreed, read_collateral(source), roots)


def _show(
    shell: Shell,
    facts: dict[str, Any],
    proof: AdmittedCertificate | FreshEvidence,
    roots: TrustAnchors,
    refusal: RatlsError | None,
) -> None:
    """Show what is known of an enclave; then end with `refusal`, where there is one."""
    place = facts.get("file") or facts["address"]
    how = "proved just now" if facts["fresh"] else "by its certificate alone"
    facts |= enclave_facts(proof)
    text = f"{place}: {facts['enclave']}, instance {facts['instance']}; {how}"
    end_with_answer(shell, facts, text, proof.appraisal, roots, refusal)


_INSTALLED = simulation_installed()
for command in (quote, cert, server, receipt, forecast, eventlog):
    app.command(command.__name__)(with_simulation_option(command, _INSTALLED))
