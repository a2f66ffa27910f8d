"""One exchange about a task: the party, its stream, and the verified task.

asked = TaskExchange.open(enclave, party, stream, hello, log)
receive(asked)     # or collect(asked), or tell_reason(asked)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from enclave_app.application import Enclave
from enclave_app.compute import agreed
from enclave_app.session import NoOutcomeYet, Released, Ticket
from policy.agreement import require_window
from policy.document import digest_text
from policy.sections import Computation, Party
from policy.task import Task
from policy.values import Nonce
from ratls.evidence import Allowance
from ratls.identity import EnclaveIdentity
from ratls.log import Log, bind
from ratls.server_stream import Hello, ServerExchange


@dataclass(frozen=True, slots=True)
class TaskExchange:
    """Made by `open`: the task is verified; what the party may do with it is not yet checked."""

    enclave: Enclave
    party: Party
    stream: ServerExchange
    hello: Hello
    task: Task
    log: Log
    identity: EnclaveIdentity  # what this connection was shown
    allowance: Allowance

    @classmethod
    def open(
        cls, enclave: Enclave, party: Party, stream: ServerExchange, hello: Hello, log: Log
    ) -> Self:
        """Verify the task: by its submitter's key, under this policy, at this instant.

        Raises:
            RatlsError: The policy or the task does not hold, or it needs more than the enclave has.
            ConnectionKeyGone: As `Identities.of` says.
        """
        identity = enclave.identities.of(stream.pinned)
        at = enclave.clock()
        require_window(enclave.policy, at)
        task = Task.open(hello.task, enclave.policy, at)
        enclave.require_taking_part(task)
        bind(task_digest=digest_text(task.digest))
        enclave.need(task)
        allowance = Allowance.agreed(enclave.policy, enclave.seconds)
        return cls(enclave, party, stream, hello, task, log, identity, allowance)

    @property
    def computation(self) -> Computation:
        """The computation that the task names."""
        return agreed(self.enclave.policy, self.task)

    @property
    def ticket(self) -> Ticket:
        """What sessions know of the task."""
        return self.enclave.ticket(self.task)

    def prove(self, nonce: Nonce | None = None, sealing_key: bytes = b"") -> bytes:
        """Send fresh evidence for this party and task; the evidence.

        Args:
            nonce: Of a later challenge; that of the hello by default.
            sealing_key: What rows are sealed to, named in the evidence.

        Raises: TooManyChallenges; AttesterError.
        """
        self.allowance.spend()
        evidence = self.enclave.evidence(
            nonce or self.hello.nonce, self.party, self.task.digest, sealing_key, self.identity
        )
        self.stream.send_evidence(evidence, sealing_key)
        return evidence

    def outcome(self) -> Released | NoOutcomeYet:
        """What may be handed out now."""
        return self.enclave.outcome(self.task)

    def require_window(self, step: str) -> None:
        """As `Enclave.require_window`."""
        self.enclave.require_window(self.task, step, self.log)
