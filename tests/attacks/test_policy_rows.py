"""P01-P22, row by row: the attack, its class, an honest twin, and all as before afterwards.

The parts have tests of their own in `tests/policy`, by function. Here Alice has accepted version 1
and has rows; somebody gives her an agreement or a task. What she is told is one refusal, of the
class that the matrix names; nothing of hers changes; the twin, which differs in that one thing, is
accepted; and after all of it she releases her rows to the same enclave.

An agreement that is refused leaves no record in the journal, which counts what was released: the
one record of it is the answer of the command. A task that is refused leaves one there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from policy import envelope as dsse
from policy.agreement import (
    FILE_CAP,
    Agreement,
    AgreementIncomplete,
    PolicyExpired,
    PolicyNotYetValid,
    SignatureInvalid,
)
from policy.chain import PredecessorNotConsenting
from policy.document import PolicyInvalid, digest_text
from policy.envelope import (
    PAYLOAD_CAP,
    SIGNATURES_CAP,
    EnvelopeMalformed,
    EnvelopeTooLarge,
    EnvelopeTypeDiffers,
    SignatureRepeated,
)
from policy.errors import (
    AuditError,
    PolicyConflict,
    PolicyConflictError,
    PolicyExpiredError,
    PolicyFormatError,
    PolicySignatureError,
    PolicyThresholdError,
    PolicyTrustError,
    ResourceLimitError,
    StateError,
)
from policy.journal import JournalMissing
from policy.journal_entries import CommittedEntry, RefusedEntry, ReleasedEntry, ReservedEntry
from policy.keys import KeySigner, PublicKey
from policy.references import PolicyKeysShared
from policy.signing import AnchorDiffers
from policy.standing import Distrusted
from policy.state import PolicyNotAccepted, PolicyRollback, StateMissing, StudyState
from policy.statement import StudyDiffers
from policy.syntax import PolicyEncoding, PolicySyntax, PolicyTooLarge
from policy.withdrawal import VERSIONS_CAP
from ratls.address import Address
from tests.policy.desk import APP
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.parties import (
    PASSPHRASE,
    ROOTS,
    Consortium,
    TaskWorld,
    instant,
    known_digest,
    local_party,
)
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.typed import typed
from tests.vectors.make_policy_cases import P256_ORDER, agreement, signed
from verifier.errors import RatlsError
from verifier.files import FileUnreadable

Leaf = type[RatlsError]
BOB = KeySigner.from_private(ec.generate_private_key(ec.SECP256R1()))  # has two forms of each


@pytest.fixture(scope="module")
def served(world: EnclaveWorld) -> Iterator[tuple[LiveEnclave, Relay]]:
    """One enclave for all rows, behind a relay that counts who came."""
    with world.running() as live, Relay(("127.0.0.1", live.server.port)) as relay:
        yield live, relay


@dataclass
class Alice:
    """Her desk, what is given to her, and what must be true whatever it was."""

    desk: Desk
    live: LiveEnclave
    relay: Relay
    world: EnclaveWorld

    def accepts(self, raw: bytes, state: Path, status: int = 0) -> dict[str, Any]:
        """`ratls policy accept`, with the digest of what is in the file."""
        file = self.desk.folder / "offered.agreement.json"
        file.write_bytes(raw)
        try:
            digest = known_digest(file)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            digest = f"sha256:{'0' * 64}"  # of what nobody can read
        words = ["policy", "accept", file, "--party", self.desk.party.folder, "--state", state]
        result = typed(APP, [*words, "--yes", digest, "--json"], status)
        for secret in (CANARY, PASSPHRASE.decode(), "PRIVATE KEY"):
            assert secret not in result.output
        (line,) = result.stdout.splitlines()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def refuses_agreement(self, raw: bytes, leaf: Leaf, kind: Leaf) -> None:
        """One answer, of that leaf and class; not a byte of her state changes."""
        assert issubclass(leaf, kind)
        before = _files(self.desk.state)
        answer = self.accepts(raw, self.desk.state, status=int(leaf.exit_status))
        assert answer["error"]["code"] == leaf.code
        assert _files(self.desk.state) == before

    @contextmanager
    def refuses_task(self, leaf: Leaf, kind: Leaf, *, recorded: bool = True) -> Iterator[None]:
        """One record of that leaf, if there is a journal at all; nobody was connected to."""
        assert issubclass(leaf, kind)
        connected, records = len(self.relay.connections), self._refusals() if recorded else []
        with refused(leaf):
            yield
        assert len(self.relay.connections) == connected
        if recorded:
            (new,) = self._refusals()[len(records) :]
            assert new == leaf.code
        self._require_silent()

    def releases(self, task: bytes | None = None) -> None:
        """An honest request, afterwards."""
        before = len(self.desk.journal)
        done = self.desk.push(task or self.world.task())
        assert done.commit.rows == 60
        kinds = [type(entry) for entry in self.desk.journal[before:]]
        assert kinds == [ReservedEntry, CommittedEntry, ReleasedEntry]
        self._require_silent()

    def _refusals(self) -> list[str]:
        return [entry.code for entry in self.desk.journal if isinstance(entry, RefusedEntry)]

    def _require_silent(self) -> None:
        assert CANARY not in self.live.stream.getvalue()
        assert CANARY.encode() not in b"".join(_files(self.desk.state).values())
        assert not any(CANARY.encode() in c.sent for c in self.relay.connections)


@pytest.fixture
def at_alices(world: EnclaveWorld, served: tuple[LiveEnclave, Relay], tmp_path: Path) -> Alice:
    live, relay = served
    return Alice(
        Desk.of("alice", world, tmp_path, Address.parse(relay.address)), live, relay, world
    )


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Hand:
    """Writes agreements as no program of ours would."""

    def __init__(self, world: Consortium) -> None:
        self.world = world
        self.keys = [world.alice.signing, BOB, world.carol.signing]

    def text(self, *swaps: tuple[str, str], **overrides: str) -> str:
        """The policy, in which Bob's key is an ECDSA key."""
        swap = (self.world.bob.public.signing_key.pem, BOB.public.pem)
        return self.world.policy_text(replace=[swap, *swaps], **overrides)

    def by_all(self, text: str | bytes, kind: str = dsse.POLICY) -> Any:
        """An envelope of these bytes, whatever they are, signed by all three."""
        raw = text.encode() if isinstance(text, str) else text
        made = dsse.Envelope(kind, raw, ())
        for key in self.keys:
            made = made.signed_by(key)
        return made.as_json()

    def honest(self) -> bytes:
        return agreement(self.by_all(self.text()))

    def of(self, *swaps: tuple[str, str], **overrides: str) -> bytes:
        return agreement(self.by_all(self.text(*swaps, **overrides)))

    def changed(self, change: Callable[[dict[str, Any]], Any]) -> bytes:
        """Honest, but for what is done to its envelope."""
        made = self.by_all(self.text())
        change(made)
        return agreement(made)

    def second(self, *extra: KeySigner, world: Consortium | None = None) -> bytes:
        """Version 2 after version 1, by the parties of `world` and more."""
        first = self.world.complete()
        other = world or self.world
        digest = f'"{digest_text(first.digest)}"'
        text = other.policy_text(version="2", previous=digest)
        if world is not None:
            text = text.replace('owner = "bob-hospital"', 'owner = "dora-clinic"')
        keys = [party.signing for party in other.parties.values()]
        one = first.agreement.newest.envelope.as_json()
        return agreement(one, signed(text, *keys, *extra))


