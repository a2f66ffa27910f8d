"""A server whose process sees one image and nothing else, asked by parties from outside.

    world = image_world("summary_statistics")
    with serving(tree, world) as live:      # by chroot, or else the image's interpreter on it
        live.release(world.consortium.alice, "train_party_1", rows(1), world.task(parameters={}))

The server is that of production, `enclave_app.serving.serve`. What it has not is the processor: an
object in its place asks this process for quotes, through two pipes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ratls.address import Address
from ratls.image.bytecode import LOADER, tree_interpreter
from ratls.image.rules import INTERPRETER
from ratls.probe import probe
from tests.enclave_app.agreed import computation
from tests.support.channels import Log
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.imports import ROOT
from tests.support.refusal import current
from tests.support.waiting import HANG_LIMIT

TEMPLATE = ROOT / "manifests" / "gramine" / "ratls-enclave.manifest.template"
# The whole environment, as the manifest gives it.
ENVIRONMENT: dict[str, str] = tomllib.loads(
    re.split(r"^\[loader\.env\]$|^\[sys\]$", TEMPLATE.read_text("utf-8"), flags=re.MULTILINE)[1]
)
SECTIONS = {
    "boosted_trees": (
        'features = ["age"], label = "y", predict = "class", trees = 5, leaves = 4, bins = 20, '
        "learning_rate = 0.3, test_share = 0.3",
        ["model_weights", "metrics"],
        10,
    ),
    "federated": (
        'model = "vector", tensors = ["v 4"], rounds = 2, quorum = 2, reason = "made up, and two", '
        'seconds = 60, aggregator = "median", clip_norm = 1.0, weights = "equal"',
        ["model"],
        10,
    ),
    "k_means": ('features = ["age"], clusters = 2, max_iter = 500', ["model_weights"], 10),
    "linear_regression": (
        'features = ["age", "bmi"], label = "y", test_share = 0.3',
        ["model_weights", "metrics"],
        10,
    ),
    "logistic_regression": (
        'features = ["age", "bmi"], label = "y", max_iter = 500',
        ["model_weights"],
        10,
    ),
    "private_set_intersection": ('key = "age"', ["intersection_size"], 3),
    "sql": (
        'statement = "WITH u AS (SELECT patient, y, age FROM train_party_1 UNION ALL SELECT '
        "patient, y, age FROM train_party_2) SELECT y, count(*) AS n, avg(age) AS m, "
        "sum(CASE WHEN age > 50 THEN 1 ELSE 0 END) AS o FROM u "
        'GROUP BY ROLLUP (y) ORDER BY y", max_groups = 10, memory_mebibytes = 64, seconds = 60',
        ["table"],
        5,
    ),
    "summary_statistics": ('columns = ["age", "bmi"], quantiles = [0.5]', ["statistics"], 5),
}
# A test that has this property ran beside the files of the machine: the summary says so.
NO_CHROOT = ("chroot", False)
# Of what Gramine has in /dev.
DEVICES = ("dev/null", "dev/urandom")
_DRIVER = """
import os, sys, threading
from pathlib import Path
from enclave_app.serving import serve
from verifier.anchors import Mode

class FromOutside:
    mode, lock = Mode.SIMULATION, threading.Lock()

    def quote(self, report_data):
        with self.lock:
            os.write(int(sys.argv[2]), report_data)
            quote, told = b"", int(sys.argv[3])
            size = int.from_bytes(os.read(told, 4))
            while len(quote) < size:
                quote += os.read(told, size - len(quote))
            return quote

serve(
    agreement=Path(sys.argv[1]),
    listen="127.0.0.1:0",
    attester=FromOutside,
    roots=frozenset({"intel", "simulation"}),
    ready=lambda fields: print(fields["ready"], flush=True),
)
"""


def image_world(run: str, **options: Any) -> EnclaveWorld:
    """Parties that agreed on one computation."""
    parameters, outputs, minimum = SECTIONS[run]
    options = {"minimum": minimum, "digits": 4, **options}
    return EnclaveWorld.create(computation=computation(run, parameters, outputs, **options))


def inside(tree: Path) -> tuple[list[str], Path] | None:
    """What starts the image's interpreter in the image alone, and how the image's root is named
    there; None where this machine lets no process change its root."""
    if shutil.which("unshare") is None:
        return None
    for name in DEVICES:
        place = tree / name
        place.parent.mkdir(exist_ok=True)
        place.touch()
    bind = "".join(f"mount --bind /{name} {tree}/{name} && " for name in DEVICES)
    users = ["--map-root-user"] if os.geteuid() else []
    shell = ["sh", "-c", f'PATH=$PATH:/usr/sbin:/sbin; {bind}exec chroot "$@"', "sh", str(tree)]
    prefix = ["/usr/bin/env", "unshare", "--mount", *users, *shell]
    start = [*prefix, f"/{LOADER}", "--argv0", f"/{INTERPRETER}", f"/{INTERPRETER}"]
    tried = subprocess.run(
        [*start, "-I", "-B", "-c", "pass"], env=ENVIRONMENT, capture_output=True, check=False
    )
    return (start, Path("/")) if tried.returncode == 0 else None


@cache
def starts_in(tree: Path) -> tuple[list[str], Path]:
    """As `inside`, or else the same interpreter with its libraries and folders named in full."""
    found = inside(tree)
    if found is None and current:
        current[-1].user_properties.append(NO_CHROOT)
    return found or (list(tree_interpreter(tree).command), tree)


def run_in(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The image's interpreter with these arguments, to its end."""
    command = [*starts_in(tree)[0], "-I", "-B", *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=HANG_LIMIT
    )


@contextmanager
def serving(
    tree: Path, world: EnclaveWorld, *, prefix: Sequence[str] = ()
) -> Iterator[LiveEnclave]:
    """Started and ready; stopped by SIGTERM at the end, which must end it in order."""
    command, root = starts_in(tree)
    place = Path("etc/ratls/agreement.json")
    (tree / place.parent).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").mkdir(exist_ok=True)
    (tree / place).write_bytes(world.complete.agreement.encode())
    (asked, ask), (told, tell) = os.pipe(), os.pipe()
    with subprocess.Popen(
        [*prefix, *command, "-I", "-B", "-c", _DRIVER, str(root / place), str(ask), str(told)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(ask, told),
    ) as child:
        os.close(ask)
        os.close(told)
        threading.Thread(target=answer_quotes, args=(world, asked, tell), daemon=True).start()
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            assert address, child.stderr and child.stderr.read()
            der = probe(Address.parse(address), timeout=HANG_LIMIT)
            stand_in: Any = SimpleNamespace(
                identity=SimpleNamespace(certificate_der=der), address=address
            )
            yield LiveEnclave(world, stand_in, stand_in, Log())
            child.terminate()
            output, log = child.communicate(timeout=HANG_LIMIT)
            assert (child.returncode, output) == (0, ""), log
            assert "Traceback" not in log
        finally:
            child.kill()
            shutil.rmtree(tree / "etc/ratls")


def answer_quotes(world: EnclaveWorld, asked: int, tell: int) -> None:
    """Until the server is gone."""
    with os.fdopen(asked, "rb") as questions, os.fdopen(tell, "wb") as answers:
        while report_data := questions.read(64):
            quote = world.attester.quote(report_data)
            answers.write(len(quote).to_bytes(4, "big") + quote)
            answers.flush()
