"""What an operator of an enclave writes into the values of its chart."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import pytest

from policy.document import digest_text
from tests.support.charts import ABSENT, change
from tests.support.parties import Consortium

IMAGE = "example.org/ratls/enclave@sha256:" + "ab" * 32
TDX = {"tee": "tdx", "aesmd": ABSENT, "tdx": {"reports": "tsm-reports"}}
AESMD = "example.org:5000/aesmd@sha256:" + "cd" * 32


def agreed(world: Consortium, text: str | None = None) -> dict[str, str]:
    """The two values that name a policy."""
    agreement = world.agreement_bytes(text).decode()
    payload = b64decode(json.loads(agreement)["versions"][-1]["payload"])
    return {"agreement": agreement, "policyDigest": digest_text(sha256(payload).digest())}


@pytest.fixture(scope="session")
def production() -> Consortium:
    """Parties that believe Intel alone."""
    return Consortium.create(root="intel")


@pytest.fixture(scope="session")
def values(production: Consortium) -> dict[str, Any]:
    """What an operator writes, and nothing more."""
    return agreed(production) | {
        "image": IMAGE,
        "clients": ["192.0.2.0/24", "198.51.100.17/32"],
        "collateral": {"host": "pccs.example.org", "address": "203.0.113.7", "port": 8081},
        "aesmd": {"image": AESMD},
    }


@pytest.fixture(scope="session")
def of_a_guest(values: dict[str, Any], production: Consortium) -> dict[str, Any]:
    """The chart reads of the policy only of what kind its enclaves are."""
    file = json.loads(values["agreement"])
    text = production.policy_text([('tee = "sgx"', 'tee = "tdx"')]).encode()
    file["versions"][-1]["payload"] = b64encode(text).decode()
    named = {"agreement": json.dumps(file), "policyDigest": digest_text(sha256(text).digest())}
    return change(values, TDX | named)
