"""What a verdict costs, against `dcap-qvl` and against the cryptography that nobody can avoid.

    RATLS_VECTORS=../shared/vectors python benchmarks/verify.py [--json] [--only CASE] [--rounds N]

One process, one thread. Each round runs a block of about 60 ms of each side in turn and compares
their thread CPU times; what is printed are medians over the rounds, and as ratio the median of the
rounds' own ratios, so that a machine that slows down meanwhile hits all sides alike.

`warm`, `floor`: the same platform again, collateral already verified; every quote is a new
`bytes` object, as from a socket. The floor is two P-256 verifications and one key load.
`fleet`: another platform each time, collateral already verified. Genuine quotes of one FMSPC:
before each pass everything that the verifier remembers is forgotten and one quote, which is not
timed, is verified; then each of the others is new but for the collateral.
`cold`: from raw bytes, with everything forgotten before each verdict; but Intel's published root,
which is built into both sides.
`workers`: 10,000 quotes of 1,000 simulated platforms through `ratls verify quote`, quotes/s of two
workers against one. `import`, `command`: a fresh interpreter, and one file by the whole command.

The peer knows Intel's root alone in `verify`, so all but `workers` and the imports need the genuine
vectors that RATLS_VECTORS names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Run as a file, this folder would come first, and this file would hide the package of its name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dcap_qvl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from verifier import Collateral, TrustAnchors, strip_file_padding, verify_quote

BLOCK_SECONDS = 0.06
PLATFORMS, QUOTES_EACH, COMMAND_ROUNDS, IMPORT_ROUNDS = 1000, 10, 5, 11
# The youngest collateral with the most genuine quotes of different platforms, of each technology.
COLLATERAL = {
    "sgx": "collateral/sgx-00606a000000-platform-20260605-eval21-2.json",
    "tdx": "collateral/tdx-00806f050000-platform-20260612-eval21.json",
}
ROOTS = TrustAnchors.intel()
RATLS = [str(Path(sys.executable).with_name("ratls"))]
Case = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """What a ratio must reach, and what it should."""

    at_least: float
    goal: float

    def case(self, ours: float, peer: float | None, ratio: float, unit: str) -> Case:
        return {
            "ours": round(ours, 3),
            "peer": None if peer is None else round(peer, 3),
            "ratio": round(ratio, 3),
            "at_least": self.at_least,
            "goal": self.goal,
            "unit": unit,
        }


WARM, FLOOR, FLEET, COLD = Bar(3.5, 4.2), Bar(0.74, 0.87), Bar(1.4, 1.8), Bar(0.5, 0.7)
WORKERS, IMPORT, COMMAND = Bar(1.7, 1.9), Bar(0.5, 1.0), Bar(1.0, 1.0)
TIMED = {"warm": WARM, "floor": FLOOR, "fleet": FLEET, "cold": COLD}
CASES = (
    *(f"{name}-{tee}" for name in TIMED for tee in COLLATERAL),
    "workers",
    "import",
    "import-loaded",
    "command",
)


@dataclass(frozen=True)
class Sample:
    """Genuine quotes of different platforms, and the one bundle that fits them all."""

    files: list[Path]
    quotes: list[bytes]
    bundle_file: Path
    bundle: bytes
    unix: int

    @classmethod
    def load(cls, vectors: Path, collateral: str) -> Sample:
        index = json.loads((vectors / "index.json").read_text("utf-8"))
        found = [
            (vectors / quote["file"], case["time"])
            for quote in index["quotes"]
            for case in quote["cases"]
            if case["collateral"] == collateral and case["expected"]["outcome"] == "verified"
        ]
        times = {unix for _, unix in found}
        assert len(found) > 4, f"{collateral}: too few quotes"
        assert len(times) == 1, f"{collateral}: more than one instant"
        files = [file for file, _ in found]
        quotes = [strip_file_padding(file.read_bytes()) for file in files]
        path = vectors / collateral
        return cls(files, quotes, path, path.read_bytes(), times.pop())

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.unix, UTC)


@dataclass(frozen=True)
class Side:
    """One way to do `count` units of work; `before` is not timed."""

    run: Callable[[], object]
    count: int = 1
    before: Callable[[], object] | None = None

    def repeats(self) -> int:
        """How many runs fill a block."""
        self.seconds(1)
        each = self.seconds(3) * self.count
        return max(1, round(BLOCK_SECONDS / each))

    def seconds(self, repeats: int) -> float:
        """Thread CPU seconds for one unit, over `repeats` runs."""
        run = self.run
        if self.before is None:
            start = time.thread_time()
            for _ in range(repeats):
                run()
            return (time.thread_time() - start) / repeats / self.count
        total = 0.0
        for _ in range(repeats):
            self.before()
            start = time.thread_time()
            run()
            total += time.thread_time() - start
        return total / repeats / self.count


def compare(ours: Side, peer: Side, bar: Bar, rounds: int) -> Case:
    sides = [(side, side.repeats()) for side in (ours, peer)]
    taken = [[side.seconds(repeats) for side, repeats in sides] for _ in range(rounds)]
    mine, others = (statistics.median(column) * 1e6 for column in zip(*taken, strict=True))
    ratio = statistics.median(other / own for own, other in taken)
    return bar.case(mine, others, ratio, "us CPU")


def forget_everything() -> None:
    """Empty every cache in the verifier's modules, whatever it is called."""
    for function in _CACHES:
        function.cache_clear()


