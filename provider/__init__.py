"""What may leave a party, and did it arrive? Rows are released here, tasks asked, results fetched.

    done = release(request, "train_party_1", Path("rows.parquet"))   # provider.release
    done.commit.rows                                                # acknowledged by the enclave

`release` and `collect` are the two ways out; `journal` remembers both, and each refusal.
"""
