"""Is this machine ready to run an enclave, to provide rows, or to verify quotes?

    snapshot = live_snapshot(services=[], trust=system_trust(None), seconds=5, configured=True)
    findings = examine(snapshot, Role.ENCLAVE)

To read in order: `snapshot` (what is looked at), `gather` and `live` (how, with a deadline),
`finding`, then what is found: `processor`, `sgx_machine`, `sgx_service`, `tdx_guest`,
`everywhere`; `examine` puts it together, and `copy` writes a snapshot for somebody else. It never
needs root, changes nothing, and keeps of a file only an excerpt, with no secret in it.
"""
