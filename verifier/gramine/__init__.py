"""What Gramine 1.9 measures and signs, recomputed: manifest, MRENCLAVE, SIGSTRUCT.

Pure: bytes in, values, findings or refusals out. Nothing here runs inside an enclave.
"""
