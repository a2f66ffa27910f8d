"""Does a column look as if it named persons? A guess, for whoever drafts a policy.

suspicion("E-Mail", None)       # "its name says an e-mail address"
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

# Whole words of a name, in a few languages. A birth date alone tells most people apart.
_WORDS = {
    "a name": "name names surname forename firstname lastname fullname maiden nachname vorname nom "
    "prenom nombre apellido cognome",
    "an e-mail address": "email mail",
    "a telephone number": "phone telephone tel mobile fax telefon",
    "an address": "address addr street strasse adresse rue zip zipcode postcode plz "
    "postal geo lat lon latitude longitude gps",
    "a date of birth": "birth birthdate birthday dob born geburtsdatum geburtstag naissance",
    "a number of a person": "ssn nhs mrn nino passport insurance iban account ahv medicare licence "
    "license patientid personid subjectid patnr fallnr casenumber",
    "a device or network address": "ip ipv4 ipv6 mac imei serial hostname url username login",
}
_MEANING = {word: what for what, words in _WORDS.items() for word in words.split()}
_SPLIT = re.compile(r"[^0-9a-z]+")
_PATTERNS = {
    "e-mail addresses": r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$",
    "telephone numbers": r"^\+?[0-9][0-9 ()/.-]{6,}[0-9]$",
}
_FEW, _FEW_NUMBERS = 20, 200  # rows of which nothing can be told: 20 ages may well differ
_MOST = 100_000  # values that are compared with each other
_NEARLY_ALL = 0.9


@dataclass(slots=True)
class Values:
    """What was seen of one column; no value is kept, only hashes of the first ones."""

    rows: int = 0
    numbers: bool = False
    looks: dict[str, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set, repr=False)

    def add(self, values: pa.Array) -> None:
        """Some more values; those beyond the first hundred thousand change nothing."""
        values = values.drop_null()
        if self.rows >= _MOST or not len(values):
            return
        self.rows += len(values)
        self.numbers = not pa.types.is_string(values.type)
        self.seen.update(map(hash, values.to_pylist()))
        if pa.types.is_string(values.type):
            for what, pattern in _PATTERNS.items():
                count = pc.sum(pc.match_substring_regex(values, pattern)).as_py()
                self.looks[what] = self.looks.get(what, 0) + count


def suspicion(name: str, values: Values | None) -> str | None:
    """Why a column may identify persons directly; None where nothing says so.

    Args:
        values: Of a column of texts or whole numbers.
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = [word for word in _SPLIT.split(apart) if word]
    for word in (*words, *map("".join, pairwise(words))):
        if word in _MEANING:
            return f"its name says {_MEANING[word]}"
    if values is None or values.rows < (_FEW_NUMBERS if values.numbers else _FEW):
        return None
    for what, count in values.looks.items():
        if count > values.rows / 2:
            return f"its values look like {what}"
    if len(values.seen) > _NEARLY_ALL * values.rows:
        return "nearly every row has another value"
    return None
