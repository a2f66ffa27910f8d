"""Parties sign in parallel, by mail: envelopes are united, and who is missing or wrong is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from policy.agreement import Agreement
from policy.agreement_file import PolicyBytesDiffer, agreement_to_sign, difference_text
from policy.chain import PredecessorNotConsenting
from policy.document import digest_text
from policy.envelope import Envelope
from policy.errors import PolicyConflict
from policy.keys import KeySigner, SigningSigner
from policy.merging import KeysDiffer, merge, signatures_in
from policy.signing import add_signature, sign
from policy.state import StudyState
from policy.withdrawal import Withdrawal
from tests.policy.desk import NOW, WORLD, Desk
from tests.support.parties import ROOTS, Consortium, local_party
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow
ALICE, BOB, CAROL = "alice-clinic", "bob-hospital", "carol-lab"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def copy(desk: Desk, *signers: str, text: str | None = None) -> Path:
    """The file of a party that signed a copy of its own."""
    name = "-".join(signers) or "nobody"
    return desk.write(f"{name}.agreement.json", WORLD.agreement_bytes(text, signers=signers))


def test_three_parties_sign_at_the_same_time(desk: Desk) -> None:
    files = [copy(desk, name) for name in (ALICE, BOB, CAROL)]
    united = desk.folder / "study.agreement.json"
    told = desk.json("policy", "merge", *files[:2], "-o", united)
    assert told["missing"] == [CAROL]
    # The third comes later, into the same file; one that is in it already changes nothing.
    assert desk.json("policy", "merge", files[2], files[0], "-o", united)["complete"]
    before = united.read_bytes()
    desk.run("policy", "merge", united, "-o", united)
    assert united.read_bytes() == before
    desk.accept(united, ALICE)


def test_a_signature_on_another_text_is_not_united(desk: Desk) -> None:
    """Bob signed version 1 with one digit changed; both files say the same study and version."""
    mine = copy(desk, ALICE)
    other = copy(desk, BOB, text=WORLD.policy_text([("uses = 10", "uses = 99")]))
    out = desk.folder / "out.agreement.json"
    desk.run("policy", "merge", mine, other, "-o", out, status=6)
    assert not out.exists()
    before = mine.read_bytes()
    desk.run("policy", "merge", other, "-o", mine, status=6)
    assert mine.read_bytes() == before
    desk.run("policy", "merge", mine, copy(desk, CAROL), "-o", out)


def test_a_forged_copy_is_refused_before_anything_is_written(desk: Desk) -> None:
    """P01: the signature of Carol in Bob's name."""
    document = json.loads(copy(desk, CAROL).read_bytes())
    document["versions"][0]["signatures"][0]["keyid"] = WORLD.bob.public.signing_key.keyid
    forged = desk.write("forged.agreement.json", json.dumps(document))
    out = desk.folder / "out.agreement.json"
    desk.run("policy", "merge", copy(desk, ALICE), forged, "-o", out, status=6)
    assert not out.exists()


def test_one_key_that_signed_twice_counts_once() -> None:
    """P02: an ECDSA signature differs each time; the united file must still be read."""
    world = Consortium.create(NOW)
    private = ec.generate_private_key(ec.SECP256R1())
    signer = SigningSigner(KeySigner.from_private(private))
    pem = world.alice.public.signing_key.pem
    text = world.policy_text([(pem, signer.public.pem)])
    drafts = [Agreement.draft(text.encode(), ROOTS) for _ in range(2)]
    one, two = (add_signature(draft, signer) for draft in drafts)
    assert one.newest.envelope.signatures != two.newest.envelope.signatures
    merged = merge([one, two])
    assert Agreement.parse(merged.encode(), ROOTS).newest.signed == (ALICE,)


def test_versions_of_different_length_are_not_united() -> None:
    first = WORLD.complete()
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    later = WORLD.agreement(text, before=first)
    with refused(PolicyConflict):
        merge([later, first.agreement])
    assert merge([later, later]).encode() == later.encode()