Attacks = list[tuple[bytes, Leaf]]


def p01(hand: Hand) -> tuple[Attacks, bytes]:
    raw = hand.text()
    absent = [signed(raw, *(k for k in hand.keys if k is not gone)) for gone in hand.keys]
    return [(agreement(e), AgreementIncomplete) for e in [signed(raw), *absent]], hand.honest()


def p02(hand: Hand) -> tuple[Attacks, bytes]:
    """Alice's signature again, in the place of Carol's; all three in another order are fine."""

    def twice(made: dict[str, Any]) -> None:
        made["signatures"][2] = made["signatures"][0]

    twin = hand.changed(lambda made: made["signatures"].reverse())
    return [(hand.changed(twice), SignatureRepeated)], twin


def p03(hand: Hand) -> tuple[Attacks, bytes]:
    """For two parties, and for two purposes; the twin has another key at that place."""
    bob, other = hand.world.bob.public, local_party("bob-hospital", hand.world.at, 1).public
    mine = hand.world.alice.public.signing_key.pem
    found = [
        hand.of((BOB.public.pem, mine)),
        hand.of((bob.operation_key.pem, BOB.public.pem)),
        hand.of((bob.operation_key.pem, mine)),
    ]
    twin = hand.of((bob.operation_key.pem, other.operation_key.pem))
    return [(raw, PolicyKeysShared) for raw in found], twin


