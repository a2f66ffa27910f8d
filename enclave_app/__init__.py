"""The enclave receives rows from their owners, runs an agreed computation, and sends its result.

    enclave = Enclave.start(agreement, attester, log=log)          # application
    server = start_server(enclave, listen_address("127.0.0.1:0"), log)

Read in the order of a release: `server` (who connects), `access` (what it may), `answer` and
`receive` (the exchange), `intake` (rows), `session` (what counts, once), `application` (one start,
and when it computes), `compute`, `computations` and `gate` (what may leave), `collect` (who
gets it). All of it is measured.
"""

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: enclave_app"