def test_late_signatures_on_earlier_versions_are_kept() -> None:
    world = Consortium.create(NOW)
    text = world.policy_text([('threshold = "all"', "threshold = 2")])
    first = world.agreement(text, signers=[ALICE, BOB])
    more = merge([first, world.agreement(text, signers=[ALICE, BOB, CAROL])])
    assert more.newest.signed == (ALICE, BOB, CAROL)


def test_a_withdrawal_in_one_of_the_files_is_kept() -> None:
    """Bob left: version 2 needs no signature of his where his withdrawal is in the file."""
    first = WORLD.complete()
    gone = Envelope.parse(
        Withdrawal.of([v.policy for v in first.agreement.versions], BOB).seal(WORLD.bob.signing)
    )
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"', **{BOB: ""})
    raw = text.replace('owner = "bob-hospital"', 'owner = "alice-clinic"').encode()
    without = Agreement.draft(raw, ROOTS, first)
    with_it = Agreement.draft(raw, ROOTS, first, [gone])
    mine, theirs = sign(without, WORLD.alice), sign(with_it, WORLD.carol)
    for order in ([mine, theirs], [theirs, mine], [theirs, mine, theirs]):
        again = Agreement.parse(merge(order).encode(), ROOTS)
        assert len(again.withdrawals) == 1
        again.require_complete()
    with refused(PredecessorNotConsenting):
        merge([mine, sign(without, WORLD.carol)]).require_complete()


# Who signed, who is missing, whose key does not match.


def test_status_says_who_signed_and_who_is_missing(desk: Desk) -> None:
    file = copy(desk, ALICE)
    told = desk.json("policy", "status", file)
    assert (told["signed"], told["missing"], told["complete"]) == ([ALICE], [BOB, CAROL], False)
    assert [s["verdict"] for s in told["signatures"]] == ["valid"]
    assert "MISSING" in desk.run("policy", "status", file)


def _other_bytes(document: Any) -> None:
    document["versions"][0]["signatures"][0]["sig"] = document["versions"][0]["signatures"][1][
        "sig"
    ]


def _foreign(document: Any) -> None:
    document["versions"][0]["signatures"][0]["keyid"] = "ab" * 32


def _operation(document: Any) -> None:
    keyid = WORLD.alice.public.operation_key.keyid
    document["versions"][0]["signatures"][0]["keyid"] = keyid


@pytest.mark.parametrize(
    ("change", "verdict", "party"),
    [
        (_other_bytes, "invalid", ALICE),
        (_foreign, "unknown key", None),
        (_operation, "other key", ALICE),
    ],
)
def test_status_says_whose_signature_is_wrong(
    desk: Desk, change: Callable[[Any], None], verdict: str, party: str | None
) -> None:
    """The file as a whole is refused, and the reader must still learn whom to ask."""
    document = json.loads(copy(desk, ALICE, BOB).read_bytes())
    change(document)
    file = desk.write("x.agreement.json", json.dumps(document))
    told = desk.json("policy", "status", file, status=6)
    first, second = told["signatures"]
    assert (first["verdict"], first["party"]) == (verdict, party)
    assert (second["verdict"], second["party"]) == ("valid", BOB)
    assert verdict in desk.run("policy", "status", file, status=6)


def test_status_says_whose_key_is_not_the_one_that_the_party_gave(desk: Desk) -> None:
    """P06: Mallory put his own key into the draft under Bob's name, and signed with it."""
    file = copy(desk, ALICE)
    bobs = WORLD.bob.folder / "party.toml"
    assert desk.json("policy", "status", file, "--party-file", bobs)["keys"][0]["differing"] == {}
    real = local_party(BOB, NOW, copy=1).folder / "party.toml"
    told = desk.json("policy", "status", file, "--party-file", bobs, "--party-file", real, status=6)
    assert told["error"]["code"] == KeysDiffer.code
    assert {*told["keys"][1]["differing"]} == {
        "signing_key",
        "operation_key",
        "channel_certificate",
    }
    assert "DOES NOT MATCH" in desk.run("policy", "status", file, "--party-file", real, status=6)
    stranger = local_party("olga-cloud", NOW).folder / "party.toml"
    desk.run("policy", "status", file, "--party-file", stranger, status=6)


