"""A running scheduler for tests: the parties' agreements, a queue, and a gRPC server in here.

    with running_scheduler(folder, [world.complete()]) as live:    # 127.0.0.1, a free port
        carol = live.client(world.carol)
        carol.submit(task)

The same folder again is the same scheduler after a restart: certificate and queue are kept.
TLS judges the certificates at the real time, so worlds are made at `NOW`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy

from policy.agreement import CompleteAgreement
from policy.party import LocalParty
from ratls.address import Address
from ratls.environment import prepare_process
from ratls.log import open_log
from ratls.pin import ChannelIdentity

prepare_process()  # before anything loads gRPC

from scheduler.certificate import OwnCertificate, own_certificate  # noqa: E402
from scheduler.client import SchedulerClient  # noqa: E402
from scheduler.database import queue_file  # noqa: E402
from scheduler.limits import Limits  # noqa: E402
from scheduler.server import SchedulerServer, start_server  # noqa: E402
from scheduler.service import Roster  # noqa: E402
from scheduler.store import Store  # noqa: E402
from tests.support.waiting import HANG_LIMIT  # noqa: E402

NOW = datetime.now(UTC).replace(microsecond=0)


def channel(party: LocalParty) -> ChannelIdentity:
    """How a party shows itself."""
    return ChannelIdentity.of(party)


@dataclass
class LiveScheduler:
    """A scheduler that listens."""

    server: SchedulerServer
    store: Store
    certificate: OwnCertificate
    stream: io.StringIO
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def address(self) -> Address:
        return self.server.address

    @property
    def log(self) -> str:
        """All that its operator sees."""
        return self.stream.getvalue()

    def client(self, party: LocalParty, *, address: Address | None = None) -> SchedulerClient:
        """Closed with the scheduler. `address`: of a relay in between."""
        made = SchedulerClient(
            address or self.address, self.certificate.cert_pem, channel(party), timeout=HANG_LIMIT
        )
        self.clients.enter_context(made)
        return made


@contextmanager
def running_scheduler(
    folder: Path,
    agreements: Sequence[CompleteAgreement],
    *,
    limits: Limits | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    port: int = 0,
    database: sqlalchemy.URL | None = None,
) -> Iterator[LiveScheduler]:
    """A scheduler until the block ends."""
    stream = io.StringIO()
    certificate = own_certificate(folder, NOW)
    store = Store.open(database or queue_file(folder / "queue.sqlite"))
    options: dict[str, Any] = {"limits": limits, "clock": clock}
    server = start_server(
        Roster(agreements),
        store,
        certificate,
        Address("127.0.0.1", port),
        open_log(stream),
        **options,
    )
    live = LiveScheduler(server, store, certificate, stream)
    try:
        with live.clients:
            yield live
    finally:
        server.stop()
        store.close()
