"""Parties that agreed on federated rounds, and short ways for a test to take part in them.

world = round_world(rounds=3)                   # alice, bob and dora own an input each
with world.running(limits=AT_ONCE) as live:
    rounds = Rounds(live, world.task())
    rounds.ask("alice-clinic")                  # the newest model
    rounds.bring("alice-clinic", 1, update)     # None: the round is still open
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from enclave_app.limits import Limits
from policy.document import Policy
from policy.keys import OperationSigner
from policy.party import LocalParty
from policy.round_receipt import RoundReceipt, Update
from policy.rounds import SALT_SIZE, Series, Tensor, model_digest
from policy.task import Task
from policy.values import Digest
from ratls.client_rounds import Handed, RoundCall
from ratls.client_stream import ClientExchange
from ratls.framing import Kind
from ratls.sealing import Transcript
from simulation.intel import root_name
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld, LiveEnclave
from tests.support.flight_peers import PlatformAttester
from tests.support.intel import World
from tests.support.parties import Consortium, local_party

OWNERS_OF = {
    "train_party_1": "alice-clinic",
    "train_party_2": "bob-hospital",
    "train_party_3": "dora-clinic",
}
MORE = ("dora-clinic", "emil-clinic", "fred-clinic", "gina-clinic")
AT_ONCE = Limits(round_wait_seconds=0.0, buckets=(0.01,))  # nobody waits for the others
COLUMNS = (
    '{ patient = "string", age = { type = "int64", min = 0, max = 120 }, '
    'bmi = { type = "float64", min = 10.0, max = 60.0 }, '
    'y = { type = "int64", min = 0, max = 1 } }'
)
VECTOR: dict[str, str | None] = {"model": '"vector"', "tensors": '["w 2x2", "b 1"]'}
LOGISTIC: dict[str, str | None] = {
    "tensors": None,
    "model": '"logistic"', "features": '["age", "bmi"]', "label": '"y"', "epochs": "1",
    "learning_rate": "0.1",
}  # fmt: skip
AGREED = {
    "rounds": "2", "quorum": "3", "seconds": "60", "aggregator": '"fedavg"', "clip_norm": "100.0",
    "weights": '"equal"',
}  # fmt: skip


def computation(owners: int = 3, **parameters: str | None) -> str:
    """The policy's section; a parameter that is None is left out, and one given replaces."""
    said = VECTOR | AGREED | parameters
    values = ", ".join(f"{name} = {value}" for name, value in said.items() if value is not None)
    inputs = ", ".join(f'"train_party_{number + 1}"' for number in range(owners))
    return (
        f'[[computation]]\nid = "train"\nrun = "federated"\ninputs = [{inputs}]\n'
        f"parameters = {{ {values} }}\n"
        'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 10\n'
        'release = { outputs = ["model"], min_subjects_per_input = 20, significant_digits = 6 }\n'
    )


def consortium(owners: int = 3, at: Any = NOW, **options: Any) -> Consortium:
    """Alice, Bob, Carol, and as many more owners as it takes."""
    made = Consortium.create(at, columns=COLUMNS, **options)
    for number, name in enumerate(MORE[: owners - 2], 3):
        made.parties[name] = local_party(name, at)
        made.extra[f"train_party_{number}"] = (
            f'\n[[dataset]]\nid = "train_party_{number}"\nowner = "{name}"\nsubject = "patient"\n'
            f"columns = {COLUMNS}\nmax_rows = 100_000\n\n"
        )
    return made


def round_world(owners: int = 3, *, transport: str = "", **parameters: str | None) -> EnclaveWorld:
    """As `EnclaveWorld.create`, with rounds; `transport` is that section, or none."""
    intel = World.create(NOW)
    agreed = consortium(
        owners,
        root=root_name(intel.intel.root),
        mr_enclave=MR_ENCLAVE.hex(),
        machines=[f"ppid:{intel.platform.tcb.ppid.hex()}"],
    )
    text = agreed.policy_text(transport=transport, computation=computation(owners, **parameters))
    complete = agreed.complete(text, signers=list(agreed.parties))
    attester = PlatformAttester(intel.platform, mr_enclave=MR_ENCLAVE, isv_prod_id=0)
    return EnclaveWorld(agreed, intel, attester, complete)


def asked(world: EnclaveWorld, **options: Any) -> bytes:
    """Carol's task; she chooses nothing."""
    return world.task(parameters={}, **options)


