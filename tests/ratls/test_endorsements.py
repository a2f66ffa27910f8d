"""Collateral in the certificate: no network is needed, and no floor is lowered for it."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.application import Enclave
from policy.admission import CollateralTooOld, EvaluationNumberTooLow
from policy.document import digest_text
from ratls import cbor
from ratls.appraise import Expectation, appraise_certificate
from ratls.certificate import build_certificate
from ratls.cli_verify import app
from ratls.endorsements import (
    EndorsementsMalformed,
    EndorsementsMissing,
    encode_endorsements,
    parse_endorsements,
    stapled_collateral,
)
from ratls.identity import EnclaveIdentity
from ratls.log import open_log
from tests.support.enclave import EnclaveWorld
from tests.support.flight_peers import NOW, PlatformAttester, Study, tls_server
from tests.support.refusal import refused
from tests.support.typed import typed
from verifier.collateral import Collateral, TcbInfoSignatureInvalid
from verifier.errors import RatlsError


def stapling(study: Study, collateral: Collateral) -> EnclaveIdentity:
    """A start of the agreed enclave that staples this bundle."""
    return EnclaveIdentity.create(
        PlatformAttester(study.world.platform),
        study.policy.digest,
        at=NOW,
        endorsements=encode_endorsements(collateral),
    )


def judged(study: Study, identity: EnclaveIdentity) -> None:
    """By a client that has nothing but the certificate and its own policy."""
    brought = stapled_collateral(identity.certificate_der)
    held = Expectation(study.policy, brought, study.world.intel.anchors())
    appraise_certificate(identity.certificate_der, held, at=NOW)


def test_a_client_without_a_network_decides_from_what_is_stapled(study: Study) -> None:
    bundle = study.world.collateral()
    identity = stapling(study, bundle)
    assert stapled_collateral(identity.certificate_der) == bundle
    judged(study, identity)


def test_collateral_that_is_older_than_the_policy_accepts(study: Study) -> None:
    """T09: the server chooses what it staples; old documents are signed as well as new ones."""
    fresh = study.world.intel.collateral(study.world.platform)
    old = study.world.intel.collateral(
        study.world.platform, tcb_info=lambda t: t | {"issueDate": _text(NOW - timedelta(days=31))}
    )
    with refused(CollateralTooOld):
        judged(study, stapling(study, Collateral.parse(old)))
    judged(study, stapling(study, Collateral.parse(fresh)))


def test_an_edition_below_the_policys_number(study: Study) -> None:
    """What is stapled is held to the floors of the policy; the same bundle under a lower floor."""
    number = "min_tcb_evaluation_data_number = "
    for floor in ("1", "65000"):
        stricter = study.parties.policy(replace=[(f"{number}1", number + floor)])
        strict = replace(study, policy=stricter)
        identity = stapling(strict, study.world.collateral())
        if floor == "1":
            judged(strict, identity)
        else:
            with refused(EvaluationNumberTooLow):
                judged(strict, identity)


def test_a_server_that_makes_its_own_collateral(study: Study) -> None:
    """Nothing vouches for the extension but Intel's signatures inside it."""
    bundle = study.world.collateral()
    forged = replace(bundle, tcb_info=bundle.tcb_info.replace("UpToDate", "SWHardeningNeeded", 1))
    with refused(TcbInfoSignatureInvalid):
        judged(study, stapling(study, forged))


def test_a_server_that_staples_none(study: Study) -> None:
    with refused(EndorsementsMissing):
        stapled_collateral(study.identity().certificate_der)


# The form.


def parts(study: Study) -> list[Any]:
    item = cbor.decode(encode_endorsements(study.world.collateral()))
    assert isinstance(item, cbor.Tagged)
    return list(item.value)


