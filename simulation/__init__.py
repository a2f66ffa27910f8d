"""An attestation hierarchy in software: the same formats, the same verifier, another root.

    intel = Intel.create(at)        # simulation.intel: in memory, everything alterable
    ratls simulation new DIR        # simulation.cli: on disk, for people

For trying ratls without SGX, and for its tests. It protects nothing, is a distribution of its
own, and is absent from the production wheel; `simulation.lock` is all that production can see.
How it is made: docs/dcap.md 7.
"""
