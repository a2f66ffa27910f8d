"""The `ratls` command, but for an enclave that may hold more bytes than its limit, which is fixed.

python -m benchmarks.transfer.enclave BYTES enclave serve …
"""

from __future__ import annotations

import sys
from functools import partial

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC

from enclave_app.application import Enclave  # noqa: E402
from enclave_app.limits import Limits  # noqa: E402
from ratls.cli import main  # noqa: E402

if __name__ == "__main__":
    room = int(sys.argv.pop(1))
    limits = Limits(held_bytes=room, party_bytes=room)
    Enclave.start = partial(Enclave.start, limits=limits)  # type: ignore[method-assign]
    main()
