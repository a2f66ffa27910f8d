"""`python -m tests.mutants [MODULE …]`: which checks could be taken away without a test failing?"""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys
from collections import Counter
from pathlib import Path

import verifier
from tests.mutants.engine import Run, run
from tests.mutants.equivalent import EQUIVALENT

# What reads files, talks, shows or foretells; every other module of the verifier decides.
NOT_DECIDING = {
    "appraisal",
    "appraisal_log",
    "backoff",
    "batch",
    "bits",
    "bundles",
    "cache",
    "errors",
    "files",
    "forecast",
    "genuine",
    "gramine",  # a package: it judges no quote, and `tests/gramine` judges it
    "marks",
    "modes",
    "output",
    "parts",
    "pcs",
    "pcs_requests",
    "platform_collaterals",
    "quote_files",
    "report",
    "responses",
    "shell",
    "text",
    "usage",
    "user_folder",  # reads the environment; its tests are tests/attacks/test_surroundings.py
}
TESTS = ("tests/verifier", "tests/vectors")
# Their tests wait, listen and talk; on a busy machine one of them might fail for another reason.
IGNORED = [f"*/test_{name}*.py" for name in sorted(NOT_DECIDING)]


def deciding_modules() -> list[str]:
    """Every module of the verifier but those listed above."""
    names = [module.name for module in pkgutil.iter_modules(verifier.__path__)]
    return [f"verifier.{name}" for name in names if name not in NOT_DECIDING]


def as_json(result: Run) -> dict[str, object]:
    return {
        "outcomes": [
            {
                "module": outcome.mutant.module,
                "line": outcome.mutant.line,
                "source": outcome.mutant.source,
                "removed": outcome.mutant.removed,
                "killed": outcome.killed,
                "by": outcome.by,
            }
            for outcome in result.outcomes
        ],
        "trouble": result.trouble,
        "excluded": result.excluded,
        "tests": result.tests,
        "seconds": round(result.seconds, 1),
    }


def part(text: str) -> tuple[int, int]:
    number, parts = map(int, text.split("/"))
    if not 1 <= number <= parts:
        raise ValueError
    return number, parts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="such as verifier.crl; default: all that decide")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what is to notice")
    parser.add_argument("--part", type=part, default=(1, 1), help="such as 2/8: every eighth")
    parser.add_argument("--traces", type=Path, help="a file that parts running at once share")
    parser.add_argument("--json", action="store_true", help="one object on stdout at the end")
    arguments = parser.parse_args()

    def progress(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    listed = {entry.key for entry in EQUIVALENT}
    modules = arguments.modules or deciding_modules()
    result = run(
        modules,
        arguments.tests,
        ignored=IGNORED,
        known=listed,
        part=arguments.part,
        traces=arguments.traces,
        progress=progress,
    )
    if arguments.json:
        print(json.dumps(as_json(result)))
        return 0
    survivors = [o.mutant for o in result.outcomes if not o.killed and o.mutant.key not in listed]
    made = Counter(o.mutant.module for o in result.outcomes)
    alive = Counter(mutant.module for mutant in survivors)
    print()
    for trouble in result.trouble:
        print(f"TROUBLE {trouble}")
    for name in result.excluded:
        print(f"not asked, for it does not pass as it is: {name}")
    for mutant in survivors:
        print(f"SURVIVED {mutant}")
    for module, count in sorted(made.items()):
        print(f"{module:<24}{count:>5} mutants {alive[module]:>4} survive")
    print(f"{len(result.outcomes)} mutants, {len(survivors)} survive, {result.seconds:.0f} s")
    return 1 if survivors or result.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
