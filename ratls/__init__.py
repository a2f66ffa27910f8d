"""Does this connection end in the agreed enclave, and is it that enclave now?

    address = Address.parse("127.0.0.1:7443").resolve()
    admitted = appraise_certificate(probe(address, 10), expectation, at=now)
    with open_exchange(Kind.RELEASE, address, admitted, identity, task=task, ...) as exchange:
        exchange.begin(schema)  # rows may follow: the enclave has proved itself on this very RPC

Read in this order: `certificate` and `claims` (what an enclave says about itself), `evidence`
(what its quote commits to), `appraise` (the chain of checks), `probe` and `pin` (to whom one
talks), `stream` (the challenge and the rows, in one call), `offline` (receipts, years later).
Rows have no meaning here, and a task is 32 bytes.
"""
