"""What each command takes from the profile where an option is not typed.

    options = taken_from(finder, ["task", "sign", "--computation", "train"])  # the default_map
    options["task"]["sign"]["party"]()  # the folder that ratls.toml names as `party`, or None

`TAKES` is the only way from the profile into a command: an option that is not in it is not filled.
No command finds `--allow-simulation`, `--yes` or a passphrase there. Loads little, and reads the
profile only when a command first asks for one of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ratls.profile import Profile
    from ratls.profile_file import ProfileFile

_KEYS = {"party": "party", "passphrase_file": "passphrase_file"}
_STATE = {"state": "state"}
_SCHEDULER = {"scheduler": "scheduler.address", "scheduler_certificate": "scheduler.certificate"}
_ENCLAVE = {"enclave": "enclave.address", "collateral": "enclave.collateral"}
_AGREEMENT = {"agreement": "agreement"}
_CHECKED = {**_AGREEMENT, "party": "own party"}
_OF_FORMAT = {"agreement": "own agreement", "party": "own agreement party"}

# By command: what each of its parameters takes, as the name of a function below.
TAKES: Mapping[str, Mapping[str, str]] = {
    "policy new": {"study": "study"},
    "policy sign": {**_KEYS, **_STATE},
    "policy status": {"file": "agreement", **_STATE},
    "policy verify": {"file": "agreement", "party": "own party", **_STATE},
    "policy accept": {"file": "agreement", "party": "party", **_STATE},
    "policy withdraw": {**_KEYS, **_STATE},
    "policy distrust": _STATE,
    "policy review": _STATE,
    "policy dry-run": _STATE,
    "policy state adopt": {"folder": "state"},
    "policy state show": {"folder": "state"},
    "policy state receive": {"folder": "state"},
    "policy state repair": {"folder": "state"},
    "policy state export": {"folder": "state", "study": "study"},
    "collateral fetch": {
        "output": "fetched collateral",
        "enclaves": "fetched enclave",
        "sources": "collateral.sources",
        "ca": "collateral.ca",
    },
    "verify cert": {**_OF_FORMAT, "collateral": "shown collateral", **_STATE},
    "verify server": {
        "address": "enclave.address",
        **_OF_FORMAT,
        "collateral": "server collateral",
        "passphrase_file": "passphrase_file",
        **_STATE,
    },
    "verify receipt": {**_CHECKED, **_STATE},
    "tunnel client": {
        **_AGREEMENT,
        "to": "enclave.address",
        "collateral": "tunnel collateral",
        **_KEYS,
        **_STATE,
    },
    "tunnel server": _AGREEMENT,
    "enclave serve": {
        **_AGREEMENT,
        "attester": "serve.enclave.attester",
        "listen": "serve.enclave.listen",
        "spill": "serve.enclave.spill",
    },
    "scheduler serve": {
        "agreement": "agreements",
        "state": "serve.scheduler.state",
        "listen": "serve.scheduler.listen",
    },
    "provider push": {
        "dataset": "dataset.id",
        "source": "dataset.source",
        **_ENCLAVE,
        **_SCHEDULER,
        **_KEYS,
        **_STATE,
    },
    "provider train": {
        "dataset": "dataset.id",
        "source": "dataset.source",
        **_ENCLAVE,
        **_SCHEDULER,
        **_KEYS,
        **_STATE,
    },
    "provider reason": {"dataset": "dataset.id", **_ENCLAVE, **_KEYS, **_STATE},
    "provider check": {
        "named": "checked dataset",
        "source": "dataset.source",
        "study": "study",
        **_STATE,
    },
    "provider describe": {"source": "dataset.source", "dataset": "dataset.id", "owner": "party id"},
    "provider budget": {"party": "party", **_STATE},
    "provider deliver": {**_ENCLAVE, **_KEYS, **_STATE},
    "provider agent": {"config": "profile"},
    "provider journal show": _STATE,
    "provider journal verify": _STATE,
    "provider journal export": _STATE,
    "task sign": {"study": "study", **_KEYS, **_STATE},
    "task preview": {"party": "party", "study": "study", **_STATE},
    "task submit": {**_SCHEDULER, **_KEYS, **_STATE},
    "task list": {**_SCHEDULER, **_KEYS},
    "task watch": {**_SCHEDULER, **_KEYS},
    "task result": {**_ENCLAVE, **_SCHEDULER, **_KEYS, **_STATE},
}


# Options without a value, of commands where it counts whether a file or address is typed.
FLAGS: Mapping[str, frozenset[str]] = {
    "collateral fetch": frozenset(
        ("--early", "--newer-sgx", "--no-cache", "--offline", "--json", "--allow-simulation")
    ),
    "tunnel client": frozenset(("--json", "--allow-simulation")),
    "verify server": frozenset(("--certificate-only", "--stapled", "--json", "--allow-simulation")),
}


class Typed:
    """What stands on the command line, behind `ratls`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    def plain(self, command: str) -> list[str]:
        """What is neither an option of this command nor the value of one."""
        found, before = [], ""
        for argument in self._arguments:
            valued = before.startswith("-") and before not in FLAGS[command] and "=" not in before
            if (argument == "-" or not argument.startswith("-")) and not valued:
                found.append(argument)
            before = argument
        return found[len(command.split()) :]

    def has(self, *options: str) -> bool:
        return any(a.split("=")[0] in options for a in self._arguments)

    def names_format(self) -> bool:
        """`verify` is asked for a certificate of another project; `ratls --profile` is not that."""
        rest = self._arguments[self._arguments.index("verify") :] if self.has("verify") else ()
        return any(word.split("=")[0] in ("--format", "--profile") for word in rest)

    def value(self, option: str) -> str | None:
        """The last value of an option; None where it is not typed."""
        found = None
        for number, argument in enumerate(self._arguments):
            if argument == option:
                found = next(iter(self._arguments[number + 1 :]), "")
            elif argument.startswith(f"{option}="):
                found = argument.removeprefix(f"{option}=")
        return found


