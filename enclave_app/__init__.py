"""The enclave: rows come in from their owners, one agreed computation runs, its result goes out.

    enclave = Enclave.start(agreement, attester, log=log)          # application
    server = start_server(enclave, listen_address("127.0.0.1:0"), log)

Read in the order of a release: `server` (who connects), `access` (what it may), `application`
and `receive` (the exchange), `intake` (rows), `session` (what counts, once), `compute`,
`computations` and `release` (what leaves). All of it is measured.
"""
