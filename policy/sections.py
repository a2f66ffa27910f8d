"""The tables of a policy: what each may contain. Absence never means "any".

A table is read strictly by itself; `policy.references` judges what one says about another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    model_validator,
)

from policy.channel import ChannelCertificate
from policy.fields import (
    LIST_CAP,
    ONE_OR_MORE,
    Hex4,
    Hex6,
    Hex8,
    Hex32,
    Identifier,
    Slug,
    Strict,
    at_most,
    distinct,
    faultless,
    little_endian,
)
from policy.join import Join
from policy.keys import EncryptionKey, OperationKey, PublicKey, SigningKey
from policy.parameters import ENTRIES_CAP, Parameter, parse_parameter, read_table
from policy.problems import Unfit, shortened
from policy.text import name_fault
from verifier.anchors import Mode, RootName
from verifier.errors import RatlsError
from verifier.text import instant_fault

ANY_MACHINE = "any genuine platform"
MACHINES_CAP = 4096
PEM_CAP = 16 * 1024
VALUES_CAP = 256  # of one column of texts
VERSION_CAP = 1_000_000  # P14: no version may be so high that nothing can follow it


def _translated(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A parser as a validator: pydantic then adds the path to its refusal."""

    def check(text: Any) -> Any:
        if not isinstance(text, str) or len(text) > PEM_CAP:
            found = "more" if isinstance(text, str) else type(text).__name__
            raise Unfit(f"text in PEM form of at most {PEM_CAP} characters", found)
        try:
            return parse(text)
        except RatlsError as refusal:
            raise Unfit(refusal.expected, refusal.found) from refusal

    return check


def machine(text: str) -> str:
    """One machine's name; anything else is Unfit."""
    if not re.fullmatch("(ppid|piid):(?!0{32})[0-9a-f]{32}", text, re.ASCII):
        raise Unfit("ppid: or piid: and 32 lower-case hex digits", f"{text[:80]!r}")
    return text


def _machines(value: Any) -> tuple[str, ...]:
    """A list of machines, or the words, which give the empty tuple."""
    if value == ANY_MACHINE:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(m, str) for m in value):
        raise Unfit(f'a non-empty list, or the words "{ANY_MACHINE}"', shortened(value))
    if len(value) > MACHINES_CAP:
        raise Unfit(f"at most {MACHINES_CAP} machines; more in a machines_file", str(len(value)))
    return distinct(tuple(machine(m) for m in value))


# In the policy's spelling, as Intel's certificates have them.
SGX_TYPES = {
    "standard": "Standard",
    "scalable": "Scalable",
    "scalable_with_integrity": "ScalableWithIntegrity",
}


def _threshold(value: Any) -> Any:
    # P05: exact type, since True is an int; a threshold above the count of voters comes later.
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise Unfit('"all" or a number of parties from 1', ascii(value)[:40])


def _expanded(value: Any) -> Any:
    """`age = "int64"` is short for `age = { type = "int64" }`."""
    if not isinstance(value, dict):
        return value
    return {n: {"type": c} if isinstance(c, str) else c for n, c in value.items()}


def _parameters(value: Any) -> Mapping[str, Parameter]:
    return MappingProxyType(read_table(value, parse_parameter))


ColumnName = Annotated[str, faultless(name_fault, "column names of ")]
Advisory = Annotated[str, Field(pattern="^INTEL-(SA|DOC)-[0-9]{5}$")]
# Intel's strings without Revoked, which can never be listed; the last two are of trust domains.
Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]
Role = Literal["provider", "recipient", "submitter", "operator"]
Slugs = Annotated[tuple[Slug, ...], *ONE_OR_MORE]
Identifiers = Annotated[tuple[Identifier, ...], *ONE_OR_MORE]
_SIGNS = PlainValidator(_translated(PublicKey.from_pem))
Signing = Annotated[SigningKey, _SIGNS]
Operation = Annotated[OperationKey, _SIGNS]
Encryption = Annotated[EncryptionKey, PlainValidator(_translated(EncryptionKey.from_pem))]
Channel = Annotated[ChannelCertificate, PlainValidator(_translated(ChannelCertificate.from_pem))]


def _instant(value: Any) -> Any:
    if isinstance(value, datetime) and (wanted := instant_fault(value)):
        raise Unfit(wanted, str(value))
    return value


Instant = Annotated[datetime, BeforeValidator(_instant)]


class Head(Strict):
    """The fields before the first table."""

    schema_name: Annotated[Literal["ratls-policy/0"], Field(alias="schema")]
    study: Slug
    version: Annotated[int, Field(ge=1, le=VERSION_CAP)]
    previous: Annotated[str | None, Field(pattern="^sha256:[0-9a-f]{64}$")] = None
    not_before: Instant
    expires: Instant

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.not_before >= self.expires:
            raise Unfit("an instant after not_before", "an earlier one", field="expires")
        if (self.version == 1) != (self.previous is None):
            raise Unfit(
                "the digest of the version before; absent only in 1", "other", field="previous"
            )
        return self


