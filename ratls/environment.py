"""Prepares the process for its first TLS connection.

    prepare_process()   # servers and pinned clients call it before they connect

gRPC takes TLS versions and tracing from the environment and from nowhere else, and reads it while
it is loaded.
"""

from __future__ import annotations

import os

from ratls.grpc_environment import QUIET, TLS13_ONLY, late
from ratls.memory import keep_freed_memory
from verifier.errors import ConfigError

# Each writes session keys, or what is sent, to a file or to stderr.
_LEAKING = ("SSLKEYLOGFILE", "GRPC_TRACE")
# Of gRPC's verbosities, those that show errors alone: often set for other programs, and harmless.
# INFO and DEBUG show what is sent; what an unknown word shows is unknown too.
_HARMLESS = frozenset({"none", "error"})


class EnvironmentUnsafe(ConfigError):
    """An environment variable would write keys or traffic to a log."""

    code = "environment-unsafe"
    default_fix = "unset the variable and start again"


def prepare_process() -> None:
    """Refuse an environment that logs traffic, and a gRPC that was loaded too early.

    Raises:
        EnvironmentUnsafe: A variable is set that would leak keys or rows; or the program loaded
            gRPC before `ratls`, and TLS 1.2 is on.
    """
    for name in _LEAKING:
        if name in os.environ:
            raise EnvironmentUnsafe("environment", expected=f"no {name}", found="it is set")
    if os.environ.get(QUIET[0], "none").lower() not in _HARMLESS:
        raise EnvironmentUnsafe(
            "environment", expected=f"{QUIET[0]} unset, NONE or ERROR", found="another value"
        )
    if late:
        raise EnvironmentUnsafe(
            "gRPC",
            expected=f"loaded under {TLS13_ONLY[0]}={TLS13_ONLY[1]}",
            found="loaded without it",
            fix="import ratls before grpc, or set the variable before the program starts",
        )
    os.environ.update([TLS13_ONLY, QUIET])
    keep_freed_memory()