def test_the_two_ways_to_write_the_version_and_the_eighth_part(study: Study) -> None:
    """One producer writes it in five bytes, and an instant at the end (channel.md 3.6)."""
    made = parts(study)
    short = cbor.encode(cbor.Tagged(60000, made))
    assert short[:5] == bytes.fromhex("d9ea608801")
    expected = parse_endorsements(short)
    assert parse_endorsements(short[:4] + bytes.fromhex("1a00000001") + short[5:]) == expected
    dated = cbor.encode(cbor.Tagged(60000, [*made, b"2026-11-29T00:00:00Z\0"]))
    assert parse_endorsements(dated) == expected
    with_nuls = [made[0], *(p + b"\0" if p[:1] in b"{-" else p for p in made[1:])]
    assert parse_endorsements(cbor.encode(cbor.Tagged(60000, with_nuls))) == expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: cbor.encode(cbor.Tagged(60001, p)),
        lambda p: cbor.encode(p),
        lambda p: cbor.encode(cbor.Tagged(60000, [2, *p[1:]])),
        lambda p: cbor.encode(cbor.Tagged(60000, p[:-1])),
        lambda p: cbor.encode(cbor.Tagged(60000, [*p, b"", b""])),
        lambda p: cbor.encode(cbor.Tagged(60000, [p[0], 5, *p[2:]])),
        lambda p: cbor.encode(cbor.Tagged(60000, [])),
        lambda p: cbor.encode(cbor.Tagged(60000, p)) + b"\0",
        lambda p: cbor.encode(cbor.Tagged(60000, [*p[:3], b"", *p[4:]])),
        lambda p: cbor.encode(cbor.Tagged(60000, [p[0], b"{}", *p[2:]])),
        lambda p: cbor.encode(cbor.Tagged(60000, [*p[:2], p[2] + p[2], *p[3:]])),
        lambda p: cbor.encode(cbor.Tagged(60000, [*p[:2], b"\xff", *p[3:]])),
        lambda p: bytes(100_000),
        lambda p: b"",
    ],
)
def test_another_form(study: Study, spoil: Any) -> None:
    with refused(EndorsementsMalformed):
        parse_endorsements(spoil(parts(study)))


def test_a_bundle_that_no_certificate_holds(study: Study) -> None:
    large = replace(study.world.collateral(), tcb_info=" " * 60_000)
    with refused(EndorsementsMalformed):
        encode_endorsements(large)


@given(raw=st.binary(max_size=200), place=st.integers(0, 8000), change=st.integers(1, 255))
def test_any_bytes_are_collateral_or_a_refusal(
    study: Study, raw: bytes, place: int, change: int
) -> None:
    seed = bytearray(encode_endorsements(study.world.collateral()))
    seed[place % len(seed)] ^= change
    for data in (raw, bytes(seed)):
        with suppress(RatlsError):
            parse_endorsements(data)


def test_real_bundles_fit_into_a_certificate(vectors: Path) -> None:
    """Every published one, of enclaves and of trust domains."""
    key = ec.generate_private_key(ec.SECP256R1())
    for path in sorted((vectors / "collateral").glob("*.json")):
        with suppress(RatlsError):  # a corrupted one is among them
            bundle = Collateral.parse(path.read_bytes())
            value = encode_endorsements(bundle)
            made = build_certificate(key, bytes(5000), bytes(16), 1, NOW, value)
            again = stapled_collateral(made.public_bytes(Encoding.DER))
            assert (again.tcb_info, again.qe_identity) == (bundle.tcb_info, bundle.qe_identity)


def test_an_enclave_staples_what_its_operator_names() -> None:
    """The bundle comes from the host: nothing rests on it but Intel's signatures inside."""
    world = EnclaveWorld.create()
    bundle = Collateral.parse(world.collateral)
    for value in (encode_endorsements(bundle), b""):
        enclave = Enclave.start(
            world.complete, world.attester, log=open_log(io.StringIO()), endorsements=value
        )
        try:
            der = enclave.identity.certificate_der
            if value:
                held = replace(world.expectation, collateral=stapled_collateral(der))
                appraise_certificate(der, held, at=NOW)
            else:
                with refused(EndorsementsMissing):
                    stapled_collateral(der)
        finally:
            enclave.stop()


# As it is typed.


def test_verify_server_without_a_bundle(study: Study, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    agreement = tmp_path / "agreed.json"
    agreement.write_bytes(study.parties.agreement_bytes(study.policy.raw.decode()))
    known = ["--agreement", agreement, "--digest", digest_text(study.policy.digest), "--stapled"]
    known += ["--certificate-only", "--state", tmp_path / "state", "--allow-simulation", "--json"]
    for identity, status in (
        (stapling(study, study.world.collateral()), 0),
        (study.identity(), 5),
    ):
        key: Any = load_pem_private_key(identity.key_pem, None)
        certificate = x509.load_der_x509_certificate(identity.certificate_der)
        with tls_server([certificate], key) as server:
            told = typed(app, ["server", server.address, *known], status).stdout
        found = json.loads(told.splitlines()[-1])
        error = found.get("error") or {}
        assert error.get("code") == (None if status == 0 else "endorsements-missing")
    typed(app, ["server", "127.0.0.1:1", *known, "--collateral", tmp_path / "c"], 2)


def _text(instant: Any) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