def _other_form(entry: dict[str, Any]) -> dict[str, Any]:
    r, s = decode_dss_signature(base64.b64decode(entry["sig"]))
    again = encode_dss_signature(r, P256_ORDER - s)
    return entry | {"sig": base64.b64encode(again).decode()}


def p04(hand: Hand) -> tuple[Attacks, bytes]:
    """The second form of Bob's signature, for Carol's; in the place of his own it is his."""

    def added(made: dict[str, Any]) -> None:
        made["signatures"][2] = _other_form(made["signatures"][1])

    def instead(made: dict[str, Any]) -> None:
        made["signatures"][1] = _other_form(made["signatures"][1])

    return [(hand.changed(added), SignatureRepeated)], hand.changed(instead)


def p05(hand: Hand) -> tuple[Attacks, bytes]:
    said = 'threshold = "all"'
    wrong = ("0", "-1", "4", "true", "2.0", '"2"', '"any"', "[2]")
    found = [hand.of((said, f"threshold = {value}")) for value in wrong]
    return [(raw, PolicyInvalid) for raw in found], hand.of((said, "threshold = 3"))


def p06(hand: Hand) -> tuple[Attacks, bytes]:
    """Complete and consistent, and Alice in it is somebody else."""
    mallory = local_party("alice-clinic", hand.world.at, 1)
    world = replace(hand.world, parties=hand.world.parties | {"alice-clinic": mallory})
    return [(world.agreement_bytes(), AnchorDiffers)], hand.world.agreement_bytes()


def p07(hand: Hand) -> tuple[Attacks, bytes]:
    """Signed as tasks, commits or withdrawals, and offered so, or with the kind written over."""
    found: Attacks = []
    for kind in (dsse.TASK, dsse.COMMIT, dsse.WITHDRAWAL):
        other = hand.by_all(hand.text(), kind)
        found.append((agreement(other), EnvelopeTypeDiffers))
        found.append((agreement(other | {"payloadType": dsse.POLICY}), SignatureInvalid))
    return found, hand.honest()


def p08(hand: Hand) -> tuple[Attacks, bytes]:
    """All three signed what two readers read in two ways; or the JSON around it is read so."""
    text = hand.text()
    twice = text.replace("uses = 10", "uses = 10\nuses = 11")
    payloads: list[tuple[str | bytes, Leaf]] = [
        (b"\xef\xbb\xbf" + text.encode(), PolicyEncoding),
        (text.encode("utf-16"), PolicyEncoding),
        (text.replace("\n", "\r\n"), PolicyEncoding),
        (twice, PolicySyntax),
        (text + "\x00", PolicyEncoding),
        (text.replace("max = 120", "max = nan"), PolicyInvalid),
        (text.replace("max = 120", f"max = {10**40}"), PolicyInvalid),
    ]
    found = [(agreement(hand.by_all(payload)), leaf) for payload, leaf in payloads]
    honest = hand.honest()
    doubled = honest.replace(b'"payloadType"', b'"payload": "AAAA", "payloadType"')
    found += [(doubled, EnvelopeMalformed), (honest + b"{}", EnvelopeMalformed)]
    return found, honest


def p09(hand: Hand) -> tuple[Attacks, bytes]:
    """What a reader would take who lets the message choose: HMAC with the public key, no
    signature at all, and the signature of another kind of key."""
    raw = hand.text().encode()
    message = dsse.pre_authentication_encoding(dsse.POLICY, raw)

    def in_bobs_name(sig: bytes) -> bytes:
        def change(made: dict[str, Any]) -> None:
            made["signatures"][1]["sig"] = base64.b64encode(sig).decode()

        return hand.changed(change)

    found = [
        hmac.digest(BOB.public.pem.encode(), message, "sha256"),
        hashlib.sha256(message).digest(),
        hand.keys[0].sign(dsse.POLICY, raw),
    ]
    return [(in_bobs_name(sig), SignatureInvalid) for sig in found], hand.honest()


