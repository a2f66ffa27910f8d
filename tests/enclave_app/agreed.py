"""A consortium that agreed on one computation, and what its recipient gets from given rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from enclave_app.computations import COMPUTATIONS
from enclave_app.compute import compute
from enclave_app.gate import Input, require_groups
from enclave_app.session import Denied
from policy.document import Policy
from policy.seal import open_result, result_info
from policy.sections import Release
from policy.task import Task
from tests.support.parties import AT, Consortium

INPUTS = ("train_party_1", "train_party_2")


def gated(
    run: str, tables: Sequence[pa.Table], parameters: dict[str, Any], rule: Release
) -> dict[str, Any]:
    """What a computation says of rows whose person is `patient`, if the gate lets it."""
    inputs = {f"train_party_{i}": Input(table, "patient") for i, table in enumerate(tables, 1)}
    require_groups(inputs, COMPUTATIONS[run].groups(inputs, parameters, rule), rule)
    return COMPUTATIONS[run].run(inputs, parameters, rule)


def computation(
    run: str,
    parameters: str,
    outputs: Sequence[str],
    *,
    inputs: Sequence[str] = INPUTS,
    minimum: int = 3,
    digits: int = 6,
) -> str:
    """The policy's section, as TOML."""
    return (
        f'[[computation]]\nid = "train"\nrun = "{run}"\ninputs = {json.dumps(inputs)}\n'
        f"parameters = {{ {parameters} }}\n"
        'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 10\n'
        f"release = {{ outputs = {json.dumps(outputs)}, min_subjects_per_input = {minimum}, "
        f"significant_digits = {digits} }}\n"
    )


@dataclass(frozen=True)
class Agreed:
    """A policy and its parties."""

    consortium: Consortium
    policy: Policy

    @classmethod
    def on(cls, run: str, parameters: str, outputs: Sequence[str], **options: Any) -> Agreed:
        """`columns` replaces those of both datasets; other options go to `computation`."""
        columns = options.pop("columns", None)
        consortium = Consortium.create(**({"columns": columns} if columns else {}))
        section = computation(run, parameters, outputs, **options)
        return cls(consortium, consortium.policy(computation=section))

    @property
    def task(self) -> Task:
        return Task.new(self.policy, "train", "carol-lab", at=AT, parameters={})

    def document(self, *tables: pa.Table) -> bytes | str:
        """The bytes that the recipient opens, without their salt, or the code of the refusal."""
        task = self.task
        outcome = compute(self.policy, task, tables)
        if isinstance(outcome, Denied):
            return outcome.code
        info = result_info(task.digest, self.policy.digest, "carol-lab")
        key = self.consortium.carol.encryption
        opened: bytes = open_result(outcome.ciphertexts["carol-lab"], key, info)
        unsalted = re.sub(rb',"salt":"[0-9a-f]{64}"', b"", opened)
        assert len(unsalted) == len(opened) - len(',"salt":""') - 64
        return unsalted.ljust(len(opened))

    def answer(self, *tables: pa.Table) -> Any:
        """The document as a value, or the code of the refusal."""
        document = self.document(*tables)
        return document if isinstance(document, str) else json.loads(document)
