"""The client's end of a stream, for providers that release and recipients that collect.

    asked = {"task": task, "task_digest": digest, "dataset": "train_party_1"}
    with open_exchange(Kind.RELEASE, address, admitted, identity, **asked, **held) as exchange:
        exchange.fresh                 # appraised already: rows may follow on this very RPC
        exchange.begin(schema)
        exchange.send(batch)
        acknowledgement = exchange.commit(envelope, salt)

A stream is one DoExchange of Arrow Flight, in which the enclave first proves itself. gRPC
reconnects silently between RPCs and never within one, so the challenge and the rows share an RPC.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from policy.errors import ResourceLimitError
from policy.text import IDENTIFIER
from policy.values import Digest, Nonce
from ratls.address import Address
from ratls.appraise import (
    AdmittedCertificate,
    Challenge,
    Expectation,
    FreshEvidence,
    appraise_challenge,
)
from ratls.call_thread import CallThread
from ratls.claims import NONCE_SIZE
from ratls.errors import CallFailed, DeadlineExceeded, TransportError
from ratls.framing import (
    MAX_MESSAGE,
    MAX_RESULT,
    Frame,
    Kind,
    MessageUnexpected,
    read,
    without_metadata,
    write,
    write_message,
    write_rows,
)
from ratls.pin import ChannelIdentity, pinned_client
from verifier.errors import Exit


@dataclass(frozen=True, slots=True)
class Result:
    """A result and its receipt, both as received."""

    receipt: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Pending:
    """There is no result yet; these datasets are missing."""

    missing: tuple[str, ...]


class AnswerNotOpened(ResourceLimitError):
    """The answer is compressed, too large, or contains rows: it was not opened."""

    code = "answer-not-opened"
    exit_status = Exit.PEER
    default_fix = "check that the enclave runs the agreed version: its answers are small and plain"
    says = "{thing} is compressed, too large, or contains rows; it was not opened"


@contextmanager
def open_exchange(
    kind: Kind,
    address: Address,
    admitted: AdmittedCertificate,
    identity: ChannelIdentity,
    *,
    task: bytes,
    task_digest: Digest,
    dataset: str,
    expectation: Expectation,
    clock: Callable[[], datetime],
    timeout: float,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[ClientExchange]:
    """Connect under the pin, challenge the enclave, and yield the stream if it passes.

    Args:
        kind: What for.
        address: The numeric address that was probed.
        admitted: What the probe showed, appraised.
        identity: Own certificate and key, as the policy lists them.
        task: Signed task, as its envelope; empty for a bare check.
        task_digest: 32 bytes, own digest of it; `claims.NO_TASK` for a bare check.
        dataset: Name of what will be released; empty otherwise.
        expectation: Own policy, collateral and roots.
        clock: Now, aware, UTC.
        timeout: Seconds for the whole exchange: every read and write ends by then.
        random: Source of the nonce.

    Raises:
        TransportError: The peer is unreachable, late, silent or refuses.
        RatlsError: What the appraisal of its answer says.
    """
    challenge = Challenge(Nonce(random(NONCE_SIZE)), identity.spki_sha256, task_digest)
    hello = write_message("hello", nonce=challenge.nonce, task=task, dataset=dataset)
    largest = MAX_RESULT if kind is Kind.COLLECT else MAX_MESSAGE
    options = flight.FlightCallOptions(timeout=timeout, read_options=_NO_ROWS)
    descriptor = flight.FlightDescriptor.for_command(kind.value)
    with (
        CallThread() as thread,
        _closed(pinned_client(address, admitted, identity, largest + _FRAME), thread) as client,
    ):
        with _flight_errors_translated():
            writer, reader = thread.run(lambda: client.do_exchange(descriptor, options))
        wire = _ClientWire(writer, reader, thread)
        try:
            wire.say(hello)
            _, answer = wire.hear("evidence")
            fresh = appraise_challenge(
                answer["evidence"], admitted, challenge, expectation, at=clock()
            )
            yield ClientExchange(wire, fresh)
            # Every answer that was due has come: a failure from here on changes nothing.
            with suppress(CallFailed, DeadlineExceeded, AnswerNotOpened):
                wire.finish()
        finally:
            wire.close()


class ClientExchange:
    """An exchange with an enclave that has proved itself. Made by `open_exchange`."""

    def __init__(self, wire: _ClientWire, fresh: FreshEvidence) -> None:
        self._wire = wire
        self._schema: pa.Schema | None = None
        self._seq = 0
        self.fresh = fresh

    def resume(self, commit: bytes) -> bytes | None:
        """Ask for the acknowledgement of a commit sent before; None if it never arrived.

        Comes before `begin`.
        """
        self._wire.say(write_message("resume", commit=commit))
        name, answer = self._wire.hear("acknowledgement", "absent")
        return answer["document"] if name == "acknowledgement" else None

    def begin(self, schema: pa.Schema) -> None:
        """Announce the columns, without metadata of schema and fields."""
        self._schema = without_metadata(schema)
        self._wire.begin(self._schema)

    def send(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Send the next rows; the batch as it was sent, which is what digests cover.

        Raises:
            TransportError: Also when the enclave refuses in the middle of an upload.
        """
        if self._schema is None:
            raise AssertionError("begin comes first")
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
        self._wire.send(batch, self._seq)
        self._seq += 1
        return batch

    def commit(self, envelope: bytes, salt: bytes) -> bytes:
        """End the release; the signed acknowledgement, unread. Without one, nothing counts."""
        self._wire.say(write_message("commit", commit=envelope, salt=salt))
        _, answer = self._wire.hear("acknowledgement")
        return bytes(answer["document"])

    def collect(self) -> Result | Pending:
        """The outcome of the task. Sealed in a result may be that there is none."""
        name, answer = self._wire.hear("result", "pending")
        if name == "result":
            return Result(answer["receipt"], answer["ciphertext"])
        return _pending(answer)

    def reason(self) -> str | Pending:
        """The code of the rule that the named dataset breaks by itself; "" for none."""
        name, answer = self._wire.hear("reason", "pending")
        if name == "pending":
            return _pending(answer)
        code = answer["code"].rstrip(" ")
        return _slug(code) if code else ""


