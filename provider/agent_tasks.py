"""The agent's own decisions: is a task for this party, and may its rows be released?

    with TaskReleaser.open(config, allow_simulation=False, timeout=600, clock=now) as releaser:
        task = releaser.sift(envelope)              # opens no connection, writes nothing
        releaser.release(task, task.datasets[0])    # through `provider.release`, journalled

The scheduler that offered the task takes no part in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from policy.computations import DECLARED
from policy.document import Policy
from policy.party import LocalParty
from policy.passphrase import passphrase_source
from policy.signing import require_own_signature
from policy.state import StateMissing, StudyState
from policy.statement import Unverified
from policy.task import Task, open_task
from provider.agent_config import AgentConfig
from provider.errors import DatasetNotConfigured
from provider.exchange import EnclaveRequest
from provider.journalling import Journalling
from provider.release import Release, release
from ratls.profile import EnclavePlace
from verifier.anchors import Mode
from verifier.bundles import read_collateral
from verifier.errors import ConfigError
from verifier.files import LockHeld, locked
from verifier.modes import anchors_for


@dataclass(frozen=True, slots=True)
class AgentTask:
    """A task with a valid signature of an allowed submitter, and this party's inputs of it."""

    raw: bytes
    digest: bytes  #             of the task, 32
    datasets: tuple[str, ...]  # own inputs of the computation; may be none
    enclaves: tuple[str, ...]  # that the policy lists, in its order


class EnclaveNotConfigured(ConfigError):
    """The agent has no address for any enclave that the policy lists."""

    code = "enclave-not-configured"
    default_fix = "add the [[enclave]] with its address and collateral, then start the agent again"


@dataclass(frozen=True, slots=True)
class TaskReleaser:
    """The party's own configuration, checked once when the agent starts."""

    config: AgentConfig
    party: LocalParty
    mode: Mode  #            of the roots that the accepted policy names
    allow_simulation: bool
    timeout: float  #        seconds for one exchange
    clock: Callable[[], datetime]

    @classmethod
    @contextmanager
    def open(
        cls,
        config: AgentConfig,
        *,
        allow_simulation: bool,
        timeout: float,
        clock: Callable[[], datetime],
    ) -> Iterator[Self]:
        """The only agent of this study and state folder, until the block ends.

        Raises:
            AgentRunning: There is another.
            StateMissing, AnchorDiffers, PartyNotListed, SimulationNotAllowed: No policy of this
                study is accepted here, or not one to work under.
            RatlsError: What reading the party's keys raises.
        """
        party = LocalParty.load(config.party, passphrase_source(config.passphrase_file))
        stored = StudyState(config.state).stored(config.study)
        if stored is None:
            raise StateMissing(
                f"study {config.study}", expected="an accepted agreement", found="none"
            )
        require_own_signature(stored, party)
        roots = anchors_for(stored.policy.platform.root, allow_simulation=allow_simulation)
        # Read now: a wrong passphrase should be noticed at the start, while a person is there.
        _ = party.operation, party.channel_key_pem
        with _only_one(config):
            yield cls(config, party, roots.mode, allow_simulation, timeout, clock)

    def sift(self, raw: bytes) -> AgentTask | None:
        """Open a task of this party's study; None for a task of another study.

        Cheap, and refusals are not journalled: the scheduler could fill the disk with forged
        tasks. The task's window is checked at its release.

        Raises:
            RatlsError: It cannot be read, its policy is not in force here, no submitter of that
                policy signed it, or a party that it needs has withdrawn.
        """
        if Task.read(raw).study != self.config.study:
            return None
        state = StudyState(self.config.state)

        def policy_in_force(named: Unverified) -> Policy:
            return state.find_by_policy_digest(named.policy_digest, self.clock()).policy

        task, policy = open_task(raw, policy_in_force, at=None)
        state.require_taking_part(policy, task.computation, task.submitter)
        computation = policy.computation_by_id(task.computation)
        assert computation is not None  # `Task.open` refuses what the policy does not have
        # Of rounds no row is released: their owners take part with `ratls provider train`.
        rows = computation.inputs if DECLARED[computation.run].takes_rows else ()
        datasets = [policy.dataset_by_id(name) for name in rows]
        own = (d.id for d in datasets if d is not None and d.owner == self.party.party_id)
        return AgentTask(raw, task.digest, tuple(own), tuple(e.name for e in policy.enclave))

    def release(self, task: AgentTask, dataset: str) -> Release:
        """Release one own dataset for this task, by `provider.release`.

        Raises:
            DatasetNotConfigured, EnclaveNotConfigured: The configuration does not say how.
            RatlsError: What reading the collateral, and `release`, raise. All stand in the journal.
        """
        journalling = Journalling(self.config.state, "release", self.clock, dataset)
        journalling.task = task.digest
        with journalling.refusals_recorded():
            source = self.config.sources.get(dataset)
            if source is None:
                raise DatasetNotConfigured(
                    f"dataset {dataset}", expected=", ".join(self.config.sources), found="no source"
                )
            name, place = self._enclave(task.enclaves)
            collateral = read_collateral(place.collateral)
        request = EnclaveRequest(
            task=task.raw,
            address=place.address,
            collateral=collateral,
            party=self.party,
            state=self.config.state,
            allow_simulation=self.allow_simulation,
            timeout=self.timeout,
            clock=self.clock,
            enclave=name,
        )
        return release(request, dataset, source)

    def _enclave(self, listed: tuple[str, ...]) -> tuple[str, EnclavePlace]:
        """The first enclave in the policy's order that the configuration has. Every party with the
        same configuration picks the same one; otherwise the inputs of a task would be split.
        """
        for name in listed:
            if name in self.config.enclaves:
                return name, self.config.enclaves[name]
        raise EnclaveNotConfigured(
            f"study {self.config.study}",
            expected=f"an address of {' or '.join(listed)}",
            found=", ".join(self.config.enclaves),
        )


class AgentRunning(ConfigError):
    """Another agent of this study runs in this state folder."""

    code = "agent-running"
    default_fix = "stop the other agent first; one handles every task of the study"
    says = "another agent of this study runs: {thing} is locked"


@contextmanager
def _only_one(config: AgentConfig) -> Iterator[None]:
    path = config.state / f"agent-{config.study}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, wait=0))
        except LockHeld as error:
            raise AgentRunning(
                str(path), expected="no other agent", found="one that locks this file"
            ) from error
        yield
