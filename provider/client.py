"""The whole job from Python: sign a task, release rows to the enclave, collect what it computed.

    client = Client("ratls.toml", allow_simulation=True)
    task = client.ask("train", max_iter=500)
    done = client.release(task, train_party_1=frame)
    done["train_party_1"].commit.rows

It is `ratls task` and `ratls provider push` without a terminal: the profile says who I am and where
things are, every check and every line of the journal is the same. Also as `ratls.Client`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC, which reads the environment once

from policy.document import Policy, digest_text  # noqa: E402
from policy.parameters import as_value  # noqa: E402
from policy.party import LocalParty  # noqa: E402
from policy.passphrase import passphrase_source  # noqa: E402
from policy.receipt import Receipt  # noqa: E402
from policy.task import Task  # noqa: E402
from provider.collect import Outputs, collect  # noqa: E402
from provider.exchange import EnclaveRequest  # noqa: E402
from provider.mailbox import mailbox  # noqa: E402
from provider.models import model_of  # noqa: E402
from provider.release import Release, release  # noqa: E402
from provider.rounds import TookPart, take_part  # noqa: E402
from provider.sources import SourceSpec, of_table  # noqa: E402
from provider.task_signing import policy_in_force, sign_task  # noqa: E402
from ratls.profile import EnclavePlace, Profile  # noqa: E402
from ratls.profile_file import find_profile  # noqa: E402
from verifier.anchors import Mode  # noqa: E402
from verifier.bundles import read_collateral  # noqa: E402
from verifier.errors import ConfigError  # noqa: E402
from verifier.user_folder import user_folder  # noqa: E402

_AROUND = {"schema", "computation", "run", "salt"}  # of the file, beside what was released


class ProfileIncomplete(ConfigError):
    """The profile does not say something that this step needs."""

    code = "client-profile-incomplete"
    default_fix = "add it to ratls.toml; `ratls init` writes one with every field explained"
    says = "{thing} has no {expected}"


class EnclaveNotChosen(ConfigError):
    """The profile has several enclaves and none was named, or it has none of that name."""

    code = "enclave-not-chosen"
    default_fix = "name one: enclave=NAME"


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What the enclave released for a task, with the receipt that it signed."""

    values: Mapping[str, Any]  # the released numbers, by the names of the policy's outputs
    receipt: Receipt
    files: Outputs  # where result, receipt and signed record are kept
    mode: Mode

    def __repr__(self) -> str:
        return f"<Result of {self.receipt.computation}: {', '.join(self.values)} ({self.mode})>"

    def as_sklearn(self) -> Any:
        """An estimator of scikit-learn with the released numbers; nothing is unpickled.

        Which one: see `provider.models`. Rows that it is given are data frames with the columns
        that the policy names, texts included.

        Raises:
            ResultNoModel: It holds no weights of a model.
        """
        return model_of(self.receipt.run, self.values).estimator()