def test_status_does_not_call_complete_what_the_old_parties_did_not_sign(desk: Desk) -> None:
    """P17: Bob was removed. All parties of version 2 signed, and version 1 asks for Bob too."""
    first = WORLD.complete()
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"',
                             **{BOB: ""})  # fmt: skip
    text = text.replace('owner = "bob-hospital"', 'owner = "alice-clinic"')
    later = WORLD.agreement(text, before=first, signers=[ALICE, CAROL])
    file = desk.write("x.agreement.json", later.encode())
    told = desk.json("policy", "status", file)
    assert (told["missing"], told["complete"]) == ([], False)
    assert BOB in desk.run("policy", "status", file)
    signed = desk.write("y.agreement.json", add_signature(later, WORLD.bob.signing).encode())
    assert desk.json("policy", "status", signed)["complete"]


# Bytes that a mail program changed.


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda raw: raw.replace(b"\n", b"\r\n"), "CR LF"),
        (lambda raw: b"\xef\xbb\xbf" + raw, "byte order mark"),
        (lambda raw: raw + b"\n", "added at its end"),
        (lambda raw: raw.removesuffix(b"\n"), "lost at its end"),
        (lambda raw: raw.replace(b"uses = 10", b"uses = 11"), "column 9"),
    ],
)
def test_the_text_that_came_by_mail_is_not_the_signed_one(
    desk: Desk, changed: Callable[[bytes], bytes], said: str
) -> None:
    """P08: refused with the place, and the signed original is named, whatever the parser says."""
    copy(desk, ALICE).rename(desk.folder / "study.agreement.json")
    signed = WORLD.policy_text().encode()
    toml = desk.write("study.toml", changed(signed))
    with refused(PolicyBytesDiffer) as found:
        agreement_to_sign(toml, StudyState(desk.folder / "state", ROOTS))
    assert said in found.error.found
    assert "study.agreement.json" in (found.error.fix or "")
    toml.write_bytes(signed)
    desk.sign(toml, BOB)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_two_texts_have_a_first_difference(signed: bytes, found: bytes) -> None:
    """It shows no text: a policy can be confidential where a log is read."""
    if signed != found:
        told = difference_text(signed, found)
        assert told.isascii()
        assert told.isprintable()


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), st.integers(0))
def test_any_file_has_a_status_or_a_refusal(content: bytes, place: int) -> None:
    """P20: what is read leniently must still be read safely."""
    count_refusal()
    agreement = WORLD.agreement_bytes(signers=[ALICE])
    at = place % len(agreement)
    for raw in (content, agreement[:at] + content + agreement[at:], agreement[:at]):
        with suppress(RatlsError):
            policy, _ = signatures_in(raw, ROOTS)
            assert policy.study


# A crash at any moment.


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_the_write_leaves_the_old_or_the_new_file(desk: Desk, moment: str) -> None:
    """kill -9 just before and just after the one rename of `merge`."""
    mine, theirs = copy(desk, ALICE), copy(desk, BOB)
    old = mine.read_bytes()
    program = (
        "import os, signal; real = os.replace\n"
        "def replace(*a, **k):\n"
        f"    {'real(*a, **k)' if moment == 'after' else 'pass'}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "from ratls.cli import main; main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, "policy", "merge", str(theirs), "-o", str(mine)],
        capture_output=True,
        timeout=HANG_LIMIT,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    signed = desk.json("policy", "status", mine)["signed"]
    assert (mine.read_bytes() == old) == (moment == "before")
    assert signed == ([ALICE] if moment == "before" else [ALICE, BOB])
    assert os.path.exists(theirs)
