"""`python -m tests.support.policy_page`: writes docs/policy.md and docs/policy.schema.json.

Fields, defaults and limits come from the models; what a field means stands here. A test compares
both files with what is made here, and reads every example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from policy.fields import LIST_CAP
from policy.join import Join
from policy.parameters import CHOICES_CAP, ENTRIES_CAP
from policy.sections import (
    ANY_MACHINE,
    MACHINES_CAP,
    PEM_CAP,
    VALUES_CAP,
    AgreementRule,
    Attributes,
    Column,
    Computation,
    Configuration,
    Dataset,
    Enclave,
    Head,
    Party,
    Platform,
    Release,
    Transport,
)
from policy.syntax import DEPTH_CAP, MARKS_CAP, NAME_CAP, TEXT_CAP
from policy.trust_domain import ANY_MODULE, AT_RUN_TIME, MAX_EVENTS, TrustDomain

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, SCHEMA = DOCS / "policy.md", DOCS / "policy.schema.json"

# Table of the page, its model, and what stands above its fields.
TABLES: dict[str, tuple[type[BaseModel], str]] = {
    "before the first table": (Head, "Which policy this is, and when it holds."),
    "[agreement]": (AgreementRule, "Owners of listed datasets must sign in any case."),
    "[[party]]": (
        Party,
        "An organisation with keys; `ratls party new` makes the block. All keys of all parties "
        "differ, over all versions.",
    ),
    '[[enclave]], tee = "sgx"': (Enclave, "One release of the enclave that may receive rows."),
    "attributes of an SGX enclave": (
        Attributes,
        "Little-endian hex as in a quote; bits under the mask must be equal. The defaults are "
        "closed: what is not named is off.",
    ),
    '[[enclave]], tee = "tdx"': (
        TrustDomain,
        "One release of a guest, on machines of one shape. No register may be left out.",
    ),
    "[platform]": (
        Platform,
        "Which machines, at which patch level, judged under which root. One of `machines` and "
        "`machines_file` is there, and not both.",
    ),
    "[platform.configuration]": (
        Configuration,
        "How machines may be set up, by their PCK certificate. Absent: it is not asked.",
    ),
    "[transport]": (Transport, "How rows travel. Absent, the defaults hold: they are strict."),
    "[[dataset]]": (Dataset, "Rows that one party owns."),
    "a column": (
        Column,
        '`age = "int64"` is short for `age = { type = "int64" }`. A type that ends in `?` allows '
        "nulls; such a column is no feature, label or subject.",
    ),
    "[[computation]]": (
        Computation,
        "A built-in computation over agreed inputs for agreed recipients.",
    ),
    "join of a computation": (
        Join,
        "Rows of several inputs with one key become one row. A key is in each input once, or its "
        "rows become their means. Joined columns have names of their own; those of the key, of the "
        "subjects, and of several inputs are not computed with. After a left join, columns of "
        "other inputs than the first may be null. A statement sees one table, `joined`. Of the "
        "persons of an input none, or min_subjects_per_input and more, may be without a match.",
    ),
    "release of a computation": (Release, "What may leave the enclave."),
}
_TEXT, _HEX = {"type": "string"}, "^[0-9a-f]{{{}}}$"
_MACHINE = "^(ppid|piid):[0-9a-f]{32}$"
_PEM = _TEXT | {"maxLength": PEM_CAP}
_SCALAR = {"type": ["boolean", "integer", "number", "string"]}
_VALUE = {"anyOf": [_SCALAR, {"type": "array", "minItems": 1, "maxItems": ENTRIES_CAP}]}
# Where the model has a validator of its own, what it takes.
TAKES: dict[str, Any] = {
    "threshold": {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]},
    "signing_key": _PEM,
    "operation_key": _PEM,
    "encryption_key": _PEM,
    "channel_certificate": _PEM,
    "machines": {
        "anyOf": [
            {"const": ANY_MACHINE},
            {"type": "array", "minItems": 1, "maxItems": MACHINES_CAP, "uniqueItems": True,
             "items": _TEXT | {"pattern": _MACHINE}},
        ]
    },
    "mr_seam": {
        "anyOf": [
            {"const": ANY_MODULE},
            {"type": "array", "minItems": 1, "maxItems": LIST_CAP, "uniqueItems": True,
             "items": _TEXT | {"pattern": _HEX.format(96)}},
        ]
    },
    "rtmr3": {"anyOf": [{"const": AT_RUN_TIME}, _TEXT | {"pattern": _HEX.format(96)}]},
    "parameters": {
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "anyOf": [
                *_VALUE["anyOf"],
                {"type": "object", "additionalProperties": False, "required": ["choose"],
                 "properties": {"choose": {"type": "array", "minItems": 1,
                                           "maxItems": CHOICES_CAP, "items": _VALUE}}},
                {"type": "object", "additionalProperties": False, "required": ["min", "max"],
                 "properties": {"min": {"type": "number"}, "max": {"type": "number"}}},
            ]
        },
    },
    "min": {"type": ["integer", "number", "string"]},
    "max": {"type": ["integer", "number", "string"]},
}  # fmt: skip
_H64, _H96 = "c0ffee" + "11" * 29, "5a" * 48
_KEY = '"""-----BEGIN PUBLIC KEY-----…"""'
# Meaning and example of each field, by model.
FIELDS: dict[type[BaseModel], dict[str, tuple[str, str]]] = {
    Head: {
        "schema": ("Version of this format.", '"ratls-policy/0"'),
        "study": ("Name of the study, compared byte for byte: a-z, 0-9 and -.", '"joint-training"'),
        "version": ("From 1 on, without gaps.", "1"),
        "previous": (
            "SHA-256 of the version before. Absent in version 1, and only there.",
            f'"sha256:{_H64}"',
        ),
        "not_before": ("First instant at which it holds, UTC.", "2026-11-01T00:00:00Z"),
        "expires": ("First instant at which it holds no more, UTC.", "2027-02-01T00:00:00Z"),
    },
    AgreementRule: {
        "threshold": (
            'How many voting parties must sign; "all", or a number of parties. Who only operates '
            "machines does not vote.",
            '"all"',
        )
    },
    Party: {
        "id": ("Name of the party: a-z, 0-9 and -.", '"alice-clinic"'),
        "roles": ("What it may be: provider, recipient, submitter, operator.", '["provider"]'),
        "signing_key": ("Signs policies and withdrawals; may be offline.", _KEY),
        "operation_key": ("Signs tasks, commits and records; lies with the agent.", _KEY),
        "channel_certificate": (
            "For mutual TLS: CA:FALSE, one name urn:ratls:party:ID, outlives `expires`.",
            '"""-----BEGIN CERTIFICATE-----…"""',
        ),
        "encryption_key": ("Of a recipient, X25519: results are sealed to it.", _KEY),
    },
    Enclave: {
        "name": ("Name in this policy.", '"joint-training-1.4"'),
        "tee": ("The technology.", '"sgx"'),
        "mr_enclave": ("MRENCLAVE, 64 hex digits; recompute it from the release.", f'"{_H64}"'),
        "isv_prod_id": ("ISVPRODID, exactly this one.", "1"),
        "min_isv_svn": ("ISVSVN, at least this one.", "3"),
        "attributes": ("Attributes other than the closed defaults.", "{ }"),
    },
    Attributes: {
        "flags": ("ATTRIBUTES.FLAGS, 8 bytes.", '"0500000000000000"'),
        "flags_mask": ("The bits of it that count.", '"3ffbffffffffffff"'),
        "xfrm": ("ATTRIBUTES.XFRM, 8 bytes.", '"0300000000000000"'),
        "xfrm_mask": ("The bits of it that count.", '"03fdf9ffffffffff"'),
        "misc_select": ("MISCSELECT, 4 bytes.", '"00000000"'),
        "misc_select_mask": ("The bits of it that count.", '"ffffffff"'),
    },
    TrustDomain: {
        "name": ("Name in this policy.", '"joint-training-td"'),
        "tee": ("The technology.", '"tdx"'),
        "mr_td": ("MRTD: firmware and initial memory, 96 hex digits.", f'"{_H96}"'),
        "rtmr0": ("RTMR0: configuration of the guest.", f'"{_H96}"'),
        "rtmr1": ("RTMR1: kernel.", f'"{_H96}"'),
        "rtmr2": ("RTMR2: command line and initial file system.", f'"{_H96}"'),
        "rtmr3": (
            f'RTMR3, or the words "{AT_RUN_TIME}", and then `rtmr3_events`.',
            f'"{_H96}"',
        ),
        "rtmr3_events": (
            f"Digest of each event that may be in RTMR3; at most {MAX_EVENTS}.",
            f'["{_H96}"]',
        ),
        "mr_config_id": ("MRCONFIGID.", f'"{"00" * 48}"'),
        "mr_owner": ("MROWNER.", f'"{"00" * 48}"'),
        "mr_owner_config": ("MROWNERCONFIG.", f'"{"00" * 48}"'),
        "mr_seam": (
            f'MRSEAM of each TDX module that may run it, or the words "{ANY_MODULE}".',
            f'["{_H96}"]',
        ),
        "min_tee_tcb_svn": ("TEE_TCB_SVN, each byte at least this.", f'"{"050102" + "00" * 13}"'),
        "td_attributes": ("TDATTRIBUTES, 8 bytes.", '"0000001000000000"'),
        "td_attributes_mask": ("The bits of it that count.", '"ffffffbfffffff7f"'),
        "xfam": ("XFAM, 8 bytes.", '"0300000000000000"'),
        "xfam_mask": ("The bits of it that count.", '"1b24f9ffffffffff"'),
        "service_tds": (
            "Hashes of service domains that may be bound to it. Absent: none may.",
            f'["{_H96}"]',
        ),
    },
    Platform: {
        "root": ('"intel"; with the simulation also simulation:sha256:….', '"intel"'),
        "tcb_statuses": (
            "TCB statuses that are accepted, in Intel's words. Revoked can never be listed.",
            '["UpToDate"]',
        ),
        "accepted_advisories": (
            "Advisories that may come with a status; every other one refuses.",
            '["INTEL-SA-00615"]',
        ),
        "min_tcb_evaluation_data_number": ("tcbEvaluationDataNumber, at least.", "17"),
        "min_tcb_date": ("Date of the TCB level, at the earliest.", "2025-05-14"),
        "max_collateral_age_days": (
            "Days since TCB info and QE identity were issued, at most.",
            "30",
        ),
        "machines": (
            f'The machines, by ppid: or piid:, or the words "{ANY_MACHINE}": who runs it is then '
            "unknown.",
            f'["ppid:{"ab" * 16}"]',
        ),
        "machines_file": (
            f"SHA-256 of a file beside the policy with more than {MACHINES_CAP} machines; `ratls "
            "policy machines` makes it.",
            f'"sha256:{_H64}"',
        ),
        "fmspcs": (
            "CPU families, beside the machines: both must hold. Absent: any family.",
            '["00606a000000"]',
        ),
        "configuration": ("See below. Absent: it is not asked.", "{ allow_smt = true }"),
    },
    Configuration: {
        "sgx_types": ("Kinds of memory protection.", '["scalable_with_integrity"]'),
        "allow_smt": ("May two threads share a core?", "false"),
        "allow_dynamic_platform": ("May processors be added later?", "false"),
        "allow_cached_keys": ("May platform root keys be kept by Intel?", "false"),
    },
    Transport: {
        "bulk": (
            '"tls": rows on the connection that proved the enclave. "sealed": also sealed, beside '
            "it; who watches the network sees their sizes either way.",
            '"tls"',
        ),
        "challenge_minutes": ("A stream that lasts is challenged again after so long.", "15"),
        "challenge_mebibytes": ("Or after so much, whichever comes first.", "16384"),
    },
    Dataset: {
        "id": ("Name of the dataset.", '"train_party_1"'),
        "owner": ("The party, a provider, whose rows they are; it must sign.", '"alice-clinic"'),
        "subject": (
            "The column that names a person: counted distinct, never released.",
            '"patient"',
        ),
        "columns": (
            f"Name and type of each column, at most {ENTRIES_CAP}. No other column leaves. Names "
            "that differ only in case, or look alike, are refused.",
            '{ patient = "string", age = { type = "int64", min = 0, max = 120 } }',
        ),
        "max_rows": ("Rows of one release, at most.", "5_000_000"),
    },
    Column: {
        "type": ("bool, int32, int64, float32, float64, string, date32 or timestamp[us, UTC].",
                 '"int64"'),
        "nullable": ("Not to be written: a type that ends in ? says it.", "false"),
        "min": ("Least value, included; of the column's type.", "0"),
        "max": ("Greatest value, included.", "120"),
        "spelling": (
            'Of texts that are compared: "canonical" (NFC, trimmed) or "folded" (and without '
            "case). A subject is canonical without it.",
            '"canonical"',
        ),
        "values": (
            f"Of a string, the only values that it may hold: 2 to {VALUES_CAP}. Others are refused "
            "before they leave, and on arrival. Models take columns with such a list; the first "
            "value is the one that coefficients of the others are compared with.",
            '["north", "south"]',
        ),
    },
    Computation: {
        "id": ("Name that tasks use.", '"train"'),
        "run": ("A built-in computation; see `policy/computations.py`.", '"logistic_regression"'),
        "inputs": ("Ids of datasets, in this order.", '["train_party_1", "train_party_2"]'),
        "parameters": (
            "Each fixed, or left to the task as `{ choose = [..] }` or `{ min = , max = }`. "
            "Columns are always fixed.",
            '{ features = ["age"], label = "y", max_iter = { min = 50, max = 500 } }',
        ),
        "submitters": ("Parties that may sign tasks.", '["carol-lab"]'),
        "recipients": ("Parties that the result is sealed to.", '["carol-lab"]'),
        "uses": (
            "Tasks, at most. Counted by each provider per dataset and what is learnt (run and "
            "columns), over all studies and versions; `ratls provider budget` shows them.",
            "10",
        ),
        "min_owners": ("So many different parties own the inputs, at least.", "2"),
        "join": (
            "The inputs are joined before, inside. Absent: their rows follow one another. "
            "See below.",
            '{ key = "patient", kind = "inner", max_unmatched_share = 0.1 }',
        ),
        "release": ("See below.",
                    '{ outputs = ["model_weights"], min_subjects_per_input = 20, '
                    "significant_digits = 6 }"),
    },
    Join: {
        "key": ("A column of every input, of one type and spelling.", '"patient"'),
        "kind": ("With left, rows of the first input stay without a match.", '"inner"'),
        "max_unmatched_share": (
            "Of the keys of each input at most so many may have no match.",
            "0.1",
        ),
        "means_of": (
            "Inputs whose rows of one key become their means; the key must be their subject.",
            '["train_party_2"]',
        ),
        "tells_size": (
            "Outputs that say how many rows have a match are allowed: counts, a table.",
            "true",
        ),
    },
    Release: {
        "outputs": ("What the result has; nothing else leaves.", '["model_weights"]'),
        "min_subjects_per_input": (
            "Persons in each input, and in every group that an output is about, at least.",
            "100",
        ),
        "significant_digits": ("Decimal digits of each number that leaves, at most.", "6"),
        "reasons": (
            "Lets a provider ask which rule its own input breaks. Absent: no reasons.",
            '"own input"',
        ),
    },
}  # fmt: skip

HEAD = f"""# The policy, field by field