class Client:
    """One party, as its profile describes it. Keys are read when they are first needed."""

    def __init__(
        self,
        profile: str | PathLike[str] | None = None,
        *,
        allow_simulation: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read the profile.

        Args:
            profile: A ratls.toml; if left out, the one that a command here would find.
            allow_simulation: Take a simulated root, where the agreement names one.

        Raises: FileUnreadable, ProfileForeign, ProfileMalformed, ProfileIncomplete.
        """
        found = find_profile(None if profile is None else Path(profile))
        if found is None:
            raise ProfileIncomplete("this folder", expected="ratls.toml", found="none")
        self._profile = Profile.parse(found.raw, found.path)
        source = passphrase_source(self._profile.passphrase_file)
        self._party = LocalParty.load(self._said("party"), source)
        self._allow_simulation, self._clock = allow_simulation, clock

    def __repr__(self) -> str:
        return f"<Client {self._party.party_id}, {self._profile.path}>"

    def _said(self, name: str) -> Any:
        value = getattr(self._profile, name)
        if value is None:
            raise ProfileIncomplete(str(self._profile.path), expected=name, found="none")
        return value

    @property
    def _state(self) -> Path:
        return self._profile.state or user_folder("state")

    def policy(self) -> Policy:
        """The agreement of the profile's study that this party accepted, and that is in force.

        Raises: as `provider.task_signing.policy_in_force`.
        """
        return policy_in_force(self._party, self._state, self._said("study"), at=self._clock())

    def ask(
        self, computation: str, *, lifetime: timedelta = timedelta(hours=1), **parameters: Any
    ) -> bytes:
        """A task, signed: a request to run an agreed computation once.

            task = client.ask("train", max_iter=500)

        Args:
            computation: Its id in the policy.
            parameters: Those that the policy leaves open.

        Raises: as `policy_in_force` and `sign_task` of `provider.task_signing`.
        """
        values = {name: as_value(name, value) for name, value in parameters.items()}
        policy, at = self.policy(), self._clock()
        return sign_task(self._party, policy, computation, values, lifetime, at=at)[1]

    def submit(self, task: bytes) -> None:
        """Queue a task at the profile's scheduler, which offers it to the providers' agents.

        Raises: ProfileIncomplete; RatlsError, as `SchedulerClient.submit`.
        """
        place = self._said("scheduler")
        with mailbox(place.address, place.certificate, self._party) as client:
            client.submit(task)

    def release(
        self, task: bytes, *, enclave: str | None = None, timeout: float = 600, **datasets: Any
    ) -> dict[str, Release]:
        """Release own datasets for a task, once, to an enclave that first proves what it is.

            client.release(task, visits=frame)

        Args:
            task: As its submitter signed it.
            enclave: Its name in policy and profile, where the profile has several.
            timeout: Seconds for each dataset.
            datasets: By id in the policy: a data frame or anything else that gives Arrow arrays, a
                path, or a `SourceSpec`. At least one.

        Raises:
            RatlsError: As `provider.release.release`; datasets before this one were released.
        """
        if not datasets:
            raise TypeError("release() needs at least one dataset: client.release(task, visits=…)")
        request = self._request(task, enclave, timeout)
        return {name: release(request, name, _source(rows)) for name, rows in datasets.items()}

    def train(
        self,
        task: bytes,
        *,
        program: str | PathLike[str] | None = None,
        enclave: str | None = None,
        timeout: float = 600,
        **dataset: Any,
    ) -> TookPart:
        """Take part in the rounds of a task with one own dataset; its rows stay here.

        Args:
            program: Trains in place of scikit-learn, as `provider.training.ProgramTrainer` says.
            enclave: Its name in policy and profile, where the profile has several.
            timeout: Seconds for each exchange.
            dataset: By its id in the policy, as for `release`. Exactly one.

        Raises: RatlsError, as `provider.rounds.take_part`.
        """
        if len(dataset) != 1:
            raise TypeError("train() needs exactly one dataset: client.train(task, visits=…)")
        ((name, rows),) = dataset.items()
        own = None if program is None else Path(program)
        return take_part(self._request(task, enclave, timeout), name, _source(rows), program=own)

    def result(
        self,
        task: bytes,
        *,
        enclave: str | None = None,
        wait: float = 0,
        timeout: float = 60,
        folder: str | PathLike[str] | None = None,
    ) -> Result:
        """The result of a task, once every input is there; its receipt is checked, and kept.

            client.result(task, wait=60).values

        Args:
            wait: Seconds to ask again while inputs are missing.
            folder: Where the three files go; if left out, `results/` beside the profile, in a
                folder named by the task.

        Raises: RatlsError, as `provider.collect.collect`.
        """
        request = self._request(task, enclave, timeout)
        name = digest_text(Task.read(task).digest).partition(":")[2]
        place = self._profile.folder / "results" / name if folder is None else Path(folder)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = Outputs(*(place / f"{part}.json" for part in ("result", "receipt", "record")))
        done = collect(request, files, wait=wait)
        released = json.loads(files.result.read_bytes())
        values = {name: value for name, value in released.items() if name not in _AROUND}
        return Result(values, done.receipt, files, done.mode)

    def run(
        self,
        computation: str,
        *,
        enclave: str | None = None,
        wait: float = 3600,
        **parameters: Any,
    ) -> Result:
        """Sign a task, queue it at the profile's scheduler, wait for the providers, collect.

            client.run("train", max_iter=500).as_sklearn()

        Raises: as `ask`, `submit` and `result`.
        """
        task = self.ask(computation, lifetime=timedelta(seconds=max(wait, 60)), **parameters)
        self.submit(task)
        return self.result(task, enclave=enclave, wait=wait)

    def _enclave(self, name: str | None) -> EnclavePlace:
        known = self._profile.enclaves
        path = str(self._profile.path)
        if not known:
            raise ProfileIncomplete(path, expected="enclave", found="none")
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name is None or name not in known:
            found = "several" if name is None else ascii(name)
            raise EnclaveNotChosen(path, expected=" or ".join(known), found=found)
        return known[name]

    def _request(self, task: bytes, enclave: str | None, timeout: float) -> EnclaveRequest:
        place = self._enclave(enclave)
        return EnclaveRequest(
            task=task,
            address=place.address,
            collateral=read_collateral(place.collateral),
            party=self._party,
            state=self._state,
            allow_simulation=self._allow_simulation,
            timeout=timeout,
            clock=self._clock,
            enclave=enclave,
        )


def _source(rows: Any) -> SourceSpec | Path:
    if isinstance(rows, SourceSpec):
        return rows
    return Path(rows) if isinstance(rows, str | PathLike) else of_table(rows)