def made_series(**given: Any) -> Series:
    """A series without a policy, of three inputs; `given` replaces its values."""
    made: dict[str, Any] = {
        "computation": "train", "inputs": ("a", "b", "c"), "model": "vector",
        "tensors": (Tensor("w", (2, 2)), Tensor("b", (1,))), "rounds": 2, "quorum": 3,
        "seconds": 10, "aggregator": "fedavg", "clip_norm": 1.0, "digits": 6,
    }  # fmt: skip
    made |= given
    return Series(**{"weights": (1.0,) * len(made["inputs"])} | made)


def series_of(policy: Policy) -> Series:
    """The rounds of the policy's one computation."""
    return Series.of(policy.computation[0])


@dataclass
class Rounds:
    """One task, and what each owner does about it, one exchange at a time."""

    live: LiveEnclave
    task: bytes
    signed: dict[tuple[str, int], bytes] = field(default_factory=dict)  # by party and round

    @property
    def policy(self) -> Policy:
        return self.live.world.policy

    @property
    def series(self) -> Series:
        return series_of(self.policy)

    def party(self, name: str) -> LocalParty:
        return self.live.world.consortium.parties[name]

    def dataset(self, name: str) -> str:
        """The input of an owner."""
        return next(d.id for d in self.policy.dataset if d.owner == name)

    def transcript(
        self, exchange: ClientExchange, name: str, dataset: str, **fields: Any
    ) -> Transcript:
        made: dict[str, Any] = {
            "policy_digest": self.policy.digest,
            "task_digest": Task.read(self.task).digest,
            "nonce": exchange.fresh.claims.nonce,
            "instance": exchange.fresh.claims.instance,
            "dataset": dataset,
            "provider": name,
            "release": self.live.releases[dataset],
            "stream": 0,
            "streams": 2,
        }
        return Transcript(**made | fields)

    def ask(self, name: str, *, seen: int = 0) -> Handed:
        """The newest model."""
        return self._exchange(name, lambda call, _: call.bring(0, seen=seen))

    def bring(
        self,
        name: str,
        number: int,
        update: npt.NDArray[Any] | bytes,
        *,
        previous: Digest | None = None,
        again: bool = False,
        by: str | None = None,
        signer: OperationSigner | None = None,
        **fields: Any,
    ) -> Handed | None:
        """Send an update as an honest party would; `fields` replace those that it signs.

        Args:
            previous: Digest of the model it was trained from; the newest by default.
            again: Say what was signed for this round before.
            by: The dataset's owner, where another party tries.
        """
        if previous is None:
            previous = digest_of(self.series, self.ask(name))
        raw = update if isinstance(update, bytes) else update.astype("<f4").tobytes()
        owner = by or name

        def act(call: RoundCall, exchange: ClientExchange) -> Any:
            before = self.signed.get((name, number), b"") if again else b""
            if call.bring(number, signed=before, seen=number - 1):
                made: dict[str, Any] = {
                    "task_digest": Task.read(self.task).digest,
                    "policy_digest": self.policy.digest,
                    "instance": exchange.fresh.claims.instance,
                    "nonce": exchange.fresh.claims.nonce,
                    "dataset": self.dataset(owner),
                    "provider": owner,
                    "round": number,
                    "previous": previous,
                    "journal_head": bytes(32),
                }

                def sign(tags: Digest) -> bytes:
                    document = Update(**made | {"tags_digest": tags} | fields)
                    return document.seal(signer or self.party(name).operation)

                self.signed[name, number] = call.send(memoryview(raw), sign)

        return self._exchange(name, act, dataset=self.dataset(owner))

    def _exchange(
        self,
        name: str,
        act: Callable[[RoundCall, ClientExchange], Any],
        dataset: str | None = None,
    ) -> Any:
        dataset = dataset or self.dataset(name)
        party, release = self.party(name), os.urandom(16)
        with self.live.exchange(
            Kind.ROUND, party, task=self.task, dataset=dataset, release=release
        ) as exchange:
            transcript = self.transcript(exchange, name, dataset)
            call = RoundCall(exchange, transcript, self.series, os.urandom)
            act(call, exchange)
            return call.answer()


def digest_of(series: Series, handed: Handed) -> Digest:
    return model_digest(series, handed.plaintext[:SALT_SIZE], handed.plaintext[SALT_SIZE:])


def numbers_of(handed: Handed) -> npt.NDArray[np.float32]:
    return np.frombuffer(handed.plaintext[SALT_SIZE:], "<f4")


def receipts_of(handed: Handed) -> list[RoundReceipt]:
    return [RoundReceipt.open(raw) for raw in handed.receipts]