def p10(hand: Hand) -> tuple[Attacks, bytes]:
    """At each level of the text, and around it; the algorithm beside a signature is one, too."""
    levels = (
        "version = 1\n",
        "[agreement]\n",
        "[[party]]\n",
        "[[enclave]]\n",
        "[platform]\n",
        "[[dataset]]\n",
        "[[computation]]\n",
    )
    found: Attacks = [
        (hand.of((level, f"{level}critical = true\n")), PolicyInvalid) for level in levels
    ]
    found += [
        (hand.of(("release = {", "release = { critical = true,")), PolicyInvalid),
        (hand.changed(lambda made: made.update(critical=True)), EnvelopeMalformed),
        (hand.changed(lambda made: made["signatures"][0].update(alg="none")), EnvelopeMalformed),
        (agreement(hand.by_all(hand.text()), critical=True), EnvelopeMalformed),
    ]
    return found, hand.honest()


def _pad_bits(text: str) -> str:
    """The same bytes, as lenient readers see it: a bit beyond the last byte is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    assert body != text
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]


def p11(hand: Hand) -> tuple[Attacks, bytes]:
    def spelled(name: str, spell: Callable[[str], Any]) -> bytes:
        def change(made: dict[str, Any]) -> None:
            entry = made["signatures"][0]
            entry[name] = spell(entry[name])

        return hand.changed(change)

    found: Attacks = [
        (spelled("sig", lambda t: t + "\n"), EnvelopeMalformed),
        (spelled("sig", lambda t: f"{t[:8]} {t[8:]}"), EnvelopeMalformed),
        (spelled("sig", lambda t: t.rstrip("=")), EnvelopeMalformed),
        (spelled("sig", _pad_bits), EnvelopeMalformed),
        (spelled("sig", lambda t: f"-_{t[2:]}"), EnvelopeMalformed),
        (spelled("keyid", lambda t: "AB" + t[2:]), EnvelopeMalformed),
        (spelled("keyid", lambda t: "\uff11" + t[1:]), EnvelopeMalformed),
        (spelled("keyid", lambda t: t[1:]), EnvelopeMalformed),
        (spelled("keyid", lambda t: f" {t}"), EnvelopeMalformed),
    ]
    measured = hand.world.mr_enclave
    for text in (measured[:-1] + "A", measured[:-1], f"{measured[:-2]} 1", f"0x{measured[2:]}"):
        found.append((hand.of((measured, text)), PolicyInvalid))
    return found, hand.honest()


def p14(hand: Hand) -> tuple[Attacks, bytes]:
    """So high that none can follow, or no number at all; the next one is one more."""
    far = (2**62, VERSIONS_CAP + 1, 0, -1, "true", "1.0", '"1"')
    found = [hand.of(version=str(version)) for version in far]
    return [(raw, PolicyInvalid) for raw in found], hand.second()


def p17(hand: Hand) -> tuple[Attacks, bytes]:
    """Dora is put in Bob's place, and all who are then listed sign; the twin has his consent."""
    names = hand.world.parties
    dora = local_party("dora-clinic", hand.world.at)
    parties = {"alice-clinic": names["alice-clinic"], "dora-clinic": dora}
    world = replace(hand.world, parties=parties | {"carol-lab": names["carol-lab"]})
    twin = hand.second(hand.world.bob.signing, world=world)
    return [(hand.second(world=world), PredecessorNotConsenting)], twin


def p19(hand: Hand) -> tuple[Attacks, bytes]:
    """Zeros, stars and nothing, where a value is meant; the signer alone names no enclave."""
    measured, (machine,) = hand.world.mr_enclave, hand.world.machines
    line = f'mr_enclave = "{measured}"\n'
    swaps = [
        (measured, "0" * 64),
        (measured, "any"),
        (measured, "*"),
        (measured, ""),
        (line, f'mr_signer = "{measured}"\n'),
        (f'["{machine}"]', "[]"),
        (f'["{machine}"]', '["*"]'),
        (machine, "ppid:" + "00" * 16),
        ('tcb_statuses = ["UpToDate"]', "tcb_statuses = []"),
        (f"columns = {hand.world.columns}", "columns = {}"),
        ('inputs = ["train_party_1", "train_party_2"]', "inputs = []"),
        ('submitters = ["carol-lab"]', "submitters = []"),
        ('recipients = ["carol-lab"]', 'recipients = ["*"]'),
        ('outputs = ["model_weights"]', "outputs = []"),
    ]
    return [(hand.of(swap), PolicyInvalid) for swap in swaps], hand.honest()


