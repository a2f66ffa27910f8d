"""What an operator of an enclave writes into the values of its chart."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from typing import Any

import pytest

from policy.document import digest_text
from tests.support.parties import Consortium

IMAGE = "example.org/ratls/enclave@sha256:" + "ab" * 32
AESMD = "example.org:5000/aesmd@sha256:" + "cd" * 32


@pytest.fixture(scope="session")
def agreement() -> str:
    return Consortium.create(root="intel").agreement_bytes().decode()


@pytest.fixture(scope="session")
def values(agreement: str) -> dict[str, Any]:
    """What an operator writes, and nothing more."""
    payload = b64decode(json.loads(agreement)["versions"][-1]["payload"])
    return {
        "image": IMAGE,
        "policyDigest": digest_text(sha256(payload).digest()),
        "agreement": agreement,
        "clients": ["192.0.2.0/24", "198.51.100.17/32"],
        "collateral": {"host": "pccs.example.org", "address": "203.0.113.7", "port": 8081},
        "aesmd": {"image": AESMD},
    }
