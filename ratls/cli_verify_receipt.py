"""`ratls verify receipt`: did an agreed enclave make this result, or sign this document?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json, KnownDigest, KnownState, OwnParty
from ratls.cli_verify_shared import Reader, end_with_answer
from ratls.options import AgreementFile, At
from verifier.text import digest_text, instant_text

if TYPE_CHECKING:
    from datetime import datetime

    from ratls.offline import VerifiedDocument
    from verifier.anchors import TrustAnchors
    from verifier.errors import RatlsError
    from verifier.shell import Shell


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
        reader = Reader(agreement, party, digest, state)
        if rounds:
            from ratls.cli_verify_rounds import show_rounds

            show_rounds(shell, file, reader, allow_simulation)
            return
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
        agreed, doubt = reader.policy(shell, lambda complete: policy_named_by(raw, complete))
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
    end_with_answer(shell, facts, text, verified.appraisal, roots, refusal)
