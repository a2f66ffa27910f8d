"""Who is who: from the certificate alone."""

from __future__ import annotations

import pytest

from enclave_app.access import (
    ChannelIdentityShared,
    CollectNotAuthorized,
    PeerUnknown,
    ReleaseNotAuthorized,
    ServerWouldNotAuthenticate,
    client_roots,
    identify,
    require_collect,
    require_release,
)
from policy.channel import ChannelCertificate
from policy.sections import Party
from tests.support.parties import AT, Consortium, local_party
from tests.support.refusal import refused

POLICY = Consortium.create(operator=True).policy()
ALICE, BOB, CAROL = POLICY.party[:3]
TRAIN = POLICY.computation[0]


def certificate(name: str, copy: int = 0) -> ChannelCertificate:
    return local_party(name, AT, copy).public.channel_certificate


def shown(*certificates: ChannelCertificate) -> dict[str, list[bytes]]:
    """As gRPC tells a handler."""
    pem = [certificate.pem.encode() for certificate in certificates]
    return {"transport_security_type": [b"ssl"], "x509_pem_cert": pem}


@pytest.mark.parametrize("party", [ALICE, BOB, CAROL], ids=lambda p: p.id)
def test_a_party_is_its_certificate(party: Party) -> None:
    assert identify(POLICY, shown(party.channel_certificate)) is party


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"x509_pem_cert": []},
        {"x509_pem_cert": [b""]},
        {"x509_pem_cert": [b"\xff\xfe"]},
        {"x509_pem_cert": [ALICE.channel_certificate.pem.encode() + b"\n"]},
        {"x509_subject_alternative_name": [b"urn:ratls:party:alice-clinic"]},
        shown(certificate("alice-clinic", copy=1)),
        shown(certificate("dora-lab")),
        shown(ALICE.channel_certificate, BOB.channel_certificate),
        shown(ALICE.channel_certificate, ALICE.channel_certificate),
        shown(POLICY.party[3].channel_certificate),
    ],
    ids=[
        "nothing",
        "no-certificate",
        "empty",
        "no-text",
        "one-byte-more",
        "the-name-alone",
        "the-same-name",
        "a-stranger",
        "two",
        "twice",
        "operator",
    ],
)
def test_certificates_that_are_nobodys(context: dict[str, list[bytes]]) -> None:
    """I04, I05: a name is not looked at: the very certificate of the policy is a party, and
    nothing like it; whoever only runs machines is nobody here."""
    with refused(PeerUnknown):
        identify(POLICY, context)


def test_servers_believe_exactly_the_listed_certificates() -> None:
    one, two = certificate("alice-clinic"), certificate("bob-hospital")
    assert client_roots([one, two]) == (one.pem + two.pem).encode()


def test_a_server_that_would_ask_nobody() -> None:
    """I02: without roots a Flight server asks for no certificate, and serves anonymous peers."""
    with refused(ServerWouldNotAuthenticate):
        client_roots([])


@pytest.mark.parametrize(
    "second", [("alice-clinic", 0), ("alice-clinic", 1)], ids=["same-key", "same-name"]
)
def test_two_clients_that_could_not_be_told_apart(second: tuple[str, int]) -> None:
    """I05: logs and policies have names, handshakes have keys."""
    with refused(ChannelIdentityShared):
        client_roots([certificate("alice-clinic"), certificate(*second)])


def test_owner_releases_and_recipient_collects() -> None:
    assert require_release(POLICY, ALICE, TRAIN, "train_party_1").owner == "alice-clinic"
    require_collect(CAROL, TRAIN)


@pytest.mark.parametrize("dataset", ["train_party_2", "nothing"])
def test_others_do_not_release(dataset: str) -> None:
    with refused(ReleaseNotAuthorized):
        require_release(POLICY, ALICE, TRAIN, dataset)


def test_own_dataset_that_is_no_input_of_the_task() -> None:
    """D02: the task decides which rows are asked for, not the provider's zeal."""
    narrow = TRAIN.model_copy(update={"inputs": ("train_party_2",)})
    with refused(ReleaseNotAuthorized):
        require_release(POLICY, ALICE, narrow, "train_party_1")


def test_others_do_not_collect() -> None:
    with refused(CollectNotAuthorized):
        require_collect(ALICE, TRAIN)
