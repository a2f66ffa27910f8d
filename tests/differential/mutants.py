"""Mutants of quotes, collateral and instants: from a seed and an index, always the same one.

    mutant = Mutants(bases, seed=1).make(4711)
    mutant.question  # for `compare`

Everything comes from `random.Random` of seed and index, so that any worker can make any mutant
and a finding is reproduced by two numbers.
"""

from __future__ import annotations

import json
import re
import ssl
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from random import Random

from cryptography import x509

from tests.differential.layout import NUMBERS, Region, regions
from tests.differential.question import Question, Root
from verifier.ecdsa import ORDER

_CRLS = ("root_ca_crl", "pck_crl")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n?")
_INSTANTS = re.compile(r'"(?:issueDate|nextUpdate)":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Base:
    """A valid question in parts that an operator can change one at a time."""

    name: str
    quote: bytes
    members: Mapping[str, str] = field(repr=False)  # of the bundle
    root: Root
    at: int
    bundle: bytes | None = None  # instead of the members, where the JSON itself is damaged

    def question(self) -> Question:
        bundle = json.dumps(dict(self.members)).encode() if self.bundle is None else self.bundle
        return Question(self.quote, bundle, self.root, self.at)

    def with_member(self, name: str, value: str) -> Base:
        return replace(self, members={**self.members, name: value})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One altered question, and how it was made."""

    seed: int
    index: int
    base: str
    operator: str
    question: Question

    def __str__(self) -> str:
        return f"seed {self.seed}, index {self.index}: {self.operator} on {self.base}"


Operator = Callable[[Random, Base, Sequence[Base]], Base]


@dataclass(frozen=True, slots=True)
class Mutants:
    """All mutants of one seed. `resigned` builds the ones that need keys (see `resigned`)."""

    bases: Sequence[Base]
    seed: int
    resigned: Sequence[Callable[[Random], Base]] = ()

    def make(self, index: int) -> Mutant:
        rng = Random(f"{self.seed}/{index}")  # noqa: S311 - repeatable, and no secret
        if self.resigned and rng.random() < 0.4:
            build = rng.choice(self.resigned)
            base = build(rng)
            # One in ten is altered once more: what only a second fault would reach.
            if rng.random() < 0.9:
                return Mutant(self.seed, index, base.name, build.__name__, base.question())
            name = build.__name__
        else:
            base, name = rng.choice(self.bases), ""
        operator = rng.choices(OPERATORS, WEIGHTS)[0]
        changed = operator(rng, base, self.bases)
        label = f"{name} then {operator.__name__}" if name else operator.__name__
        return Mutant(self.seed, index, base.name, label, changed.question())


# Quotes.


@cache
def _regions(quote: bytes) -> list[Region]:
    return regions(quote)


def _splice(base: Base, start: int, end: int, new: bytes) -> Base:
    return replace(base, quote=base.quote[:start] + new + base.quote[end:])


def flip_bit_of_a_field(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Every field is as likely, so that small ones are hit as often as certificates."""
    region = rng.choice([r for r in _regions(base.quote) if r.end > r.start])
    at = rng.randrange(region.start, region.end)
    return _splice(base, at, at + 1, bytes([base.quote[at] ^ 1 << rng.randrange(8)]))


def overwrite_a_field(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    region = rng.choice([r for r in _regions(base.quote) if r.end > r.start])
    size = region.end - region.start
    new = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
    return _splice(base, region.start, region.end, new)


def edit_a_number(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Lengths, types and versions: a little more, a little less, nothing, everything."""
    region = rng.choice([r for r in _regions(base.quote) if r.name in NUMBERS])
    size = region.end - region.start
    value = int.from_bytes(base.quote[region.start : region.end], "little")
    value = rng.choice(
        [value + rng.randint(-9, 9), 0, rng.randrange(9), 2 ** (8 * size) - 1, value ^ 0x8000]
    )
    new = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return _splice(base, region.start, region.end, new)


def truncate(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    ends = [r.end for r in _regions(base.quote)]
    end = rng.choice([rng.choice(ends), rng.randrange(len(base.quote) + 1), len(base.quote) - 1])
    return replace(base, quote=base.quote[:end])


def append(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    tail = rng.choice([bytes(rng.randint(1, 99)), rng.randbytes(rng.randint(1, 99)), base.quote])
    return replace(base, quote=base.quote + tail)


def insert_or_delete(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    at, size = rng.randrange(len(base.quote)), rng.randint(1, 64)
    if rng.random() < 0.5:
        return _splice(base, at, at, rng.randbytes(size))
    return _splice(base, at, at + size, b"")


def resize_with_lengths(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Bytes added to or taken from a variable part, with every length around it adjusted."""
    by_name = {r.name: r for r in _regions(base.quote)}
    name = rng.choice(["qe_auth_data", "certification_data"])
    part = by_name[name]
    old = base.quote[part.start : part.end]
    new = rng.choice(
        [b"", old[: rng.randrange(len(old) + 1)], old + b"\0", old + rng.randbytes(9), old + old]
    )
    grown = len(new) - len(old)
    sizes = [name.replace("_data", "_size"), "auth_size", "outer_size"]
    quote = bytearray(base.quote)
    for size in (by_name[s] for s in sizes if s in by_name):
        value = int.from_bytes(quote[size.start : size.end], "little") + grown
        width = size.end - size.start
        quote[size.start : size.end] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    quote[part.start : part.end] = new
    return replace(base, quote=bytes(quote))


def take_a_field_of_another_quote(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Also a whole chain, a whole QE report with its signature, all that follows the body."""
    other = rng.choice(others)
    mine = {r.name: r for r in _regions(base.quote)}
    its = {r.name: r for r in _regions(other.quote)}
    spans = [(name, name) for name in mine if name in its]
    spans += 6 * [
        ("qe_cpu_svn", "qe_report_signature"),
        ("qe_cpu_svn", "certification_data"),
        ("signature", "attestation_key"),
        ("auth_size", "certification_data"),
        ("certification_size", "certification_data"),
    ]
    first, last = rng.choice(spans)
    taken = other.quote[its[first].start : its[last].end]
    return _splice(base, mine[first].start, mine[last].end, taken)


def take_another_quote(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    return replace(base, quote=rng.choice(others).quote)


def negate_a_signature(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """(r, n - s): another signature of the same message, which both must take or both refuse."""
    name = rng.choice(["signature", "qe_report_signature"])
    region = next(r for r in _regions(base.quote) if r.name == name)
    s = int.from_bytes(base.quote[region.end - 32 : region.end], "big")
    new = ((ORDER - s) % 2**256).to_bytes(32, "big")
    return _splice(base, region.end - 32, region.end, new)


def extreme_signature(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Zero, the order, beyond the order: what careless arithmetic accepts for any message."""
    name = rng.choice(["signature", "qe_report_signature", "attestation_key"])
    region = next(r for r in _regions(base.quote) if r.name == name)
    number = _number(rng)
    at = rng.choice([region.start, region.start + 32])
    quote = _splice(base, at, at + 32, number)
    return quote if rng.random() < 0.5 else _splice(quote, region.start, region.end, number * 2)


def _number(rng: Random) -> bytes:
    return rng.choice([0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1]).to_bytes(32, "big")


def edit_the_pck_chain(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Order, number and layout of the certificates in the quote, at the same length or adjusted."""
    part = next(r for r in _regions(base.quote) if r.name == "certification_data")
    text = base.quote[part.start : part.end].rstrip(b"\0").decode("latin-1")
    return _with_chain(base, part, edit_pem(rng, text, others))


def _with_chain(base: Base, part: Region, text: str) -> Base:
    new = text.encode("latin-1", "replace") + b"\0"
    grown = len(new) - (part.end - part.start)
    quote = bytearray(base.quote)
    for r in _regions(base.quote):
        if r.name in {"certification_size", "auth_size", "outer_size"}:
            value = int.from_bytes(quote[r.start : r.end], "little") + grown
            quote[r.start : r.end] = (value % 2**32).to_bytes(4, "little")
    quote[part.start : part.end] = new
    return replace(base, quote=bytes(quote))


def edit_pem(rng: Random, text: str, others: Sequence[Base]) -> str:
    """Another order, one too few, one too many, one damaged, other white space."""
    blocks = [b if b.endswith("\n") else b + "\n" for b in _PEM.findall(text)]
    if not blocks:
        return text + " "
    match rng.randrange(9):
        case 0:
            rng.shuffle(blocks)
        case 1:
            del blocks[rng.randrange(len(blocks))]
        case 2:
            blocks.insert(rng.randrange(len(blocks) + 1), rng.choice(blocks))
        case 3:
            blocks.append(rng.choice(_PEM.findall(_chain_text(rng.choice(others))) or blocks))
        case 4:
            blocks = [b.replace("\n", "\r\n") for b in blocks]
        case 5:
            blocks.insert(rng.randrange(len(blocks) + 1), rng.choice(["\n", " ", "x\n", "#\n"]))
        case 6:
            at = rng.randrange(len(blocks))
            blocks[at] = _damaged_certificate(rng, blocks[at])
        case 7:
            at = rng.randrange(len(blocks))
            blocks[at] = rng.choice(_PEM.findall(_chain_text(rng.choice(others))) or blocks)
        case _:
            at = rng.randrange(len(blocks))
            blocks[at] = _one_character(rng, blocks[at])
    return "".join(blocks)


def _chain_text(base: Base) -> str:
    quote = base.quote
    part = next(r for r in _regions(quote) if r.name == "certification_data")
    own = quote[part.start : part.end].decode("latin-1")
    return own + base.members["tcb_info_issuer_chain"] + base.members["pck_crl_issuer_chain"]


def _damaged_certificate(rng: Random, pem: str) -> str:
    raw = bytearray(ssl.PEM_cert_to_DER_cert(pem.strip()))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return ssl.DER_cert_to_PEM_cert(bytes(raw))


# Collateral.


def _one_character(rng: Random, text: str) -> str:
    if not text:
        return "0"
    at = rng.randrange(len(text))
    new = rng.choice([chr(ord(text[at]) ^ 1 << rng.randrange(7)), "", text[at] * 2, '"', " ", "0"])
    return text[:at] + new + text[at + 1 :]


def edit_a_character(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    name = rng.choice(list(base.members))
    return base.with_member(name, _one_character(rng, base.members[name]))


def flip_bit_of_binary(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """Revocation lists and signatures, decoded."""
    names = [*_CRLS, "tcb_info_signature", "qe_identity_signature"]
    name = rng.choice(names)
    raw = bytearray.fromhex(base.members[name])
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return base.with_member(name, raw.hex())


def edit_a_chain(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    name = rng.choice([n for n in base.members if n.endswith("_chain")])
    return base.with_member(name, edit_pem(rng, base.members[name], others))


def cut_a_member(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    name = rng.choice(list(base.members))
    text = base.members[name]
    return base.with_member(name, rng.choice(["", text[: rng.randrange(len(text))], text * 2]))


def take_a_part_of_another_bundle(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """One member, or all that make one signed document with its chain."""
    other = rng.choice(others)
    group = rng.choice(
        [
            *([name] for name in base.members),
            ["tcb_info", "tcb_info_signature"],
            ["tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"],
            ["qe_identity", "qe_identity_signature"],
            ["qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"],
            ["pck_crl", "pck_crl_issuer_chain"],
        ]
    )
    return replace(base, members={**base.members, **{n: other.members[n] for n in group}})


def exchange_two_members(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    kinds = [
        ["root_ca_crl", "pck_crl"],
        ["tcb_info", "qe_identity"],
        ["tcb_info_signature", "qe_identity_signature"],
        ["tcb_info_issuer_chain", "pck_crl_issuer_chain"],
    ]
    one, two = rng.choice(kinds)
    members = base.members
    return replace(base, members={**members, one: members[two], two: members[one]})


def take_another_bundle(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    other = rng.choice(others)
    return replace(base, members=other.members, at=rng.choice([base.at, other.at]))


def write_a_document_in_another_way(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """The same JSON in other bytes: what was signed are bytes."""
    name = rng.choice(["tcb_info", "qe_identity"])
    text = rng.choice(
        [
            base.members[name].replace(":", ": "),
            base.members[name].replace('"version"', '"v\\u0065rsion"'),
            base.members[name] + rng.choice([" ", "\n", "{}", "\0"]),
            " " + base.members[name],
        ]
    )
    return base.with_member(name, text)


def damage_the_bundle(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """The JSON around the members: one missing, renamed, doubled, of another type, cut off."""
    members: dict[str, object] = dict(base.members)
    name = rng.choice(list(members))
    match rng.randrange(6):
        case 0:
            del members[name]
        case 1:
            members[name.upper()] = members.pop(name)
        case 2:
            members[name] = rng.choice([None, 0, [], {}, True, [members[name]]])
        case 3:
            text = json.dumps(members)
            return replace(base, bundle=text[: rng.randrange(len(text))].encode())
        case 4:
            text = json.dumps(members)
            doubled = f'{{"{name}":{json.dumps(others[0].members[name])},' + text[1:]
            return replace(base, bundle=doubled.encode())
        case _:
            return replace(base, bundle=json.dumps(members).encode() + rng.choice([b"x", b"\0"]))
    return replace(base, bundle=json.dumps(members).encode())


# Instants.


@cache
def _edges(quote: bytes, members: tuple[str, ...]) -> tuple[int, ...]:
    """Each second at which something in quote or bundle begins or ends."""
    found: list[datetime] = []
    part = next(r for r in _regions(quote) if r.name == "certification_data")
    text = quote[part.start : part.end].decode("latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for member in members:
            text += member if "BEGIN CERTIFICATE" in member else ""
            for date in _INSTANTS.findall(member):
                with suppress(ValueError):
                    found.append(datetime.fromisoformat(date))
            with suppress(ValueError):
                crl = x509.load_der_x509_crl(bytes.fromhex(member))
                found += [crl.last_update_utc, crl.next_update_utc or crl.last_update_utc]
        for block in _PEM.findall(text):
            with suppress(ValueError):  # two genuine quotes carry a damaged chain
                certificate = x509.load_pem_x509_certificate(block.encode())
                found += [certificate.not_valid_before_utc, certificate.not_valid_after_utc]
    return tuple(sorted({int(instant.timestamp()) for instant in found if instant.tzinfo}))


def at_the_edge_of_a_window(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    edge = rng.choice(_edges(base.quote, tuple(base.members.values())))
    return replace(base, at=edge + rng.choice([-301, -300, -299, -1, 0, 1, 299, 300, 301]))


def at_another_time(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    day = 86400
    at = base.at + rng.choice([1, -1]) * rng.choice([1, 3600, day, 31 * day, 400 * day])
    return replace(base, at=rng.choice([at, at, at, rng.choice(others).at, 0, 1, 2**33]))


def nothing(rng: Random, base: Base, others: Sequence[Base]) -> Base:
    """The base itself, so that both are seen to accept at all."""
    return base


_WEIGHTED: tuple[tuple[Operator, int], ...] = (
    (flip_bit_of_a_field, 14),
    (overwrite_a_field, 6),
    (edit_a_number, 5),
    (truncate, 2),
    (append, 2),
    (insert_or_delete, 3),
    (resize_with_lengths, 4),
    (take_a_field_of_another_quote, 6),
    (take_another_quote, 2),
    (negate_a_signature, 2),
    (extreme_signature, 3),
    (edit_the_pck_chain, 8),
    (edit_a_character, 6),
    (flip_bit_of_binary, 5),
    (edit_a_chain, 8),
    (cut_a_member, 2),
    (take_a_part_of_another_bundle, 8),
    (exchange_two_members, 1),
    (take_another_bundle, 3),
    (write_a_document_in_another_way, 2),
    (damage_the_bundle, 3),
    (at_the_edge_of_a_window, 8),
    (at_another_time, 4),
    (nothing, 1),
)
OPERATORS = [operator for operator, _ in _WEIGHTED]
WEIGHTS = [weight for _, weight in _WEIGHTED]
