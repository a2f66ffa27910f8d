"""`ratls.toml`, the profile: who I am, and where things are, said once for all commands.

    profile = Profile.read(Path("ratls.toml"))
    profile.enclaves["joint-training-1.0"].address

A command takes from it what is not typed; `ratls.profile_options` lists what. A profile can consent
to nothing: no field allows a simulation, holds a passphrase, or answers yes. `ratls init` writes
one, and `ratls config show` prints it. A relative path starts from the profile's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policy.fields import Identifier, Slug
from policy.problems import from_pydantic
from policy.syntax import LineIndex, PolicyEncoding, PolicySyntax, PolicyTooLarge, read_toml
from ratls.address import Address
from ratls.profile_file import CAP
from verifier.errors import ConfigError, RatlsError
from verifier.files import read_file

_Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Collateral(_Table):
    sources: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=16)]
    ca: Annotated[tuple[_Path, ...] | None, Field(strict=False, min_length=1, max_length=16)] = None


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


class _ServeEnclave(_Table):
    listen: str | None = None
    attester: str | None = None
    spill: _Path | None = None


class _ServeScheduler(_Table):
    listen: str | None = None
    state: _Path | None = None


class _Serve(_Table):
    enclave: _ServeEnclave | None = None
    scheduler: _ServeScheduler | None = None


class _Document(_Table):
    study: Slug | None = None
    party: _Path | None = None
    passphrase_file: _Path | None = None
    state: _Path | None = None
    agreement: _Path | None = None
    collateral: _Collateral | None = None
    scheduler: _Scheduler | None = None
    enclave: Annotated[
        tuple[_Enclave, ...] | None, Field(strict=False, min_length=1, max_length=64)
    ] = None
    dataset: Annotated[
        tuple[_Dataset, ...] | None, Field(strict=False, min_length=1, max_length=1024)
    ] = None
    serve: _Serve | None = None


# What somebody may try to say here, and must say elsewhere.
_NEVER = {
    "allow_simulation": "type --allow-simulation with each command: no file allows it",
    "passphrase": "name a file that only you can read: passphrase_file",
    "yes": "consent is typed, for one digest: --yes sha256:…",
}


@dataclass(frozen=True, slots=True)
class EnclavePlace:
    """Where an enclave of the policy listens, and where its platform's collateral is kept."""

    address: Address
    collateral: Path  # read again for each release: it is fetched from time to time


