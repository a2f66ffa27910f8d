"""The commands as a person types them: what they print, and the exit status of each wrong thing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from policy.document import Policy
from policy.state import StudyState
from policy.statement import instant_text
from policy.task import Task, TaskComputationUnknown, TaskParameterDenied, TaskSubmitterDenied
from policy.withdrawal import PartyWithdrew, Withdrawal
from provider.cli_provider import provider
from provider.cli_task import task
from provider.task_signing import (
    ComputationUnnamed,
    DurationMalformed,
    ParameterMalformed,
    only_computation,
    parse_duration,
    parse_parameters,
    policy_in_force,
    sign_task,
)
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import NOW, EnclaveWorld
from tests.support.parties import PASSPHRASE, ROOTS
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT

STUDY = "breast-cancer-joint-training"
NO_SIMULATION = "leave --allow-simulation out"


@pytest.fixture
def carol(world: EnclaveWorld, relay: Relay, tmp_path: Path) -> Desk:
    from ratls.address import Address

    return Desk.of("carol", world, tmp_path, Address.parse(relay.address))


class Terminal:
    """Types commands for a desk; every option can be replaced, or left out with None."""

    def __init__(self, desk: Desk, signed: bytes) -> None:
        self.desk = desk
        folder = desk.folder
        (folder / "passphrase").write_bytes(PASSPHRASE + b"\n")
        (folder / "collateral.json").write_bytes(desk.world.collateral)
        (folder / "task.json").write_bytes(signed)
        self.common: dict[str, Any] = {
            "party": desk.party.folder,
            "state": desk.state,
            "passphrase_file": folder / "passphrase",
        }
        self.enclave: dict[str, Any] = {
            "task": folder / "task.json",
            "enclave": desk.address,
            "collateral": folder / "collateral.json",
        }

    def push(self, *flags: str, **changed: Any) -> Result:
        options = {"dataset": self.desk.dataset, "source": self.desk.path}
        return self._type(provider, "push", flags, options | self.enclave, changed)

    def result(self, *flags: str, **changed: Any) -> Result:
        options = {"output": self.desk.folder / "result.json"}
        return self._type(task, "result", flags, options | self.enclave, changed)

    def sign(self, *flags: str, **changed: Any) -> Result:
        options = {"study": STUDY, "computation": "train", "output": self.desk.folder / "new.json"}
        return self._type(task, "sign", flags, options, changed)

    def _type(
        self, app: Any, command: str, flags: tuple[str, ...], options: dict[str, Any], changed: Any
    ) -> Result:
        line = [command, *(flag for flag in flags if flag != NO_SIMULATION)]
        if NO_SIMULATION not in flags:
            line.append("--allow-simulation")
        for name, value in (self.common | options | changed).items():
            if value is not None:
                line += [f"--{name.replace('_', '-')}", str(value)]
        return CliRunner().invoke(app, line)


@pytest.fixture
def at_alice(world: EnclaveWorld, alice: Desk) -> Terminal:
    return Terminal(alice, world.task())


def code(result: Result) -> str:
    """Of the refusal on stdout, as machines read it."""
    assert isinstance(result.exception, SystemExit), result.exception
    return str(json.loads(result.stdout.splitlines()[-1])["error"]["code"])


def require_refused(result: Result, refusal: str, status: int) -> None:
    """The command said why it refuses, and ended with that status."""
    count_refusal()
    assert (code(result), result.exit_code) == (refusal, status), result.output


def test_a_release_for_machines(at_alice: Terminal, world: EnclaveWorld) -> None:
    done = at_alice.push("--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert Path(answer["acknowledgement"]).is_file()
    assert Path(answer["record"]).is_file()
    assert (answer["rows"], answer["mode"], answer["tcb_status"]) == (60, "simulation", "UpToDate")
    assert answer["mr_enclave"] == world.consortium.mr_enclave
    assert answer["policy_digest"] == f"sha256:{world.policy.digest.hex()}"
    assert {c["outcome"] for c in answer["checks"]} == {"passed"}
    assert "SIMULATION" in done.stderr
    assert CANARY not in done.output


def test_a_release_for_people(at_alice: Terminal) -> None:
    done = at_alice.push()
    assert done.exit_code == 0, done.output
    assert "passed" in done.stdout
    assert "released: 60 rows of train_party_1 to joint-training-1.0" in done.stdout


def test_rows_leaving_are_shown_in_a_terminal(
    at_alice: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.shell.can_redraw", lambda console: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "rows sent" in at_alice.push().stderr


def test_colour_alone_draws_no_bar_into_a_recording(
    at_alice: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FORCE_COLOR is set where output is recorded; a bar would stand there once for each batch."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = at_alice.push()
    assert "\x1b[" in done.stdout
    assert "rows sent" not in done.output


def test_ctrl_c(at_alice: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("provider.release._stream", interrupted)
    assert at_alice.push().exit_code == 130
    monkeypatch.undo()
    assert at_alice.push().exit_code == 0


@pytest.mark.parametrize(
    ("changed", "status", "refusal"),
    [
        ({"task": "no-such-file"}, 3, "file-unreadable"),
        ({"collateral": "no-such-file"}, 3, "file-unreadable"),
        ({"passphrase_file": "no-such-file"}, 3, "file-unreadable"),
        ({"passphrase_file": None}, 3, "passphrase-missing"),
        ({"party": "no-such-folder"}, 3, "file-unreadable"),
        ({"state": "no-such-folder"}, 3, "state-missing"),
        ({"source": "no-such-file"}, 3, "source-unreadable"),
        ({"enclave": "https://enclave"}, 3, "address-malformed"),
        ({"enclave": "{nowhere}"}, 7, "peer-unreachable"),
        ({"dataset": "train_party_2"}, 6, "dataset-not-owned"),
    ],
)
def test_a_wrong_option(
    at_alice: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    status: int,
    refusal: str,
    nowhere: tuple[str, int],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {k: v and v.replace("{nowhere}", "{}:{}".format(*nowhere)) for k, v in changed.items()}
    require_refused(at_alice.push("--json", **given), refusal, status)


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_the_environment_would_log_what_leaves(
    at_alice: Terminal, relay: Relay, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """L03. A trace switched on by somebody else writes keys or rows to a file."""
    monkeypatch.setenv(name, "all")
    require_refused(at_alice.push("--json"), "environment-unsafe", 3)
    assert relay.connections == []


def test_people_see_where_the_appraisal_stopped(
    at_alice: Terminal, relay: Relay, world: EnclaveWorld
) -> None:
    """Another enclave: exit status 6, the chain up to the measurement, the fix; nothing else."""
    from tests.provider.test_release import serving

    count_refusal()
    with serving(world, relay, mr_enclave=bytes(31) + b"\x01"):
        refusing = at_alice.push()
    assert refusing.exit_code == 6
    (failed,) = [line for line in refusing.stdout.splitlines() if "FAILED" in line]
    assert "measurement" in failed
    assert "not reached" in refusing.stdout
    assert "[measurement-not-listed]" in refusing.stderr
    assert "to do:" in refusing.stderr
    assert "Traceback" not in refusing.output


def test_a_task_is_signed_released_to_and_collected(
    world: EnclaveWorld, carol: Desk, alice: Desk, bob: Desk
) -> None:
    at_carol = Terminal(carol, b"")
    signed = at_carol.sign("--json", "--set", "max_iter=500", output=carol.folder / "t.json")
    assert signed.exit_code == 0, signed.output
    raw = (carol.folder / "t.json").read_bytes()
    opened = Task.open(raw, world.policy, datetime.now(UTC))
    assert "SIMULATION" in signed.stderr
    answer = json.loads(signed.stdout)
    assert answer["task_digest"] == f"sha256:{opened.digest.hex()}"
    assert answer["expires"] == instant_text(opened.expires)
    assert Terminal(alice, raw).push().exit_code == 0
    pending = at_carol.result("--json", task=carol.folder / "t.json")
    assert (code(pending), pending.exit_code) == ("result-pending", 5)
    assert Terminal(bob, raw).push().exit_code == 0
    collected = at_carol.result("--json", task=carol.folder / "t.json", wait=int(HANG_LIMIT))
    assert collected.exit_code == 0, collected.output
    answer = json.loads(collected.stdout)
    assert answer["receipt"].endswith("/result.receipt.json")
    assert {"coefficients", "intercept"} <= json.loads(Path(answer["result"]).read_bytes())[
        "model_weights"
    ].keys()
    require_refused(at_carol.result("--json", task=carol.folder / "t.json"), "file-not-written", 3)


@pytest.mark.parametrize(
    ("flags", "changed", "status", "refusal"),
    [
        (("--set", "max_iter=5"), {}, 6, "task-parameter-denied"),
        (("--set", "max_iter=200", "--set", "seed=1"), {}, 6, "task-parameter-denied"),
        (("--set", 'label="x"'), {}, 6, "task-parameter-denied"),
        (("--set", "max_iter"), {}, 3, "parameter-malformed"),
        (("--set", "max_iter=200"), {"valid_for": "1 hour"}, 3, "duration-malformed"),
        (("--set", "max_iter=200"), {"computation": "spy"}, 6, "task-computation-unknown"),
        (("--set", "max_iter=200"), {"study": "another"}, 3, "state-missing"),
        (("--set", "max_iter=200"), {"study": "../.."}, 3, "state-missing"),
        (("--set", "max_iter=200"), {"output": "/no/such/folder/t.json"}, 3, "file-not-written"),
    ],
)
def test_a_task_that_cannot_be_signed(
    carol: Desk, flags: tuple[str, ...], changed: dict[str, Any], status: int, refusal: str
) -> None:
    require_refused(Terminal(carol, b"").sign("--json", *flags, **changed), refusal, status)
    assert not (carol.folder / "new.json").exists()


def test_a_task_under_an_agreement_that_a_party_left(carol: Desk) -> None:
    """Its submitter knows of the withdrawal, so it signs nothing that all others would refuse."""
    world, state = carol.world, StudyState(carol.state)
    before = carol.folder / "before.json"
    assert Terminal(carol, b"").sign("--set", "max_iter=200", output=before).exit_code == 0
    gone = Withdrawal.of([world.complete.policy], "bob-hospital")
    state.keep_withdrawal(gone.signed(world.consortium.bob.signing), NOW)
    again = Terminal(carol, b"").sign("--json", "--set", "max_iter=200")
    require_refused(again, PartyWithdrew.code, 6)
    assert not (carol.folder / "new.json").exists()


@pytest.mark.parametrize("command", ["push", "result", "sign"])
def test_a_simulation_that_the_command_did_not_allow(at_alice: Terminal, command: str) -> None:
    """The third lock: without the option, the simulated root that everybody signed is refused."""
    seen = getattr(at_alice, command)("--json", NO_SIMULATION)
    require_refused(seen, "simulation-not-allowed", 6)


def test_an_unknown_parameter_is_answered_with_those_that_exist(carol: Desk) -> None:
    with refused(TaskParameterDenied) as seen:
        ask(carol, parameters={"max_iter": 200, "sed": 1})
    assert "max_iter" in seen.error.expected


def ask(desk: Desk, computation: str = "train", **parameters: Any) -> Any:
    made = parameters.get("parameters", {"max_iter": 200})
    life = parse_duration("1h")
    policy = policy_in_force(desk.party, desk.state, STUDY, at=NOW)
    return sign_task(desk.party, policy, computation, made, life, at=NOW)


def test_a_provider_signs_no_task(alice: Desk, carol: Desk) -> None:
    assert ask(carol)[0].submitter == "carol-lab"
    with refused(TaskSubmitterDenied):
        ask(alice)
    with refused(TaskComputationUnknown):
        ask(carol, "another")


def test_the_one_computation_need_not_be_named(alice: Desk, carol: Desk) -> None:
    """Of several none is chosen for a party, nor one that it may not submit."""
    policy = policy_in_force(carol.party, carol.state, STUDY, at=NOW)
    assert only_computation(policy, "carol-lab") == "train"
    with refused(ComputationUnnamed):
        only_computation(policy, "alice-clinic")
    text = carol.world.consortium.policy_text()
    computed = text[text.index("[[computation]]") :]
    raw = (text + computed.replace('id = "train"', 'id = "again"')).encode()
    two = Policy.parse(raw, known_roots=ROOTS)
    with refused(ComputationUnnamed):
        only_computation(two, "carol-lab")


@pytest.mark.parametrize(
    "settings",
    [
        ["=1"],
        ["a"],
        ["a="],
        ["a=b"],
        ["a=1\nb=2"],
        ["a=1", "a=2"],
        ["a=2026-11-25"],
        ["a={x=1}"],
        ["a=[]"],
        ["a=[1, 'x']"],
        ["a=" + "[" * 5000],
        ["a=1 # and\nvalue=2"],
    ],
)
def test_a_setting_that_is_no_value(settings: list[str]) -> None:
    """A line end would let one setting smuggle in another."""
    with refused(ParameterMalformed):
        parse_parameters(settings)


def test_settings_are_toml_values() -> None:
    given = ["a=1", "b=1.5", "c=true", 'd="x"', "e=['x', 'y']", "f=1_000"]
    expected = {"a": 1, "b": 1.5, "c": True, "d": "x", "e": ("x", "y"), "f": 1000}
    assert parse_parameters(given) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "1h30m", "\uff11h", "999999d"])
def test_a_duration_that_is_none(text: str) -> None:
    with refused(DurationMalformed):
        parse_duration(text)
    assert parse_duration("90m").total_seconds() == 5400


def test_the_help_shows_an_example(at_alice: Terminal) -> None:
    for app, command in ((provider, "push"), (task, "sign"), (task, "result")):
        shown = CliRunner().invoke(app, [command, "--help"])
        assert "Example: ratls " in shown.output
