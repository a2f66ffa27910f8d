"""P25: the agreement is brought by whoever presents a receipt, certificate, server or quote.

An invented consortium has parties of the same names, who all signed; only their keys are others.
An enclave that obeys its agreement fits it in every respect, so that everything which is judged by
the file alone passes, in the very same words. What helps is the reader's own: party or digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from policy.agreement_file import AgreementUnverified
from policy.cli_policy import policy as policy_app
from policy.document import digest_text
from policy.errors import PolicyConflict
from policy.record import Record
from policy.signing import AnchorDiffers, OwnSignatureMissing
from ratls.cli_verify import app
from tests.support.flight_peers import NOW, PlainEnclave, Script, Study, serving
from tests.support.parties import PASSPHRASE, Consortium, local_party
from tests.support.typed import Folder, typed
from verifier.appraisal import Appraisal

COMMANDS = [
    "cert",
    "receipt",
    "receipt with record",
    "server",
    "quote",
    "forecast",
    "policy verify",
]


@dataclass
class Presented(Folder):
    """Everything that somebody presents: an enclave, its documents, and an agreement that fits."""

    study: Study
    server: PlainEnclave

    @property
    def agreement(self) -> str:
        text = self.study.policy.raw.decode()
        return self.file("agreed.json", self.study.parties.agreement_bytes(text))

    def words(self, command: str, agreement: str | None = None) -> list[str]:
        """The command, ready but for what the reader knows."""
        agreed = agreement or self.agreement
        bundle = self.file("collateral.json", self.study.expectation.collateral.raw)
        by = ["--agreement", agreed, "--collateral", bundle]
        identity = self.server.script.identity
        document = self.study.receipt(identity)
        if command == "cert":
            return ["cert", self.file("c.der", identity.certificate_der), *by]
        if command == "receipt":
            return ["receipt", self.file("r.json", document.seal(identity.receipt_signer)), *by]
        if command == "receipt with record":
            record = Record(
                holder="carol-lab",
                document_digest=document.digest,
                collateral=self.study.expectation.collateral.raw,
                appraisal=Record.checks(Appraisal()),
                at=NOW,
                mode="simulation",
            ).seal(self.study.parties.carol.operation)
            receipt = self.file("r.json", document.seal(identity.receipt_signer))
            return ["receipt", receipt, *by[:2], "--record", self.file("record.json", record)]
        if command == "server":
            return ["server", str(self.server.address), *by, "--certificate-only"]
        if command == "policy verify":
            return ["verify", agreed]
        quote = self.file("q.bin", self.study.world.quote(isv_prod_id=0))
        return [command, quote, "--collateral", bundle, "--policy", agreed]

    def run(self, words: list[str], *known: str, status: int) -> str:
        of = policy_app if words[0] == "verify" else app
        simulated = [] if words[0] == "verify" else ["--allow-simulation"]
        return typed(of, [*words, *known, *simulated], status).output

    def error(self, words: list[str], *known: str, status: int) -> Any:
        output = self.run(words, *known, "--json", status=status)
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return lines[-1]["error"]


def presented(study: Study, folder: Path) -> Iterator[Presented]:
    script = Script(study.identity(), study.channel().spki_sha256)
    with serving(script, study.channel()) as server:
        yield Presented(folder, study, server)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Presented]:
    yield from presented(Study.create(), tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Presented]:
    """The same names, study, columns and code; every key is the presenter's."""
    honest = Study.create()
    parties = Consortium.create(
        NOW,
        root=honest.parties.root,
        mr_enclave=honest.parties.mr_enclave,
        machines=honest.parties.machines,
    )
    parties.parties = {name: local_party(name, NOW, copy=1) for name in parties.parties}
    policy = parties.policy()
    held = type(honest.expectation)(policy, honest.expectation.collateral, honest.expectation.roots)
    study = Study(honest.world, parties, policy, held)
    yield from presented(study, tmp_path_factory.mktemp("invented"))


