"""docs/policy.md and docs/policy.schema.json say what the models take."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tests.support.costly import base
from tests.support.policy_page import FIELDS, PAGE, SCHEMA, TABLES, fields, page, schema

ENTRIES: dict[str, Any] = {
    "Head": lambda d: {k: v for k, v in d.items() if not isinstance(v, dict | list)},
    "AgreementRule": lambda d: d["agreement"],
    "Party": lambda d: d["party"][2],
    "Enclave": lambda d: d["enclave"][0],
    "TrustDomain": lambda d: d["enclave"][1],
    "Platform": lambda d: d["platform"],
    "Configuration": lambda d: d["platform"]["configuration"],
    "Transport": lambda d: {},
    "Attributes": lambda d: {},
    "Dataset": lambda d: d["dataset"][0],
    "Column": lambda d: {"type": "int64"},
    "Computation": lambda d: d["computation"][0],
    "Join": lambda d: d["computation"][1]["join"],
    "Release": lambda d: d["computation"][0]["release"],
}


def test_the_files_are_those_that_the_models_make() -> None:
    """Mend with `python -m tests.support.policy_page`."""
    assert PAGE.read_text("utf-8") == page()
    assert json.loads(SCHEMA.read_text("utf-8")) == schema()


@pytest.mark.parametrize("model", [model for model, _ in TABLES.values()], ids=lambda m: m.__name__)
def test_every_field_is_told_and_no_other(model: type[BaseModel]) -> None:
    assert list(FIELDS[model]) == [name for name, _ in fields(model)]


EXAMPLES = [
    pytest.param(model, name, example, id=f"{model.__name__}.{name}")
    for model, found in FIELDS.items()
    for name, (_, example) in found.items()
    if "…" not in example and name not in ("nullable", "previous", "rtmr3", "machines_file")
]


@pytest.mark.parametrize(("model", "name", "example"), EXAMPLES)
def test_an_example_is_one_that_the_model_takes(
    model: type[BaseModel], name: str, example: str
) -> None:
    entry = dict(ENTRIES[model.__name__](base()))
    value = tomllib.loads(f"{name} = {example}")[name]
    if name in ("spelling", "values"):
        entry["type"] = "string"
    model.model_validate(entry | {name: value})
    with pytest.raises(ValidationError):  # and the field is judged at all
        model.model_validate(entry | {name: {1, 2}})


def test_the_schema_takes_what_is_taken() -> None:
    """By hand, since no validator of JSON Schema is needed elsewhere: names and required fields."""
    made, document = schema(), base()
    assert set(made["required"]) <= set(document) <= set(made["properties"])
    for section, definition in (
        ("party", "Party"),
        ("dataset", "Dataset"),
        ("computation", "Computation"),
    ):
        for entry in document[section]:
            known = made["$defs"][definition]
            assert set(known["required"]) <= set(entry) <= set(known["properties"])
    pattern = made["$defs"]["Platform"]["properties"]["machines"]["anyOf"][1]["items"]["pattern"]
    assert re.fullmatch(pattern, document["platform"]["machines"][0])
