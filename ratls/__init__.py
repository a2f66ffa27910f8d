"""Does this connection end in the agreed enclave, and is it that enclave now?

    address, shown = probe_name(Address.parse("enclave.example:7443"), timeout=10)
    admitted = appraise_certificate(shown, expectation, at=now)
    with open_exchange(Kind.RELEASE, address, admitted, identity, **asked) as exchange:
        # Rows may follow: the enclave has proved itself on this very RPC.
        exchange.open(transcript, salt, schema_digest)
        exchange.send_sealed(batch.serialize(), batch.num_rows, last=True)
        exchange.commit(envelope)

What it proves, and in which order: docs/channel.md 1 and 5. Read in this order: `certificate` and
`claims` (what an enclave says about itself), `evidence` (what its quote commits to), `appraise`
(the chain of checks), `probe` and `pin` (to whom one talks), `framing`, `client_stream` and
`server_stream` (the challenge and the rows, in one call), `offline` (receipts, years later). Rows
have no meaning here, and a task is 32 bytes.
"""

from ratls.grpc_environment import before_grpc

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: ratls"

# gRPC reads its environment while it is loaded, and modules of this package load it.
before_grpc()
