"""`ratls provider deliver`: bring a withdrawal to a running enclave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json, PartyDir, PassphraseFile
from provider.options import EnclaveAt, StateDir, Timeout, enclave_shown, state_folder
from ratls.options import CollateralFile


def deliver(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A withdrawal, own or received.")],
    enclave: EnclaveAt,
    collateral: CollateralFile,
    party: PartyDir,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    timeout: Timeout = 60,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Tell a running enclave that a party has withdrawn, and keep its signed answer.

    The enclave proves itself first. It drops the party's rows, ends each task with it, and starts
    none. Any party may deliver it, to each enclave that runs.

    Example: ratls provider deliver study.alice-clinic.withdrawal.json
    --enclave enclave.example:7443 --collateral collateral.json --party bob
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.environment import prepare_process

        prepare_process()  # before anything loads gRPC, which reads the environment once
        from policy.options import own_party
        from provider.deliver import Place
        from provider.deliver import deliver as bring
        from ratls.address import Address
        from verifier.anchors import Mode
        from verifier.bundles import read_collateral
        from verifier.files import read_file

        done = bring(
            read_file(file),
            Place(Address.parse(enclave), read_collateral(collateral), allow_simulation, timeout),
            own_party(party, passphrase_file),
            state_folder(state),
            now,
            announce=lambda mode: shell.warn_simulation(mode is Mode.SIMULATION),
        )
        if not json_output:
            shell.show_appraisal(done.fresh.appraisal)
        document = done.document
        shell.answer(
            {
                "study": done.withdrawal.study,
                "party": document.party,
                "version": done.withdrawal.version,
                "acknowledgement": str(done.kept),
            }
            | enclave_shown(done.fresh, done.mode, enclave),
            f"the enclave, instance {document.instance.hex()}, ended every task with "
            f"{document.party} ({done.mode})\n  signed answer {done.kept}",
        )
