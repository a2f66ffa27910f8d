"""What would an Intel and its machines say? The same formats and verifier, another root.

    intel = Intel.create(at)        # simulation.intel: in memory, everything alterable
    ratls simulation new DIR        # simulation.cli: on disk, for people

For trying ratls without SGX, and for its tests. It protects nothing, is a distribution of its
own, and is absent from the production wheel; production code reaches only `simulation.lock`.
How it is made: docs/dcap.md 7.
"""

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: simulation"
