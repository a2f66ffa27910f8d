"""Prepares the process for its first TLS connection.

    prepare_process()   # servers and pinned clients call it before they connect

gRPC takes TLS versions and tracing from the environment and from nowhere else, and reads it while
it is loaded.
"""

from __future__ import annotations

import os
import sys

from ratls.memory import keep_freed_memory
from verifier.errors import ConfigError

# With an EC certificate this leaves TLS 1.3 only, at both ends (docs/flight.md 1.4): the one cipher
# allowed for TLS 1.2 needs an RSA certificate (RFC 5289, section 3.2), and TLS 1.3 has its ciphers
# in another list (RFC 8446, appendix B.4).
_TLS13_ONLY = ("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")
# gRPC's own log: it would mix the peer's words with ours.
_QUIET = ("GRPC_VERBOSITY", "NONE")
# Each writes session keys, or what is sent, to a file or to stderr.
_LEAKING = ("SSLKEYLOGFILE", "GRPC_TRACE")
# Of gRPC's verbosities, those that show errors alone: often set for other programs, and harmless.
# INFO and DEBUG show what is sent; what an unknown word shows is unknown too.
_HARMLESS = frozenset({"none", "error"})


_late: list[str] = []  # variables that gRPC had read otherwise before we were asked


class EnvironmentUnsafe(ConfigError):
    """An environment variable would write keys or traffic to a log."""

    code = "environment-unsafe"
    default_fix = "unset the variable and start again"


def before_grpc() -> None:
    """Leave gRPC nothing but TLS 1.3, and silent. Called where this package is imported."""
    name, value = _TLS13_ONLY
    if "grpc" in sys.modules and os.environ.get(name) != value:
        _late.append(name)
    os.environ[name] = value
    os.environ.setdefault(*_QUIET)


def prepare_process() -> None:
    """Refuse an environment that logs traffic, and a gRPC that was loaded too early.

    Raises:
        EnvironmentUnsafe: A variable is set that would leak keys or rows; or the program loaded
            gRPC before `ratls`, and TLS 1.2 is on.
    """
    for name in _LEAKING:
        if name in os.environ:
            raise EnvironmentUnsafe("environment", expected=f"no {name}", found="it is set")
    if os.environ.get(_QUIET[0], "none").lower() not in _HARMLESS:
        raise EnvironmentUnsafe(
            "environment", expected=f"{_QUIET[0]} unset, NONE or ERROR", found="another value"
        )
    if _late:
        raise EnvironmentUnsafe(
            "gRPC",
            expected=f"loaded under {_TLS13_ONLY[0]}={_TLS13_ONLY[1]}",
            found="loaded without it",
            fix="import ratls before grpc, or set the variable before the program starts",
        )
    os.environ.update([_TLS13_ONLY, _QUIET])
    keep_freed_memory()