def at_address(ctx: typer.Context, value: str) -> str:
    """The address of an enclave that is named as in the profile; an address as it is."""
    finder = ctx.find_object(ProfileFinder)
    if finder is None or ":" in value or ctx.resilient_parsing:
        return value
    known = {} if finder.profile is None else finder.profile.enclaves
    if value not in known:
        listed = " or ".join(known) or "none"
        raise typer.BadParameter(f"write HOST:PORT, or a name of the profile, which has {listed}")
    return str(known[value].address)


def at_addresses(ctx: typer.Context, values: list[str] | None) -> list[str] | None:
    """As `at_address`, of each."""
    return values and [at_address(ctx, value) for value in values]


# What belongs to another thing than the typed one is not taken: the passphrase, keys and state of
# the profile's party are not those of `--party OTHER`, nor is its collateral that of another place.


def _party(profile: Profile, typed: Typed) -> Any:
    return profile.party


def _own_party(profile: Profile, typed: Typed) -> Any:
    """To compare an agreement with, where nothing else to compare it with is typed."""
    return None if typed.has("--digest", "--certificate-only") else profile.party


def _own_agreement(profile: Profile, typed: Typed) -> Any:
    """Of the own study, and so not where a certificate of another project is looked at."""
    return None if typed.names_format() else profile.agreement


def _own_agreement_party(profile: Profile, typed: Typed) -> Any:
    return None if typed.names_format() else _own_party(profile, typed)


def _shown_collateral(profile: Profile, typed: Typed) -> Any:
    return None if _brings_collateral(typed) else _enclave_collateral(profile, typed)


def _brings_collateral(typed: Typed) -> bool:
    """The certificate has it inside, or is none of the profile's enclaves."""
    return typed.has("--stapled") or typed.names_format()


def _passphrase_file(profile: Profile, typed: Typed) -> Any:
    return None if typed.has("--party") else profile.passphrase_file


def _state(profile: Profile, typed: Typed) -> Any:
    return None if typed.has("--party") else profile.state


def _enclave_address(profile: Profile, typed: Typed) -> Any:
    if len(profile.enclaves) > 1:
        raise typer.BadParameter(
            f"{profile.path} has several: name one, {' or '.join(profile.enclaves)}",
            param_hint="enclave",
        )
    return next((str(place.address) for place in profile.enclaves.values()), None)


def _enclave_collateral(profile: Profile, typed: Typed) -> Any:
    return _collateral_of(profile, typed.value("--enclave"))


def _collateral_of(profile: Profile, wanted: str | None) -> Any:
    named = [p for n, p in profile.enclaves.items() if wanted in (None, n, str(p.address))]
    return named[0].collateral if len(named) == 1 else None


def _server_collateral(profile: Profile, typed: Typed) -> Any:
    if _brings_collateral(typed):
        return None
    return _collateral_of(profile, next(iter(typed.plain("verify server")), None))


def _tunnel_collateral(profile: Profile, typed: Typed) -> Any:
    return _collateral_of(profile, next(iter(typed.plain("tunnel client")), None))


def _fetched_enclave(profile: Profile, typed: Typed) -> Any:
    """The enclave whose collateral `ratls collateral fetch` fetches without a word more."""
    if typed.has("--fmspc") or typed.plain("collateral fetch") or len(profile.enclaves) != 1:
        return None
    return [_enclave_address(profile, typed)]