class AgreementRule(Strict):
    """How many parties must sign; owners of datasets must in any case."""

    threshold: Annotated[Literal["all"] | int, PlainValidator(_threshold)]


class Party(Strict):
    """An organisation with keys."""

    id: Slug
    roles: Annotated[tuple[Role, ...], *ONE_OR_MORE]
    signing_key: Signing
    operation_key: Operation
    channel_certificate: Channel
    encryption_key: Encryption | None = None

    @property
    def votes(self) -> bool:
        """A party that only operates machines does not vote."""
        return self.roles != ("operator",)


_FLAGS_FIXED, _FLAGS_VALUE = 0x37, 0x05  # INIT, MODE64BIT on; DEBUG, PROVISION, EINITTOKEN off


class Attributes(Strict):
    """Enclave attributes: little-endian hex as in a quote; bits under the mask must be equal.

    The defaults are closed: reserved bits zero; CET, KSS and AEX-notify free (KSS ids are zero
    in any case); of XFRM the state of AVX, MPX, AVX-512, PKRU and AMX free, all else zero.
    """

    flags: Hex8 = "0500000000000000"
    flags_mask: Hex8 = "3ffbffffffffffff"
    xfrm: Hex8 = "0300000000000000"
    xfrm_mask: Hex8 = "03fdf9ffffffffff"
    misc_select: Hex4 = "00000000"
    misc_select_mask: Hex4 = "ffffffff"

    @model_validator(mode="after")
    def _closed(self) -> Self:
        flags, mask = little_endian(self.flags), little_endian(self.flags_mask)
        if mask & _FLAGS_FIXED != _FLAGS_FIXED or flags & _FLAGS_FIXED != _FLAGS_VALUE:
            raise Unfit(
                "INIT and MODE64BIT on; DEBUG, PROVISION_KEY and EINITTOKEN_KEY off, "
                "all under the mask",
                "a policy that would admit another enclave",
                field="flags",
            )
        return self


def _sgx(value: Any) -> Any:
    if value == "sgx":  # `policy.document` reads "tdx" as another table
        return value
    raise Unfit('"sgx" or "tdx"', ascii(value)[:80])


class Enclave(Strict):
    """One release of the enclave that may receive rows."""

    name: Identifier
    tee: Annotated[Literal["sgx"], PlainValidator(_sgx)]
    mr_enclave: Hex32
    isv_prod_id: Annotated[int, Field(ge=0, le=0xFFFF)]
    min_isv_svn: Annotated[int, Field(ge=0, le=0xFFFF)]
    attributes: Attributes = Attributes()


class Configuration(Strict):
    """How a machine must be set up, as its PCK certificate says it.

    Without this table nothing is demanded. With it, what it leaves out has the strictest value,
    and a certificate that does not say (those of Intel's Processor CA) counts as the worse.
    """

    sgx_types: Annotated[
        tuple[Literal["standard", "scalable", "scalable_with_integrity"], ...], *ONE_OR_MORE
    ] = ("scalable_with_integrity",)
    allow_smt: bool = False
    allow_dynamic_platform: bool = False
    allow_cached_keys: bool = False


class Platform(Strict):
    """Which machines, at which patch level, judged under which root."""

    root: str
    tcb_statuses: Annotated[tuple[Status, ...], *ONE_OR_MORE]
    accepted_advisories: Annotated[
        tuple[Advisory, ...],
        Field(strict=False),
        AfterValidator(distinct),
        at_most(LIST_CAP),
    ]
    min_tcb_evaluation_data_number: Annotated[int, Field(ge=1, le=0xFFFF)]
    min_tcb_date: date
    max_collateral_age_days: Annotated[int, Field(ge=1, le=3650)]
    # Empty: any genuine platform. None: those of the file, see `policy.machines`.
    machines: Annotated[tuple[str, ...], PlainValidator(_machines)] | None = None
    machines_file: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None = None
    fmspcs: Annotated[tuple[Hex6, ...], *ONE_OR_MORE] | None = None
    configuration: Configuration | None = None

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if (self.machines is None) == (self.machines_file is None):
            raise Unfit(
                "machines, or the digest of a machines_file",
                "neither" if self.machines is None else "both",
                field="machines",
            )
        return self

    @property
    def simulated(self) -> bool:
        """Is the root one of a simulation?"""
        return RootName.parse(self.root).mode is Mode.SIMULATION


class Transport(Strict):
    """How rows travel. Absent, the defaults hold: they are the strictest."""

    # "sealed": chunks travel beside TLS, on a connection that hides only what is in them. Whoever
    # watches the network then sees their sizes and times, as with TLS, and that they are chunks.
    bulk: Literal["tls", "sealed"] = "tls"
    # A stream that lasts is challenged again, after whichever comes first.
    challenge_minutes: Annotated[int, Field(ge=1, le=1440)] = 15
    challenge_mebibytes: Annotated[int, Field(ge=1, le=2**20)] = 2**14


