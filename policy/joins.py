"""Inputs that are joined before anything is computed: which rows belong together, and what is seen.

    [seen] = seen_by(computation, inputs)      # one dataset, "joined", with the columns of all
    join_sentence(computation)         # for those who sign

Rows of two owners about the same key become one row, inside. Each key is in an input once: another
is refused there, or, where the policy says so, an input's rows of one key become their means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from policy.join import Join
from policy.sections import Column, Computation, Dataset

JOINED = "joined"  # what the rows are called, in a statement too
_OURS = "ratls_"  # begins the names of columns that the enclave adds
_MEANS = frozenset({"int32", "int64", "float32", "float64"})  # of these there are means


def seen_by(computation: Computation, inputs: Sequence[Dataset]) -> list[Dataset]:
    """What the computation computes with: its inputs, or one dataset that they are joined to."""
    if computation.join is None:
        return [*inputs]
    columns = _columns(computation.join, inputs)
    subject = computation.join.key
    if not _by_person(computation.join, inputs):
        subject = ""  # no column of any name: several tell persons apart
    elif inputs:
        columns = {subject: inputs[0].columns[subject], **columns}
    sizes = [dataset.max_rows for dataset in inputs]
    most = sizes[0] if computation.join.kind == "left" else min(sizes, default=0)
    owner = " and ".join(dict.fromkeys(dataset.owner for dataset in inputs))
    made = Dataset.model_construct(
        id=JOINED,
        owner=owner,
        subject=subject,
        columns=MappingProxyType(columns),
        max_rows=most,
    )
    return [made]


def _by_person(join: Join, inputs: Sequence[Dataset]) -> bool:
    return all(d.subject == join.key and join.key in d.columns for d in inputs)


def _columns(join: Join, inputs: Sequence[Dataset]) -> dict[str, Column]:
    """Those that one input alone has, and neither its key nor its persons."""
    found: dict[str, Column] = {}
    names = [name for d in inputs for name in d.columns]
    for i, dataset in enumerate(inputs):
        for name, column in dataset.columns.items():
            own = name.casefold().startswith(_OURS)
            if own or name in {dataset.subject, join.key} or names.count(name) > 1:
                continue
            changed: dict[str, object] = {}
            if join.averages(dataset.id):
                if column.type not in _MEANS:
                    continue
                changed = {"type": "float64", "min": None, "max": None}
            if join.kind == "left" and i:
                changed["nullable"] = True
            found[name] = column.model_copy(update=changed) if changed else column
    return found


def join_problems(
    path: str,
    computation: Computation,
    inputs: Sequence[Dataset],
    *,
    joins: bool,
    telling: frozenset[str],
) -> Iterator[tuple[str, str, str] | tuple[str, str, str, str]]:
    """What speaks against a join, beside its key and the parameters: path, expected, found, fix.

    Args:
        joins: Inputs of this computation may be joined before.
        telling: Its outputs that say how many rows there are.
    """
    join = computation.join
    if join is None:
        return
    path = f"{path}.join"
    if join.key.casefold().startswith(_OURS):
        yield f"{path}.key", f"a name that does not begin with {_OURS}", ascii(join.key)
    if not joins:
        yield path, f"no join before {computation.run}", "one", "leave it out: keys are its input"
    if len(computation.inputs) < 2:
        yield path, "two inputs or more", str(len(computation.inputs))
    for i, name in enumerate(join.means_of or ()):
        if name not in computation.inputs:
            yield f"{path}.means_of[{i}]", "an input of the computation", ascii(name)
    for dataset in inputs:
        if join.averages(dataset.id) and dataset.subject != join.key:
            # A mean of several persons would be no person's.
            wanted = f"the subject of {dataset.id}, whose rows become means"
            yield f"{path}.key", wanted, ascii(join.key)
    if computation.run == "sql" and not (_by_person(join, inputs) and join.kind == "inner"):
        fix = "write the join into the statement, whose persons are counted on each side"
        wanted = "an inner join on the subject of each input, before sql"
        yield path, wanted, f"{join.kind} on {join.key!a}", fix
    if not join.tells_size:
        for output in sorted(telling & set(computation.release.outputs)):
            fix = f"write tells_size = true, or leave out {output}"
            yield f"{path}.tells_size", f"true, as {output} says how many match", "false", fix


def join_sentence(computation: Computation) -> str | None:
    """For people: what is joined, and what holds for it."""
    join = computation.join
    if join is None:
        return None
    first, *others = computation.inputs
    kept = f"; rows of {first} without a match stay" if join.kind == "left" else ""
    several = (
        f" Several rows of one key in {', '.join(join.means_of)} become their means."
        if join.means_of
        else ""
    )
    size = "its result may say" if join.tells_size else "nothing says"
    return (
        f"Before {computation.id}, rows of {first} and {', '.join(others)} with the same "
        f"{join.key} become one row{kept}.{several} At most {join.max_unmatched_share:.0%} of the "
        f"keys of each input may have no match, and {size} how many have one."
    )
