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
    known_state,
    own_party,
)
from ratls.cli_verify_eventlog import eventlog
from ratls.cli_verify_forecast import forecast
from ratls.cli_verify_foreign import (
    CollateralNotNamed,
    FormatName,
    Root,
    Stapled,
    format_named,
    require_fitting,
    show_foreign,
)
from ratls.cli_verify_quote import AcceptAdvisory, AcceptStatus, doubt_of, quote
from ratls.errors import FreshnessError
from ratls.options import AgreementFile, At, NewestState, enclave_facts
from verifier.modes import simulation_installed, with_simulation_option
from verifier.text import digest_text, instant_text
from verifier.usage import Commands

if TYPE_CHECKING:
    from datetime import datetime

    from policy.document import Policy
    from ratls.appraise import AdmittedCertificate, Expectation, FreshEvidence
    from ratls.offline import VerifiedDocument
    from verifier.anchors import TrustAnchors
    from verifier.appraisal import Appraisal
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
        from policy.agreement_file import open_agreement
        from ratls.appraise import appraise_certificate
        from ratls.certificate import as_der
        from verifier.files import read_file

        instant = parse_instant(at)
        if format is not None:
            show_foreign(
                shell,
                read_file(file),
                format_named(format),
                {"file": str(file)},
                collateral=collateral,
                agreement=agreement,
                party=party,
                digest=digest,
                state=state,
                root=root,
                accepting=(accept_status, accept_advisory),
                at=instant,
                allow_simulation=allow_simulation,
                certificate_only=True,
            )
            return
        assert agreement is not None
        der = as_der(read_file(file))
        brought = open_agreement(agreement, party=party, digest=digest, state=known_state(state))
        agreed = brought.ready(brought.agreed.in_force(instant).policy)
        doubt = doubt_of(shell, brought, agreed)
        expectation = _expectation(agreed, collateral or der, allow_simulation, shell)
        admitted = appraise_certificate(der, expectation, at=instant)
        _show(shell, {"file": str(file), "fresh": False}, admitted, expectation.roots, doubt)


def server(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it listens.")],
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
        from policy.agreement_file import open_agreement
        from policy.journal import Reading, has_begun
        from policy.seen import require_newest
        from ratls.address import Address
        from ratls.appraise import appraise_certificate, presented_quote
        from ratls.environment import prepare_process
        from ratls.pin import ChannelIdentity
        from ratls.probe import probe_name
        from verifier.files import write_new
        from verifier.user_folder import user_folder

        prepare_process()  # before anything loads gRPC, which reads the environment once
        place = Address.parse(address)
        if format is not None:
            place, shown = probe_name(place, timeout, ours=False)
            show_foreign(
                shell,
                shown,
                format_named(format),
                {"address": address},
                collateral=collateral,
                save_quote=save_quote,
                agreement=agreement,
                party=party,
                digest=digest,
                state=state,
                root=root,
                accepting=(accept_status, accept_advisory),
                at=now(),
                allow_simulation=allow_simulation,
                certificate_only=certificate_only,
            )
            return
        assert agreement is not None
        brought = open_agreement(agreement, party=party, digest=digest, state=known_state(state))
        agreed = brought.ready(brought.agreed.in_force(now()).policy)
        doubt = doubt_of(shell, brought, agreed)
        local = None if party is None else own_party(party, passphrase_file)
        identity = None if local is None else ChannelIdentity.of(local)
        place, shown = probe_name(place, timeout)
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
            proof = _challenge(place, found, identity, expectation, timeout)
        elif doubt is None and not certificate_only:
            doubt = NoFreshProof(address, expected="a fresh proof", found="a certificate alone")
        facts = {"address": address, "fresh": identity is not None}
        _show(shell, facts, proof, expectation.roots, doubt)


def _challenge(
    place: Any, found: AdmittedCertificate, identity: Any, expectation: Expectation, timeout: float
) -> FreshEvidence:
    from ratls.claims import NO_TASK
    from ratls.client_stream import open_exchange
    from ratls.framing import Kind
    from verifier.shell import now

    with open_exchange(
        Kind.ATTEST,
        place,
        found,
        identity,
        task=b"",
        task_digest=NO_TASK,
        dataset="",
        expectation=expectation,
        clock=now,
        timeout=timeout,
    ) as exchange:
        return exchange.fresh


class NoFreshProof(FreshnessError):
    """Only the certificate was judged, and it could be a copy of an old one."""

    code = "no-fresh-proof"
    default_fix = "name your party with --party DIR, or use --certificate-only if that is enough"
    says = "{thing}: only its certificate was checked, which could be an old copy"


# Receipts


def receipt(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A result with its receipt beside it; a receipt; an acknowledgement.",
        ),
    ],
    agreement: AgreementFile,
    receipt_file: Annotated[
        Path | None,
        typer.Option("--receipt", help="Of a result. Default: model.receipt.json of model.json."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="The holder's signed record of how it was judged. Default for a result: "
            "model.record.json of model.json."
        ),
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option("--collateral", help="Without a record: a bundle to judge with.")
    ] = None,
    party: OwnParty = None,
    digest: KnownDigest = None,
    at: At = None,
    state: KnownState = None,
    rounds: Annotated[
        bool,
        typer.Option(
            "--rounds", help="FILE is a folder of `provider train`: check all its rounds."
        ),
    ] = False,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Did an agreed enclave make this result, or sign this document? Needs no network.

    A result is first compared with its receipt. A receipt alone shows that there was a result, and
    not which. With a record it is judged at the instant that its holder recorded, otherwise at
    --at or now. Without --party or --digest the agreement's digest is shown, and nothing decided.

    Example: ratls verify receipt model.json --agreement policy.agreement.json --party carol
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    if record is not None and collateral is not None:
        raise typer.BadParameter("give --record or --collateral", param_hint="--record")
    with refusals_as_exit_status(json_output) as shell:
        if rounds:
            from ratls.cli_verify_rounds import show_rounds

            show_rounds(shell, file, agreement, party, digest, state, allow_simulation)
            return
        from policy.agreement_file import open_agreement
        from policy.receipt import RESULT_CAP, is_document
        from ratls.appraise import Expectation
        from ratls.offline import policy_named_by, verify_document, verify_with_record
        from verifier.bundles import read_collateral
        from verifier.files import read_file

        raw, result = read_file(file, cap=RESULT_CAP), None
        if not is_document(raw):
            result, raw = raw, read_file(receipt_file or file.with_suffix(".receipt.json"))
            if collateral is None and record is None:
                record = file.with_suffix(".record.json")
        elif receipt_file is not None:
            raise typer.BadParameter(
                f"{file} is itself a receipt or acknowledgement", param_hint="--receipt"
            )
        if record is None and collateral is None:
            raise typer.BadParameter("give --record or --collateral", param_hint="--record")
        if record is not None and at is not None:
            raise typer.BadParameter(
                "cannot be used with a record, which contains the time", param_hint="--at"
            )
        brought = open_agreement(agreement, party=party, digest=digest, state=known_state(state))
        agreed = brought.ready(policy_named_by(raw, brought.agreed))
        doubt = doubt_of(shell, brought, agreed)
        roots = shell.anchors(agreed.platform.root, allow_simulation=allow_simulation)
        if record is not None:
            verified, seen = verify_with_record(raw, read_file(record), agreed, roots, result)
            instant, clock = seen.at, f"the clock of {seen.holder}, which signed the record"
        else:
            assert collateral is not None
            instant = parse_instant(at)
            clock = "--at" if at is not None else "this machine's clock"
            held = Expectation(agreed, read_collateral(collateral), roots)
            verified = verify_document(raw, held, at=instant, result=result)
        facts = {"file": str(file), "result": result is not None}
        _show_document(shell, facts, verified, instant, clock, roots, doubt)