_BOUND_TYPES: dict[str, tuple[type, ...]] = {
    "int32": (int,),
    "int64": (int,),
    "float32": (int, float),
    "float64": (int, float),
    "date32": (date,),
    "timestamp[us, UTC]": (datetime,),
}


def _is_double(bound: int) -> bool:
    return abs(bound) <= 2**63 and float(bound) == bound


def _vocabulary(values: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(values) <= VALUES_CAP:
        raise Unfit(f"2 to {VALUES_CAP} values", str(len(values)))
    for value in values:
        if fault := name_fault(value):
            raise Unfit(f"values of {fault[0]}", fault[1])
    return distinct(values)


class Column(Strict):
    """One declared column. `nullable` comes from a type that ends in `?`."""

    type: Literal[
        "bool", "int32", "int64", "float32", "float64", "string", "date32", "timestamp[us, UTC]"
    ]
    nullable: bool = False
    min: Any = None
    max: Any = None
    # For texts that identify persons; a subject is canonical by default.
    spelling: Literal["canonical", "folded"] | None = None
    # Of a string: the only texts that it may hold, in the order in which models number them.
    values: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_vocabulary)] | None = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _split_type(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "nullable" in value:
            raise Unfit("a type, or a table of type, min and max", "another value")
        declared = value.get("type")
        if isinstance(declared, str) and declared.endswith("?"):
            return value | {"type": declared[:-1], "nullable": True}
        return value

    @model_validator(mode="after")
    def _domain(self) -> Self:
        allowed = _BOUND_TYPES.get(self.type, ())
        bounds = [b for b in (self.min, self.max) if b is not None]
        for bound in bounds:
            if type(bound) not in allowed:  # exact: bool is an int, datetime a date
                raise Unfit(f"min and max of a value of {self.type}", f"{str(bound)[:40]!r}")
            if self.type == "int32" and not -(2**31) <= bound < 2**31:
                raise Unfit("min and max within int32", str(bound))
            # Rounded, it would be another domain.
            if type(bound) is int and self.type.startswith("float") and not _is_double(bound):
                raise Unfit("min and max that a float64 can be", str(bound)[:40])
        if len(bounds) == 2 and self.min > self.max:
            raise Unfit("min not above max", "the reverse")
        if self.spelling is not None and self.type != "string":
            raise Unfit("a spelling of a string alone", f"one of {self.type}", field="spelling")
        if self.values is not None and self.type != "string":
            raise Unfit("values of a string alone", f"those of {self.type}", field="values")
        return self


class Dataset(Strict):
    """Rows that one party owns."""

    id: Identifier
    owner: Slug
    subject: str
    columns: Annotated[  # in declared order
        Mapping[ColumnName, Column],
        Field(min_length=1),
        BeforeValidator(_expanded),
        at_most(ENTRIES_CAP),  # before the others
        AfterValidator(MappingProxyType),
    ]
    max_rows: Annotated[int, Field(ge=1, le=10**10)]

    @cached_property
    def usable_before(self) -> dict[tuple[frozenset[str], bool], frozenset[str]]:
        """What `usable` found."""
        return {}

    def usable(self, types: frozenset[str], *, nullable: bool) -> frozenset[str]:
        """The columns of these types, without those that may be null unless `nullable`."""
        known = self.usable_before.get((types, nullable))
        if known is None:
            known = self.usable_before[types, nullable] = frozenset(
                name
                for name, column in self.columns.items()
                if column.type in types and (nullable or not column.nullable)
            )
        return known

    def spelling(self, name: str) -> str | None:
        """How texts of a column must be written: `canonical`, `folded`, or None for no rule."""
        column = self.columns[name]
        if name == self.subject and column.type == "string":
            return column.spelling or "canonical"
        return column.spelling


class Release(Strict):
    """What may leave the enclave, and from how many persons at least."""

    outputs: Identifiers
    min_subjects_per_input: Annotated[int, Field(ge=1, le=10**9)]
    significant_digits: Annotated[int, Field(ge=1, le=17)]
    # Lets a provider ask the enclave which rule its own input breaks. Without it, the enclave
    # gives no reasons.
    reasons: Literal["own input"] | None = None


class Computation(Strict):
    """A built-in computation over agreed inputs for agreed recipients."""

    id: Identifier
    run: Identifier
    inputs: Identifiers
    parameters: Annotated[Mapping[str, Parameter], PlainValidator(_parameters)]
    submitters: Slugs
    recipients: Slugs
    uses: Annotated[int, Field(ge=1, le=10**6)]
    # So many different parties own its inputs. Two inputs of one owner are no joint computation.
    min_owners: Annotated[int, Field(ge=1, le=256)] = 1
    join: Join | None = None
    release: Release