Made by `python -m tests.support.policy_page` from the models; `policy.schema.json` beside it is the
same as a JSON Schema, for editors and other readers of TOML. Strict: a field that is not listed is
refused, and absence never means "any". The schema stays `ratls-policy/0` until the computations are
complete.

A policy is UTF-8 with Unix line ends, without invisible or misleading characters. What everybody
signs are its exact bytes: a changed line end, a byte order mark or an added line is another policy.

Limits, so that no policy costs more than a second or 200 MB to read: {TEXT_CAP:,} bytes,
{MARKS_CAP:,} commas, equal signs and line ends together, {DEPTH_CAP} levels, names of
{NAME_CAP} characters, {LIST_CAP} entries of a list (columns and lists in parameters:
{ENTRIES_CAP:,}; machines: {MACHINES_CAP:,}; choices of a parameter: {CHOICES_CAP}).
`benchmarks/policy_cost.py` fills every list.

Ids and names that differ only in case, or are drawn alike (O and 0, I, l and 1, rn and m), are
refused within one policy.

## Over versions

- Versions are contiguous, and each names the digest of the one before.
- A change of any key of a party needs the signature of that party's old signing key, whatever the
  threshold. A party that was removed and comes back signs with its old key, too.
- A key that any earlier version listed for another party or another purpose is refused.
- Version n also needs the signatures that version n-1 asks for. A withdrawal counts as that
  party's consent to a successor that does not list it.
