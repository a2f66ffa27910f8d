"""Each rule for revocation lists by itself: what is odd but harmless, and what only looks so."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from simulation import der
from simulation.certificates import CrlForm, Extension
from tests.support.refusal import refused
from tests.verifier.world import world
from verifier import Collateral
from verifier.certificate import signed_parts
from verifier.errors import CrlMalformed

W = world()
HEAD, FOOT = "-----BEGIN X509 CRL-----", "-----END X509 CRL-----"
CrlHook = Callable[[CrlForm], CrlForm]


def stored(write: Callable[[bytes], str]) -> Collateral:
    return W.collateral(bundle=lambda b: {**b, "pck_crl": write(bytes.fromhex(b["pck_crl"]))})


@pytest.mark.parametrize(
    ("head", "foot"),
    [("-----BEGIN X509 ARL-----", FOOT), (HEAD, "-----END X509 ARL-----")],
    ids=["head", "foot"],
)
def test_list_between_other_lines_is_no_pem(head: str, foot: str) -> None:
    """Cut off by length alone, any line would do, and two readers would see two texts."""

    def pem(raw: bytes) -> str:
        return f"{head}\n{base64.b64encode(raw).decode()}\n{foot}"

    with refused(CrlMalformed, check="pck-crl"):
        W.verify(collateral=stored(pem))
    head, foot = HEAD, FOOT
    W.verify(collateral=stored(pem))


def keep(value: Any, *, critical: bool) -> CrlHook:
    return lambda form: form.extended(value, critical=critical)


@pytest.mark.parametrize(
    "hook",
    [
        pytest.param(keep(Extension("1.2.3.4", b"\x05\x00"), critical=False), id="unknown"),
        pytest.param(keep(x509.CRLNumber(7), critical=True), id="number-critical"),
        pytest.param(
            keep(
                x509.AuthorityKeyIdentifier(W.platform.ca.key_identifier, None, None), critical=True
            ),
            id="authority-critical",
        ),
    ],
)
def test_extensions_that_take_nothing_away_are_no_obstacle(hook: CrlHook) -> None:
    """Twin: only what is critical and unknown says that the list means something else."""
    W.verify(collateral=W.collateral(pck_crl=hook))


def test_signature_with_unused_bits_is_another_spelling() -> None:
    """One bit less on the wire, the same number: two texts under one signature."""
    for number in range(64):
        raw = bytes.fromhex(
            W.collateral(pck_crl=keep(x509.CRLNumber(number), critical=False)).pck_crl.decode()
        )
        tbs, signature = signed_parts(raw)
        if signature[-1] & 1 == 0:
            break
    algorithm = raw[len(raw) - len(der.bit_string(signature)) - 12 :][:12]
    assert der.sequence(tbs.raw, algorithm, der.tlv(3, b"\0", signature)) == raw
    W.verify(collateral=replace(W.collateral(), pck_crl=raw))
    other = der.sequence(tbs.raw, algorithm, der.tlv(3, b"\1", signature))
    with refused(CrlMalformed, check="pck-crl"):
        W.verify(collateral=replace(W.collateral(), pck_crl=other))
