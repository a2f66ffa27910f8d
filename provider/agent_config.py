"""The agent's configuration: study, party, and where enclaves, scheduler and rows are.

    config = AgentConfig.read(Path("agent.toml"))
    config.enclaves["joint-training-1.0"].address

`SAMPLE` shows every field. An agent serves one study, because another study may use the same
dataset ids for other rows. Simulated enclaves are allowed on the command line, never here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policy.fields import Identifier, Slug
from policy.problems import from_pydantic
from policy.syntax import LineIndex, PolicyEncoding, PolicySyntax, PolicyTooLarge, read_toml
from provider.sources import SourceSpec, parse_source
from ratls.address import Address
from verifier.errors import ConfigError, RatlsError
from verifier.files import read_file

SAMPLE = """\
# Relative paths start from the folder of this file.
study = "breast-cancer-joint-training"
party = "alice"                         # made by `ratls party new`
passphrase_file = "passphrase"          # of the party's keys
state = "state"                         # accepted agreements, journal, acknowledgements

[scheduler]
address = "scheduler.example:7444"
certificate = "scheduler.crt"           # no other certificate is accepted

[[enclave]]
name = "joint-training-1.0"             # as in the policy
address = "enclave.example:7443"
collateral = "collateral.json"          # read again for each release

[[dataset]]
id = "train_party_1"                    # as in the policy
source = { kind = "parquet", path = "rows.parquet" }
"""
_Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Scheduler(_Table):
    address: str
    certificate: _Path


class _Enclave(_Table):
    name: Identifier
    address: str
    collateral: _Path


class _Dataset(_Table):
    id: Identifier
    source: dict[str, Any]


class _Document(_Table):
    study: Slug
    party: _Path
    passphrase_file: _Path
    state: _Path
    scheduler: _Scheduler
    enclave: Annotated[tuple[_Enclave, ...], Field(strict=False, min_length=1, max_length=64)]
    dataset: Annotated[tuple[_Dataset, ...], Field(strict=False, min_length=1, max_length=1024)]


@dataclass(frozen=True, slots=True)
class EnclavePlace:
    """Where an enclave of the policy listens, and where its platform's collateral is kept."""

    address: Address
    collateral: Path  # read again for each release: it is fetched from time to time


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The agent's configuration, read and checked."""

    study: str
    party: Path
    passphrase_file: Path
    state: Path
    scheduler: Address
    scheduler_certificate: Path
    enclaves: Mapping[str, EnclavePlace]  # by name in the policy
    sources: Mapping[str, SourceSpec]  #    by dataset id in the policy

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: FileUnreadable, AgentConfigMalformed."""
        return cls.parse(read_file(path, cap=1 << 20), path.parent, name=str(path))

    @classmethod
    def parse(cls, raw: bytes, base: Path, *, name: str = "agent.toml") -> Self:
        """Read strictly: an unknown field is refused, an absent one is not guessed.

        Args:
            base: Folder that relative paths start from.
            name: What refusals call the file.

        Raises: AgentConfigMalformed.
        """
        document = _document(raw, name)
        sources: dict[str, SourceSpec] = {}
        for i, dataset in enumerate(document.dataset):
            place = f"{name}: dataset[{i}]"
            _require_new(dataset.id, sources, f"{place}.id")
            with _inside(f"{place}.source"):
                sources[dataset.id] = parse_source(dataset.source, base)
        enclaves: dict[str, EnclavePlace] = {}
        for i, enclave in enumerate(document.enclave):
            place = f"{name}: enclave[{i}]"
            _require_new(enclave.name, enclaves, f"{place}.name")
            with _inside(f"{place}.address"):
                address = Address.parse(enclave.address)
            enclaves[enclave.name] = EnclavePlace(address, base / enclave.collateral)
        with _inside(f"{name}: scheduler.address"):
            scheduler = Address.parse(document.scheduler.address)
        return cls(
            study=document.study,
            party=base / document.party,
            passphrase_file=base / document.passphrase_file,
            state=base / document.state,
            scheduler=scheduler,
            scheduler_certificate=base / document.scheduler.certificate,
            enclaves=enclaves,
            sources=sources,
        )


class AgentConfigMalformed(ConfigError):
    """The agent's configuration is not valid."""

    code = "agent-config-malformed"
    default_fix = "correct the file; `ratls provider agent --sample` shows a complete one"


def _document(raw: bytes, name: str) -> _Document:
    try:
        return _Document.model_validate(read_toml(raw, name))
    except (PolicyTooLarge, PolicyEncoding, PolicySyntax) as refusal:
        raise AgentConfigMalformed(
            refusal.thing, expected=refusal.expected, found=refusal.found
        ) from refusal
    except ValidationError as error:
        problems = from_pydantic(error, _Document, "", LineIndex(raw.decode("utf-8")).find)
        rest = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        first = problems[0]
        raise AgentConfigMalformed(
            f"{name}: {first.place}",
            expected=first.expected,
            found=first.found + rest,
            fix=first.fix or None,
        ) from error


def _require_new(key: str, known: Mapping[str, object], place: str) -> None:
    if key in known:
        raise AgentConfigMalformed(place, expected="each name once", found=f"{key} again")


@contextmanager
def _inside(place: str) -> Iterator[None]:
    """The refusal of a part is one of the file, at this place in it."""
    try:
        yield
    except RatlsError as refusal:
        raise AgentConfigMalformed(
            f"{place}: {refusal.thing}",
            expected=refusal.expected,
            found=refusal.found,
            fix=refusal.fix,
        ) from refusal
