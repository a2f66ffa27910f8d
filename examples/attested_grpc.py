"""A call of a gRPC service inside the agreed enclave, which proves itself on the connection first.

python examples/attested_grpc.py HOST:PORT /package.Service/Method TEXT agreement.json
    PARTY_FOLDER collateral.json PASSPHRASE_FILE [--allow-simulation]
"""

import sys

import ratls
from ratls.address import Address
from ratls.grpc import channel

where, method, text, policy, party, collateral, passphrase, *simulated = sys.argv[1:]
own, verifier = ratls.own_end(
    policy=policy,
    party=party,
    collateral=collateral,
    passphrase_file=passphrase,
    allow_simulation=simulated == ["--allow-simulation"],
)
with channel(Address.parse(where), own, verifier) as attested:
    # With generated code this line is `stub = GreeterStub(attested)`; bytes need none.
    print(attested.unary_unary(method)(text.encode(), timeout=10).decode())
