"""Which persons a model is trained on, and which it is tested on.

    trained, tested = sides(inputs, parameters)

A hash of study and person decides, so a person is on one side with all rows, in every input, in
every task and version of a study. The policy fixes the share: between two shares that differ a
little few persons change sides, and two results would tell about them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from enclave_app.gate import Input, Inputs, numbered


def sides(
    inputs: Inputs, parameters: Mapping[str, Any]
) -> tuple[dict[str, Input], dict[str, Input] | None]:
    """The rows to train on and those to test with; None where the policy has no `test_share`."""
    share = parameters.get("test_share")
    if share is None:
        return dict(inputs), None
    trained, tested = {}, {}
    for dataset, (table, subject) in inputs.items():
        apart = pa.array(is_tested(table.column(subject), parameters["agreed"].study, share))
        tested[dataset] = Input(table.filter(apart), subject)
        trained[dataset] = Input(table.filter(pa.compute.invert(apart)), subject)
    return trained, tested


def is_tested(subjects: pa.ChunkedArray, study: str, share: float) -> npt.NDArray[np.bool_]:
    """For each row whether its person is among those who are left out. Nobody (null) is not."""
    salt = hashlib.sha256(b"ratls/1 split")
    salt.update(len(study).to_bytes(4, "big") + study.encode("ascii"))
    limit = int(share * 2**64)
    apart = []
    for person in subjects.combine_chunks().dictionary_encode().dictionary.to_pylist():
        digest = salt.copy()
        digest.update(str(person).encode("utf-8"))
        apart.append(int.from_bytes(digest.digest()[:8], "big") < limit)
    people = numbered(subjects)
    return np.append(np.array(apart, bool), [False])[people]  # -1 is the last
