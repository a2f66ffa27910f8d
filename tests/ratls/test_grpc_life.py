"""gRPC calls that last: proved again beside them, cut off for a reason; later certificates."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from ratls import pin
from ratls.address import Address
from ratls.claims import InstanceChanged, KeyUnbound
from ratls.errors import CallFailed, TransportError
from ratls.identity import EnclaveIdentity, Identities
from ratls.session import Verifier
from tests.ratls.test_grpc import Served, attested, one, serving
from tests.ratls.test_sockets import Clock, _past, revoked
from tests.support.flight_peers import LOOPBACK, NOW, Study
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow
MIB = bytes(1 << 20)


class Talk:
    """A call of `Many` that runs: what is said comes back."""

    def __init__(self, made: grpc.Channel) -> None:
        self.said: queue.Queue[bytes | None] = queue.Queue()
        call: Any = made.stream_stream("/user.Echo/Many")
        self.call = call(iter(self.said.get, None), timeout=HANG_LIMIT)

    def say(self, text: bytes) -> bytes:
        self.said.put(text)
        return bytes(next(self.call))

    def end(self) -> None:
        self.said.put(None)


def drift(served: Served) -> Callable[[], None]:
    """From now on another start under the same key; what undoes it."""
    identity = served.attestation.identities.current
    claims = identity._claims
    identity._claims = replace(claims, instance=b"o" * 16)  # type: ignore[arg-type]

    def undo() -> None:
        identity._claims = claims

    return undo


def test_a_stream_that_runs_is_proved_again_beside_it(study: Study, quotes: list[Any]) -> None:
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        talk = Talk(made)
        assert talk.say(b"1") == b"1"
        assert len(quotes) == 1
        clock.passed += 16 * 60
        assert talk.say(b"2") == b"2"
        assert len(quotes) == 2
        clock.passed += 16 * 60
        eventually(lambda: len(quotes) == 3)  # also where nothing is sent
        assert talk.say(b"3") == b"3"
        talk.end()


def test_an_enclave_that_turns_into_another_gets_nothing_more(study: Study) -> None:
    """State drift: the message that is due waits for the proof, and is not sent."""
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        talk = Talk(made)
        assert talk.say(b"before") == b"before"
        undo = drift(served)
        clock.passed += 16 * 60
        with refused(InstanceChanged):
            talk.say(b"after")
        talk.end()
        assert served.received == [b"before"]
        undo()
        assert one(made) == b"x"


def test_a_stream_that_only_receives_ends_with_its_proof(study: Study) -> None:
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        call: Any = made.unary_stream("/user.Echo/Wait")
        waiting = call(b"x", timeout=HANG_LIMIT)
        assert next(waiting) == b"x"
        undo = drift(served)
        clock.passed += 16 * 60
        with refused(InstanceChanged):
            next(waiting)
        eventually(lambda: served.ended)
        undo()
        assert one(made) == b"x"


def test_a_call_that_takes_long_ends_with_its_proof(study: Study) -> None:
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        call: Any = made.stream_unary("/user.Echo/In")
        began, go = threading.Event(), threading.Event()

        def said() -> Iterator[bytes]:
            began.set()
            go.wait(HANG_LIMIT)
            yield b"x"

        def turn() -> None:
            began.wait(HANG_LIMIT)
            drift(served)
            clock.passed += 16 * 60

        thread = threading.Thread(target=turn)
        thread.start()
        with refused(InstanceChanged):
            call(said(), timeout=HANG_LIMIT)
        go.set()
        thread.join()


def test_the_lists_turn_against_the_platform_while_a_stream_runs(study: Study) -> None:
    clock, held = Clock(), [study.expectation]
    verifier = Verifier(lambda: held[0], seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        talk = Talk(made)
        assert talk.say(b"x") == b"x"
        held[0] = revoked(study)
        clock.passed += 61
        with refused(CertificateRevoked):
            next(talk.call)
        talk.end()
        held[0] = study.expectation
        assert one(made) == b"x"


def test_the_policy_of_the_server_ends_while_a_stream_runs(study: Study) -> None:
    count_refusal()
    held = [study.policy]
    with serving(study, policy=lambda: held[0]) as served, attested(study, served.address) as made:
        talk = Talk(made)
        assert talk.say(b"x") == b"x"
        held[0] = study.parties.policy(expires=_past(study))
        with pytest.raises(grpc.RpcError):
            next(talk.call)  # within a second
        talk.end()
        held[0] = study.policy
        assert one(made) == b"x"


def test_it_proves_itself_again_after_so_many_bytes(quotes: list[Any]) -> None:
    often = Study.create(transport="\n[transport]\nchallenge_mebibytes = 2\n")
    with serving(often) as served, attested(often, served.address) as made:
        gather: Any = made.stream_unary("/user.Echo/In")
        gather(iter([MIB] * 7), timeout=HANG_LIMIT)
        assert len(quotes) == 4  # the first, and one each time that two MiB have gone
        out: Any = made.unary_stream("/user.Echo/Out")
        assert list(out(MIB, timeout=HANG_LIMIT)) == [MIB, MIB]
        one(made)
        assert len(quotes) >= 5


def test_what_a_service_denies_costs_no_proof(study: Study, quotes: list[Any]) -> None:
    """A server that says no to many calls would else be asked for evidence without end."""
    count_refusal()
    with serving(study) as served, attested(study, served.address) as made:
        denied: Any = made.unary_unary("/user.Echo/Deny")
        for _ in range(40):
            with pytest.raises(grpc.RpcError) as caught:
                denied(b"x", timeout=HANG_LIMIT)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]
        assert one(made) == b"x"
        assert len(quotes) == 1


# Another certificate, another start


def renew(served: Served) -> EnclaveIdentity:
    """Hours pass; the identity before."""
    identities = served.attestation.identities
    before, identities._next = identities.current, NOW
    assert identities.renew_if_due(NOW)
    return before


def test_a_connection_goes_on_under_the_certificate_that_it_began_with(
    study: Study, quotes: list[Any]
) -> None:
    """Certificates of hours: nobody is dropped, and a new connection is verified anew."""
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with (
        serving(study) as served,
        Relay((LOOPBACK, served.address.port)) as relay,
        attested(study, Address.parse(relay.address), verifier) as made,
    ):
        talk = Talk(made)
        assert talk.say(b"1") == b"1"
        before = renew(served)
        clock.passed += 16 * 60
        assert talk.say(b"2") == b"2"
        assert one(made) == b"x"
        assert len(relay.connections) == 2  # the probe, and one for all calls
        assert len(quotes) == 2
        relay.cut()
        with _broken():
            next(talk.call)
        talk.end()
        assert eventually(lambda: one(made), grpc.RpcError, TransportError) == b"x"
        now = served.attestation.identities.current
        assert now.spki != before.spki
        assert made._proof._admitted.spki == now.spki  # type: ignore[attr-defined]


def test_a_server_that_has_forgotten_a_connection_proves_itself_for_its_own_key(
    study: Study, quotes: list[Any]
) -> None:
    """It began under an earlier certificate: anew, on this connection, is about that one's key."""
    with (
        serving(study) as served,
        Relay((LOOPBACK, served.address.port)) as relay,
        attested(study, Address.parse(relay.address)) as made,
    ):
        assert one(made) == b"x"
        renew(served)
        served.attestation._proved.clear()
        count_refusal()
        with pytest.raises(grpc.RpcError):
            one(made)
        assert one(made) == b"x"
        assert len(relay.connections) == 2
        assert len(quotes) == 2


