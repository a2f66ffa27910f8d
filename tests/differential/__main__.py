"""The long run: `python -m tests.differential --mutants 200000 --seed 1 --workers 2`.

Exit status 1 if a mutant was accepted here alone, or judged otherwise, without a named
divergence; `--index N` shows one mutant of a seed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping

from tests.conftest import vectors_folder
from tests.differential.bases import mutants
from tests.differential.compare import compare
from tests.differential.peer import Peer
from tests.differential.run import Tally, describe, run


def main(arguments: list[str] | None = None) -> int:
    """Run, print the tables, and say whether something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--index", type=int, help="one mutant alone, with both answers")
    parser.add_argument("--json", action="store_true", help="the counts as one JSON object")
    options = parser.parse_args(arguments)
    folder = vectors_folder()
    print("real vectors" if folder else "REAL VECTORS ABSENT: simulated alone", file=sys.stderr)
    if options.index is not None:
        mutant = mutants(options.seed, folder).make(options.index)
        with Peer() as peer:
            result = compare(mutant.question, peer)
        print(describe(mutant, result), f"divergence: {result.divergence}", sep="\n")
        return int(result.violation)
    started = shown = time.monotonic()

    def progress(tally: Tally) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 10 or tally.mutants == options.mutants:
            shown = now
            print(
                f"{tally.mutants} of {options.mutants}, {tally.mutants / (now - started):.0f}/s, "
                f"{len(tally.violations)} violations",
                file=sys.stderr,
                flush=True,
            )

    tally = run(
        count=options.mutants,
        seed=options.seed,
        vectors=folder,
        workers=options.workers,
        progress=progress,
    )
    seconds = time.monotonic() - started
    if options.json:
        print(json.dumps(_figures(tally, options.seed, seconds)))
    else:
        _print_tables(tally, options.seed, seconds)
    return int(bool(tally.violations))


def _figures(tally: Tally, seed: int, seconds: float) -> dict[str, object]:
    return {
        "seed": seed,
        "mutants": tally.mutants,
        "seconds": round(seconds, 1),
        "outcomes": tally.outcomes,
        "divergences": tally.divergences,
        "refused_here_alone_unnamed": tally.unnamed,
        "our_answers": tally.codes,
        "operators": tally.operators,
        "other_verifier_ended": tally.ended,
        "violations": tally.violations,
    }


def _print_tables(tally: Tally, seed: int, seconds: float) -> None:
    print(f"{tally.mutants} mutants of seed {seed} in {seconds:.0f} s")
    tables: dict[str, Mapping[str, int]] = {
        "outcomes": tally.outcomes,
        "divergences, by name": tally.divergences,
        "accepted there, refused here, without a name: by our code": tally.unnamed,
        "our answers": tally.codes,
        "operators": tally.operators,
    }
    for title, counts in tables.items():
        print(f"\n{title}")
        for name, number in sorted(counts.items(), key=lambda item: -item[1]):
            print(f"{number:8}  {name}")
    print(f"\nprocesses of the other verifier that an input ended: {tally.ended}")
    print(f"violations: {len(tally.violations)}")
    for violation in tally.violations[:50]:
        print(violation)


if __name__ == "__main__":
    sys.exit(main())