def _caches() -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("verifier.")]
    values = [value for module in modules for value in vars(module).values()]
    return list({id(v): v for v in values if hasattr(v, "cache_clear")}.values())


_CACHES = _caches()


def warm_side(sample: Sample) -> Side:
    collateral, raw, at = Collateral.parse(sample.bundle), sample.quotes[0], sample.at
    return Side(lambda: verify_quote(bytes(bytearray(raw)), collateral, roots=ROOTS, at=at))


def peer_side(sample: Sample) -> Side:
    collateral = dcap_qvl.QuoteCollateralV3.from_json(sample.bundle.decode())
    raw, unix = sample.quotes[0], sample.unix
    return Side(lambda: dcap_qvl.verify(bytes(bytearray(raw)), collateral, unix))


def floor_side(sample: Sample) -> Side:
    """Two P-256 verifications and one key load, with the quote's own keys and signatures."""
    from verifier.pck import authenticate_pck_chain
    from verifier.quote import Quote

    quote = Quote.parse(sample.quotes[0])
    auth, algorithm = quote.auth, ec.ECDSA(hashes.SHA256())
    pck_key = authenticate_pck_chain(auth.require_pck_chain(), ROOTS).leaf.key
    point, curve = b"\x04" + auth.attestation_key, ec.SECP256R1()
    qe_signature, quote_signature = _der(auth.qe_report_signature), _der(auth.signature)
    qe_report, signed = auth.qe_report.raw, quote.signed

    def run() -> None:
        pck_key.verify(qe_signature, qe_report, algorithm)
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        key.verify(quote_signature, signed, algorithm)

    return Side(run)


def _der(signature: bytes) -> bytes:
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    return encode_dss_signature(r, s)


def fleet_sides(sample: Sample) -> tuple[Side, Side]:
    first, *others = sample.quotes
    collateral, at, unix = Collateral.parse(sample.bundle), sample.at, sample.unix
    theirs = dcap_qvl.QuoteCollateralV3.from_json(sample.bundle.decode())

    def before() -> None:
        forget_everything()
        verify_quote(first, collateral, roots=ROOTS, at=at)

    def ours() -> None:
        for raw in others:
            verify_quote(bytes(bytearray(raw)), collateral, roots=ROOTS, at=at)

    def peer() -> None:
        for raw in others:
            dcap_qvl.verify(bytes(bytearray(raw)), theirs, unix)

    return Side(ours, len(others), before), Side(peer, len(others))


def cold_sides(sample: Sample) -> tuple[Side, Side]:
    raw, bundle, at, unix = sample.quotes[0], sample.bundle, sample.at, sample.unix

    def ours() -> None:
        verify_quote(raw, Collateral.parse(bundle), roots=ROOTS, at=at)

    def peer() -> None:
        dcap_qvl.verify(raw, dcap_qvl.QuoteCollateralV3.from_json(bundle.decode()), unix)

    return Side(ours, 1, forget_everything), Side(peer)


def timed(name: str, sample: Sample, rounds: int) -> Case:
    if name == "warm":
        return compare(warm_side(sample), peer_side(sample), WARM, rounds)
    if name == "floor":
        return compare(warm_side(sample), floor_side(sample), FLOOR, rounds)
    ours, peer = fleet_sides(sample) if name == "fleet" else cold_sides(sample)
    return compare(ours, peer, TIMED[name], rounds)


