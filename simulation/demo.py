"""`ratls demo`: the whole job on one machine, with real processes, ports, files and data.

Alice's clinic and Bob's hospital hold rows, Carol's lab wants one model. Every step is the
command that a person would type, run as a process of its own; `ratls simulation new` stands in for
Intel. No check is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from simulation import demo_agreed, demo_federated, demo_sql, demo_trees
from simulation.demo_files import (
    PARTIES,
    STUDY,
    agent_config,
    altered_code,
    policy_text,
    write_rows,
)
from simulation.demo_steps import AGREEMENT, as_party, with_state
from simulation.demo_tee import DemoTee, demo_tee
from simulation.relay import RecordingRelay
from simulation.stage import DemoFailed, Server, Stage, Typed
from verifier.errors import Exit
from verifier.quote import Tee

AGREED_LOG = "agreed.ccel"
STEPS = 11


class Study(StrEnum):
    """What the parties of a demonstration agree to compute."""

    MODEL = "model"
    SQL = "sql"
    TREES = "trees"
    FEDERATED = "federated"


_STORIES = {Study.SQL: demo_sql.STORY, Study.TREES: demo_trees.STORY}
_STEPS = {Study.MODEL: STEPS, Study.FEDERATED: demo_federated.STEPS}


def run(keep: Path | None, tee: Tee = Tee.SGX, study: Study = Study.MODEL) -> int:
    """The whole demonstration; the exit status.

    Args:
        study: One model, by agents and a mailbox; a table by an agreed statement; trees; or a
            model that three owners train in rounds, without sending rows.
        tee: Whether the rows go to an SGX enclave, or to a TDX guest.
        keep: Folder to make and to leave everything in; None works in one that is removed.
    """
    from verifier.files import FileNotWritten, make_folder
    from verifier.text import cause

    if keep is not None:
        try:
            make_folder(keep.parent)
            keep.mkdir(mode=0o700)
        except OSError as error:
            raise FileNotWritten(str(keep), expected="a new folder", found=cause(error)) from error
    folder = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="ratls-demo-"))
    stage = Stage(folder, _STEPS.get(study, demo_agreed.STEPS))
    # Ctrl-C too: a shell makes jobs in the background ignore it.
    stops = (signal.SIGTERM, signal.SIGINT)
    restore = [signal.signal(stop, _interrupt) for stop in stops]
    try:
        kind = demo_tee(tee)
        if study is Study.MODEL:
            _tell_story(stage, kind)
        elif study is Study.FEDERATED:
            demo_federated.tell_story(stage, kind, make_intel=_make_intel, type_keys=_type_keys)
        else:
            demo_agreed.tell_story(
                stage, kind, _STORIES[study], make_intel=_make_intel, type_keys=_type_keys
            )
    except KeyboardInterrupt:
        stage.tell("\n[yellow]interrupted[/]: every process of the demo was ended")
        return Exit.INTERRUPTED
    except DemoFailed as failure:
        stage.console.print(f"\n[bold red]the demo failed[/]: {escape(str(failure))}")
        return Exit.PEER
    finally:
        stage.close()
        for stop, before in zip(stops, restore, strict=True):
            signal.signal(stop, before)
        if keep is None:
            shutil.rmtree(folder)
        else:
            (folder / "commands.sh").write_text("\n".join(stage.commands) + "\n", "utf-8")
    _say_what_next(stage, study, kept=folder if keep else None)
    return Exit.YES


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell_story(stage: Stage, kind: DemoTee) -> None:
    stage.console.print(
        Panel(
            "Alice's clinic and Bob's hospital each hold rows of patients. Carol's lab wants one "
            "model trained on both. Neither shows its rows to anyone.\n\n"
            "[bold black on yellow] SIMULATION [/] Real processes, ports, files and data; only "
            "Intel's keys are made up. No hardware protects anything here, and no production "
            "command accepts it.",
            title="ratls demo",
        )
    )
    # Independent commands run at the same time: most of a command's time is its start.
    intel = stage.type("operator", "simulation", "new", "intel", "--json")
    keys = _type_keys(stage)
    measured = stage.type(
        "everyone", "simulation", "measure", *kind.measuring(AGREED_LOG), "--json"
    )
    _prepare_data(stage)
    root, ppid = _make_intel(stage, intel)
    stage.title("Three parties make their keys")
    for typed in keys:
        stage.show(typed)
    yes = _sign(stage, root, ppid, measured, kind)
    with ExitStack() as opened:
        servers = _start_servers(stage, opened, kind)
        _accept(stage, yes)
        _ask(stage)
        stage.title("An operator starts the enclave")
        enclave = stage.ready(servers.enclave)
        _release(stage, opened, servers, enclave, kind)
        _collect(stage, enclave, kind)
    _compare(stage)


def _prepare_data(stage: Stage) -> None:
    stage.title("The data: made-up patients, in two parts")
    for who, rows, columns in write_rows(stage.folder):
        stage.tell(f"  {who}/rows.parquet: {rows} patients, {columns} columns")


def _make_intel(stage: Stage, typed: Typed) -> tuple[str, str]:
    stage.title("A whole Intel in software")
    facts = json.loads(stage.show(typed, quiet=True).splitlines()[-1])
    stage.tell(f"  root of trust: {facts['root']}")
    stage.tell(f"  platform     : ppid {facts['ppid']}, fmspc {facts['fmspc']}")
    return facts["root"], facts["ppid"]


def _type_keys(stage: Stage, parties: Mapping[str, str] = PARTIES) -> list[Typed]:
    typed = []
    for who, party_id in parties.items():
        roles = ["recipient", "submitter"] if who == "carol" else ["provider"]
        (stage.folder / who).mkdir()
        passphrase = stage.folder / who / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(os.urandom(16).hex() + "\n", "utf-8")
        typed.append(stage.type(
            who, "party", "new", party_id, "--dir", f"{who}/keys",
            *(word for role in roles for word in ("--role", role)),
            "--passphrase-file", f"{who}/passphrase",
        ))  # fmt: skip
    return typed


def _sign(stage: Stage, root: str, ppid: str, measured: Typed, kind: DemoTee) -> tuple[str, str]:
    """The option that says which policy they read."""
    stage.title("They agree: one policy, signed by each")
    facts = json.loads(stage.show(measured, quiet=True).splitlines()[-1])
    code = kind.code.replace("_", "").upper()
    stage.tell(f"  the code that all parties agreed on: {code} {facts[kind.code]}")
    text = policy_text(stage.folder, root, ppid, kind.section(facts))
    (stage.folder / "policy.toml").write_text(text, "utf-8")
    stage.tell("  policy.toml is written; all three read it, and sign exactly those bytes")
    linted = stage.run("alice", "policy", "lint", "policy.toml")
    yes = ("--yes", linted.splitlines()[0].split()[-1])  # the digest of what they read
    for who in ("alice", "carol"):
        stage.run(who, "policy", "sign", "policy.toml", *as_party(who), *yes, quiet=True)
    stage.tell("\n  Bob has not signed yet. Can Alice already take it into force?")
    serving = stage.type("operator", *_serve_arguments(kind))
    stage.show(_type_accept(stage, "alice", yes), expect=Exit.NOT_ADMITTED)
    stage.tell("  And would an enclave start with it?")
    stage.show(serving, expect=Exit.NOT_ADMITTED)
    stage.tell("")
    stage.run("bob", "policy", "sign", "policy.toml", *as_party("bob"), *yes, quiet=True)
    return yes


def _type_accept(stage: Stage, who: str, yes: tuple[str, str]) -> Typed:
    return stage.type(
        who, "policy", "accept", AGREEMENT, "--party", f"{who}/keys",
        "--state", f"{who}/state", *yes,
    )  # fmt: skip


def _accept(stage: Stage, yes: tuple[str, str]) -> None:
    accepting = {who: _type_accept(stage, who, yes) for who in PARTIES}
    stage.run("anyone", "policy", "status", AGREEMENT)
    for who, typed in accepting.items():
        stage.show(typed, quiet=who != "bob")


def _serve_arguments(kind: DemoTee) -> tuple[str, ...]:
    return (
        "enclave", "serve", "--agreement", AGREEMENT, "--listen", "127.0.0.1:0",
        "--attester", kind.attester, "--allow-simulation",
    )  # fmt: skip


def _ask(stage: Stage) -> None:
    stage.title("Carol signs a task")
    stage.run(
        "carol", "task", "sign", *as_party("carol"), *with_state("carol"), "--study", STUDY,
        "--computation", "train", "--valid-for", "1h", "-o", "task.json",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Servers:
    """The servers that operators started once all had signed."""

    enclave: Server
    altered: Server
    mailbox: Server


def _start_servers(stage: Stage, opened: ExitStack, kind: DemoTee) -> _Servers:
    def start(*arguments: str, code: Path | None = None) -> Server:
        return opened.enter_context(stage.serve("operator", *arguments, code=code))

    return _Servers(
        start(*_serve_arguments(kind)),
        start(*_serve_arguments(kind), code=altered_code(stage.folder)),
        start(*_mailbox_arguments("127.0.0.1:0")),
    )


def _release(
    stage: Stage,
    opened: ExitStack,
    servers: _Servers,
    enclave: tuple[str, int],
    kind: DemoTee,
) -> None:
    """A refusal, and two agents, woken by a mailbox that dies in the middle."""
    stage.title("Refusal: an enclave with one line more")
    code = kind.code.replace("_", "").upper()
    stage.tell(f"  Same platform, same policy, other {code}. A relay records what leaves Alice.")
    altered = opened.enter_context(RecordingRelay(stage.ready(servers.altered)))
    push = stage.type(
        "alice", "provider", "push", "--task", "task.json", "--dataset", "train_party_1",
        "--source", "alice/rows.parquet", "--enclave", altered.address,
        "--collateral", kind.collateral, *as_party("alice"), *with_state("alice"),
    )  # fmt: skip
    mailbox = servers.mailbox.ready().split()[1]
    submit = stage.type(
        "carol", "task", "submit", "--task", "task.json", *_mailbox(mailbox), *as_party("carol"),
        *with_state("carol"),
    )  # fmt: skip
    to_bob = opened.enter_context(RecordingRelay(enclave))
    bob = _start_agent(stage, opened, "bob", mailbox, to_bob, kind)
    stage.show(push, expect=Exit.NOT_ADMITTED)
    if len(altered.connections) != 1:
        raise DemoFailed("the refused enclave saw more than the probe")
    if kind.tee is Tee.TDX:
        _name_the_event(stage, servers.altered.ready().split()[1], kind)
    servers.altered.end()
    stage.title("Bob's agent releases, and the mailbox dies")
    stage.ready(servers.mailbox)
    stage.show(submit)
    stage.enter(bob)
    stage.tell(f"  {escape(bob.wait_for('released'))}")
    stage.tell(f"  the mailbox is killed: kill -9 {servers.mailbox.pid}")
    servers.mailbox.kill()
    again = opened.enter_context(stage.serve("operator", *_mailbox_arguments(mailbox)))
    stage.ready(again)
    stage.tell("  The task is still there:")
    listed = stage.type("carol", "task", "list", *_mailbox(mailbox), *as_party("carol"))
    to_alice = opened.enter_context(RecordingRelay(enclave))
    alice = _start_agent(stage, opened, "alice", mailbox, to_alice, kind)
    stage.show(listed)
    stage.title("Alice's agent was away, and gets its task too")
    stage.enter(alice)
    stage.tell(f"  {escape(alice.wait_for('released'))}")
    relays = {"alice, refused": altered, "bob, accepted": to_bob, "alice, accepted": to_alice}
    _show_connections(stage, relays)


def _name_the_event(stage: Stage, altered: str, kind: DemoTee) -> None:
    """A register says that something differs; the event log says what."""
    stage.tell("\n  What differs in that guest? Alice keeps its quote, and is shown its event log.")
    root = (stage.folder / "intel" / "root.txt").read_text("utf-8").strip()
    log = stage.type(
        "operator", "simulation", "measure", *kind.measuring("altered.ccel"), "--json",
        code=stage.folder / "altered",
    )  # fmt: skip
    saved = stage.type(
        "alice", "verify", "server", altered, "--agreement", AGREEMENT, "--save-quote",
        "altered.quote", "--collateral", kind.collateral, *as_party("alice"), *with_state("alice"),
    )  # fmt: skip
    stage.show(log, quiet=True)
    stage.show(saved, expect=Exit.NOT_ADMITTED, quiet=True)
    stage.run(
        "alice", "verify", "eventlog", "altered.ccel", "--quote", "altered.quote",
        "--expected", AGREED_LOG, "--collateral", kind.collateral, "--root", root,
        "--allow-simulation", expect=Exit.NOT_ADMITTED,
    )  # fmt: skip


def _mailbox_arguments(listen: str) -> tuple[str, ...]:
    return (
        "scheduler", "serve", "--agreement", AGREEMENT, "--listen", listen,
        "--state", "mailbox",
    )  # fmt: skip


def _mailbox(address: str) -> tuple[str, ...]:
    return ("--scheduler", address, "--scheduler-certificate", "mailbox/scheduler.crt")


def _start_agent(
    stage: Stage,
    opened: ExitStack,
    who: str,
    mailbox: str,
    relay: RecordingRelay,
    kind: DemoTee,
) -> Server:
    config = agent_config(who, mailbox, relay.address, kind.collateral)
    (stage.folder / who / "ratls.toml").write_text(config, "utf-8")
    return opened.enter_context(
        stage.serve(who, "provider", "agent", "--config", f"{who}/ratls.toml", "--allow-simulation")
    )


def _show_connections(stage: Stage, relays: dict[str, RecordingRelay]) -> None:
    table = Table(title="What the relay between provider and enclave saw leaving the provider")
    table.add_column("release")
    for heading in ("probes", "bytes", "connections for data", "bytes"):
        table.add_column(heading, justify="right")
    for name, relay in relays.items():
        probe, *data = relay.connections
        sent = sum(len(connection.sent) for connection in data)
        table.add_row(name, "1", f"{len(probe.sent):,}", str(len(data)), f"{sent:,}")
    stage.console.print(table)


def _collect(stage: Stage, enclave: tuple[str, int], kind: DemoTee) -> None:
    stage.title("Carol fetches the model and a receipt")
    stage.run(
        "carol", "task", "result", "--task", "task.json", "--enclave", f"{enclave[0]}:{enclave[1]}",
        "--collateral", kind.collateral, *as_party("carol"), *with_state("carol"), "--wait", "90",
        "-o", "carol/model.json",
    )  # fmt: skip
    receipt = stage.type(
        "carol", "verify", "receipt", "carol/model.json", "--agreement", AGREEMENT,
        "--party", "carol/keys", "--allow-simulation",
    )  # fmt: skip
    journal = stage.type(
        "alice", "provider", "journal", "verify", "--state", "alice/state",
        "--source", "alice/rows.parquet",
    )  # fmt: skip
    stage.tell("\n  Months later, offline: is this the model, and does its receipt still hold?")
    stage.show(receipt)
    stage.tell("\n  And Alice: are these the rows that the enclave acknowledged?")
    stage.show(journal)


def _compare(stage: Stage) -> None:
    """The demo, unlike Carol, owns all rows: fit the unsplit file by the same measured steps."""
    import numpy as np
    import pyarrow.parquet as pq

    from enclave_app.computations.logistic_regression import fit
    from enclave_app.gate import Input

    stage.title("Is it the model that pooled rows would give?")
    whole = pq.read_table(stage.folder / "unsplit.parquet")
    features = [n for n in whole.column_names if n not in {"patient", "ill"}]
    pooled = [Input(whole, "patient")]
    central = fit(pooled, features=features, label="ill", max_iter=2000, k=100)
    document = json.loads((stage.folder / "carol" / "model.json").read_text("utf-8"))
    joint = document["model_weights"]
    ours, theirs = (np.array([*m["coefficients"], m["intercept"]]) for m in (joint, central))
    distance = float(np.max(np.abs(ours / theirs - 1)))
    matrix = np.column_stack([whole.column(n).to_numpy() for n in joint["features"]])
    scores = matrix @ np.array(joint["coefficients"]) + joint["intercept"]
    accuracy = float(np.mean((scores > 0) == whole.column("ill").to_numpy()))
    stage.tell(
        f"  largest difference of any coefficient: {distance:.0e} of it, as it has six digits"
    )
    stage.tell(f"  accuracy on all {whole.num_rows} rows: {accuracy:.1%}")
    if not distance <= 1e-5:
        raise DemoFailed(f"the joint model differs from the central one by {distance}")


def _say_what_next(stage: Stage, study: Study, kept: Path | None) -> None:
    done = "Two parties released rows, one result came out, and no one saw a row"
    if study is Study.FEDERATED:
        done = "Three parties trained one model, and no row left any of them"
    where = f"Everything is in {kept}" if kept else "Everything was removed again"
    again = (
        ""
        if kept
        else "\n  ratls demo --keep DIR                    leaves keys, policy, receipts, commands"
    )
    stage.console.print()
    stage.console.print(
        Panel(
            f"{done}. {where}.\n\n"
            f"What to try next:{escape(again)}\n"
            "  ratls verify quote FILE --collateral F   is a quote genuine, how current is it?\n"
            "  ratls policy new --help                  start a policy of your own\n"
            '  README.md, "By hand"                     the same commands, one by one',
            title="done",
        )
    )
