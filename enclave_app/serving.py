"""From an agreement file to a server that stops when it is told to, for both entry points.

    serve(agreement=path, listen="0.0.0.0:7443", attester=GramineAttester, roots={"intel"}, ready=…)

The entry points differ in where their arguments come from: `enclave_app.cli` has options,
`enclave_app.gramine_main` has constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ratls.attester import Attester


def serve(
    *,
    agreement: Path,
    listen: str,
    attester: Callable[[], Attester],
    roots: frozenset[str],
    ready: Callable[[Mapping[str, str]], None],
    spill: Path | None = None,
    endorsements: bytes = b"",
) -> NoReturn:
    """Serve until SIGINT, SIGTERM or SIGHUP; then end the process: 130 for SIGINT, 0 otherwise.

    Args:
        agreement: Read once, into memory: its owner is the host, who may change it meanwhile.
        listen: `HOST:PORT`; port 0 takes a free one.
        attester: Called first: without an attester nothing is read.
        roots: The roots that the policy may name.
        spill: A folder where rows may wait, sealed; None: all rows stay in memory.
        endorsements: As for `build_certificate`.
        ready: Told address (`ready`), mode, study and policy digest once the parties may connect.

    Raises:
        RatlsError: This process cannot serve.
    """
    import warnings

    from ratls.environment import prepare_process

    prepare_process()  # before anything loads gRPC, which reads the environment once
    # R20: a library warns of rows that overflow, and its line would stand in the host's log.
    warnings.simplefilter("ignore")
    from enclave_app.application import Enclave
    from enclave_app.server import start_server
    from policy.agreement import Agreement
    from policy.document import digest_text
    from ratls.log import open_log
    from ratls.serving import errors_logged, leave, listen_address, stop_signals
    from verifier.files import parse_file

    source = attester()
    read = parse_file(agreement, partial(Agreement.parse, known_roots=roots))
    complete = read.require_complete()
    address = listen_address(listen)
    log = open_log()
    running = Enclave.start(complete, source, log=log, spill=spill, endorsements=endorsements)
    with errors_logged(log), stop_signals() as stop:
        server = start_server(running, address, log)
        log.info("listening", address=server.address)
        ready(
            {
                "ready": server.address,
                "mode": running.mode.value,
                "study": running.policy.study,
                "policy_digest": digest_text(running.policy.digest),
            }
        )
        status = stop()
        running.stop()  # no computation begins any more
        server.stop()
        running.end_in_order()
        leave(status)
