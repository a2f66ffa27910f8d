"""Byte strings that must not change places, each a type of its own; parsing checks their sizes."""

from __future__ import annotations

from typing import NewType

Digest = NewType("Digest", bytes)  #      32: SHA-256 of a policy, a payload, rows or a line
Nonce = NewType("Nonce", bytes)  #        32: chosen by the side that asks
Instance = NewType("Instance", bytes)  #  16: one start of an enclave