def command_seconds(arguments: list[str]) -> float:
    """Wall seconds of the whole command; the quotes may be refused, but none may fail to be read.

    The genuine quotes are of platforms that are out of date by now (6).
    """
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        [*RATLS, "verify", "quote", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode in (0, 6), f"ratls verify quote ended with {done.returncode}"
    return time.perf_counter() - start


def workers() -> Case:
    """Quotes per second of wall time, with two workers and with one.

    The fastest round of each counts: whatever else the machine does can only slow them.
    """
    from simulation.intel import Intel

    at = datetime.now(UTC).replace(microsecond=0)
    intel = Intel.create(at)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quotes = folder / "quotes"
        quotes.mkdir()
        for number in range(PLATFORMS):
            platform = intel.platform(ppid=number.to_bytes(16, "big"))
            for one in range(QUOTES_EACH):
                # Named after the machine, so that its quotes come one after the other.
                file = quotes / f"host-{number:04}-{one:02}.bin"
                file.write_bytes(platform.quote(one.to_bytes(64, "big")))
        bundle = folder / "collateral.json"
        bundle.write_bytes(intel.collateral(platform))
        root = ["--root", intel.anchors().name, "--allow-simulation"]
        arguments = [str(quotes), "--collateral", str(bundle), *root, "--json"]
        taken: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(COMMAND_ROUNDS):
            for count, seconds in taken.items():
                seconds.append(command_seconds([*arguments, "--workers", str(count)]))
    total = PLATFORMS * QUOTES_EACH
    alone, both = (total / min(taken[count]) for count in (1, 2))
    return WORKERS.case(both, alone, both / alone, "quotes/s")


def imports(ours_code: str) -> Case:
    """CPU milliseconds of a first import, each in an interpreter of its own."""
    taken = [[_import_seconds(code) for code in (ours_code, _PEER)] for _ in range(IMPORT_ROUNDS)]
    ours, peer = (statistics.median(column) * 1e3 for column in zip(*taken, strict=True))
    return IMPORT.case(ours, peer, statistics.median(p / o for o, p in taken), "ms CPU")


# The package loads its parts when they are asked for; the second is what a first verdict waits for.
IMPORTS = {"import": "import verifier", "import-loaded": "import verifier; verifier.verify_quote"}
_PEER = "import dcap_qvl; dcap_qvl.verify"


def _import_seconds(code: str) -> float:
    timer = f"import time; a = time.process_time(); {code}; print(time.process_time() - a)"
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        [sys.executable, "-c", timer],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
        check=True,
    )
    return float(done.stdout)


def command(sample: Sample) -> Case:
    """Wall seconds for one file; the ratio is that of the half second allowed to what it took."""
    arguments = [str(sample.files[0]), "--collateral", str(sample.bundle_file)]
    arguments += ["--at", str(sample.unix)]
    seconds = statistics.median(command_seconds(arguments) for _ in range(7))
    return COMMAND.case(seconds, None, 0.5 / seconds, "s")


def measure(chosen: list[str], vectors: Path | None, rounds: int) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name in chosen:
        if name == "workers":
            cases[name] = workers()
        elif name in IMPORTS:
            cases[name] = imports(IMPORTS[name])
        else:
            assert vectors is not None
            kind, _, tee = name.partition("-")
            sample = Sample.load(vectors, COLLATERAL[tee or "sgx"])
            cases[name] = timed(kind, sample, rounds) if tee else command(sample)
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--only", action="append", metavar="CASE", help=f"start of a name of {', '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    arguments = parser.parse_args()
    wanted = tuple(arguments.only or [""])
    chosen = [name for name in CASES if name.startswith(wanted)]
    if not chosen or arguments.rounds < 1:
        parser.error(f"--only: no case of {', '.join(CASES)}, or no round")
    folder = os.environ.get("RATLS_VECTORS")
    vectors = Path(folder) if folder else None
    if set(chosen) - {"workers", *IMPORTS} and (vectors is None or not vectors.is_dir()):
        print("REAL VECTORS ABSENT: RATLS_VECTORS must name their folder", file=sys.stderr)
        return 3
    cases = measure(chosen, vectors, arguments.rounds)
    if arguments.json:
        print(json.dumps(cases))
        return 0
    for name, one in cases.items():
        peer = "" if one["peer"] is None else f"against {one['peer']} "
        print(
            f"{name:10} {one['ours']:>9} {peer}{one['unit']}: ratio {one['ratio']:.2f}, "
            f"at least {one['at_least']}, goal {one['goal']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