TABLE: dict[str, tuple[Callable[[Hand], tuple[Attacks, bytes]], Leaf]] = {
    "P01": (p01, PolicyThresholdError),
    "P02": (p02, PolicyThresholdError),
    "P03": (p03, PolicyTrustError),
    "P04": (p04, PolicyThresholdError),
    "P05": (p05, PolicyFormatError),
    "P06": (p06, PolicyTrustError),
    "P07": (p07, PolicySignatureError),
    "P08": (p08, PolicyFormatError),
    "P09": (p09, PolicySignatureError),
    "P10": (p10, PolicyFormatError),
    "P11": (p11, PolicyFormatError),
    "P14": (p14, PolicyFormatError),
    "P17": (p17, PolicyThresholdError),
    "P19": (p19, PolicyFormatError),
}


@pytest.mark.parametrize("row", TABLE)
def test_an_agreement_is_offered(row: str, at_alices: Alice, tmp_path: Path) -> None:
    """P01-P11, P14, P17, P19: refused as the row says, and its twin is taken into force."""
    make, kind = TABLE[row]
    attacks, twin = make(Hand(at_alices.world.consortium))
    for raw, leaf in attacks:
        at_alices.refuses_agreement(raw, leaf, kind)
    at_alices.accepts(twin, tmp_path / "twin")
    at_alices.releases()


