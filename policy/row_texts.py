"""Rules about texts in rows: how ids of persons are spelled, and closed lists of values.

misspelled(values, "canonical")        # each rule that some id may break, and which rows
unlisted(values, ("north", "south"))   # the rows whose value is not agreed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from policy import text
from policy.errors import InvalidDataError

Fault = tuple[type[InvalidDataError], str, pa.Array]  # refusal, the rule, which rows break it


class NamesRows:
    """Sentences like `dataset d, column 'age': row 3 must not be null`."""

    says: ClassVar[str] = "{thing}: {found} must {expected}"


class PersonUnnamed(NamesRows, InvalidDataError):
    """A person's id is empty or blank."""

    code = "person-unnamed"
    default_fix = "give the person an id, or leave the row out"


class PersonSpelledWithBlanks(NamesRows, InvalidDataError):
    """A person's id begins or ends with a space, and would count as another person's."""

    code = "person-spelled-with-blanks"
    default_fix = "trim the column at the source: in SQL trim(id), in pandas ids.str.strip()"


def misspelled(values: pa.Array, spelling: str | None) -> Iterator[Fault]:
    """R06: `P1`, `P1 ` and `p1` are one person to people and three to a computer that counts."""
    if spelling is None:
        return
    trimmed = pc.ascii_trim(values, characters=" ")
    yield PersonUnnamed, "have an id", pc.equal(pc.binary_length(trimmed), 0)
    yield PersonSpelledWithBlanks, "not begin or end with a space", pc.not_equal(trimmed, values)
    rules = _SPELLINGS[spelling]
    if pc.all(pc.ascii_is_printable(values), min_count=0).as_py() is not False:
        rules = rules[len(_CANONICAL) :]  # most ids; they have no second form
    # Not by Arrow's `utf8_normalize`: an id of a mebibyte of accents would take it hours.
    joined = _joined(values) if rules else ""
    for leaf, expected, holds in rules:
        if not holds(joined):
            wrong = [id_ is not None and not holds(id_) for id_ in values.to_pylist()]
            yield leaf, expected, pa.array(wrong)


def is_plainly_spelled(values: pa.Array) -> bool:
    """Nothing but visible ASCII without a blank, and no empty id: most ids are such.

    Two passes over bytes instead of seven over texts. False says nothing.
    """
    if values.null_count:
        return False
    if not len(values):
        return True
    _, offsets, data = values.buffers()
    # A buffer may end with padding of any length.
    ends = np.frombuffer(offsets, np.int32, values.offset + len(values) + 1)[values.offset :]
    if data is None or not (ends[1:] > ends[:-1]).all():
        return False
    bytes_ = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return bool(bytes_.min() > ord(" ") and bytes_.max() < 0x7F)


_Rule = tuple[type[InvalidDataError], str, Callable[[str], bool]]


class PersonSpelledInvisibly(NamesRows, InvalidDataError):
    """A person's id has an invisible character, and would count as another person's."""

    code = "person-spelled-invisibly"
    default_fix = "remove control and zero-width characters, and blanks other than the space"


class PersonSpelledInParts(NamesRows, InvalidDataError):
    """A person's id is not in NFC: a letter and its accent are two characters."""

    code = "person-spelled-in-parts"
    default_fix = (
        "compose the column at the source: in PostgreSQL normalize(id), in pandas "
        'ids.str.normalize("NFC")'
    )


_CANONICAL: tuple[_Rule, ...] = (
    (PersonSpelledInvisibly, "have visible characters only", text.is_visible),
    (PersonSpelledInParts, "be in NFC form", text.is_composed),
)


class PersonSpelledInCapitals(NamesRows, InvalidDataError):
    """A person's id is not case-folded, as the policy's spelling `folded` demands."""

    code = "person-spelled-in-capitals"
    default_fix = "fold the column at the source, for example in pandas ids.str.casefold()"


_SPELLINGS: dict[str, tuple[_Rule, ...]] = {
    "canonical": _CANONICAL,
    "folded": (*_CANONICAL, (PersonSpelledInCapitals, "be case-folded", text.is_folded)),
}


def _joined(values: pa.Array) -> str:
    """All texts in one, separated by spaces, which compose with no other character."""
    values = values.drop_null()
    ends = pa.array([0, len(values)], pa.int32())
    joined: str = pc.binary_join(pa.ListArray.from_arrays(ends, values), " ")[0].as_py()
    return joined


class ValueUnlisted(NamesRows, InvalidDataError):
    """A text that is not among the values that the policy lists for its column."""

    code = "value-unlisted"
    default_fix = "write the value as the policy lists it, or agree on a longer list"


def all_listed(values: pa.Array, agreed: tuple[str, ...]) -> bool:
    """Every value is one of these; nulls are another rule's."""
    return not pc.any(unlisted(values, agreed)[2], min_count=0).as_py()


def unlisted(values: pa.Array, agreed: tuple[str, ...]) -> Fault:
    """The rule of a closed list. The message says neither the list nor the value."""
    known = pc.is_in(values, pa.array(agreed, pa.string()))
    return ValueUnlisted, "be a listed value", pc.and_(pc.is_valid(values), pc.invert(known))
