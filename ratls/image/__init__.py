"""The folder that a manifest names, made from two locks and a list, the same to the last byte.

`build` is where to start reading. No module of this package is part of the enclave.
"""
