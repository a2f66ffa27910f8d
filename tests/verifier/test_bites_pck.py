"""The SGX extension: the kinds of platform that it can name, and entries that are cut short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation import der
from simulation.pck_extension import OID
from tests.support.refusal import refused
from tests.verifier.world import World, bites, world
from verifier.pck import PckExtensionMalformed

KINDS = ["Standard", "Scalable", "ScalableWithIntegrity"]


def of_kind(number: int) -> World:
    return world().with_platform(sgx=lambda e: replace(e, sgx_type=number).encode())


@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS)))
def test_kind_of_platform_is_named(number: int, kind: str) -> None:
    assert of_kind(number).verify().platform.sgx_type == kind


@pytest.mark.parametrize("number", [3, 255, -1])
def test_platform_is_of_no_kind_that_is_known(number: int) -> None:
    with refused(PckExtensionMalformed, check="pck-chain"):
        of_kind(number).verify()


def element_of(oid: str) -> bytes:
    return der.sequence(der.oid(oid), der.octet_string(bytes(16)))


def with_sixth(entry: bytes) -> World:
    return world().with_platform(
        sgx=lambda e: e.encode(top=lambda elements: [*elements[:5], entry, elements[6]])
    )


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(der.sequence(), id="nothing"),
        pytest.param(der.sequence(der.oid(OID)), id="no-number"),
        pytest.param(der.sequence(der.oid(f"{OID}.6")), id="no-value"),
        pytest.param(der.octet_string(bytes(16)), id="no-pair"),
        pytest.param(element_of(f"{OID[:-1]}2.6"), id="of-another-arc"),
        pytest.param(element_of("1.2.840.113741.1.14.1.6"), id="of-another-arc-further-up"),
    ],
)
def test_entry_is_cut_short_or_of_something_else(entry: bytes) -> None:
    """What is missing must not be looked for behind the end."""
    good, bad = with_sixth(element_of(f"{OID}.6")), with_sixth(entry)
    bites(World.verify, good, bad, PckExtensionMalformed, check="pck-chain")
