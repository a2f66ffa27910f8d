"""A demonstration of one agreed computation over two owners' rows, with real processes.

    tell_story(stage, kind, story, make_intel=…, type_keys=…)

A policy that nobody can sign is refused; they agree on another one; both release, and the result is
held against what pooled rows would give.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from rich.panel import Panel

from simulation.demo_files import PATIENTS, STUDY, policy_text, write_rows
from simulation.demo_steps import AGREEMENT, agree, as_party, with_state
from simulation.demo_tee import DemoTee
from simulation.stage import Stage, Typed
from verifier.errors import Exit

STEPS = 8


@dataclass(frozen=True, slots=True)
class Story:
    """What the parties want, and what they get."""

    name: str  # of the study, as it is typed
    wants: str
    refused: str  # the title of a step: what nobody can sign
    greedy: str  #  a `[[computation]]`
    agreed: str  #  another one, whose id is `computation`
    computation: str
    settings: tuple[str, ...]  # options of `task preview` and `task sign`
    result: str  # where Carol keeps it
    compare: Callable[[Stage], None]
    patients: int = PATIENTS


def tell_story(
    stage: Stage,
    kind: DemoTee,
    story: Story,
    *,
    make_intel: Callable[[Stage, Typed], tuple[str, str]],
    type_keys: Callable[[Stage], list[Typed]],
) -> None:
    """From rows to a result."""
    stage.console.print(
        Panel(
            "Alice's clinic and Bob's hospital each hold rows of patients. Carol's lab wants "
            f"{story.wants}\n\n"
            "[bold black on yellow] SIMULATION [/] Real processes, ports, files and data; only "
            "Intel's keys are made up. No hardware protects anything here.",
            title=f"ratls demo --study {story.name}",
        )
    )
    intel = stage.type("operator", "simulation", "new", "intel", "--json")
    keys = type_keys(stage)
    measured = stage.type("everyone", "simulation", "measure", *kind.measuring("a.ccel"), "--json")
    stage.title("The data: made-up patients, in two parts")
    for who, rows, columns in write_rows(stage.folder, patients=story.patients):
        stage.tell(f"  {who}/rows.parquet: {rows} patients, {columns} columns")
    root, ppid = make_intel(stage, intel)
    for typed in keys:
        stage.show(typed, quiet=True)
    section = kind.section(json.loads(stage.show(measured, quiet=True).splitlines()[-1]))

    def write(name: str, computation: str) -> None:
        text = policy_text(stage.folder, root, ppid, section, computation)
        (stage.folder / name).write_text(text, "utf-8")

    stage.title(story.refused)
    write("greedy.toml", story.greedy)
    stage.run("alice", "policy", "lint", "greedy.toml", expect=Exit.UNUSABLE)
    stage.title("They agree on another one: each signs its text")
    write("policy.toml", story.agreed)
    agree(stage, ("alice", "bob", "carol"))
    stage.title("Carol looks at what she would get, and asks")
    asked = ("--study", STUDY, "--computation", story.computation, *story.settings)
    stage.run("carol", "task", "preview", "--party", "carol/keys", "--state", "carol/state", *asked)
    stage.run(
        "carol", "task", "sign", *as_party("carol"), *with_state("carol"), *asked, "-o", "task.json"
    )
    stage.title("Both release to the enclave; it computes")
    serve = (
        "enclave", "serve", "--agreement", AGREEMENT, "--listen", "127.0.0.1:0", "--attester",
        kind.attester, "--allow-simulation",
    )  # fmt: skip
    with stage.serve("operator", *serve) as enclave:
        host, port = stage.ready(enclave)
        there = ("--enclave", f"{host}:{port}", "--collateral", kind.collateral)
        for number, who in ((1, "alice"), (2, "bob")):
            stage.run(
                who, "provider", "push", "--task", "task.json", "--dataset",
                f"train_party_{number}", "--source", f"{who}/rows.parquet", *there, *as_party(who),
                *with_state(who),
            )  # fmt: skip
        stage.title("Carol fetches the result")
        stage.run(
            "carol", "task", "result", "--task", "task.json", *there, *as_party("carol"),
            *with_state("carol"), "--wait", "90", "-o", story.result,
        )  # fmt: skip
    story.compare(stage)
    stage.run("alice", "provider", "budget", "--party", "alice/keys", "--state", "alice/state")
