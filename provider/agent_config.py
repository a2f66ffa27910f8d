"""What an agent needs of the profile: study, party, and where enclaves, scheduler and rows are.

    config = AgentConfig.read(Path("ratls.toml"))
    config.enclaves["joint-training-1.0"].address

An agent serves one study, because another study may use the same dataset ids for other rows.
Simulated enclaves are allowed on the command line, never here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from provider.sources import SourceSpec, parse_source
from ratls.address import Address
from ratls.profile import EnclavePlace, Profile, inside
from verifier.errors import ConfigError

T = TypeVar("T")


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
        """Raises: FileUnreadable, ProfileMalformed, ProfileIncomplete."""
        return cls.of(Profile.read(path))

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Everything that an agent needs; nothing is guessed where a person is not there to ask.

        Raises: ProfileIncomplete, ProfileMalformed.
        """

        def said(value: T | None, name: str) -> T:
            if not value:
                raise ProfileIncomplete(str(profile.path), expected=name, found="nothing of it")
            return value

        sources = {}
        for i, (dataset, table) in enumerate(profile.datasets.items()):
            with inside(f"{profile.path}: dataset[{i}].source"):
                sources[dataset] = parse_source(table, profile.folder)
        scheduler = said(profile.scheduler, "[scheduler]")
        return cls(
            study=said(profile.study, "study"),
            party=said(profile.party, "party"),
            passphrase_file=said(profile.passphrase_file, "passphrase_file"),
            state=said(profile.state, "state"),
            scheduler=scheduler.address,
            scheduler_certificate=scheduler.certificate,
            enclaves=said(profile.enclaves, "[[enclave]]"),
            sources=said(sources, "[[dataset]]"),
        )


class ProfileIncomplete(ConfigError):
    """The profile is valid, but does not say what an agent needs."""

    code = "profile-incomplete"
    default_fix = "add it; `ratls provider agent --sample` shows a complete one"
    says = "{thing} does not say {expected}, which an agent needs"