# An enclave answers in metadata and never in rows. Flight would unpack rows before they can be
# refused: 5 KB of zstd are 160 MB (F04). With a column that no schema has, the reader refuses the
# schema that comes before any rows.
_NO_ROWS = pa.ipc.IpcReadOptions(included_fields=[(1 << 31) - 1])
_FRAME = 1024  #        what Flight puts around a message
_CLOSE_SECONDS = 1.0  # for the end of an exchange that was given up


@contextmanager
def _closed(client: Any, thread: CallThread) -> Iterator[Any]:
    """Close the client, unless a call of it still runs: then the process is about to end."""
    try:
        yield client
    finally:
        if not thread.busy:
            client.close()


class AnswerMissing(TransportError):
    """The stream ended where an answer was due."""

    code = "answer-missing"
    default_fix = "try again with the same task and enclave: it is not known what arrived"
    says = "the enclave ended the {thing} where this was due: {expected}"


class _ClientWire:
    """Reads and writes of one RPC, with Flight's errors translated.

    Each runs in another thread, with the deadline of the RPC: an enclave that is silent, or reads
    nothing, cannot keep Ctrl-C from ending the command.
    """

    def __init__(self, writer: Any, reader: Any, thread: CallThread) -> None:
        self._writer, self._reader, self._thread = writer, reader, thread
        self._finished = False

    def say(self, message: bytes) -> None:
        with self._writing():
            self._thread.run(lambda: write(self._writer, message))

    def begin(self, schema: pa.Schema) -> None:
        with self._writing():
            self._thread.run(lambda: self._writer.begin(schema))

    def send(self, batch: pa.RecordBatch, seq: int) -> None:
        with self._writing():
            self._thread.run(lambda: write_rows(self._writer, batch, seq))

    def hear(self, *due: str) -> tuple[str, dict[str, Any]]:
        with _flight_errors_translated():
            frame = self._read()
        if frame is None:
            # A server that died or returned early ends a stream without any error.
            raise AnswerMissing("stream", expected=" or ".join(due), found="its end")
        return frame.message(*due)

    def _read(self) -> Frame | None:
        """The next frame; None at the end of the stream.

        Raises:
            AnswerNotOpened: Refused below: by an option of the channel, or by `_NO_ROWS`.
        """

        def read_translated() -> Frame | None:
            try:
                return read(self._reader)
            except (
                pa.ArrowInvalid,
                pa.ArrowNotImplementedError,
                flight.FlightCancelledError,
            ) as error:
                raise AnswerNotOpened(
                    "the enclave's answer", expected="a small plain message", found="another form"
                ) from error

        return self._thread.run(read_translated)

    def finish(self) -> None:
        """Say that nothing follows, and wait for the server to say the same."""
        with self._writing():
            self._thread.run(self._writer.done_writing)
        with _flight_errors_translated():
            if self._read() is None:
                self._thread.run(self._writer.close)
                self._finished = True
                return
        raise MessageUnexpected("stream", expected="its end", found="another message")

    def close(self) -> None:
        if self._finished:
            return
        # An exchange given up is cancelled: merely closed, it would look complete to the server,
        # and closing would wait for the server.
        self._reader.cancel()
        # The refusal that is being raised says more than this error.
        with suppress(flight.FlightError, pa.ArrowException, OSError):
            self._thread.run(self._writer.close, _CLOSE_SECONDS)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A failed write does not say why the server gave up; what it sent before may."""
        with _flight_errors_translated():
            try:
                yield
            except (pa.ArrowException, OSError) as error:
                if not isinstance(error, flight.FlightError):
                    self._raise_server_reason()
                raise

    def _raise_server_reason(self) -> None:
        while self._read() is not None:
            pass  # sent before it gave up
        raise AnswerMissing("stream", expected="more rows", found="its end")


@contextmanager
def _flight_errors_translated() -> Iterator[None]:
    """Translate Flight's exceptions, some of which are no FlightErrors. Their text is not shown:
    the peer writes part of it."""
    try:
        yield
    except flight.FlightTimedOutError as error:
        raise DeadlineExceeded(
            "the enclave's answer", expected="one in time", found="none"
        ) from error
    except flight.FlightError as error:
        _raise_peer_refusal(error)
        raise _call_failed(error) from error
    except (pa.ArrowException, OSError) as error:
        raise _call_failed(error) from error


def _call_failed(error: Exception) -> CallFailed:
    broken = isinstance(error, flight.FlightUnavailableError)
    found = "it broke" if broken else type(error).__name__
    return CallFailed("the connection to the enclave", expected="an answer", found=found)


_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def _slug(text: object) -> str:
    """A name that the peer chose, harmless to print."""
    return text if isinstance(text, str) and _SLUG.fullmatch(text) else "unreadable"


def _pending(answer: dict[str, Any]) -> Pending:
    return Pending(tuple(_dataset_id(item) for item in answer["missing"]))


def _dataset_id(text: object) -> str:
    return text if isinstance(text, str) and IDENTIFIER.fullmatch(text) else "unreadable"


class PeerRefused(TransportError):
    """The other side refused, and gave its reason as a code."""

    code = "peer-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"
    says = "the enclave refused: {peer_code} (id {correlation_id})"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the enclave's answer",
            expected="the next message",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id


def _raise_peer_refusal(error: Any) -> None:
    try:
        told = json.loads(bytes(error.extra_info or b"")[:1024])
        code, number = _slug(told["code"]), _slug(told["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # not a refusal of an enclave: the connection itself failed
    raise PeerRefused(peer_code=code, correlation_id=number) from error
