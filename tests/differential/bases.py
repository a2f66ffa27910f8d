"""The valid questions that mutants are made from: genuine quotes, and simulated ones."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.differential.mutants import Base, Mutants
from tests.differential.question import Root
from tests.differential.resigned import BUILDERS, unaltered
from verifier.anchors import TrustAnchors
from verifier.quote import strip_file_padding

INTEL = Root(TrustAnchors.intel(), None)


def genuine(vectors: Path) -> list[Base]:
    """Each case of each quote whose chain can be read, at the instant that is stated for it."""
    index = json.loads((vectors / "index.json").read_text("utf-8"))
    return [
        Base(
            f"{quote['id']} with {case['id']}",
            strip_file_padding((vectors / quote["file"]).read_bytes()),
            json.loads((vectors / case["collateral"]).read_bytes()),
            INTEL,
            case["time"],
        )
        for quote in index["quotes"]
        for case in quote["cases"]
    ]


def simulated() -> list[Base]:
    """Some of each kind, always the same."""
    return [unaltered(Random(f"base {number}")) for number in range(16)]  # noqa: S311


def mutants(seed: int, vectors: Path | None) -> Mutants:
    """All mutants of a seed; without real vectors, of simulated questions alone."""
    return Mutants([*(genuine(vectors) if vectors else ()), *simulated()], seed, BUILDERS)