def _show_document(
    shell: Shell,
    facts: dict[str, Any],
    verified: VerifiedDocument,
    at: datetime,
    clock: str,
    roots: TrustAnchors,
    refusal: RatlsError | None,
) -> None:
    from policy.receipt import Receipt
    from policy.round_receipt import RoundReceipt

    document, enclave = verified.document, verified.evidence.admission.enclave.name
    facts |= {
        "document": document.noun,
        "task_digest": digest_text(document.task_digest),
        "policy_digest": digest_text(document.policy_digest),
        "enclave": enclave,
        "instance": document.instance.hex(),
        "at": instant_text(at),
        "clock": clock,
        "checks": verified.appraisal.as_json(),
    }
    if isinstance(document, RoundReceipt):
        who = [p.provider for p in document.participants]
        facts |= {"computation": document.computation, "round": document.round, "parties": who}
        facts |= {"model_digest": digest_text(document.model)}
        what = f"round {document.round} of {document.computation}, by {', '.join(who)}"
    elif isinstance(document, Receipt):
        inputs = [i.dataset for i in document.inputs]
        facts |= {
            "computation": document.computation,
            "recipient": document.recipient,
            "inputs": inputs,
            "result_digest": digest_text(document.result_digest),
        }
        what = f"{document.computation} over {', '.join(inputs)} for {document.recipient}\n  " + (
            "this is the result that it names"
            if facts["result"]
            else "only the fact was checked: name the result itself to check that too"
        )
    else:
        facts |= {
            "dataset": document.dataset,
            "provider": document.provider,
            "rows": document.rows,
            "commit_digest": digest_text(document.commit_digest),
            "tags_digest": digest_text(document.tags_digest),
        }
        what = f"{document.rows:,} rows of {document.dataset} from {document.provider}"
    text = (
        f"{facts['file']}: {document.noun} of {enclave}: {what}\n"
        f"  judged at {instant_text(at)} by {clock}"
    )
    _answer(shell, facts, text, verified.appraisal, roots, refusal)


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
    _answer(shell, facts, text, proof.appraisal, roots, refusal)


def _answer(
    shell: Shell,
    facts: dict[str, Any],
    text: str,
    appraisal: Appraisal,
    roots: TrustAnchors,
    refusal: RatlsError | None,
) -> None:
    """Show the checks and the answer; then end with `refusal`, where there is one."""
    facts |= {
        "verdict": "undecided" if refusal else "accepted",
        "mode": roots.mode.value,
        "error": refusal.as_json() if refusal else None,
    }
    if not shell.json_output:
        shell.show_appraisal(appraisal)
    shell.answer(facts, f"{text}; mode={roots.mode}")
    shell.end_with(refusal)


_INSTALLED = simulation_installed()
for command in (quote, cert, server, receipt, forecast, eventlog):
    app.command(command.__name__)(with_simulation_option(command, _INSTALLED))