"""


def fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """By their names in a policy."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def default(field: FieldInfo) -> str:
    """As a person would write it; "required", or "absent"."""
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "absent"
    if isinstance(value, BaseModel):
        return "closed"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{json.dumps(value)}`"


def limits(schema: Mapping[str, Any]) -> str:
    """Of a number."""
    low, high = schema.get("minimum"), schema.get("maximum")
    return f" From {low:,} to {high:,}." if low is not None and high is not None else ""


def page() -> str:
    """The text of docs/policy.md."""
    parts = [HEAD]
    made = schema()
    for title, (model, above) in TABLES.items():
        parts.append(f"\n## {title}\n\n{above}\n\n| field | meaning | default | example |")
        parts.append("\n| --- | --- | --- | --- |\n")
        properties = made["$defs"][model.__name__]["properties"]
        for name, field in fields(model):
            meaning, example = FIELDS[model][name]
            shown = re.sub(r"([0-9a-f]{6})[0-9a-f]{26,}", r"\1…", example)
            parts.append(
                f"| `{name}` | {meaning}{limits(properties[name])} | {default(field)} "
                f"| `{name} = {shown}` |\n"
            )
    return "".join(parts)


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy, as TOML's values."""
    definitions: dict[str, Any] = {}
    for model, _ in TABLES.values():
        definitions[model.__name__] = _object(model)
    head = definitions["Head"]
    named = {"agreement": "AgreementRule", "platform": "Platform", "transport": "Transport"}
    one = {name: {"$ref": f"#/$defs/{model}"} for name, model in named.items()}
    many = {
        "party": {"$ref": "#/$defs/Party"},
        "enclave": {"anyOf": [{"$ref": "#/$defs/Enclave"}, {"$ref": "#/$defs/TrustDomain"}]},
        "dataset": {"$ref": "#/$defs/Dataset"},
        "computation": {"$ref": "#/$defs/Computation"},
    }
    lists = {
        name: {"type": "array", "minItems": 1, "maxItems": LIST_CAP, "items": items}
        for name, items in many.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ratls-policy/0",
        "type": "object",
        "additionalProperties": False,
        "required": sorted({*head["required"], "agreement", "platform", *many}),
        "properties": head["properties"] | one | lists,
        "$defs": definitions,
    }


def _object(model: type[BaseModel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    required = []
    for name, field in fields(model):
        meaning, _ = FIELDS[model][name]
        found[name] = {"description": meaning} | _takes(name, field)
        if field.is_required():
            required.append(name)
        elif isinstance(field.default, bool | int | str):
            found[name]["default"] = field.default
    if model is Column:
        del found["nullable"]
        types = found["type"].pop("enum")
        found["type"] |= {"enum": [*types, *(f"{t}?" for t in types)]}
        found["nullable"] = {"description": "not to be written", "not": {}}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": found,
    }


_NESTED: dict[str, type[BaseModel]] = {
    "attributes": Attributes,
    "configuration": Configuration,
    "join": Join,
    "release": Release,
}


def _takes(name: str, field: FieldInfo) -> dict[str, Any]:
    if name in TAKES:
        found: dict[str, Any] = dict(TAKES[name])
        return found
    if name in _NESTED:
        return {"$ref": f"#/$defs/{_NESTED[name].__name__}"}
    if name == "columns":
        either = {"anyOf": [_TEXT, {"$ref": "#/$defs/Column"}]}
        return {"type": "object", "minProperties": 1, "maxProperties": ENTRIES_CAP,
                "additionalProperties": either}  # fmt: skip
    made = _of_annotation(field)
    if made.get("type") == "array":
        made |= {"maxItems": MAX_EVENTS if name == "rtmr3_events" else LIST_CAP}
        made |= {"uniqueItems": True}
    return made


def _of_annotation(field: FieldInfo) -> dict[str, Any]:
    kind: Any = field.annotation
    for more in field.metadata:
        kind = Annotated[kind, more]
    made = TypeAdapter(kind).json_schema()
    arms = [arm for arm in made.get("anyOf", []) if arm != {"type": "null"}]
    if len(arms) == 1:  # optional: absent, never null
        made = arms[0]
    made.pop("default", None)
    return dict(made)


def main() -> None:
    PAGE.write_text(page(), "utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
