"""`ratls verify server` and `ratls collateral fetch --enclave`, whatever the enclave speaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratls.appraise import presented_quote
from ratls.cli_collateral import _shown_quote
from ratls.cli_verify import app
from tests.ratls.test_cli_tunnel import Desk
from tests.support.flight_peers import NOW, Study
from tests.support.refusal import count_refusal
from tests.support.transports import (
    GRPC,
    HTTP,
    OWN_FLIGHT,
    SOCKETS,
    TUNNEL,
    Served,
    Transport,
    answering,
)
from tests.support.typed import typed
from verifier.errors import Exit

pytestmark = pytest.mark.slow
ANY = pytest.mark.parametrize(
    "transport", [SOCKETS, HTTP, TUNNEL, GRPC, OWN_FLIGHT], ids=lambda t: t.name
)


@pytest.fixture(scope="module")
def desk(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk.of(study, tmp_path_factory.mktemp("desk"))


def verified(desk: Desk, served: Served, status: int = Exit.YES) -> dict[str, Any]:
    files = {n: desk.folder / f"{n}.json" for n in ("agreement", "collateral")}
    own = {"party": desk.study.parties.alice.folder, "passphrase-file": desk.folder / "passphrase"}
    given = files | own | {"state": desk.folder / "state", "timeout": 600}
    words = [word for n, v in given.items() for word in (f"--{n}", str(v))]
    result = typed(
        app, ["server", str(served.address), *words, "--json", "--allow-simulation"], status
    )
    told: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return told


@ANY
def test_an_enclave_proves_itself_to_a_party_that_asks(
    desk: Desk, study: Study, transport: Transport
) -> None:
    with transport.serve(study) as served:
        told = verified(desk, served)
        assert told["fresh"] is True
        assert told["instance"] == served.identity.instance.hex()
        der = served.identity.certificate_der
        assert _shown_quote(str(served.address), 600) == presented_quote(der, at=NOW)
    assert not served.heard


@ANY
def test_an_enclave_whose_proof_is_of_another_one(
    desk: Desk, study: Study, transport: Transport
) -> None:
    """B18: the certificate is genuine, and who shows it has a proof of another start."""
    count_refusal()
    identity = answering(study.identity(), study.identity().answer_challenge)  # type: ignore[arg-type]
    with transport.serve(study, identity) as served:
        assert verified(desk, served, Exit.NOT_GENUINE)["error"]["code"] == "key-unbound"
