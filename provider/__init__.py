"""Releases rows, signs tasks and fetches results.

    done = release(request, "train_party_1", Path("rows.parquet"))   # provider.release
    done.commit.rows                                                # acknowledged by the enclave

`release` and `collect` do everything; the journal records both, and every refusal.
"""

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: provider"
