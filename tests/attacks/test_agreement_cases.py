"""P01 to P19: each public case of a bad agreement is brought to a party that has a good one.

Whoever brings it gains nothing: a refusal, the state as before to the byte, nothing secret in what
is said; and the good agreement is accepted afterwards as if nothing had been.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policy.document import digest_text
from tests.policy.desk import APP, WORLD, Desk
from tests.support.parties import PASSPHRASE
from tests.support.refusal import count_refusal
from tests.vectors.test_policy_cases import CASES
from verifier.errors import Exit

pytestmark = pytest.mark.slow

FIRST = WORLD.complete()
SECRETS = (PASSPHRASE.decode(), "PRIVATE KEY")
# What speaks against the bytes themselves is said before anybody asks whose they are.
OF_BYTES = ("signatures/", "thresholds/")


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused_cases() -> list[Any]:
    return [case for case in CASES if case.values[0]["expected"] != "accepted"]  # type: ignore[index]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("bob"))
    made.accept(made.write("good.agreement.json", FIRST.agreement.encode()), "bob-hospital")
    return made


@pytest.mark.parametrize("case", refused_cases())
def test_a_bad_agreement_gains_nothing(
    desk: Desk, case: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    count_refusal()
    state, before = desk.folder / "state", contents(desk.folder / "state")
    bad = desk.write("bad.agreement.json", base64.b64decode(case["agreement"]))
    words = ["policy", "accept", bad, "--party", WORLD.bob.folder, "--state", state, "--json"]
    consent = desk.yes(bad) or ("--yes", digest_text(FIRST.digest))
    found = CliRunner().invoke(APP, [*map(str, words), *consent])
    assert found.exit_code in (Exit.UNUSABLE, Exit.NOT_GENUINE, Exit.NOT_ADMITTED), found.output
    code = json.loads(found.stdout)["error"]["code"]
    if request.node.callspec.id.startswith(OF_BYTES):
        assert code == case["expected"]
    assert contents(state) == before
    assert not any(secret in found.output for secret in SECRETS)
    desk.accept(desk.folder / "good.agreement.json", "bob-hospital")
    assert contents(state) == before, "what is in force already is accepted again"


def test_the_good_one_is_in_force(desk: Desk) -> None:
    """The twin of all of them."""
    told = desk.json("policy", "verify", desk.folder / "good.agreement.json", "--party",
                     WORLD.bob.folder, "--state", desk.folder / "state")  # fmt: skip
    assert told["verdict"] == "accepted"