def _fetched_collateral(profile: Profile, typed: Typed) -> Any:
    """Where releases look for it; what is fetched for another quote does not go there."""
    if typed.has("--fmspc") or typed.plain("collateral fetch"):
        return None
    return _enclave_collateral(profile, typed)


def _scheduler_address(profile: Profile, typed: Typed) -> Any:
    return None if profile.scheduler is None else str(profile.scheduler.address)


def _scheduler_certificate(profile: Profile, typed: Typed) -> Any:
    known = profile.scheduler
    if known is None or typed.value("--scheduler") not in (None, str(known.address)):
        return None
    return known.certificate


def only_dataset(profile: Profile) -> str | None:
    """Its dataset, where it has one. Raises: BadParameter, where it has several."""
    if len(profile.datasets) > 1:
        raise typer.BadParameter(
            f"{profile.path} has several: name one, {' or '.join(profile.datasets)}",
            param_hint="dataset",
        )
    return next(iter(profile.datasets), None)


def _dataset_source(profile: Profile, typed: Typed) -> Any:
    """The profile itself, in which the command looks for the dataset: one that is not there is
    refused with those that are."""
    return profile.path if profile.datasets else None


def _checked_dataset(profile: Profile, typed: Typed) -> Any:
    return [only_dataset(profile)] if profile.datasets else None


def _party_id(profile: Profile, typed: Typed) -> Any:
    from policy.party import read_party_file

    return None if profile.party is None else read_party_file(profile.party / "party.toml").id


_VALUES: Mapping[str, Callable[[Profile, Typed], Any]] = {
    "study": lambda profile, typed: profile.study,
    "party": _party,
    "own party": _own_party,
    "own agreement": _own_agreement,
    "own agreement party": _own_agreement_party,
    "shown collateral": _shown_collateral,
    "passphrase_file": _passphrase_file,
    "state": _state,
    "agreement": lambda profile, typed: profile.agreement,
    "agreements": lambda profile, typed: profile.agreement and [profile.agreement],
    "collateral.sources": lambda profile, typed: list(profile.collateral_sources) or None,
    "collateral.ca": lambda profile, typed: (
        None if typed.has("--from") else list(profile.collateral_ca) or None
    ),
    "server collateral": _server_collateral,
    "tunnel collateral": _tunnel_collateral,
    "fetched enclave": _fetched_enclave,
    "fetched collateral": _fetched_collateral,
    "scheduler.address": _scheduler_address,
    "scheduler.certificate": _scheduler_certificate,
    "enclave.address": _enclave_address,
    "enclave.collateral": _enclave_collateral,
    "dataset.id": lambda profile, typed: only_dataset(profile),
    "dataset.source": _dataset_source,
    "checked dataset": _checked_dataset,
    "party id": _party_id,
    "serve.enclave.attester": lambda profile, typed: profile.enclave_attester,
    "serve.enclave.listen": lambda profile, typed: profile.enclave_listen,
    "serve.enclave.spill": lambda profile, typed: profile.enclave_spill,
    "serve.scheduler.listen": lambda profile, typed: profile.scheduler_listen,
    "serve.scheduler.state": lambda profile, typed: profile.scheduler_state,
    "profile": lambda profile, typed: profile.path,
}


@dataclass(frozen=True)
class ProfileFinder:
    """Finds the profile, and reads it once, when a command first needs something of it."""

    typed: Path | None  # --profile

    @cached_property
    def file(self) -> ProfileFile | None:
        """Raises: as `find_profile`."""
        from ratls.profile_file import find_profile

        return find_profile(self.typed)

    @cached_property
    def profile(self) -> Profile | None:
        """Raises: as `find_profile`; ProfileMalformed."""
        if self.file is None:
            return None
        from ratls.profile import Profile

        return Profile.parse(self.file.raw, self.file.path)


@dataclass(frozen=True)
class FromProfile:
    """One value of the profile, looked up when it is called."""

    finder: ProfileFinder
    key: str
    typed: Typed

    def __call__(self) -> Any:
        profile = self.finder.profile
        found = None if profile is None else _VALUES[self.key](profile, self.typed)
        return [str(one) for one in found] if isinstance(found, list) else found and str(found)

    def __str__(self) -> str:
        """What the help of a command says of it."""
        return "from ratls.toml"


def taken_from(finder: ProfileFinder, arguments: Sequence[str]) -> dict[str, Any]:
    """For each command, what its options take where they are not typed.

    Args:
        arguments: The command line, behind `ratls`.
    """
    typed = Typed(arguments)
    commands: dict[str, Any] = {}
    for command, options in TAKES.items():
        inner = commands
        for word in command.split():
            inner = inner.setdefault(word, {})
        inner |= {option: FromProfile(finder, key, typed) for option, key in options.items()}
    return commands
