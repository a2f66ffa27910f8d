"""Does this connection end in the agreed enclave, and is it that enclave now?

    address, shown = probe_name(Address.parse("enclave.example:7443"), timeout=10)
    admitted = appraise_certificate(shown, expectation, at=now)
    with open_exchange(Kind.RELEASE, address, admitted, identity, **asked) as exchange:
        exchange.open(transcript, salt, schema_digest)  # it has proved itself on this very RPC
        exchange.send_sealed(batch.serialize(), batch.num_rows, last=True)
        exchange.commit(envelope)

What it proves, and in which order: docs/channel.md 1 and 5. Read in this order: `certificate` and
`claims` (what an enclave says about itself), `evidence` (what its quote commits to), `appraise`
(the chain of checks), `probe` and `pin` (to whom one talks), `framing`, `client_stream` and
`server_stream` (the challenge and the rows, in one call), `offline` (receipts, years later). Rows
have no meaning here, and a task is 32 bytes.
"""
