"""The kinds of platform that the SGX extension can name: these three, and no fourth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.refusal import refused
from tests.verifier.world import world
from verifier.errors import PckExtensionMalformed

KINDS = ["Standard", "Scalable", "ScalableWithIntegrity"]


@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS)))
def test_kind_of_platform_is_named(number: int, kind: str) -> None:
    other = world().with_platform(sgx=lambda e: replace(e, sgx_type=number).encode())
    assert other.verify().platform.sgx_type == kind


@pytest.mark.parametrize("number", [3, 255, -1])
def test_platform_is_of_no_kind_that_is_known(number: int) -> None:
    other = world().with_platform(sgx=lambda e: replace(e, sgx_type=number).encode())
    with refused(PckExtensionMalformed, check="pck-chain"):
        other.verify()
