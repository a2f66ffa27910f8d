"""What each computation takes and gives: `ratls policy computations`, docs/computations.md.

    facts("logistic_regression")["parameters"]["label"]["value"]    # "one column of type bool, …"

Made from the declarations in `policy.computations`, which alone decide.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from policy import rounds
from policy.computations import DECLARED, Declared, Kind
from policy.parameter_kinds import Columns, Part, Probabilities, Statement, Whole
from verifier.errors import ConfigError

_TYPES = ("bool", "int32", "int64", "float32", "float64", "string")  # in this order
_EXAMPLE_VALUES = {  # for a policy whose datasets have these columns
    "features": '["age", "bmi"]',
    "label": '"y"',
    "max_iter": "{ min = 50, max = 5000 }",
    "key": '"patient"',
    "columns": '["age", "bmi"]',
    "quantiles": "[0.25, 0.5, 0.75]",
    "statement": '"WITH r AS (SELECT patient, age FROM train_party_1 UNION ALL SELECT patient, age '
    'FROM train_party_2) SELECT age, count(*) AS persons FROM r GROUP BY age ORDER BY age"',
    "clusters": "4",
    "predict": '"class"',
    "trees": "50",
    "leaves": "8",
    "bins": "64",
    "learning_rate": "0.1",
    "test_share": "0.2",
    "max_groups": "200",
    "memory_mebibytes": "512",
    "seconds": "60",
    "model": '"logistic"',
    "rounds": "20",
    "quorum": "3",
    "aggregator": '"fedavg"',
    "clip_norm": "2.0",
    "weights": '"equal"',
    "epochs": "1",
}
_OF_COLUMNS = (
    'A column with a range: `age = { type = "int64", min = 0, max = 120 }`. A text with a closed '
    'list: `region = { type = "string", values = ["north", "south"] }`.'
)


class ComputationUnknown(ConfigError):
    """No computation has this name."""

    code = "computation-unknown"
    default_fix = "`ratls policy computations` lists all of them"


def named(name: str | None) -> tuple[str, ...]:
    """This computation, or all. Raises: ComputationUnknown."""
    if name is None:
        return tuple(DECLARED)
    if name not in DECLARED:
        raise ComputationUnknown(
            f"computation {ascii(name)[:80]}", expected=" or ".join(DECLARED), found="another name"
        )
    return (name,)


def facts(name: str) -> dict[str, Any]:
    """One declaration, for machines."""
    declared = DECLARED[name]
    return {
        "run": name,
        "about": declared.about,
        "parameters": {
            parameter: {
                "value": value_text(kind),
                "required": parameter not in declared.optional,
                "task_may_choose": kind.task_may_choose,
            }
            for parameter, kind in declared.parameters.items()
        },
        "outputs": sorted(declared.outputs),
        "fewest_inputs": declared.fewest_inputs,
        "fewest_subjects": declared.fewest_subjects,
        "most_digits": declared.most_digits,
        "inputs_may_be_joined": declared.joins,
        "tell_how_many_match": sorted(declared.tell_size),
        "seconds": declared.seconds,
        "memory": None if declared.memory is None else asdict(declared.memory),
        "tells": declared.says,
    }


def value_text(kind: Kind) -> str:
    """What a parameter takes."""
    if isinstance(kind, rounds.Kind):
        return kind.said
    match kind:
        case Whole():
            return f"an integer from {kind.least:,} to {kind.most:,}"
        case Part():
            return f"a number from {kind.least:g} to {kind.most:g}, with a point"
        case Statement():
            return "the text of one SELECT; $name stands for a parameter with a name of your own"
        case Probabilities():
            return f"up to {kind.most} ascending numbers above 0 and below 1"
    parts = ["one or more columns" if kind.several else "one column"]
    parts.append(f"of type {', '.join(t for t in _TYPES if t in kind.types)}")
    if kind.nullable:
        parts.append("(a ? is allowed)")
    parts.append("which may be the subject" if kind.subject else "other than the subject")
    if kind.ranged:
        parts.append("with min and max, alike in all inputs")
    if "string" in kind.types and not kind.subject:
        parts.append("(of a string with values, alike in all inputs)")
    if kind.alike:
        parts.append("and of one type and spelling in all inputs")
    return " ".join(parts)


def block(name: str, *, id_: str, inputs: str, people: str, fill: bool = True) -> str:
    """A `[[computation]]` of a policy that runs it.

    Args:
        inputs, people: TOML: its inputs, and the lines of submitters and recipients.
        fill: With examples of values; otherwise blanks for what only its author knows.
    """
    declared = DECLARED[name]
    values = ", ".join(
        f"{parameter} = {_example(parameter, kind, fill=fill)}"
        for parameter, kind in declared.parameters.items()
        if parameter in _EXAMPLE_VALUES
        and (fill or parameter not in declared.optional or not declared.takes_rows)
    )
    outputs = [sorted(declared.outputs)[-1]]
    if fill and "metrics" in declared.outputs:
        outputs.append("metrics")
    shown = ", ".join(f'"{output}"' for output in outputs)
    least = max(100, declared.fewest_subjects)
    return (
        f'[[computation]]\nid = "{id_}"\nrun = "{name}"\ninputs = {inputs}\n'
        f"parameters = {{ {values} }}\n{people}"
        f"uses = {10 if name == 'logistic_regression' else 1}\n"
        f"release = {{ outputs = [{shown}], min_subjects_per_input = {least}, "
        f"significant_digits = {min(6, declared.most_digits)} }}\n"
    )


def _example(parameter: str, kind: Kind, *, fill: bool) -> str:
    if not fill and isinstance(kind, Statement):
        return '"<statement>"'
    if fill or not isinstance(kind, Columns):
        return _EXAMPLE_VALUES[parameter]
    return '["<columns>"]' if kind.several else '"<column>"'


def text(name: str) -> str:
    """One declaration, for people, at 80 columns."""
    declared = DECLARED[name]
    lines = [name, *_wrapped(declared.about, "  ")]
    for parameter, told in facts(name)["parameters"].items():
        required = "" if told["required"] else "optional, "
        chooses = "a task may choose it" if told["task_may_choose"] else "the policy fixes it"
        lines += _wrapped(f"{parameter}: {told['value']}; {required}{chooses}", "  ", "      ")
    lines += _wrapped(f"outputs: {', '.join(sorted(declared.outputs))}", "  ", "      ")
    lines += _wrapped(f"limits: {_limits(declared)}", "  ", "      ")
    lines += _wrapped(f"takes: {_takes(declared)}", "  ", "      ")
    lines += _wrapped(f"joins: {_joins(declared)}", "  ", "      ")
    lines += _wrapped(f"tells: {declared.says}", "  ", "      ")
    return "\n".join(lines)


def _limits(declared: Declared) -> str:
    least = declared.fewest_inputs
    inputs = f"at least {least} input{'s' * (least > 1)}"
    return (
        f"{inputs}; min_subjects_per_input of at least {declared.fewest_subjects}; "
        f"at most {declared.most_digits} significant_digits"
    )


def _takes(declared: Declared) -> str:
    if not declared.takes_rows:
        return (
            "in each round at most the agreed seconds; for each party and for the model 4 bytes "
            "a number"
        )
    beside = "" if declared.memory is None else f"; beside the rows {declared.memory}"
    return f"at most {declared.seconds:,} seconds{beside}"


def _joins(declared: Declared) -> str:
    if not declared.joins:
        return "its inputs are not joined before"
    told = " and ".join(f"`{output}`" for output in sorted(declared.tell_size))
    size = f"; {told} would say how many rows match, so tells_size = true" if told else ""
    return f"its inputs may be joined before{size}"


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    from textwrap import wrap

    indent = first if rest is None else rest
    return wrap(text, 80, initial_indent=first, subsequent_indent=indent)


def page() -> str:
    """`docs/computations.md`."""
    lines = [
        "# Computations",
        "",
        "What an enclave can compute, and what a policy may ask of each. A `[[computation]]` names",
        "one with `run`. Made from the declarations in `policy/computations.py` by `make",
        "computations`; `ratls policy lint`, `sign`, `accept`, providers and the enclave refuse",
        "every policy that does not keep to them. `ratls policy computations NAME` prints one.",
    ]
    for name, declared in DECLARED.items():
        lines += ["", f"## {name}", "", declared.about, ""]
        lines += ["| parameter | value | who sets it |", "| --- | --- | --- |"]
        for parameter, told in facts(name)["parameters"].items():
            who = "the policy, or a task within limits" if told["task_may_choose"] else "the policy"
            more = "" if told["required"] else " (optional)"
            lines.append(f"| `{parameter}`{more} | {told['value']} | {who} |")
        outputs = ", ".join(f"`{output}`" for output in sorted(declared.outputs))
        lines += ["", f"Outputs: {outputs}.", "", f"Limits: {_limits(declared)}.", ""]
        lines += [f"Takes {_takes(declared)}. Joins: {_joins(declared)}.", ""]
        lines += [f"What a result still tells: {declared.says}.", ""]
        features = declared.parameters.get("features")
        if isinstance(features, Columns) and "string" in features.types:
            lines += [_OF_COLUMNS, ""]
        lines.append("```toml")
        people = 'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\n'
        inputs = '["train_party_1", "train_party_2"]'
        if not declared.takes_rows:
            inputs = inputs.replace("]", ', "train_party_3"]')
        lines += [block(name, id_="example", inputs=inputs, people=people).rstrip("\n"), "```"]
    lines += ["", *_JOIN]
    return "\n".join(lines) + "\n"


_JOIN = """## Joins

Rows of several inputs with one key become one row, inside, before any of these that takes columns.
Below, features of two owners and the label of one of them; `docs/policy.md` has every field.

```toml
[[computation]]
id = "example"
run = "logistic_regression"
inputs = ["train_party_1", "train_party_2"]
join = { key = "patient", kind = "inner", max_unmatched_share = 0.2, means_of = ["train_party_1"] }
parameters = { features = ["age", "marker"], label = "y", max_iter = 200 }
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 1
release = { outputs = ["model_weights"], min_subjects_per_input = 100, significant_digits = 6 }
```

What a result still tells: as without a join, of those who have a match. Whoever sends keys chooses
whom it is about; with more than the agreed share of guessed ones there is none.
""".rstrip().splitlines()