@pytest.fixture
def alice() -> str:
    return str(local_party("alice-clinic", NOW).folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_invented_consortium_of_the_same_names(invented: Presented, command: str) -> None:
    """Nothing is accepted: its digest is shown, for a person to compare (exit status 5)."""
    words = invented.words(command)
    digest = digest_text(invented.study.policy.digest)
    assert digest in invented.run(words, status=5)
    if command != "forecast":  # its lines are dates, not verdicts
        assert invented.error(words, status=5)["code"] == AgreementUnverified.code


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reader_names_its_own_party(
    invented: Presented, honest: Presented, alice: str, command: str
) -> None:
    """P06: her keys stand not under her name. In her own agreement they do: accepted."""
    known = ["--party", alice]
    if command == "server":
        known = ["--digest", digest_text(honest.study.policy.digest)]
        leaf: Any = PolicyConflict
    else:
        leaf = AnchorDiffers
    assert invented.error(invented.words(command), *known, status=6)["code"] == leaf.code
    honest.run(honest.words(command), *known, status=0)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reader_names_the_digest(invented: Presented, honest: Presented, command: str) -> None:
    known = ["--digest", digest_text(honest.study.policy.digest)]
    error = invented.error(invented.words(command), *known, status=6)
    assert error["code"] == PolicyConflict.code
    honest.run(honest.words(command), *known, status=0)


def test_the_honest_agreement_is_not_believed_unseen_either(honest: Presented) -> None:
    """The command cannot know: it says undecided to everybody who names nothing."""
    for command in COMMANDS:
        honest.run(honest.words(command), status=5)


def test_a_challenged_server_under_an_invented_agreement(
    invented: Presented, honest: Presented, alice: str, tmp_path: Path
) -> None:
    """With --party the anchor is asked before anybody is connected to."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    known = ["--party", alice, "--passphrase-file", str(secret)]
    before = invented.server.script.hellos
    words = [w for w in invented.words("server") if w != "--certificate-only"]
    assert invented.error(words, *known, status=6)["code"] == AnchorDiffers.code
    assert invented.server.script.hellos == before
    words = [w for w in honest.words("server") if w != "--certificate-only"]
    honest.run(words, *known, status=0)


@pytest.mark.parametrize("command", ["quote", "forecast"])
def test_a_draft_is_nobodys_word(honest: Presented, alice: str, command: str) -> None:
    """A policy without any signature proves less than an agreement."""
    draft = honest.file("policy.toml", honest.study.policy.raw)
    words = honest.words(command, draft)
    honest.run(words, status=5)
    assert honest.error(words, "--party", alice, status=6)["code"] == OwnSignatureMissing.code
    honest.run(words, "--digest", digest_text(honest.study.policy.digest), status=0)


def test_the_old_version_of_ones_own_agreement(honest: Presented, alice: str) -> None:
    """A receipt of version 1, with the agreement as it is today: own signature and digest of
    version 2 vouch for version 1 too, which version 2 names."""
    parties = honest.study.parties
    text = honest.study.policy.raw.decode()
    first = parties.complete(text)
    second = parties.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    both = parties.complete(second, before=first)
    file = honest.file("two.json", both.agreement.encode())
    words = honest.words("receipt", file)
    for known in (
        ["--party", alice],
        *(["--digest", digest_text(d)] for d in (first.digest, both.digest)),
    ):
        honest.run(words, *known, status=0)
    # The other way round it is no answer: who knows version 1 has not agreed to version 2.
    later = honest.words("quote", file)
    error = honest.error(later, "--digest", digest_text(first.digest), status=6)
    assert error["code"] == PolicyConflict.code
    honest.run(later, "--digest", digest_text(both.digest), status=0)


@pytest.mark.parametrize("digest", ["", "sha256:", "0" * 64, "sha256:" + "AB" * 32])
def test_a_digest_that_is_none(honest: Presented, digest: str) -> None:
    honest.run(honest.words("cert"), "--digest", digest, status=2)


def test_an_anchor_without_an_agreement(honest: Presented, alice: str) -> None:
    """It would look as if something had been held against it."""
    words = honest.words("quote")
    words = words[: words.index("--policy")]
    honest.run(words, "--party", alice, status=2)


def test_every_command_that_takes_an_agreement_asks_whose_it_is() -> None:
    """The kind. Three servers take one without: they obey it, and prove which one it is. To hold a
    build against the text of a policy says nothing about who signed that.
    """
    import typer.main

    from ratls.cli import build

    def walk(command: Any, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}".strip())
        options = {o for option in command.params for o in option.opts}
        if options & {"--agreement", "--policy"}:
            always = any("--party" in o.opts and o.required for o in command.params)
            named = always or {"--party", "--digest"} <= options
            (anchored if named else without).append(path)

    anchored: list[str] = []
    without: list[str] = []
    walk(typer.main.get_command(build()), "")
    servers = ["enclave serve", "measure manifest", "scheduler serve", "tunnel server"]
    assert sorted(without) == servers
    assert sorted(anchored) == [
        "tunnel client",
        *(f"verify {c}" for c in ("cert", "forecast", "quote", "receipt", "server")),
    ]
