"""`ratls tunnel`: any TCP program through an attested, mutually authenticated channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json, PassphraseFile, own_party
from ratls.options import AgreementFile, CollateralFile, NewestState
from ratls.profile_options import at_address
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from verifier.shell import Shell

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Lead any TCP program through an attested channel."
)

Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="0 takes a free port.")]


def client(
    to: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT|NAME",
            callback=at_address,
            help="The enclave's end; or its name in ratls.toml.",
        ),
    ],
    agreement: AgreementFile,
    collateral: CollateralFile,
    party: Annotated[Path, typer.Option(help="Your party's folder.")],
    listen: Listen = "127.0.0.1:0",
    enclave: Annotated[
        str | None, typer.Option(metavar="NAME", help="One enclave of the policy. Default: any.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    state: NewestState = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to connect.")] = 10,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Listen for local programs; lead each connection to the enclave once it has proved itself.

    Agreement and collateral are read again for each connection, and each minute while one lasts:
    what they no longer admit is cut off. Prints one line `ready HOST:PORT`, and one for each
    connection that was cut off, and why.

    Example: ratls tunnel client enclave.example:7443 --listen 127.0.0.1:5433
    --agreement policy.agreement.json --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from functools import partial

        from ratls.address import Address
        from ratls.environment import prepare_process
        from ratls.own_expectation import own_expectation

        prepare_process()  # before anything loads gRPC, which reads the environment once
        from ratls.pin import ChannelIdentity
        from ratls.serving import listen_address
        from ratls.sockets import AttestedSocket, Verifier, connect
        from ratls.tls import Shown
        from ratls.tunnel import TunnelClient

        place = Address.parse(to)
        anchors = partial(shell.anchors, allow_simulation=allow_simulation)
        given = (agreement, party, collateral, anchors)
        expect = partial(own_expectation, *given, state=state, enclave=enclave)
        expect()  # what is wrong with the files is told now, not to the first program
        own = Shown.of(ChannelIdentity.of(own_party(party, passphrase_file)))
        verifier = Verifier(expect)

        def connected() -> AttestedSocket:
            return connect(place, own, verifier, timeout=timeout)

        connected().close()
        tunnel = TunnelClient(
            listen_address(listen),
            connected,
            report=lambda refusal: shell.announce(
                {"cut_off": refusal.code, "message": str(refusal), "fix": refusal.fix},
                f"cut off: {refusal.code}: {refusal}; to do: {refusal.fix}",
            ),
        )
        _run(shell, tunnel.serve, tunnel.close, str(tunnel.address))


def server(
    agreement: AgreementFile,
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The program in this guest.")],
    attester: Annotated[
        str, typer.Option(help="tdx or tdx:FILE in a TDX guest, or simulation:DIR.")
    ],
    listen: Listen = "127.0.0.1:0",
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """In a TDX guest: prove what it is to each party of the agreement, then lead it to a program.

    Prints one line `ready HOST:PORT`. The program should listen on 127.0.0.1 alone.

    Example: ratls tunnel server --agreement policy.agreement.json --attester tdx
    --listen 0.0.0.0:7443 --to 127.0.0.1:5432
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.address import Address
        from ratls.api import enclave_end
        from ratls.log import open_log
        from ratls.serving import listen_address
        from verifier.anchors import Mode

        own = enclave_end(policy=agreement, attester=attester, allow_simulation=allow_simulation)
        from ratls.listener import Listener
        from ratls.tunnel import TunnelServer

        shell.warn_simulation(own.identity.mode is Mode.SIMULATION)
        listener = Listener(listen_address(listen), own.identity, own.policy, log=open_log())
        tunnel = TunnelServer(listener, Address.parse(to))
        _run(shell, tunnel.serve, listener.close, str(listener.address))


def _run(shell: Shell, serve: Callable[[], None], close: Callable[[], None], address: str) -> None:
    """Until a signal; the exit status is that of the signal."""
    import threading

    from ratls.serving import leave, stop_signals

    with stop_signals() as stop:
        threading.Thread(target=serve, name="tunnel", daemon=True).start()
        shell.announce({"ready": address}, f"ready {address}")
        status = stop()
        close()
        leave(status)


for command in (client, server):
    app.command(command.__name__)(with_simulation_option(command))
