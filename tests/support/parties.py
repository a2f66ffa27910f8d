"""A consortium to test with: three parties with real keys, one policy, its agreement, tasks.

world = Consortium.create(tmp_path, at, root="simulation:sha256:…", mr_enclave="…",
                          machines=["ppid:…"])
world.policy_text(expires="…")     # TOML; keyword arguments replace top-level values
world.policy(), world.agreement(), world.agreement(signers=["alice-clinic"])
world.alice, world.bob, world.carol, world.operator           # policy.party.LocalParty
tasks = TaskWorld(world); tasks.signed(), tasks.task(), tasks.commit(...)
"""

from __future__ import annotations

import hashlib
import json
from atexit import register
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from policy import trust_domain
from policy.agreement import Agreement, CompleteAgreement
from policy.commit import Commit
from policy.document import Policy
from policy.party import LocalParty, create_party
from policy.signing import sign
from policy.task import Task
from simulation.quote import TdReportForm

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
ROOTS = frozenset({"intel", "simulation"})
ROOT = "simulation:sha256:" + "5a" * 32
MR_ENCLAVE = "c0ffee" + "11" * 29
MACHINE = "ppid:" + "ab" * 16
ROLES: dict[str, tuple[str, ...]] = {
    "alice-clinic": ("provider",),
    "bob-hospital": ("provider",),
    "carol-lab": ("recipient", "submitter"),
    "olga-cloud": ("operator",),
}
COLUMNS = (
    '{ patient = "string", age = { type = "int64", min = 0, max = 120 }, '
    'bmi = "float64", y = "int64" }'
)
# Of the trust domain that the simulation quotes by default.
REGISTERS = {name: getattr(TdReportForm(), name) for name in trust_domain.REGISTERS}


