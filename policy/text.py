"""Rules for text in documents that people sign: they must see exactly what they sign.

`hidden_character` judges raw text (comments too); `slug_fault` ids; `name_fault` column names,
which may use letters of any script. The last two give None, or (expected, found) of the first
fault. `is_visible`, `is_composed` and `is_folded` judge ids of persons: what holds for ids that
are joined by spaces holds for each of them, so that a million are judged at once.
"""

from __future__ import annotations

import re
import unicodedata

Fault = tuple[str, str]  # expected, found

SLUG = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)  #             study, party, dataset, computation
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)  # datasets, runs, parameters

# Drawn as nothing, though not of category Cf: fillers, joiners, variation selectors, blanks.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    "\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)

# Scripts that look unlike ASCII; letters of other scripts are refused beside ASCII letters.
_DISTINCT_SCRIPTS = (
    "CJK UNIFIED", "HIRAGANA", "KATAKANA", "HANGUL SYLLABLE", "ARABIC LETTER", "HEBREW LETTER",
    "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM",
    "THAI CHARACTER", "ETHIOPIC", "GEORGIAN",
)  # fmt: skip
# Latin letters without decomposition that are visibly not ASCII.
_DISTINCT_LATIN = frozenset("ßẞæÆøØœŒđĐłŁþÞðÐŋŊ")
# Cyrillic, Greek, Armenian and Latin letters drawn like ASCII ones: names made of these alone.
_LOOK_ALIKES = frozenset(
    "асеорхуіјѕһԁԛԝӏАВЕКМНОРСТХУІЈЅԚԜҮЗБгпрοανυικρτχγωΑΒΕΖΗΙΚΜΝΟΡΤΥΧօոսհցզԼՕՍıɩɑɡɪʏſ"
)


def is_visible(text: str) -> bool:
    """Has only characters that people can see and tell apart.

    Printable leaves out control, format (bidirectional), surrogate, private and unassigned
    characters, line and paragraph separators, and every blank but the space.
    """
    return text.isprintable() and (text.isascii() or not _INVISIBLE.search(text))


def is_composed(text: str) -> bool:
    """In NFC: `é` is one character, not a letter and an accent."""
    return unicodedata.is_normalized("NFC", text)


def is_folded(text: str) -> bool:
    """Without a difference between upper and lower case: Unicode's case folding changes nothing."""
    return text.casefold() == text


def hidden_character(text: str, *, allowed: str = "") -> int | None:
    """Position of the first character that is invisible or misleading."""
    if is_visible(text.translate(dict.fromkeys(map(ord, allowed)))):
        return None  # most often, and a million characters at once
    for position, character in enumerate(text):
        if character not in allowed and not is_visible(character):
            return position
    return None


def describe(character: str) -> str:
    """A character by number and name, since showing it would not help."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}"


def slug_fault(text: str) -> Fault | None:
    """Ids are compared byte for byte and travel in file names, URIs and logs."""
    if SLUG.fullmatch(text):
        return None
    return "1 to 64 of a-z, 0-9 and -", repr(text[:80])


def identifier_fault(text: str) -> Fault | None:
    """Ids of datasets, computations, enclaves: ASCII without separators of paths."""
    if IDENTIFIER.fullmatch(text):
        return None
    return "1 to 64 ASCII letters, digits, . _ or -, first a letter or digit", repr(text[:80])


def name_fault(name: str) -> Fault | None:
    """Column names: letters of any script in NFC, and none that looks like an ASCII letter."""
    if not 1 <= len(name) <= 128:
        return "1 to 128 characters", f"{len(name)}"
    if name != unicodedata.normalize("NFC", name):
        return "a name in NFC form", ascii(name)
    if name != name.strip() or "  " in name:
        return "no space at the ends and no two together", ascii(name)
    for position, character in enumerate(name):
        if not _may_stand_in_name(character):
            return "letters, digits, _ - . and space", describe(character)
        # A mark that NFC could not compose rides on the ASCII letter and changes how it looks.
        if unicodedata.category(character).startswith("M") and (
            position == 0 or name[position - 1].isascii()
        ):
            return "no combining mark on an ASCII character", describe(character)
    return _look_alike_fault(name)


# As they are drawn in most fonts.
_DRAWN_ALIKE = str.maketrans("0O1I", "ooll")


def readings(name: str) -> tuple[str, str]:
    """Two forms of a name. Names with a form in common are easily taken for each other.

    The first is without case; the second as it is drawn: O and 0, I, l and 1, rn and m.
    """
    drawn = name.translate(_DRAWN_ALIKE).casefold()
    return name.casefold(), drawn.replace("rn", "m").replace("vv", "w")


def _may_stand_in_name(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in "_-. "
    if not is_visible(character):
        return False
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) == "Nd"


def _look_alike_fault(name: str) -> Fault | None:
    others = [c for c in name if not c.isascii()]
    for character in others:
        # Full-width, ligature and mathematical forms read as ASCII wherever they stand.
        if any(c.isascii() for c in unicodedata.normalize("NFKC", character)):
            return "no second form of an ASCII character", describe(character)
    if any(c.isascii() and c.isalpha() for c in name):
        for character in others:
            if not _is_distinct(character):
                return "no look-alike among ASCII letters", describe(character)
    elif others and all(c in _LOOK_ALIKES for c in others):
        return "letters that do not all look like ASCII ones", describe(others[0])
    return None


def _is_distinct(character: str) -> bool:
    if character in _DISTINCT_LATIN or unicodedata.category(character)[0] == "M":
        return True
    # é, ö, ş: an ASCII letter plus a visible mark.
    decomposed = unicodedata.normalize("NFD", character)
    if len(decomposed) > 1 and decomposed[0].isascii():
        return True
    return unicodedata.name(character, "").startswith(_DISTINCT_SCRIPTS)
