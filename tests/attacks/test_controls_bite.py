"""Each control that the matrix names is taken away, and a test of the matrix must notice.

A stub stands in the control's place and accepts everything. The test is called as it is, which it
passes, and with the stub, which must make it fail. What no test needs is no control.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cbor2
import grpc
import pyarrow as pa
import pytest
import typer

from enclave_app.access import ReleaseNotAuthorized
from policy.document import Policy
from ratls.attested_socket import SocketPeer
from ratls.claims import require_equal
from ratls.cli import build
from ratls.client_stream import ClientExchange
from ratls.server_stream import refusal_status
from ratls.turns import _Peer
from tests.attacks import test_matrix_binding as binding
from tests.attacks import test_matrix_identity as identity
from tests.attacks import test_matrix_operator as operator
from tests.attacks import test_matrix_rows as matrix_rows
from tests.attacks import test_matrix_scheduler as scheduler
from tests.attacks.seat import test_evidence as evidence
from tests.attacks.seat import test_goals as goals
from tests.attacks.seat import test_life as life
from tests.attacks.seat import test_mutual as mutual
from tests.attacks.seat import test_privacy as privacy
from tests.support.transports import FLIGHT, GRPC, SOCKETS
from verifier.modes import anchors_for

pytestmark = pytest.mark.slow

FAILS = (AssertionError, pytest.fail.Exception)


watched = matrix_rows.watched


def accept(*_: Any, **__: Any) -> None:
    """In place of any check."""


def without(*names: str) -> Callable[..., None]:
    """The comparison of claims, which leaves some out."""

    def compare(found: Any, own: dict[str, bytes], spki: bytes) -> None:
        require_equal(found, {n: v for n, v in own.items() if n not in names}, spki)

    return compare


def lenient_map(raw: bytes) -> dict[str, bytes]:
    """As many readers of CBOR: the last of two members counts."""
    return dict(cbor2.loads(raw))


def lenient_rows(message: pa.Buffer, schema: pa.Schema, *, most_rows: int) -> pa.RecordBatch:
    """As Arrow reads them."""
    return pa.ipc.read_record_batch(message, schema)


def anonymous(certificate: Callable[[], tuple[bytes, bytes]], _: Any) -> grpc.ServerCredentials:
    """Credentials of a server that asks for no certificate."""
    pem, key = certificate()
    return grpc.ssl_server_credentials([(key, pem)])


def talkative(refusal: Any, number: str) -> Any:
    """A refusal that says what it found."""
    status, _, details = refusal_status(refusal, number)
    return status, f"{refusal}", details


def joined(certificates: Any) -> bytes:
    """However many."""
    return "".join(certificate.pem for certificate in certificates).encode()


def first_party(policy: Policy, der: bytes) -> SocketPeer:
    """Whoever it is."""
    party = policy.voters[0]
    return SocketPeer(party.channel_certificate.spki_sha256, party.id, None)


def hasty() -> typer.Typer:
    """The commands, with an option that somebody missed."""
    app = build()
    app.command("quick")(lambda insecure=False: None)
    return app


def allowing(root: str, *, allow_simulation: bool) -> Any:
    """As if everybody had allowed it."""
    return anchors_for(root, allow_simulation=True)


def raw_line(fields: Any, **_: Any) -> str:
    """A line as one would write it."""
    text = json.dumps(fields, ensure_ascii=False, default=str)
    for escaped, plain in (("\\r", "\r"), ("\\n", "\n"), ("\\u001b", "\x1b")):
        text = text.replace(escaped, plain)
    return text


@dataclass(frozen=True)
class Control:
    """What is taken away, and the test that needs it."""

    stubs: dict[str, Any]
    test: Callable[..., None]
    given: dict[str, Any] = field(default_factory=dict)


CLAIMS = "ratls.appraise.require_equal"
CONTROLS: dict[str, Control] = {
    # c1: strict parsers
    "c1-claims": Control(
        {"ratls.claims.parse_claim_map": lenient_map},
        binding.test_a_certificate_of_the_attackers_making,
        {"row": "B15"},
    ),
    # c5: platforms
    "c5-machines": Control(
        {"policy.admission._require_machine": lambda *_: "any"},
        binding.test_the_right_code_on_a_machine_of_the_attacker,
    ),
    # c7: what evidence is about
    "c7-report-data": Control(
        {"ratls.evidence.Evidence.require_bound": accept},
        binding.test_a_certificate_of_the_attackers_making,
        {"row": "B02"},
    ),
    "c7-key": Control(
        {"ratls.claims.require_key": accept},
        binding.test_a_certificate_of_the_attackers_making,
        {"row": "B01"},
    ),
    "c7-context": Control(
        {CLAIMS: without("context")},
        binding.test_a_certificate_of_the_attackers_making,
        {"row": "B04"},
    ),
    "c7-role": Control(
        {CLAIMS: without("role")},
        binding.test_a_certificate_of_the_attackers_making,
        {"row": "B17"},
    ),
    "c7-peer": Control(
        {CLAIMS: without("peer-hash")},
        binding.test_an_answer_that_is_not_this_enclaves_to_this_challenge,
        {"row": "B07"},
    ),
    "c7-mutual": Control(
        {"ratls.claims.require_key": accept},
        mutual.test_a_client_that_is_not_the_enclave_it_shows,
        {"attack": "key", "transport": SOCKETS, "holds": "refused"},
    ),
    # c8: nonce, connection, no resumption
    "c8-nonce": Control(
        {CLAIMS: without("nonce")},
        binding.test_an_answer_that_is_not_this_enclaves_to_this_challenge,
        {"row": "B06"},
    ),
    "c8-exporter": Control(
        {"ratls.socket_session.binder": lambda *_: bytes(32)},
        evidence.test_a_challenge_that_a_thief_forwards_to_the_enclave,
        {"transport": SOCKETS, "holds": "refused"},
    ),
    "c8-sealing-key": Control(
        {CLAIMS: without("sealing-key-hash")},
        binding.test_an_answer_that_is_not_this_enclaves_to_this_challenge,
        {"row": "B08"},
    ),
    "c8-instance": Control(
        {CLAIMS: without("instance")},
        evidence.test_the_key_in_another_start_of_the_enclave,
        {"transport": FLIGHT, "holds": "refused"},
    ),
    "c8-tls-1.3": Control(
        {
            "OpenSSL.SSL.Context.set_min_proto_version": accept,
            "OpenSSL.SSL.Connection.get_protocol_version_name": lambda _: "TLSv1.3",
        },
        binding.test_a_server_that_speaks_an_older_tls,
    ),
    "c8-proved-connection": Control(
        {"ratls.grpc.Attestation.require_proved": accept},
        life.test_a_saved_session,
        {"transport": GRPC, "holds": "proved anew"},
    ),
    "c8-again": Control(
        {"ratls.session.Renewal.due": False},
        life.test_an_enclave_that_turns_into_something_else,
        {"transport": SOCKETS, "holds": "refused"},
    ),
    "c8-still-admitted": Control(
        {"ratls.session.Session.require_still_admitted": accept},
        life.test_a_platform_that_is_revoked_is_cut_off_within_a_minute,
        {"transport": SOCKETS, "holds": "refused"},
    ),
    # c9: what a policy may say
    "c9-debug": Control(
        {"policy.sections._FLAGS_FIXED": 0x35},
        operator.test_a_policy_that_lets_debug_or_simulation_in,
        {"changed": operator.DEBUG},
    ),
    # c11: who is at the other end
    "c11-mutual-tls": Control(
        {"ratls.flight_server.server_credentials": anonymous},
        identity.test_a_client_without_a_certificate,
    ),
    "c11-listed": Control(
        {"ratls.listener._party": first_party},
        goals.test_each_part_of_a_compound_authentication_is_needed,
        {"transport": SOCKETS, "holds": "holds"},
    ),
    "c11-roots": Control(
        {"enclave_app.server.client_roots": joined},
        operator.test_a_server_that_would_ask_for_no_certificate,
    ),
    "c11-options": Control(
        {"tests.attacks.test_matrix_identity.build": hasty},
        identity.test_no_option_switches_a_check_off,
    ),
    # c12: tasks and authorization
    "c12-signature": Control(
        {"policy.task.Task._require_allowed": accept},
        scheduler.test_a_field_is_changed_under_the_signature,
        {"field": "parameters"},
    ),
    "c12-once": Control(
        {"provider.release.require_unreleased": accept}, scheduler.test_a_used_task_is_shown_again
    ),
    "c12-one-instance": Control(
        {"provider.release.require_instance": accept}, scheduler.test_two_enclaves_on_one_task
    ),
    "c12-owner": Control(
        {"enclave_app.receive.require_release": lambda policy, *_: policy.dataset[0]},
        identity.test_a_certificate_of_another_role,
    ),
    # c13: limits on the wire
    "c13-size": Control(
        {"ratls.framing._require_size": accept}, matrix_rows.test_a_message_that_is_too_large
    ),
    "c13-allowance": Control(
        {"ratls.turns.Turns._pay": lambda *_: (_Peer(), 0.0)},
        privacy.test_a_party_that_asks_for_evidence_without_end,
        {"transport": GRPC, "holds": "an allowance"},
    ),
    "c13-challenges": Control(
        {"ratls.turns.Turns._pay": lambda *_: (_Peer(), 0.0)},
        matrix_rows.test_challenges_without_end,
    ),
    # c14: rows
    "c14-header": Control(
        {"enclave_app.intake.read_batch": lenient_rows},
        matrix_rows.test_rows_that_are_not_what_was_declared,
        {"row": "F04-zstd"},
    ),
    "c14-validation": Control(
        {"policy.rows.BatchCheck.__call__": accept},
        matrix_rows.test_rows_that_are_not_what_was_declared,
        {"row": "F08-nan"},
    ),
    # c16: nothing is computed from a part
    "c16-quorum": Control(
        {"enclave_app.session._Session.missing": ()},
        scheduler.test_the_other_seats_are_filled,
        {"attempt": scheduler.as_the_victim, "recorded": ReleaseNotAuthorized},
    ),
    # c17: what surrounds the process
    "c17-environment": Control(
        {"ratls.environment._LEAKING": ()},
        identity.test_a_variable_that_would_log_what_passes,
        {"name": "SSLKEYLOGFILE"},
    ),
    # c18: simulation apart
    "c18-allowed": Control(
        {"provider.exchange.anchors_for": allowing},
        identity.test_simulated_evidence_where_nobody_allowed_it,
    ),
    # c19: what is said and written
    "c19-wire": Control(
        {"ratls.flight_server.refusal_status": talkative},
        matrix_rows.test_rows_that_are_not_what_was_declared,
        {"row": "F16-cell"},
    ),
    "c19-lines": Control(
        {"ratls.log.json": SimpleNamespace(dumps=raw_line)},
        identity.test_a_name_that_would_be_a_line_of_the_log,
    ),
}


NAMED = {1, 5, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 19}


def test_each_control_of_the_matrix_is_among_them() -> None:
    """Those that the rows of the channel, tasks, parties, rows, modes and logs name."""
    assert {int(name[1:].partition("-")[0]) for name in CONTROLS} == NAMED


@pytest.mark.parametrize("stubbed", [False, True], ids=["as-it-is", "taken-away"])
@pytest.mark.parametrize("name", CONTROLS)
def test_the_control_is_needed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str, stubbed: bool
) -> None:
    control = CONTROLS[name]
    if stubbed:  # before anything of the test is made
        for target, stub in control.stubs.items():
            monkeypatch.setattr(target, stub)
        # An attack that goes on ends at a server that has nothing more to say.
        monkeypatch.setattr("tests.provider.desk.HANG_LIMIT", 1.0)
        monkeypatch.setattr("tests.support.waiting.HANG_LIMIT", 1.0)
        monkeypatch.setattr(matrix_rows, "hear", ClientExchange.received)
    wanted = [n for n in inspect.signature(control.test).parameters if n not in control.given]
    made = {n: request.getfixturevalue(n) for n in wanted}
    if not stubbed:
        control.test(**control.given, **made)
        return
    with pytest.raises(FAILS):
        control.test(**control.given, **made)
