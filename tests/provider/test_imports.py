"""What a release loads: a second of imports is longer than a small release takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.provider.desk import Desk
from tests.provider.formats import FORMATS
from tests.provider.test_cli import Terminal
from tests.support.enclave import EnclaveWorld

import pyarrow.parquet as pq  # isort: skip - after tests.support.enclave, which prepares the process

pytestmark = pytest.mark.slow
PROGRAM = """
import sys
from ratls.cli import main
sys.argv[0] = "ratls"
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sorted(name for name, module in sys.modules.items() if module))
"""
# Of these a release loads the one that its source needs.
READERS = {"pyarrow.parquet", "pyarrow.csv", "sqlalchemy", "pyarrow.dataset", "pyarrow.flight"}
NEVER = {"pandas", "scipy", "structlog", "httpx", "botocore.session", "rich.progress", "pkcs11"}
NEVER |= {"scheduler", "enclave_app"}


@pytest.mark.parametrize(
    ("form", "readers"),
    [
        ("parquet", {"pyarrow.parquet"}),
        ("csv", {"pyarrow.csv"}),
        ("arrow_file", set()),
        ("arrow_stream", set()),
    ],
)
def test_a_release_loads_no_more_than_its_source_needs(
    form: str, readers: set[str], alice: Desk, world: EnclaveWorld
) -> None:
    FORMATS[form](alice.folder, pq.read_table(alice.path))
    source = next(
        path for path in alice.folder.glob("rows.*") if form == "parquet" or path != alice.path
    )
    terminal = Terminal(alice, world.task())
    options = {"dataset": alice.dataset, "source": source} | terminal.enclave | terminal.common
    words = [w for name, value in options.items() for w in (f"--{name.replace('_', '-')}", value)]
    command = ["provider", "push", "--allow-simulation", "--json", *words]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert loaded & READERS == readers
    assert loaded & NEVER == set()


SPARED = """
import sys
from ratls.cli import _Spared
sys.meta_path.insert(0, _Spared("policy"))
from securesystemslib.signer._aws_signer import AWS_IMPORT_ERROR, boto3
assert AWS_IMPORT_ERROR is None and "botocore.session" not in sys.modules
assert boto3.client("kms", region_name="eu-west-1") and "botocore.session" in sys.modules
from securesystemslib.signer._hsm_signer import PKCS11_IMPORT_ERROR
assert PKCS11_IMPORT_ERROR is None
"""


def test_the_client_of_a_key_service_is_there_when_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", SPARED], check=True, cwd=Path(__file__).parents[2])
