"""`ratls enclave`: run the server that rows are released to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from verifier.modes import with_simulation_option

app = typer.Typer(help="The enclave's server.", no_args_is_help=True)


@app.callback()
def enclave() -> None:
    """The enclave's server."""


def serve(
    agreement: Annotated[
        Path, typer.Option("--agreement", help="The agreement file, signed by the parties.")
    ],
    attester: Annotated[
        str, typer.Option("--attester", help="Where quotes come from, as in simulation:DIR.")
    ],
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the address as one JSON object.")
    ] = False,
    allow_simulation: bool = False,
) -> None:
    """Serve the agreed computations until it is told to stop; prints one line `ready HOST:PORT`.

    Example: ratls enclave serve --agreement policy.agreement.json --listen 127.0.0.1:7443
    --attester simulation:intel/platform --allow-simulation
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from functools import partial

        from ratls.environment import prepare_process

        prepare_process()  # before anything loads gRPC, which reads the environment once
        from enclave_app.application import Enclave
        from enclave_app.log import open_log
        from enclave_app.server import listen_address, start_server
        from policy.agreement import Agreement
        from ratls.attester import resolve_attester
        from verifier.anchors import Mode
        from verifier.files import parse_file
        from verifier.modes import known_roots

        read = parse_file(agreement, partial(Agreement.parse, known_roots=known_roots()))
        complete = read.require_complete()
        address = listen_address(listen)
        source = resolve_attester(attester, allow_simulation=allow_simulation)
        log = open_log()
        running = Enclave.start(complete, source, log=log)
        if running.mode is Mode.SIMULATION:
            shell.warn_simulation()
        stop = _stop_signals()
        server = start_server(running, address, log)
        ready = server.address
        shell.answer(
            {
                "ready": ready,
                "mode": running.mode.value,
                "study": running.policy.study,
                "policy_digest": f"sha256:{running.policy.digest.hex()}",
            },
            f"ready {ready}",
        )
        status = stop()
        finished = server.stop()
    _leave(status, finished)


app.command("serve")(with_simulation_option(serve))


def _stop_signals() -> Callable[[], int]:
    """From now on SIGINT and SIGTERM are awaited; the function returned waits for either.

    Its value is the exit status: 130 for Ctrl-C, 0 for an orderly stop.
    """
    import queue
    import signal
    from types import FrameType

    from verifier.errors import Exit

    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: int(Exit.INTERRUPTED if came.get() == signal.SIGINT else Exit.YES)


def _leave(status: int, finished: bool) -> None:
    import os
    import sys

    if not finished:
        # A client that is silent holds its call, and with it an orderly end, for hours.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise typer.Exit(status)
