"""`ratls verify receipt --rounds`: the receipts of all rounds of one task, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from verifier.text import digest_text, instant_text

if TYPE_CHECKING:
    from ratls.cli_verify_shared import Reader
    from verifier.shell import Shell


def show_rounds(
    shell: Shell,
    folder: Path,
    reader: Reader,
    allow_simulation: bool,
) -> None:
    """Check that the receipts in a folder are those of rounds 1 to n, each from the one before.

    Each is judged at the instant, and with the collateral, that its holder recorded.
    """
    from policy.round_receipt import RoundReceipt
    from ratls.offline import policy_named_by, verify_rounds
    from verifier.files import read_file

    found = sorted(folder.glob("round-*.receipt.json"))
    if not found:
        raise typer.BadParameter(f"{folder} has no round-0001.receipt.json", param_hint="FILE")
    files = [
        (read_file(path), read_file(path.with_name(path.name.replace("receipt", "record"))))
        for path in found
    ]
    agreed, doubt = reader.policy(shell, lambda complete: policy_named_by(files[0][0], complete))
    roots = shell.anchors(agreed.platform.root, allow_simulation=allow_simulation)
    judged = verify_rounds(files, agreed, roots)
    rounds: list[dict[str, Any]] = []
    lines: list[str] = []
    for verified, seen in judged:
        receipt = verified.document
        assert isinstance(receipt, RoundReceipt)  # `verify_rounds` refuses others
        who = [p.provider for p in receipt.participants]
        rounds.append(
            {
                "round": receipt.round,
                "parties": who,
                "previous": digest_text(receipt.previous),
                "model": digest_text(receipt.model),
                "at": instant_text(seen.at),
            }
        )
        lines.append(f"  {receipt.round:>4}  {digest_text(receipt.model)[:23]}  {', '.join(who)}")
    last, seen = judged[-1]
    enclave = last.evidence.admission.enclave.name
    facts = {
        "file": str(folder),
        "enclave": enclave,
        "instance": last.document.instance.hex(),
        "task_digest": digest_text(last.document.task_digest),
        "policy_digest": digest_text(last.document.policy_digest),
        "rounds": rounds,
        "clock": f"the clock of {seen.holder}, which signed the records",
        "verdict": "undecided" if doubt else "accepted",
        "mode": roots.mode.value,
        "error": doubt.as_json() if doubt else None,
    }
    shell.answer(
        facts,
        f"{folder}: rounds 1 to {len(judged)} of {enclave}, each from the model of the one before\n"
        + "\n".join(lines)
        + f"\n  judged at the instants of {facts['clock']}; mode={roots.mode}",
    )
    shell.end_with(doubt)
