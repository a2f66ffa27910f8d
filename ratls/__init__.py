"""Does this connection end in the agreed enclave, and is it that enclave now?

    verified = ratls.verify_quote(raw, bundle, report_data=mine)       # is it genuine, and mine?
    with ratls.connect(address, policy=agreement, party=me, collateral=bundle) as connection:
        connection.sendall(b"question")                                # the enclave proved itself
    done = ratls.Client("ratls.toml").release(task, visits=frame)      # rows, and nothing before

For callers in Python: docs/api.md. What it proves, and in which order: docs/channel.md 1 and 5.
Read in this order: `certificate` and `claims` (what an enclave says about itself), `evidence` (what
its quote commits to), `appraise` (the chain of checks), `probe` and `pin` (to whom one talks),
`framing`, `client_stream` and `server_stream` (the challenge and the rows, in one call), `offline`
(receipts, years later). Rows have no meaning here, and a task is 32 bytes.
"""

from importlib import import_module

from ratls.grpc_environment import before_grpc

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: ratls"

# For callers in Python; types are in `__init__.pyi`. Loaded when asked for: an enclave, and
# `ratls --help`, import this package and need none of it.
_API = "ratls.api"
__all__ = [
    "Address",
    "AttestedSocket",
    "Client",
    "Collateral",
    "EnclaveEnd",
    "Exit",
    "HttpTransport",
    "Listener",
    "RatlsError",
    "ReportDataDiffers",
    "Result",
    "TrustAnchors",
    "VerifiedQuote",
    "connect",
    "enclave_end",
    "own_end",
    "verify_quote",
]

_TRANSPORTS = ("flight", "grpc", "http", "sockets", "tunnel")  # modules

# gRPC reads its environment while it is loaded, and modules of this package load it.
before_grpc()


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(_API), name)
    if name in _TRANSPORTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_TRANSPORTS, *(name for name in globals() if name.endswith("__"))])
