"""Writes tests/vectors/sealed/release.json: one sealed stream with all that it was made from.

    python -m tests.vectors.make_sealed

Encapsulation takes randomness of its own, so each run makes another file: readers open it.
docs/channel.md 7 says how each value is formed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from policy.values import Digest, Instance, Nonce
from ratls.framing import RowDigest
from ratls.sealing import ChunkHead, SealingKey, Tally, Transcript, seal_stream_key, tags_digest

FILE = Path(__file__).parent / "sealed" / "release.json"
SEED, SCALAR = bytes(range(64)), bytes(range(64, 96))
KEY, SALT = bytes(range(0x80, 0xA0)), bytes(range(0xA0, 0xC0))
SCHEMA_DIGEST = Digest(hashlib.sha256(b"schema of the example").digest())
TRANSCRIPT = Transcript(
    policy_digest=Digest(hashlib.sha256(b"policy").digest()),
    task_digest=Digest(hashlib.sha256(b"task").digest()),
    nonce=Nonce(hashlib.sha256(b"nonce").digest()),
    instance=Instance(bytes(range(16))),
    dataset="train_party_1",
    provider="alice-clinic",
    release=bytes(range(16, 32)),
    stream=1,
    streams=2,
)
ROWS = ([1, 2, 3], [4, 5], [6])


def sealing_key(seed: bytes, scalar: bytes) -> SealingKey:
    """The key of an enclave, from its two secrets."""
    kem, curve = (
        MLKEM768PrivateKey.from_seed_bytes(seed),
        X25519PrivateKey.from_private_bytes(scalar),
    )
    public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return SealingKey(MLKEM768X25519PrivateKey(kem, curve), public)


def make() -> dict[str, Any]:
    key = sealing_key(SEED, SCALAR)
    sealed, stream = seal_stream_key(key.public, TRANSCRIPT, SALT, lambda size: KEY)
    tally, digest, kept = Tally(), RowDigest(SALT, SCHEMA_DIGEST), Digest(b"")
    chunks = []
    for number, values in enumerate(ROWS):
        message = pa.record_batch({"x": values}).serialize()
        head = ChunkHead(number, number == len(ROWS) - 1)
        ciphertext = stream.seal(message, head, SCHEMA_DIGEST)
        if number == 2:
            kept = digest.digest()
        tally.add(ciphertext[-16:], len(values))
        digest.add(number, len(values), Digest(hashlib.sha256(message).digest()))
        chunks.append(
            {
                "number": number,
                "last": head.last,
                "rows": len(values),
                "head": head.encode().hex(),
                "nonce": (TRANSCRIPT.stream.to_bytes(4, "big") + number.to_bytes(8, "big")).hex(),
                "associated_data": (head.encode() + SCHEMA_DIGEST).hex(),
                "plaintext": message.to_pybytes().hex(),
                "sealed": ciphertext.hex(),
            }
        )
    resumed = Tally()  # the first two came over an earlier connection
    resumed.resume(2, 5, kept)
    resumed.add(bytes.fromhex(chunks[2]["sealed"])[-16:], 1)
    return {
        "sealing_key": {
            "ml_kem_768_seed": SEED.hex(),
            "x25519_private": SCALAR.hex(),
            "public": key.public.hex(),
            "public_sha256": hashlib.sha256(key.public).hexdigest(),
        },
        "transcript": {
            name: value.hex() if isinstance(value, bytes) else value
            for name in TRANSCRIPT.__dataclass_fields__
            for value in [getattr(TRANSCRIPT, name)]
        },
        "info": TRANSCRIPT.info().hex(),
        "sealed_stream_key": sealed.hex(),
        "stream_key": KEY.hex(),
        "salt": SALT.hex(),
        "schema_digest": SCHEMA_DIGEST.hex(),
        "chunks": chunks,
        "tally": tally.encode().hex(),
        "tags_digest": tags_digest([tally]).hex(),
        "rows_digest": digest.digest().hex(),
        "resumed": {
            "chunks": 2,
            "rows": 5,
            "rows_digest": kept.hex(),
            "tally": resumed.encode().hex(),
            "tags_digest": tags_digest([resumed]).hex(),
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=2) + "\n", "utf-8")
