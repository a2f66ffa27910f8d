"""Policies, agreements and tasks within the size caps that are as costly to read as can be.

    for name, raw in costly_policies(): ...

Each list and table of the schema is filled up to the size cap, with entries that are right, wrong,
or all the same; and lists that are compared with one another are filled together. `LISTS` names
every list; a test compares it with the models.
"""

from __future__ import annotations

import json
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

from policy import envelope as dsse
from policy.agreement import FILE_CAP
from policy.envelope import Envelope
from policy.syntax import MARKS_CAP, TEXT_CAP
from tests.support.parties import Consortium, TaskWorld

Document = dict[str, Any]
WORLD = Consortium.create(operator=True)


def toml(document: Document) -> bytes:
    """As a person would lay it out: tables under their headers, one entry of a list a line."""
    plain = {k: v for k, v in document.items() if not _is_table(v)}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    for name, value in document.items():
        if isinstance(value, dict):
            lines += _table(name, value, "[{}]")
        elif _is_table(value):
            for entry in value:
                lines += _table(name, entry, "[[{}]]")
    return ("\n".join(lines) + "\n").encode()


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(e, dict) for e in value)
    )


def _table(name: str, table: Document, header: str) -> list[str]:
    lines = [header.format(name)]
    lines += [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{name}.{_key(key)}]"]
            lines += [f"{_key(k)} = {_value(v)}" for k, v in value.items()]
    return lines


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value)
        case datetime() | date():
            return value.isoformat().replace("+00:00", "Z")
        case list():
            return "[" + ",\n".join(map(_value, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return str(value)


def base() -> Document:
    """An honest policy, with every optional list."""
    document = tomllib.loads(WORLD.policy_text(enclave=_enclaves()))
    document["platform"] |= {
        "fmspcs": ["00606a000000"],
        "configuration": {"sgx_types": ["standard"], "allow_smt": True},
    }
    clinic = document["dataset"][1] | {"id": "clinic"}
    document["dataset"].append(clinic | {"columns": {"patient": "string", "weight": "float64"}})
    joined = document["computation"][0] | {"id": "joined", "run": "summary_statistics"}
    joined["inputs"] = ["train_party_1", "clinic"]
    joined["parameters"] = {"columns": ["weight"]}
    joined["release"] = joined["release"] | {"outputs": ["statistics"]}
    joined["join"] = {"key": "patient", "kind": "inner", "max_unmatched_share": 0.5}
    joined["join"]["means_of"] = ["clinic"]
    document["computation"].append(joined)
    return document


def _enclaves() -> str:
    return WORLD.sections()["enclave"] + WORLD.domain(
        rtmr3='"extended at run time"',
        rtmr3_events=f'["{"12" * 48}"]',
        service_tds=f'["{"34" * 48}"]',
    )


Entry = Callable[[int], Any]
_BASE = base()


def _hex(size: int) -> Entry:
    return lambda i: f"{i + 1:0{2 * size}x}"


def _id(i: int) -> str:
    return f"n{i}"


# Path of each list or table of the schema, and an entry that is right in it.
LISTS: dict[tuple[str | int, ...], Entry] = {
    ("party",): lambda i: _BASE["party"][i % 4] | {"id": f"p{i}"},
    ("party", 0, "roles"): lambda i: "provider",
    ("enclave",): lambda i: _BASE["enclave"][0] | {"name": _id(i), "mr_enclave": _hex(32)(i)},
    ("enclave", 1, "rtmr3_events"): _hex(48),
    ("enclave", 1, "mr_seam"): _hex(48),
    ("enclave", 1, "service_tds"): _hex(48),
    ("platform", "tcb_statuses"): lambda i: "UpToDate",
    ("platform", "accepted_advisories"): lambda i: f"INTEL-SA-{i % 100_000:05d}",
    ("platform", "machines"): lambda i: f"ppid:{i + 1:032x}",
    ("platform", "fmspcs"): _hex(6),
    ("platform", "configuration", "sgx_types"): lambda i: "standard",
    ("dataset",): lambda i: _BASE["dataset"][0] | {"id": _id(i)},
    ("dataset", 0, "columns"): lambda i: "int64",
    ("computation",): lambda i: _BASE["computation"][0] | {"id": _id(i)},
    ("computation", 0, "inputs"): _id,
    ("computation", 0, "parameters"): lambda i: 1,
    ("computation", 0, "submitters"): _id,
    ("computation", 0, "recipients"): _id,
    ("computation", 1, "join", "means_of"): _id,
    ("computation", 0, "release", "outputs"): _id,
    # Lists in a parameter.
    ("computation", 0, "parameters", "features"): _id,
    ("computation", 0, "parameters", "max_iter", "choose"): lambda i: i,
}
WRONG: dict[str, Entry] = {
    "numbers": lambda i: i,
    "texts": lambda i: f"?{i}",
    "one text": lambda i: "x",
    "nan": lambda i: float("nan"),
    "tables": lambda i: {"a": i},
    "lists": lambda i: [i],
    "hidden": lambda i: "a\u202eb",
}


def filled(path: tuple[str | int, ...], entry: Entry, size: int = TEXT_CAP) -> bytes:
    """The honest policy with this list as long as the size cap lets it be."""
    few, many = (_filled(path, entry, count) for count in (100, 300))
    each = max(1, (len(many) - len(few)) // 200 + 2)
    marks = max(1, sum(many.count(m) - few.count(m) for m in (b",", b"=", b"\n")) // 200)
    return _filled(path, entry, min((size - len(few)) // each, MARKS_CAP * 9 // 10 // marks))


def _filled(path: tuple[str | int, ...], entry: Entry, count: int) -> bytes:
    document = base()
    holder: Any = document
    for part in path[:-1]:
        if part == "max_iter":
            holder[part] = {}
        holder = holder[part]
    old = holder.get(path[-1])
    if isinstance(old, dict):
        holder[path[-1]] = old | {_id(i): entry(i) for i in range(count)}
    else:
        holder[path[-1]] = [entry(i) for i in range(count)]
    return toml(document)


def costly_policies() -> Iterator[tuple[str, bytes]]:
    """Every list with right and wrong entries, and what is compared with one another."""
    for path, entry in LISTS.items():
        name = ".".join(map(str, path))
        yield f"{name} full", filled(path, entry)
        for kind, wrong in WRONG.items():
            yield f"{name} of {kind}", filled(path, wrong)
    yield from crossed()
    yield from texts()


def crossed() -> Iterator[tuple[str, bytes]]:
    """Lists whose product counts."""
    for inputs, columns, computations in (
        (250, 60, 60),
        (100, 100, 120),
        (10, 1500, 8),
        (2, 4000, 2),
    ):
        for missing in (False, True):
            document = base()
            document["dataset"] = [
                {
                    "id": f"d{d}",
                    "owner": "alice-clinic",
                    "subject": "patient",
                    "columns": {"patient": "string", "y": "int64"}
                    | {f"c{c}": "int64" for c in range(columns)},
                    "max_rows": 10,
                }
                for d in range(inputs)
            ]
            one = document["computation"][0]
            document["computation"] = [
                one
                | {
                    "id": f"k{k}",
                    "inputs": [f"d{d}" for d in range(inputs)],
                    "parameters": {
                        "features": [f"{'z' if missing else 'c'}{c}" for c in range(columns)],
                        "label": "y",
                        "max_iter": 100,
                    },
                }
                for k in range(computations)
            ]
            shape = f"{inputs} inputs, {columns} columns, {computations} computations"
            yield f"{shape}{', missing' if missing else ''}", toml(document)


def texts() -> Iterator[tuple[str, bytes]]:
    """What costs before anything has a meaning."""
    text = WORLD.policy_text()
    room = TEXT_CAP - len(text) - 100
    yield (
        "a million commas",
        (text + "a = [" + ("1," * 30_000 + "\n") * (room // 60_001) + "]").encode(),
    )
    yield "tables", (text + "\n[[x]]\na=1\n" * (room // 11)).encode()
    yield "keys", (text + "".join(f"k{i}=1\n" for i in range(room // 9))).encode()
    dotted = ".".join("a" * 499)
    yield (
        "dotted keys",
        (text + "".join(f"[x{i}.{dotted}]\n" for i in range(room // 1010))).encode(),
    )
    yield "one comment", (text + ("# " + "x" * 60_000 + "\n") * (room // 60_003)).encode()
    yield "blank lines", (text + "\n" * 40_000).encode()
    yield "digits", (text + "a = " + "9" * 60_000 + "\n").encode()
    yield "long numbers", (text + ("a = " + "1" * 4_000 + "\n") * 200).encode()
    yield "dates", (text + f"# {'1' * 60_000}\n" * (room // 60_004)).encode()
    yield "nested lists", (text + "a = " + "[" * 60_000 + "\n").encode()
    yield (
        "long names",
        (text + "".join(f'"{i}{"x." * 240}" = nan\n' for i in range(room // 500))).encode(),
    )
    yield (
        "letters of other scripts",
        (text + ("# " + "é" * 30_000 + "\n") * (room // 60_003)).encode(),
    )
    pem = "-----BEGIN PUBLIC KEY-----\n" + ("A" * 64 + "\n") * 15_000 + "-----END PUBLIC KEY-----\n"
    key = WORLD.alice.public.signing_key.pem
    yield "a key of a megabyte", text.replace(key, pem).encode()


def costly_agreements() -> Iterator[tuple[str, bytes]]:
    """Files of the size cap, without a valid signature in them."""
    raw = WORLD.policy_text().encode()
    honest = Envelope(dsse.POLICY, raw, ()).as_json()
    file: Document = {"schema": "ratls-agreement/0", "versions": [honest]}
    yield "versions without signatures", json.dumps(file | {"versions": [honest] * 64}).encode()
    yield "empty objects", _padded(b'{"schema": "x", "versions": [', b"{},", b"{}]}")
    yield "numbers", _padded(b'{"schema": "x", "versions": [', b"1,", b"1]}")
    yield "long numbers", _padded(b'{"schema": "x", "versions": [', b"1" * 19 + b",", b"1]}")
    yield "members", b"{" + b",".join(b'"%d":1' % i for i in range(300_000)) + b"}"
    yield "nested", b"[" * (FILE_CAP - 1)
    big = next(raw for name, raw in crossed() if "100 columns" in name)
    wide: Document = {
        "payload": b64encode(big).decode(),
        "payloadType": dsse.POLICY,
        "signatures": [],
    }
    count = FILE_CAP // len(json.dumps(wide))
    yield (
        "wide versions without signatures",
        json.dumps(file | {"versions": [wide] * count}).encode(),
    )
    signatures = [{"keyid": f"{i:064x}", "sig": "AAAA"} for i in range(30_000)]
    yield (
        "signatures",
        json.dumps(file | {"versions": [honest | {"signatures": signatures}]}).encode(),
    )


def _padded(start: bytes, entry: bytes, end: bytes) -> bytes:
    return start + entry * ((FILE_CAP - len(start) - len(end)) // len(entry)) + end


def costly_tasks() -> Iterator[tuple[str, bytes]]:
    """Envelopes of tasks that are as large as they may be."""
    tasks = TaskWorld(WORLD)
    honest = json.loads(tasks.task().payload)
    fillings: dict[str, Any] = {
        "parameters full": {"parameters": {f"n{i}": 1 for i in range(80_000)}},
        "a list full": {"parameters": {"max_iter": list(range(150_000))}},
        "lists full": {"parameters": {f"n{i}": list(range(2_000)) for i in range(64)}},
        "one text": {"parameters": {"max_iter": "x" * 1_000_000}},
        "unknown fields": {f"n{i}": 1 for i in range(80_000)},
        "nested": {"parameters": {"max_iter": [[[[]]] for _ in range(100_000)]}},
    }
    for name, more in fillings.items():
        payload = json.dumps(honest | more, sort_keys=True, separators=(",", ":")).encode()
        yield name, Envelope(dsse.TASK, payload[: 1 << 20], ()).encode()
        signed = Envelope(dsse.TASK, payload[: 1 << 20], ()).signed_by(WORLD.carol.operation)
        yield f"{name}, signed", signed.encode()
