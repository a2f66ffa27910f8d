"""Rows of several inputs with one key become one row, before anything is computed.

    joint = joined(join, inputs)
    joint.views[0]          # the joined rows, and who of the first input each is about

A key is in an input once, or its rows become their means. Joined rows are in the order of their
keys, so that no result depends on the order in which rows came. How many there are stays inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.deadline import check_deadline
from enclave_app.errors import ComputeDeniedError, ReleaseDeniedError
from enclave_app.gate import Group, Input, Inputs, numbered
from enclave_app.limits import Need
from policy.join import Join
from policy.joins import JOINED

_Places = npt.NDArray[np.int64]


class KeyTwice(ComputeDeniedError):
    """An input that is joined has several rows of one key, and no rule for them."""

    code = "key-twice"
    default_fix = "send one row of each key, or agree on the input in means_of of the join"


class TooManyUnmatched(ReleaseDeniedError):
    """Of the keys of one input, more than the agreed share have no match."""

    code = "too-many-unmatched"
    default_fix = "agree on the persons first, with a private_set_intersection; send those alone"


class UnmatchedTooFew(ReleaseDeniedError):
    """Fewer persons of one input than k have no match: who sent them could tell who they are."""

    code = "unmatched-too-few"
    default_fix = "leave out rows that have no match, or release more"


@dataclass(frozen=True, slots=True)
class Joint:
    """The joined rows."""

    views: list[Inputs]  # all joined rows, with the persons of each input
    # Persons of an input without a match, where there are any. To the provider of the input, a
    # result about all others is one about these.
    rest: list[Group]


def require_key_once(join: Join, dataset: str, keys: pa.ChunkedArray) -> None:
    """Raises: KeyTwice."""
    if not join.averages(dataset) and pc.count_distinct(keys).as_py() != len(keys):
        raise KeyTwice(f"dataset {dataset!r}: key {join.key!r}", expected="each once", found="more")


def joined(join: Join, inputs: Inputs) -> Joint:
    """Join them.

    Raises:
        KeyTwice: A key twice, in an input that is not in `means_of`.
        TooManyUnmatched: More keys of an input than agreed have no match.
    """
    keys = {dataset: rows.table.column(join.key) for dataset, rows in inputs.items()}
    for dataset, column in keys.items():
        require_key_once(join, dataset, column)
    ranks, count = _ranked(list(keys.values()))
    places: list[_Places] = []
    tables: list[pa.Table] = []
    for rank, (dataset, rows) in zip(ranks, inputs.items(), strict=True):
        check_deadline()
        table = rows.table
        if join.averages(dataset):
            table, rank = _means(table, rank, {join.key, rows.subject})
        place = np.full(count, -1, np.int64)
        place[rank] = np.arange(len(rank))
        places.append(place)
        tables.append(table)
    there = np.array([place >= 0 for place in places])
    matched = there.all(axis=0)
    kept = there[0] if join.kind == "left" else matched
    rest: list[Group] = []
    for i, (dataset, rows) in enumerate(inputs.items()):
        # Of the others of a left join, a match is one with the first.
        found = there[i] & there[0] if join.kind == "left" and i else matched
        alone = there[i] & ~found
        if alone.sum() > join.max_unmatched_share * there[i].sum():
            raise TooManyUnmatched(
                f"dataset {dataset!r}: keys without a match",
                expected=f"at most {join.max_unmatched_share:.0%}",
                found="more",
            )
        if alone.any():
            persons = tables[i].column(rows.subject).take(_arrow(places[i][alone]))
            thing = f"dataset {dataset!r}: persons without a match"
            rest.append(Group(thing, numbered(persons), UnmatchedTooFew))
    return Joint(_views(join, inputs, tables, [place[kept] for place in places]), rest)


def _ranked(keys: list[pa.ChunkedArray]) -> tuple[list[_Places], int]:
    """Of each row the rank of its key among all keys of all inputs, and how many there are."""
    together = pa.chunked_array([c for column in keys for c in column.chunks], keys[0].type)
    encoded = together.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    found = rank[encoded.indices.to_numpy()]
    ends = np.cumsum([len(column) for column in keys])[:-1]
    return np.split(found, ends), len(order)


def _means(table: pa.Table, rank: _Places, apart: set[str]) -> tuple[pa.Table, _Places]:
    """One row of each key: its person, and of each other column the mean of what has a value.

    Values are added in their own order: no last digit depends on that of rows.
    """
    found, first, which = np.unique(rank, return_index=True, return_inverse=True)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if name in apart:
            columns[name] = column.take(_arrow(first))
            continue
        values = pc.cast(column, pa.float64(), safe=False).to_numpy()
        there = ~np.isnan(values)
        order = np.lexsort((values[there], which[there]))
        mine = which[there][order]
        sums = np.bincount(mine, values[there][order], minlength=len(found))
        counts = np.bincount(mine, minlength=len(found))
        means = sums / np.maximum(counts, 1)
        columns[name] = _arrow(means, counts > 0)
    return pa.table(columns), found


def _views(
    join: Join, inputs: Inputs, tables: list[pa.Table], places: list[_Places]
) -> list[Inputs]:
    columns: dict[str, pa.ChunkedArray] = {}
    people: list[str] = []
    for i, (rows, table, place) in enumerate(zip(inputs.values(), tables, places, strict=True)):
        check_deadline()
        part = table.take(_arrow(np.maximum(place, 0), place >= 0))
        for name in part.column_names:
            if name not in {join.key, rows.subject}:
                columns[name] = part.column(name)
        by_key = rows.subject == join.key
        if i and by_key and join.kind == "inner" and people[0] == join.key:
            continue  # the same persons
        # A statement names them by the key.
        people.append(join.key if by_key and not i else f"ratls_person_{i}")
        columns[people[-1]] = part.column(rows.subject)
    whole = pa.table(columns)
    return [{JOINED: Input(whole, name)} for name in people]


def _arrow(
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    there: npt.NDArray[np.bool_] | None = None,
) -> pa.Array:
    """These values, where they are there. `pa.array` would load parts of numpy for a mask, which
    not every image has."""
    bits = None if there is None else pa.py_buffer(np.packbits(there, bitorder="little"))
    kind = pa.float64() if values.dtype.kind == "f" else pa.int64()
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(values)])


def need(alone: Need) -> Need:
    """Keys, their ranks and places, and a second copy of what came."""
    return Need(alone.per_row + 160, alone.copies + 2, alone.fixed)