def instant(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def _party_folder(party_id: str, at: datetime, copy: int) -> Path:
    """Keys are slow to make and never change: one folder per party and test run."""
    top = mkdtemp(prefix="ratls-party-")
    register(rmtree, top, ignore_errors=True)
    folder = Path(top) / party_id
    create_party(folder, party_id, PASSPHRASE, at, ROLES.get(party_id, ("provider",)))
    return folder


def local_party(party_id: str, at: datetime = AT, copy: int = 0) -> LocalParty:
    """A party with real keys; another `copy` has the same name and other keys."""
    return LocalParty.load(_party_folder(party_id, at, copy), PASSPHRASE)


def known_digest(file: str | Path) -> str:
    """The newest policy in a file, an agreement or a draft, as somebody types it who knows it."""
    raw = Path(file).read_bytes()
    if raw.startswith(b"{"):
        raw = b64decode(json.loads(raw)["versions"][-1]["payload"])
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


@dataclass
class Consortium:
    """Everything that three parties need to agree; change one thing, and see what refuses."""

    parties: dict[str, LocalParty]
    at: datetime
    root: str
    mr_enclave: str
    machines: Sequence[str] | str
    columns: str = COLUMNS
    features: str = '["age", "bmi"]'
    label: str = "y"
    extra: dict[str, str] = field(default_factory=dict)  # replaces parts of `sections`

    @classmethod
    def create(
        cls,
        at: datetime = AT,
        *,
        root: str = ROOT,
        mr_enclave: str = MR_ENCLAVE,
        machines: Sequence[str] | str = (MACHINE,),
        operator: bool = False,
        **more: Any,
    ) -> Consortium:
        names = [n for n in ROLES if operator or n != "olga-cloud"]
        parties = {name: local_party(name, at) for name in names}
        return cls(parties, at, root, mr_enclave, machines, **more)

    @property
    def alice(self) -> LocalParty:
        return self.parties["alice-clinic"]

    @property
    def bob(self) -> LocalParty:
        return self.parties["bob-hospital"]

    @property
    def carol(self) -> LocalParty:
        return self.parties["carol-lab"]

    @property
    def operator(self) -> LocalParty:
        return self.parties["olga-cloud"]

    def sections(self) -> dict[str, str]:
        """The policy's parts in order; `policy_text` joins them."""
        head = {
            "schema": '"ratls-policy/0"',
            "study": '"breast-cancer-joint-training"',
            "version": "1",
            "not_before": instant(self.at - timedelta(days=1)),
            "expires": instant(self.at + timedelta(days=30)),
        }
        sections = {name: f"{name} = {value}\n" for name, value in head.items()}
        sections["agreement"] = '\n[agreement]\nthreshold = "all"\n\n'
        for name, party in self.parties.items():
            sections[name] = (party.folder / "party.toml").read_text("utf-8") + "\n"
        sections["enclave"] = (
            '[[enclave]]\nname = "joint-training-1.0"\ntee = "sgx"\n'
            f'mr_enclave = "{self.mr_enclave}"\nisv_prod_id = 0\nmin_isv_svn = 0\n\n'
        )
        sections["platform"] = self._platform()
        for i, owner in ((1, "alice-clinic"), (2, "bob-hospital")):
            sections[f"train_party_{i}"] = (
                f'[[dataset]]\nid = "train_party_{i}"\nowner = "{owner}"\nsubject = "patient"\n'
                f"columns = {self.columns}\nmax_rows = 100_000\n\n"
            )
        sections["computation"] = self._computation()
        return sections

    def _platform(self) -> str:
        machines = self.machines
        if isinstance(machines, str):
            listed = f'"{machines}"'
        else:
            listed = "[" + ", ".join(f'"{m}"' for m in machines) + "]"
        return (
            f'[platform]\nroot = "{self.root}"\ntcb_statuses = ["UpToDate"]\n'
            "accepted_advisories = []\nmin_tcb_evaluation_data_number = 1\n"
            f"min_tcb_date = 2020-01-01\nmax_collateral_age_days = 30\nmachines = {listed}\n\n"
        )

    def _computation(self) -> str:
        return (
            '[[computation]]\nid = "train"\nrun = "logistic_regression"\n'
            'inputs = ["train_party_1", "train_party_2"]\n'
            f'parameters = {{ features = {self.features}, label = "{self.label}", '
            "max_iter = { min = 50, max = 5000 } }\n"
            'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 10\n'
            'release = { outputs = ["model_weights"], min_subjects_per_input = 20, '
            "significant_digits = 6 }\n"
        )

    def domain(self, **fields: str) -> str:
        """An `[[enclave]]` that lists the simulation's trust domain; `fields` are TOML, and ""
        drops one."""
        listed = {name: f'"{value.hex()}"' for name, value in REGISTERS.items()}
        listed |= {
            "name": '"joint-training-td"',
            "tee": '"tdx"',
            "mr_seam": f'["{"31" * 48}"]',
            "min_tee_tcb_svn": f'"050102{"00" * 13}"',
        }
        lines = [f"{name} = {text}" for name, text in (listed | fields).items() if text]
        return "[[enclave]]\n" + "\n".join(lines) + "\n\n"

    def policy_text(self, replace: Sequence[tuple[str, str]] = (), **overrides: str) -> str:
        """TOML. `overrides` replace a head value (as TOML) or a whole section by name; "" drops
        it. `replace` swaps pieces of the text, each of which must be there."""
        sections = self.sections() | self.extra
        for name, value in overrides.items():
            head = name in ("schema", "study", "version", "not_before", "expires", "previous")
            if name == "previous":
                sections = {"previous": ""} | sections
            sections[name] = f"{name} = {value}\n" if head and value else value
        text = "".join(sections.values())
        for old, new in replace:
            assert old in text, f"{old!r} is not in the policy"
            text = text.replace(old, new)
        return text

    def policy(self, **overrides: Any) -> Policy:
        return Policy.parse(self.policy_text(**overrides).encode(), known_roots=ROOTS)

    def agreement(
        self,
        text: str | None = None,
        *,
        signers: Sequence[str] = ("alice-clinic", "bob-hospital", "carol-lab"),
        before: CompleteAgreement | None = None,
    ) -> Agreement:
        """The policy, signed by these parties."""
        raw = (self.policy_text() if text is None else text).encode()
        agreement = Agreement.draft(raw, ROOTS, before)
        for name in signers:
            agreement = sign(agreement, self.parties[name])
        return agreement

    def agreement_bytes(self, text: str | None = None, **options: Any) -> bytes:
        return self.agreement(text, **options).encode()

    def complete(self, text: str | None = None, **options: Any) -> CompleteAgreement:
        return self.agreement(text, **options).require_complete()


@dataclass
class TaskWorld:
    """Signed documents under the consortium's policy, each field replaceable."""

    world: Consortium
    policy: Policy | None = None

    def __post_init__(self) -> None:
        self.policy = self.policy or self.world.policy()

    def task(self, **fields: Any) -> Task:
        """Carol's task; `fields` replace those of the document, unchecked."""
        assert self.policy is not None
        made: dict[str, Any] = {
            "id": "0d" * 16,
            "study": self.policy.study,
            "policy_digest": self.policy.digest,
            "computation": "train",
            "parameters": {"max_iter": 200},
            "submitter": "carol-lab",
            "issued_at": self.world.at,
            "expires": self.world.at + timedelta(hours=1),
        }
        return Task(**made | fields)

    def signed(self, by: LocalParty | None = None, **fields: Any) -> bytes:
        """The task's envelope, signed with the operation key of Carol or `by`."""
        return self.task(**fields).seal((by or self.world.carol).operation)

    def commit(self, **fields: Any) -> Commit:
        """Alice's commit to her dataset."""
        assert self.policy is not None
        made: dict[str, Any] = {
            "task_digest": self.task().digest,
            "policy_digest": self.policy.digest,
            "instance": b"i" * 16,
            "nonce": b"n" * 32,
            "dataset": "train_party_1",
            "provider": "alice-clinic",
            "schema_digest": b"s" * 32,
            "rows": 284,
            "batches": 1,
            "tags_digest": b"t" * 32,
            "salted_digest": b"d" * 32,
            "journal_head": bytes(32),
        }
        return Commit(**made | fields)