def test_endless_data(at_alices: Alice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P20: bytes, signatures and depth, and none of them costs one check of a signature."""
    hand, checked = Hand(at_alices.world.consortium), list[int]()
    holds = PublicKey.holds

    def counted(key: PublicKey, message: bytes, sig: bytes) -> bool:
        checked.append(1)
        return holds(key, message, sig)

    monkeypatch.setattr(PublicKey, "holds", counted)
    honest = hand.honest()
    many = [{"keyid": f"{i:064x}", "sig": "AAAA"} for i in range(SIGNATURES_CAP + 1)]
    deep = honest[:-1] + b', "a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    long = base64.b64encode(b"#" * (PAYLOAD_CAP + 1)).decode()
    too_much: list[Callable[[dict[str, Any]], Any]] = [
        lambda made: made.update(signatures=many),
        lambda made: made.update(payload=long),
    ]
    for change in too_much:
        at_alices.refuses_agreement(hand.changed(change), EnvelopeTooLarge, ResourceLimitError)
    at_alices.refuses_agreement(deep, EnvelopeMalformed, PolicyFormatError)
    # Of a file no more is read than may be; what came another way is counted first.
    huge = honest + b" " * FILE_CAP
    at_alices.refuses_agreement(huge, FileUnreadable, RatlsError)
    with refused(PolicyTooLarge):
        Agreement.parse(huge, ROOTS)
    assert checked == []
    at_alices.accepts(honest, tmp_path / "twin")
    assert checked
    at_alices.releases()


@pytest.fixture
def ahead(at_alices: Alice) -> EnclaveWorld:
    """The same parties with version 2, which is not in force anywhere yet."""
    raw = Hand(at_alices.world.consortium).second()
    return replace(at_alices.world, complete=Agreement.parse(raw, ROOTS).require_complete())


def test_an_older_version_is_offered_again(at_alices: Alice, ahead: EnclaveWorld) -> None:
    """P12: as an agreement, and by a task under it. Version 2 itself may come again."""
    older = at_alices.world.complete.agreement.encode()
    newer = ahead.complete.agreement.encode()
    at_alices.accepts(newer, at_alices.desk.state)
    at_alices.refuses_agreement(older, PolicyRollback, PolicyConflictError)
    with at_alices.refuses_task(PolicyRollback, PolicyConflictError):
        at_alices.desk.push(at_alices.world.task())
    at_alices.accepts(newer, at_alices.desk.state)
    with ahead.running() as live:
        desk = replace(at_alices.desk, world=ahead, address=live.address)
        replace(at_alices, desk=desk, live=live, world=ahead).releases()


def test_the_parties_hold_different_versions(at_alices: Alice, ahead: EnclaveWorld) -> None:
    """P15: Carol asks under version 2; Alice has version 1. Under version 1 it is released."""
    with at_alices.refuses_task(PolicyNotAccepted, PolicyConflictError):
        at_alices.desk.push(ahead.task())
    at_alices.releases()


def test_two_policies_have_one_version_number(at_alices: Alice) -> None:
    """P16: all signed both; whoever accepted one refuses the other, and takes its own again."""
    other = at_alices.world.consortium.policy_text(replace=[("uses = 10", "uses = 11")])
    at_alices.refuses_agreement(
        at_alices.world.consortium.agreement_bytes(other), PolicyConflict, PolicyConflictError
    )
    at_alices.accepts(at_alices.world.complete.agreement.encode(), at_alices.desk.state)
    at_alices.releases()


def test_a_policy_is_used_outside_its_window(at_alices: Alice, tmp_path: Path) -> None:
    """P13: before its first instant and from its last on; the same task within is honoured."""
    minute = timedelta(minutes=1)
    begins, ends = NOW - minute, NOW + 30 * minute
    text = at_alices.world.consortium.policy_text(not_before=instant(begins), expires=instant(ends))
    short = replace(at_alices.world, complete=at_alices.world.consortium.complete(text))
    task = short.task()
    with short.running() as live, Relay(("127.0.0.1", live.server.port)) as relay:
        folder = tmp_path / "short"
        folder.mkdir()
        desk = Desk.of("alice", short, folder, Address.parse(relay.address))
        hers = Alice(desk, live, relay, short)
        for at, leaf in ((ends, PolicyExpired), (begins - minute, PolicyNotYetValid)):
            with hers.refuses_task(leaf, PolicyExpiredError):
                desk.push(task, clock=lambda at=at: at)
        hers.releases(task)


def test_a_task_of_another_study(at_alices: Alice) -> None:
    """P18: it names the policy that Alice accepted, and another study."""
    tasks = TaskWorld(at_alices.world.consortium, at_alices.world.policy)
    made = {"id": "18" * 16, "issued_at": NOW, "expires": NOW + timedelta(hours=1)}
    with at_alices.refuses_task(StudyDiffers, PolicyConflictError):
        at_alices.desk.push(tasks.signed(study="another-study", **made))
    at_alices.releases(tasks.signed(**made))


def test_the_state_is_deleted(at_alices: Alice) -> None:
    """P21: the agreement, then the journal; put back, all is as before."""
    state, task = at_alices.desk.state, at_alices.world.task()
    for pattern, leaf, kind in (
        ("studies/*", StateMissing, StateError),
        ("journal.*", JournalMissing, AuditError),
    ):
        gone = {path: path.read_bytes() for path in state.glob(pattern)}
        assert gone
        for path in gone:
            path.unlink()
        with at_alices.refuses_task(leaf, kind, recorded=leaf is StateMissing):
            at_alices.desk.push(task)
        for path, content in gone.items():
            path.write_bytes(content)
    at_alices.releases(task)


@pytest.mark.parametrize("what", ["policy", "key"])
def test_what_was_revoked_is_still_used(what: str, at_alices: Alice) -> None:
    """P22: at the next use it is refused; lifted, the same task is honoured."""
    policy = at_alices.world.policy
    keyid = at_alices.world.consortium.bob.public.signing_key.keyid
    digest = digest_text(policy.digest) if what == "policy" else f"sha256:{keyid}"
    state, task = StudyState(at_alices.desk.state), at_alices.world.task()
    state.distrust(digest, NOW)
    with at_alices.refuses_task(Distrusted, PolicyTrustError):
        at_alices.desk.push(task)
    at_alices.refuses_agreement(
        at_alices.world.complete.agreement.encode(), Distrusted, PolicyTrustError
    )
    state.distrust(digest, NOW, lifted=True)
    at_alices.releases(task)
