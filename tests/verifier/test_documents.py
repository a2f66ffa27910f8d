"""T14, T15, N106 to N142: signed TCB info and QE identity in which one member is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.refusal import refused
from tests.verifier.world import bites, drop, put, world
from verifier.document import MAX_SIZE, CollateralMalformed, parse_object
from verifier.strict_json import MAX_DEPTH

W = world()
Hook = Callable[[dict[str, Any]], dict[str, Any]]
BAD_DATES: list[object] = [
    None,
    20300101,
    "",
    "2030-06-15T12:00:00",
    "2030-06-15T12:00:00+01:00",
    "2030-06-15T12:00:00.5Z",
    "2030-13-15T12:00:00Z",
    "2030-02-30T12:00:00Z",
    "2030-06-15t12:00:00z",
    "2030-6-15T12:00:00Z",
    "2030-06-15T12:00:60Z",
    "\uff12030-06-15T12:00:00Z",
    "2030-06-15 12:00:00Z",
]
BAD_NUMBERS: list[object] = [None, "1", -1, 1.5, True, 2**40, []]


def bad_hex(size: int) -> list[object]:
    good = "00" * size
    return [
        None,
        0,
        "",
        good[2:],
        good + "00",
        "zz" + good[2:],
        " " + good[1:],
        "\uff10" * 2 * size,
    ]


def first_level(change: Hook) -> Hook:
    return lambda d: {**d, "tcbLevels": [change(d["tcbLevels"][0]), *d["tcbLevels"][1:]]}


def in_tcb(change: Hook) -> Hook:
    return first_level(lambda level: {**level, "tcb": change(level["tcb"])})


def components(change: Callable[[list[Any]], Any]) -> Hook:
    return in_tcb(lambda t: {**t, "sgxtcbcomponents": change(t["sgxtcbcomponents"])})


def first_is(value: object) -> Callable[[list[Any]], Any]:
    return lambda entries: [value, *entries[1:]]


COMMON: dict[str, list[object]] = {
    "issueDate": BAD_DATES,
    "nextUpdate": BAD_DATES,
    "tcbEvaluationDataNumber": BAD_NUMBERS,
    "tcbLevels": [None, {}, [], ["level"], [{}], [[]]],
    "version": [None, "3", 1, 4, True, 2.0],
}
TCB_INFO = COMMON | {
    "id": [None, 5, "sgx", "QE", "", ["SGX"]],
    "fmspc": bad_hex(6),
    "pceId": bad_hex(2),
    "tcbType": [None, "0", 1, False],
    "tdxModule": [{}, None],
    "tdxModuleIdentities": [[], None],
}
IDENTITY = COMMON | {
    "id": [None, 5, "qe", "SGX"],
    "version": [None, "2", 1, 3, True],
    "miscselect": bad_hex(4),
    "miscselectMask": bad_hex(4),
    "attributes": bad_hex(16),
    "attributesMask": bad_hex(16),
    "mrsigner": bad_hex(32),
    "isvprodid": [None, "1", -1, 65536, True],
}
LEVEL: dict[str, list[object]] = {
    "tcb": [None, [], "x", {}],
    "tcbDate": BAD_DATES,
    "tcbStatus": [None, 5, "Great", "uptodate", "UpToDate ", ""],
    "advisoryIDs": [None, "INTEL-SA-00001", ["INTEL-SA-00001", 5], {}],
}


def same(hook: Hook) -> Hook:
    return hook


def members(
    table: dict[str, list[object]], optional: set[str], wrap: Callable[[Hook], Hook] = same
) -> list[Any]:
    """Each member absent (unless optional), and with each wrong value."""
    cases = [
        pytest.param(wrap(drop(name)), id=f"{name}-absent")
        for name in table
        if name not in optional
    ]
    cases += [
        pytest.param(wrap(put(**{name: value})), id=f"{name}={value!r:.30}")
        for name, values in table.items()
        for value in values
    ]
    return cases


OPTIONAL = {"tdxModule", "tdxModuleIdentities", "advisoryIDs"}


@pytest.mark.parametrize(
    "hook",
    [
        *members(TCB_INFO, OPTIONAL),
        *members(LEVEL, OPTIONAL, first_level),
        *members(
            {"sgxtcbcomponents": [None, {}, []], "pcesvn": [None, "1", -1, 65536, True]},
            set(),
            in_tcb,
        ),
        pytest.param(components(lambda c: c[:15]), id="N117-15"),
        pytest.param(components(lambda c: [*c, c[0]]), id="N117-17"),
        pytest.param(components(lambda c: [5, *c[1:]]), id="N117-no-object"),
        *(
            pytest.param(components(first_is(x)), id=f"N117-{x}")
            for x in (
                {},
                {"svn": "1"},
                {"svn": -1},
                {"svn": 256},
                {"svn": True},
                {"svn": 1, "category": 5},
                {"svn": 1, "type": []},
            )
        ),
        pytest.param(lambda d: {**d, "tcbLevels": d["tcbLevels"][:1] * 2}, id="N120-equal-levels"),
        pytest.param(
            lambda d: {
                **d,
                "tcbLevels": [{**d["tcbLevels"][0], "tcbStatus": "OutOfDate"}, *d["tcbLevels"]],
            },
            id="N120-other-status",
        ),
        pytest.param(lambda d: {**d, "nextUpdate": d["issueDate"]}, id="no-time-at-all"),
    ],
)
def test_signed_tcb_info_with_one_member_wrong(hook: Hook) -> None:
    """N106 to N121: Intel's own mistake, or a signer's who should not be: never half read."""
    with refused(CollateralMalformed, check="tcb-info"):
        W.verify(collateral=W.collateral(tcb_info=hook))


@pytest.mark.parametrize(
    "hook",
    [
        *members(IDENTITY, OPTIONAL),
        *members(LEVEL, OPTIONAL, first_level),
        *members({"isvsvn": [None, "8", -1, 65536, True, 8.0]}, set(), in_tcb),
        pytest.param(put(miscselect="01000000", miscselectMask="00000000"), id="outside-mask"),
        pytest.param(put(attributesMask="00" * 16), id="attributes-outside-mask"),
        pytest.param(lambda d: {**d, "tcbLevels": d["tcbLevels"][:1] * 2}, id="equal-levels"),
    ],
)
def test_signed_qe_identity_with_one_member_wrong(hook: Hook) -> None:
    """N140 to N142."""
    with refused(CollateralMalformed, check="qe-identity"):
        W.verify(collateral=W.collateral(qe_identity=hook))


TEXTS: dict[str, Callable[[str], str]] = {
    "N100-empty": lambda t: "",
    "N100-array": lambda t: f"[{t}]",
    "N125-second-member": lambda t: t.replace('"version"', '"version":2,"version"', 1),
    "N125-in-a-level": lambda t: t.replace('"tcbStatus"', '"tcbStatus":"UpToDate","tcbStatus"', 1),
    "N126-deep": lambda t: t[:-1] + ',"x":' + "[" * 33 + "]" * 33 + "}",
    "N126-very-deep": lambda t: t[:-1] + ',"x":' + "[" * 100_000,
    "N127-garbage": lambda t: t + "x",
    "N127-second": lambda t: t + t,
    "N127-BOM": lambda t: "\ufeff" + t,
    "NaN": lambda t: t[:-1] + ',"x":NaN}',
    "Infinity": lambda t: t[:-1] + ',"x":-Infinity}',
    "float": lambda t: t[:-1] + ',"x":1.0}',
    "exponent": lambda t: t[:-1] + ',"x":1e3}',
    "huge": lambda t: t[:-1] + ',"x":' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("slot", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize("case", TEXTS)
def test_signed_text_that_two_parsers_would_read_differently(case: str, slot: str) -> None:
    """T04: with a repeated member the signature holds over both, and each reader takes one."""
    with refused(CollateralMalformed, check=slot.replace("_", "-")):
        W.verify(collateral=W.collateral(**{f"{slot}_text": TEXTS[case]}))


def test_depth_inside_the_limit_and_brackets_in_strings_are_fine() -> None:
    """Twin: the depth is that of the structure, not of the text."""
    deep = ',"x":' + "[" * 30 + "]" * 30 + ',"y":"' + "[{" * 100 + '\\"[[["}'
    W.verify(collateral=W.collateral(tcb_info_text=lambda t: t[:-1] + deep))


# The limits of signed JSON, at both of their sides.


def read(text: str) -> Any:
    return parse_object(text, "document")


def sized(size: int) -> str:
    frame = len('{"a":""}')
    return '{"a":"' + "x" * (size - frame) + '"}'


def test_largest_document_is_read_and_a_larger_one_is_not() -> None:
    assert len(sized(MAX_SIZE)) == MAX_SIZE
    bites(read, sized(MAX_SIZE), sized(MAX_SIZE + 1), CollateralMalformed)


def nested(levels: int, kind: str) -> str:
    value: object = {} if kind == "objects" else []
    for _ in range(levels - 2):
        value = {"a": value} if kind == "objects" else [value]
    return json.dumps({"a": value})


@pytest.mark.parametrize("kind", ["objects", "lists"])
def test_deepest_document_is_read_and_a_deeper_one_is_not(kind: str) -> None:
    """Whoever walks over it later must not run out of stack."""
    bites(read, nested(MAX_DEPTH, kind), nested(MAX_DEPTH + 1, kind), CollateralMalformed)


@pytest.mark.parametrize("text", ['{"a": 0}', '{"a": "-0"}', '{"a-0": 0}', '{"a": ["x", 1]}'])
def test_zero_without_a_sign_is_read(text: str) -> None:
    """Twin: a sign is looked for among numbers only."""
    read(text)


@pytest.mark.parametrize("text", ['{"a": -0}', '{"a":-0}', '{"a": [-0]}', '{"a":[1,-0]}'])
def test_zero_with_a_sign_is_another_spelling(text: str) -> None:
    with refused(CollateralMalformed):
        read(text)


def test_text_that_cannot_be_written_is_none() -> None:
    """Half of a pair of surrogates: readers disagree about what it stands for."""
    assert read('{"a": "\\u00e9"}').text("a") == "\u00e9"
    with refused(CollateralMalformed):
        read('{"a": "\\ud800"}').text("a")
