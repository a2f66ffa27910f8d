"""What gRPC finds in its environment: it reads TLS versions and logging there, once, while it is
loaded.

    before_grpc()   # `ratls` calls it when it is imported

Imports nothing of ours: it runs before anything else of this package.
"""

from __future__ import annotations

import os
import sys

# With an EC certificate this leaves TLS 1.3 only, at both ends (docs/flight.md 1.4): the one cipher
# allowed for TLS 1.2 needs an RSA certificate (RFC 5289, section 3.2), and TLS 1.3 has its ciphers
# in another list (RFC 8446, appendix B.4).
TLS13_ONLY = ("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")
# gRPC's own log: it would mix the peer's words with ours.
QUIET = ("GRPC_VERBOSITY", "NONE")
late: list[str] = []  # variables that gRPC had read otherwise before we were asked


def before_grpc() -> None:
    """Leave gRPC nothing but TLS 1.3, and silent. Called where this package is imported."""
    name, value = TLS13_ONLY
    if "grpc" in sys.modules and os.environ.get(name) != value:
        late.append(name)
    os.environ[name] = value
    os.environ.setdefault(*QUIET)
