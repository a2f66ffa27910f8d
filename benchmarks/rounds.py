"""One federated round of ten parties with a million numbers: the enclave's part beyond transport.

Measured, for all ten parties, one after the other: their two keys opened, their parts opened and
read, what they signed verified, updates cut and joined, a receipt signed and the model sealed for
each. `ours` is the sum, the best of several rounds; the goal is one second. Quotes and the network
are no part of it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

# Also when this file is run by its path: `python benchmarks/rounds.py`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from enclave_app.limits import MemoryBudget
from enclave_app.rounds import Model, Running
from enclave_app.rounds_aggregate import PART, read_update
from enclave_app.session import Ticket
from policy.keys import KeySigner, OperationKey, OperationSigner, PublicKey, ReceiptSigner, spki_der
from policy.round_receipt import Participant, RoundReceipt, Update
from policy.rounds import AGGREGATORS, Series, Tensor
from policy.values import Digest, Instance, Nonce
from ratls.framing import PART as DOWN_PART
from ratls.sealing import (
    TAG_SIZE,
    ChunkHead,
    SealingKey,
    StreamKey,
    Tally,
    Transcript,
    seal_stream_key,
    tags_digest,
)

PARTIES, NUMBERS, ROUNDS, GOAL = 10, 1_000_000, 5, 1.0
_EVIDENCE = 8000  # bytes, about as many as a quote has
_NAMES = tuple(f"rows-{number}" for number in range(PARTIES))


def series(aggregator: str) -> Series:
    return Series(
        computation="train",
        inputs=_NAMES,
        model="vector",
        tensors=(Tensor("v", (NUMBERS,)),),
        rounds=ROUNDS,
        quorum=3,
        seconds=60,
        aggregator=aggregator,
        clip_norm=0.5,
        weights=(1.0,) * PARTIES,
        digits=6,
        trim=2,
    )


class Party:
    """One party's update, sealed and signed before the clock runs."""

    def __init__(self, number: int, agreed: Series, previous: Digest, signer: KeySigner) -> None:
        self.name, self.key, self.agreed = _NAMES[number], SealingKey.make(), agreed
        self.transcripts = [
            Transcript(
                policy_digest=Digest(bytes(32)),
                task_digest=Digest(bytes(32)),
                nonce=Nonce(bytes(32)),
                instance=Instance(bytes(16)),
                dataset=self.name,
                provider=self.name,
                release=bytes(16),
                stream=stream,
                streams=2,
            )
            for stream in (0, 1)
        ]
        pairs = [seal_stream_key(self.key.public, t, bytes(32)) for t in self.transcripts]
        self.sealed_keys = [sealed for sealed, _ in pairs]
        update = np.random.default_rng(number).normal(0, 1e-3, NUMBERS).astype("<f4").tobytes()
        self.parts, tally = [], Tally()
        for place, start in enumerate(range(0, len(update), PART)):
            head = ChunkHead(place, start + PART >= len(update))
            part = pairs[0][1].seal(update[start : start + PART], head, agreed.shape_digest)
            tally.add(part[-TAG_SIZE:], 1)
            self.parts.append((head, part))
        self.signed = Update(
            policy_digest=Digest(bytes(32)),
            task_digest=Digest(bytes(32)),
            instance=Instance(bytes(16)),
            nonce=Nonce(bytes(32)),
            dataset=self.name,
            provider=self.name,
            round=1,
            previous=previous,
            tags_digest=tags_digest([tally]),
            journal_head=Digest(bytes(32)),
        ).seal(OperationSigner(signer))


def bring(party: Party, running: Running, key: OperationKey) -> StreamKey:
    """What the enclave does with one update; the key of the answer."""
    up, down = (
        party.key.open_stream_key(sealed, transcript)
        for sealed, transcript in zip(party.sealed_keys, party.transcripts, strict=True)
    )
    parts, tally = [], Tally()
    for head, sealed in party.parts:
        opened = up.open(memoryview(sealed), head, party.agreed.shape_digest)
        parts.append(memoryview(opened).cast("B"))
        tally.add(sealed[-TAG_SIZE:], 1)
    update, envelope = Update._parse(party.signed)
    Update.require_signature(envelope, key)
    assert update.tags_digest == tags_digest([tally])
    named = Participant(dataset=party.name, provider=party.name, update_digest=update.digest)
    running.count(named, 1, update.previous, read_update(parts, NUMBERS), 0.0)
    return down


def hand_out(running: Running, model: Model, down: StreamKey, signer: KeySigner) -> None:
    """What the enclave does to answer one party."""
    (closed,) = running.closed(0, 1)
    RoundReceipt(
        policy_digest=Digest(bytes(32)),
        task_digest=Digest(bytes(32)),
        instance=Instance(bytes(16)),
        nonce=Nonce(bytes(32)),
        evidence=bytes(_EVIDENCE),
        tls_spki=spki_der(_KEY.public_key()),
        receipt_key=spki_der(_KEY.public_key()),
        computation="train",
        recipient=closed.participants[0].provider,
        round=closed.number,
        previous=closed.previous,
        model=closed.model,
        participants=closed.participants,
        sealing_key_hash=Digest(bytes(32)),
        mode="simulation",
    ).seal(ReceiptSigner(signer))
    whole = memoryview(model.salt + model.numbers.tobytes())
    for number, start in enumerate(range(0, len(whole), DOWN_PART)):
        head = ChunkHead(number, start + DOWN_PART >= len(whole))
        down.seal(bytes(whole[start : start + DOWN_PART]), head, running.series.shape_digest)


_KEY = ec.generate_private_key(ec.SECP256R1())


def one_round(aggregator: str) -> float:
    """Seconds of the enclave's part."""
    agreed, signer = series(aggregator), KeySigner.from_private(_KEY)
    key = OperationKey(PublicKey.from_spki(spki_der(_KEY.public_key())))
    memory = MemoryBudget(1 << 30, 1 << 30)
    ticket = Ticket(Digest(os.urandom(32)), _NAMES, "carol", datetime.now(UTC), frozenset())
    running = Running(ticket, agreed, memory, 0.0)
    previous = running.standing(0.0)[0].digest
    parties = [Party(number, agreed, previous, signer) for number in range(PARTIES)]
    began = perf_counter()
    keys = [bring(party, running, key) for party in parties]
    model, _ = running.standing(0.0)
    for down in keys:
        hand_out(running, model, down, signer)
    took = perf_counter() - began
    assert model.number == 1
    return took


def main() -> None:
    results = {}
    for aggregator in AGGREGATORS:
        ours = min(one_round(aggregator) for _ in range(ROUNDS))
        results[aggregator] = {
            "ours": round(ours, 3),
            "peer": GOAL,
            "ratio": round(GOAL / ours, 2),
            "goal": 1.0,
            "unit": "s",
        }
    if "--json" in sys.argv:
        print(json.dumps(results))
    else:
        for aggregator, found in results.items():
            print(f"{aggregator}: {found['ours']} s for a round, goal {GOAL} s")


if __name__ == "__main__":
    main()