def _broken() -> Any:
    count_refusal()
    return pytest.raises((grpc.RpcError, CallFailed))


def test_who_pins_the_present_certificate_is_answered_for_it(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B18: the same start, and evidence about a key that this connection does not end in."""
    with serving(study) as served:
        before = renew(served)
        with monkeypatch.context() as patch:
            patch.setattr(Identities, "of", lambda self, pinned: before)
            with refused(KeyUnbound):
                attested(study, served.address)
        with attested(study, served.address) as made:
            assert one(made) == b"x"


def test_another_start_is_not_followed(study: Study) -> None:
    """Decision 29: a channel belongs to one start; what was kept there is gone with it."""
    with (
        serving(study) as first,
        serving(study) as second,
        Relay((LOOPBACK, first.address.port)) as relay,
        attested(study, Address.parse(relay.address)) as made,
    ):
        assert one(made) == b"x"
        relay.point_at((LOOPBACK, second.address.port))
        relay.cut()
        with refused(InstanceChanged):
            eventually(lambda: one(made), grpc.RpcError)
        assert second.entered == []
        with attested(study, Address.parse(relay.address)) as again:
            assert one(again) == b"x"


def test_ctrl_c_at_a_call_that_never_ends(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC waits for each call; the block ends nevertheless."""
    monkeypatch.setattr(pin, "_CLOSE_SECONDS", 0.01)
    never, closed = threading.Event(), threading.Event()
    with serving(study) as served:
        with attested(study, served.address) as made:
            pinned = made._proof.pinned  # type: ignore[attr-defined]
            close = pinned.close

            def stuck() -> None:
                never.wait(HANG_LIMIT)
                close()
                closed.set()

            monkeypatch.setattr(pinned, "close", stuck)
        assert not closed.is_set()
        never.set()
        assert closed.wait(HANG_LIMIT)


def test_ctrl_c_while_an_answer_is_waited_for(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is given up: the service is told."""
    count_refusal()
    with serving(study) as served, attested(study, served.address) as made:
        call: Any = made.unary_unary("/user.Echo/Hold")

        class Interrupted(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                eventually(lambda: served.entered)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            held = vars(threading) | {"Event": Interrupted}
            patch.setattr("ratls.grpc.threading", SimpleNamespace(**held))
            with pytest.raises(KeyboardInterrupt):
                call(b"x", timeout=HANG_LIMIT)
        eventually(lambda: served.ended)
        assert one(made) == b"x"


def test_a_refusal_says_what_the_appraisal_says(study: Study) -> None:
    """Not a status of gRPC: class, code and fix."""
    held = [study.expectation]
    clock = Clock()
    verifier = Verifier(lambda: held[0], seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        held[0] = revoked(study)
        clock.passed += 61
        count_refusal()
        with pytest.raises(RatlsError) as caught:
            one(made)
        assert caught.value.appraisal is not None
        assert caught.value.fix