@dataclass(frozen=True, slots=True)
class SchedulerPlace:
    """Where the mailbox listens, and the one certificate that is accepted of it."""

    address: Address
    certificate: Path


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, read and checked. What it does not say is None or empty."""

    path: Path
    study: str | None
    party: Path | None
    passphrase_file: Path | None
    state: Path | None
    agreement: Path | None
    collateral_sources: tuple[str, ...]
    collateral_ca: tuple[str, ...]  #                 files, or the word `public`
    scheduler: SchedulerPlace | None
    enclaves: Mapping[str, EnclavePlace]  #           by name in the policy
    datasets: Mapping[str, Mapping[str, Any]]  #      tables of sources, by id in the policy
    enclave_listen: str | None
    enclave_attester: str | None
    enclave_spill: Path | None
    scheduler_listen: str | None
    scheduler_state: Path | None
    said: Mapping[str, tuple[str, int | None]]  #     each value and its line, by its path there

    @property
    def folder(self) -> Path:
        """Where relative paths start from."""
        return self.path.parent

    @classmethod
    def read(cls, path: Path) -> Self:
        """A profile that a person named. Raises: FileUnreadable, ProfileMalformed."""
        return cls.parse(read_file(path, cap=CAP), path)

    @classmethod
    def parse(cls, raw: bytes, path: Path) -> Self:
        """Read strictly: an unknown field is refused, an absent one is not guessed.

        Raises: ProfileMalformed.
        """
        name, base = str(path), path.parent
        document, index = _document(raw, name)
        enclaves: dict[str, EnclavePlace] = {}
        for i, enclave in enumerate(document.enclave or ()):
            place = f"{name}: enclave[{i}]"
            _require_new(enclave.name, enclaves, f"{place}.name")
            with inside(f"{place}.address"):
                address = Address.parse(enclave.address)
            enclaves[enclave.name] = EnclavePlace(address, base / enclave.collateral)
        datasets: dict[str, Mapping[str, Any]] = {}
        for i, dataset in enumerate(document.dataset or ()):
            _require_new(dataset.id, datasets, f"{name}: dataset[{i}].id")
            datasets[dataset.id] = dataset.source
        scheduler = None
        if document.scheduler is not None:
            with inside(f"{name}: scheduler.address"):
                address = Address.parse(document.scheduler.address)
            scheduler = SchedulerPlace(address, base / document.scheduler.certificate)
        collateral, serve = document.collateral, document.serve or _Serve()
        of_enclave, of_scheduler = serve.enclave or _ServeEnclave(), serve.scheduler

        def placed(path: str | None) -> Path | None:
            return None if path is None else base / path

        return cls(
            path=path,
            study=document.study,
            party=placed(document.party),
            passphrase_file=placed(document.passphrase_file),
            state=placed(document.state),
            agreement=placed(document.agreement),
            collateral_sources=collateral.sources if collateral else (),
            collateral_ca=tuple(
                ca if ca == "public" else str(base / ca)
                for ca in (collateral and collateral.ca) or ()
            ),
            scheduler=scheduler,
            enclaves=enclaves,
            datasets=datasets,
            enclave_listen=of_enclave.listen,
            enclave_attester=_attester(of_enclave.attester, base),
            enclave_spill=placed(of_enclave.spill),
            scheduler_listen=of_scheduler.listen if of_scheduler else None,
            scheduler_state=placed(of_scheduler.state) if of_scheduler else None,
            said={path: (value, index.find(path)) for path, value in _leaves(document)},
        )


class ProfileMalformed(ConfigError):
    """The profile, ratls.toml, is not valid."""

    code = "profile-malformed"
    default_fix = "correct the file; `ratls init` writes one with every field explained"


def _document(raw: bytes, name: str) -> tuple[_Document, LineIndex]:
    try:
        table = read_toml(raw, name)
    except (PolicyTooLarge, PolicyEncoding, PolicySyntax) as refusal:
        raise ProfileMalformed(
            refusal.thing, expected=refusal.expected, found=refusal.found
        ) from refusal
    index = LineIndex(raw.decode("utf-8"))
    try:
        return _Document.model_validate(table), index
    except ValidationError as error:
        problems = from_pydantic(error, _Document, "", index.find)
        rest = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        first = problems[0]
        raise ProfileMalformed(
            f"{name}: {first.place}",
            expected=first.expected,
            found=first.found + rest,
            fix=_NEVER.get(first.path) or first.fix or None,
        ) from error


def _leaves(document: BaseModel, path: str = "") -> Iterator[tuple[str, str]]:
    """Each value that was said, as text, by its path like `enclave[0].address`."""
    for name in type(document).model_fields:
        value, place = getattr(document, name), f"{path}.{name}" if path else name
        if isinstance(value, BaseModel):
            yield from _leaves(value, place)
        elif isinstance(value, tuple) and isinstance(value[0], BaseModel):
            for i, inner in enumerate(value):
                yield from _leaves(inner, f"{place}[{i}]")
        elif value is not None:
            many = isinstance(value, tuple | dict)
            yield place, json.dumps(value, ensure_ascii=False) if many else str(value)


def _attester(text: str | None, base: Path) -> str | None:
    """`simulation:DIR` and `tdx:FILE` name a path, too."""
    kind, colon, path = (text or "").partition(":")
    return f"{kind}:{base / path}" if colon and path else text


def _require_new(key: str, known: Mapping[str, object], place: str) -> None:
    if key in known:
        raise ProfileMalformed(place, expected="each name once", found=f"{key} again")


@contextmanager
def inside(place: str) -> Iterator[None]:
    """The refusal of a part is one of the file, at this place in it."""
    try:
        yield
    except RatlsError as refusal:
        raise ProfileMalformed(
            f"{place}: {refusal.thing}",
            expected=refusal.expected,
            found=refusal.found,
            fix=refusal.fix,
        ) from refusal
