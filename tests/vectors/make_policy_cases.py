"""`python -m tests.vectors.make_policy_cases`: writes tests/vectors/policy/*.json.

Keys and signatures are new each time, so all files are written together. What is expected stands
here, by hand; `tests/vectors/test_policy_cases.py` compares this implementation with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from policy import envelope as dsse
from policy.document import digest_text
from policy.envelope import Envelope
from policy.keys import KeySigner
from policy.party import LocalParty
from policy.withdrawal import Withdrawal
from tests.support.parties import AT, Consortium, local_party

FOLDER = Path(__file__).parent / "policy"
ALICE, BOB, CAROL = "alice-clinic", "bob-hospital", "carol-lab"
WORLD = Consortium.create()
TWO = "[agreement]\nthreshold = 2\n\n"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

README = (
    "Each case is one agreement file, byte for byte (base64), and what a reader must say: "
    "'accepted' for an agreement that is complete, or the code of the refusal. `anchor`, where it "
    "is there, is a party's own party.toml: the reader is that party, and also asks whether it "
    "signed. `accepted_before` is the digest of the version that the reader accepted last."
)


@dataclass(frozen=True)
class Keys:
    """Signers by party, of several kinds: ECDSA and RSA signatures have more than one form."""

    alice: KeySigner
    bob: KeySigner
    carol: KeySigner

    @classmethod
    def make(cls) -> Keys:
        return cls(
            KeySigner.from_private(ec.generate_private_key(ec.SECP256R1())),
            KeySigner.from_private(ec.generate_private_key(ec.SECP384R1())),
            KeySigner.from_private(rsa.generate_private_key(65537, 3072)),
        )


def text(keys: Keys, *swaps: tuple[str, str], **overrides: Any) -> str:
    """The consortium's policy with these signing keys."""
    made = WORLD.policy_text(**overrides)
    for party, key in ((WORLD.alice, keys.alice), (WORLD.bob, keys.bob), (WORLD.carol, keys.carol)):
        made = made.replace(party.public.signing_key.pem, key.public.pem)
    for old, new in swaps:
        assert old in made, old
        made = made.replace(old, new)
    return made


def signed(raw: str, *signers: KeySigner, kind: str = dsse.POLICY) -> Any:
    envelope = Envelope(kind, raw.encode(), ())
    for signer in signers:
        envelope = envelope.signed_by(signer)
    return envelope.as_json()


def agreement(*versions: Any, **more: Any) -> bytes:
    return json.dumps({"schema": "ratls-agreement/0", "versions": list(versions)} | more).encode()


def case(name: str, rule: str, raw: bytes, expected: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "rule": rule,
        "agreement": base64.b64encode(raw).decode(),
        "expected": expected,
        **more,
    }


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def signatures(keys: Keys) -> Iterator[dict[str, Any]]:
    """One version, and every way to make its signatures say more than they do."""
    raw = text(keys)
    all_three = (keys.alice, keys.bob, keys.carol)
    honest = signed(raw, *all_three)

    def changed(change: Callable[[dict[str, Any]], None], whole: Any = honest) -> bytes:
        copy = json.loads(json.dumps(whole))
        change(copy)
        return agreement(copy)

    def sig(copy: dict[str, Any], place: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = copy["signatures"][place]
        return found

    yield case("three-signatures", "P01", agreement(honest), "accepted")
    yield case("no-signature", "P01", agreement(signed(raw)), "agreement-incomplete")
    for name, rest in ((ALICE, all_three[1:]), (CAROL, all_three[:2])):
        yield case(f"without-{name}", "P01", agreement(signed(raw, *rest)), "agreement-incomplete")
    yield case(
        "one-twice", "P02",
        changed(lambda c: c["signatures"].append(sig(c)), signed(raw, keys.alice, keys.bob)),
        "signature-repeated",
    )  # fmt: skip
    yield case("reordered", "P02", changed(lambda c: c["signatures"].reverse()), "accepted")

    def other_form(copy: dict[str, Any]) -> dict[str, Any]:
        r, s = decode_dss_signature(base64.b64decode(sig(copy)["sig"]))
        again = encode_dss_signature(r, P256_ORDER - s)
        return sig(copy) | {"sig": base64.b64encode(again).decode()}

    def add_other_form(copy: dict[str, Any]) -> None:
        copy["signatures"][2] = other_form(copy)

    yield case("malleated-as-a-third", "P04", changed(add_other_form), "signature-repeated")

    def instead(copy: dict[str, Any]) -> None:
        copy["signatures"][0] = other_form(copy)

    yield case("malleated-instead", "P04", changed(instead), "accepted")
    yield case(
        "under-another-key-id", "P02",
        changed(lambda c: c["signatures"].append(sig(c) | {"keyid": "0" * 64})), "signer-unknown",
    )  # fmt: skip
    stranger = KeySigner.from_private(ec.generate_private_key(ec.SECP256R1()))
    yield case(
        "foreign-signature", "P06", agreement(signed(raw, *all_three, stranger)), "signer-unknown"
    )
    yield case(
        "operation-key", "P06", agreement(signed(raw, *all_three, WORLD.alice.operation)),
        "signer-unknown",
    )  # fmt: skip
    yield case(
        "of-a-task", "P07", agreement(signed(raw, *all_three, kind=dsse.TASK)),
        "envelope-type-differs",
    )  # fmt: skip

    def retyped(copy: dict[str, Any]) -> None:
        copy["payloadType"] = dsse.POLICY

    yield case(
        "task-signatures-retyped", "P07",
        changed(retyped, signed(raw, *all_three, kind=dsse.TASK)), "signature-invalid",
    )  # fmt: skip

    def swapped(copy: dict[str, Any]) -> None:
        sig(copy)["sig"], sig(copy, 1)["sig"] = sig(copy, 1)["sig"], sig(copy)["sig"]

    yield case("under-each-others-key-id", "P09", changed(swapped), "signature-invalid")
    other = text(keys, ("uses = 10", "uses = 11"))
    yield case(
        "of-other-bytes", "P08",
        changed(lambda c: c.update(payload=base64.b64encode(other.encode()).decode())),
        "signature-invalid",
    )  # fmt: skip
    elsewhere = signed(text(keys, study='"another"'), *all_three)
    yield case(
        "of-another-study", "P18",
        changed(lambda c: c.update(signatures=elsewhere["signatures"])),
        "signature-invalid",
    )  # fmt: skip
    for name, added in (("line-end", "\n"), ("carriage-returns", None)):
        moved = raw.replace("\n", "\r\n") if added is None else raw + added
        yield case(
            f"changed-{name}", "P08",
            changed(lambda c, m=moved: c.update(payload=base64.b64encode(m.encode()).decode())),  # type: ignore[misc]
            "policy-encoding" if added is None else "signature-invalid",
        )  # fmt: skip
    yield case(
        "byte-order-mark", "P08",
        changed(lambda c: c.update(payload=encoded(b"\xef\xbb\xbf" + raw.encode()))),
        "policy-encoding",
    )  # fmt: skip
    for name, change in {
        "space-in-base64": lambda c: sig(c).update(sig=sig(c)["sig"] + "\n"),
        "url-safe-base64": lambda c: sig(c).update(sig="-_" + sig(c)["sig"][2:]),
        "no-padding": lambda c: sig(c).update(sig=sig(c)["sig"][:-1]),
        "key-id-upper-case": lambda c: sig(c).update(keyid="ABCDEF" + sig(c)["keyid"][6:]),
        "key-id-number": lambda c: sig(c).update(keyid=7),
        "algorithm-in-the-signature": lambda c: sig(c).update(alg="none"),
        "signatures-no-list": lambda c: c.update(signatures={"0": sig(c)}),
        "second-payload": lambda c: c.update(payload2=c["payload"]),
    }.items():
        yield case(name, "P09, P10, P11", changed(change), "envelope-malformed")
    double = agreement(honest).replace(b'"payloadType"', b'"payload": "AAAA", "payloadType"')
    yield case("payload-twice", "P08", double, "envelope-malformed")


def thresholds(keys: Keys) -> Iterator[dict[str, Any]]:
    """Who must sign."""
    all_three = (keys.alice, keys.bob, keys.carol)
    two = text(keys, agreement=TWO)
    yield case("two-owners", "S12", agreement(signed(two, keys.alice, keys.bob)), "accepted")
    yield case(
        "two-without-an-owner", "S12", agreement(signed(two, keys.alice, keys.carol)),
        "agreement-incomplete",
    )  # fmt: skip
    for found in ("0", "-1", "4", "true", "2.0", '"any"'):
        raw = text(keys, ('threshold = "all"', f"threshold = {found}"))
        yield case(
            f"threshold-{found}", "P05", agreement(signed(raw, *all_three)), "policy-invalid"
        )
    shared = text(keys, (keys.bob.public.pem, keys.alice.public.pem))
    yield case(
        "one-key-for-two", "P03", agreement(signed(shared, *all_three[::2])), "policy-keys-shared"
    )
    far = text(keys, ("version = 1", "version = 4611686018427387904"))
    yield case("version-too-high", "P14", agreement(signed(far, *all_three)), "policy-invalid")
    unknown = text(keys, ("version = 1", "version = 1\ncritical = true"))
    yield case("unknown-field", "P10", agreement(signed(unknown, *all_three)), "policy-invalid")
    any_enclave = text(keys, (WORLD.mr_enclave, "any"))
    yield case("any-enclave", "P19", agreement(signed(any_enclave, *all_three)), "policy-invalid")


def following(before: str, keys: Keys, number: int, *swaps: tuple[str, str], **more: Any) -> str:
    digest = f'"sha256:{hashlib.sha256(before.encode()).hexdigest()}"'
    return text(keys, *swaps, version=str(number), previous=digest, agreement=TWO, **more)


def history(keys: Keys) -> Iterator[dict[str, Any]]:
    """Sequences of versions, with every kind of key change."""
    owners = (keys.alice, keys.bob)
    one = text(keys, agreement=TWO)
    two = following(one, keys, 2)
    first, second = signed(one, *owners), signed(two, *owners)
    yield case("two-versions", "P16", agreement(first, second), "accepted")
    yield case("reversed", "P16", agreement(second, first), "agreement-chain-broken")
    yield case("second-alone", "P16", agreement(second), "agreement-chain-broken")
    yield case(
        "gap",
        "P14",
        agreement(first, signed(following(one, keys, 3), *owners)),
        "agreement-chain-broken",
    )
    other = signed(following(one, keys, 2, study='"another-study"'), *owners)
    yield case("another-study", "P18", agreement(first, other), "agreement-chain-broken")
    forked = signed(following(one + "#\n", keys, 2), *owners)
    yield case("another-history", "P16", agreement(first, forked), "agreement-chain-broken")
    yield case(
        "first-without-signatures", "P01", agreement(signed(one), second), "agreement-incomplete"
    )
    renewed = local_party(CAROL, copy=1)
    purposes = ("operation_key", "channel_certificate", "encryption_key")
    for purpose in purposes:
        swap = (getattr(WORLD.carol.public, purpose).pem, getattr(renewed.public, purpose).pem)
        changed = following(one, keys, 2, swap)
        yield case(
            f"{purpose}-without-the-old-key", "P23", agreement(first, signed(changed, *owners)),
            "key-change-unsigned",
        )  # fmt: skip
        yield case(
            f"{purpose}-with-the-old-key", "P23",
            agreement(first, signed(changed, *owners, keys.carol)), "accepted",
        )  # fmt: skip
    new = KeySigner.from_private(ec.generate_private_key(ec.SECP256R1()))
    swap = (keys.carol.public.pem, new.public.pem)
    changed = following(one, keys, 2, swap)
    for name, signers, expected in (
        ("unsigned", (), "key-change-unsigned"),
        ("signed-by-the-new-one", (new,), "key-change-unsigned"),
        ("signed-by-the-old-one", (keys.carol,), "accepted"),
    ):
        raw = agreement(first, signed(changed, *owners, *signers))
        yield case(f"signing-key-{name}", "P17, P23", raw, expected)
    third = following(changed, keys, 3, swap, (keys.bob.public.pem, keys.carol.public.pem))
    good = signed(changed, *owners, keys.carol)
    yield case(
        "retired-key-returns-as-anothers", "P23",
        agreement(first, good, signed(third, *owners, keys.carol)), "policy-keys-shared",
    )  # fmt: skip
    yield from _absence(keys, one, first)


def _absence(keys: Keys, one: str, first: Any) -> Iterator[dict[str, Any]]:
    owners = (keys.alice, keys.bob)
    dora = local_party("dora-clinic")
    key = local_party(CAROL, copy=2).public.encryption_key
    assert key is not None
    block = _block(dora).replace('["provider"]', '["recipient", "submitter"]')
    block += f'encryption_key = """{key.pem}"""\n'
    carols = _block(WORLD.carol).replace(WORLD.carol.public.signing_key.pem, keys.carol.public.pem)
    gone = following(one, keys, 2, (carols, block), (CAROL, "dora-clinic"))
    second = signed(gone, *owners)
    back = following(gone, keys, 3)
    yield case("party-removed", "P23", agreement(first, second), "accepted")
    for name, signers, expected in (
        ("without-its-old-key", (), "key-change-unsigned"),
        ("with-its-old-key", (keys.carol,), "accepted"),
    ):
        raw = agreement(first, second, signed(back, *owners, *signers))
        yield case(f"party-returns-{name}", "P23", raw, expected)


def _block(party: LocalParty) -> str:
    return (party.folder / "party.toml").read_text("utf-8")


def withdrawals() -> Iterator[dict[str, Any]]:
    """Version 2 without Alice, who has not signed it, and her withdrawal."""
    dora = local_party("dora-clinic")
    names = {"dora-clinic": dora, BOB: WORLD.bob, CAROL: WORLD.carol}
    world = Consortium(names, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    first = WORLD.complete()
    raw = world.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    raw = raw.replace(f'owner = "{ALICE}"', 'owner = "dora-clinic"')
    one = first.agreement.newest.envelope.as_json()
    two = signed(raw, dora.signing, WORLD.bob.signing, WORLD.carol.signing)
    document = Withdrawal.of([v.policy for v in first.agreement.versions], ALICE)
    mine = Envelope.parse(document.signed(WORLD.alice.signing)).as_json()
    bobs = Envelope.parse(document.signed(WORLD.bob.signing)).as_json()
    agents = Envelope.parse(document.seal(WORLD.alice.operation)).as_json()
    yield case("without-a-withdrawal", "P17", agreement(one, two), "predecessor-not-consenting")
    yield case("with-it", "P17", agreement(one, two, withdrawals=[mine]), "accepted")
    for name, listed, code in (
        ("signed-by-another", [bobs], "signer-unknown"),
        ("signed-by-the-agent", [agents], "signer-unknown"),
        ("a-policy-in-its-place", [one], "envelope-type-differs"),
    ):
        yield case(name, "P07", agreement(one, two, withdrawals=listed), code)
    other = document.model_copy(update={"study": "another-study"})
    moved = Withdrawal(**{n: getattr(other, n) for n in Withdrawal.model_fields})
    envelope = Envelope.parse(moved.signed(WORLD.alice.signing)).as_json()
    yield case(
        "of-another-study", "P18", agreement(one, two, withdrawals=[envelope]), "study-differs"
    )


def anchors() -> Iterator[dict[str, Any]]:
    """What the reader holds it against: its own keys, and what it accepted before."""
    first = WORLD.agreement()
    text_two = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    second = WORLD.agreement(text_two, before=first.require_complete())
    raw, mine = first.encode(), _block(WORLD.alice)
    yield case("own-keys", "P06", raw, "accepted", anchor=mine)
    other = _block(local_party(ALICE, copy=1))
    yield case("other-keys-under-the-own-name", "P06", raw, "anchor-differs", anchor=other)
    yield case(
        "not-listed", "P06", raw, "party-not-listed", anchor=_block(local_party("dora-clinic"))
    )
    two = WORLD.agreement(WORLD.policy_text(agreement=TWO), signers=[ALICE, BOB])
    yield case(
        "not-signed", "P01", two.encode(), "own-signature-missing", anchor=_block(WORLD.carol)
    )
    one, newest = digest_text(first.digest), digest_text(second.digest)
    yield case("next", "P12", second.encode(), "accepted", anchor=mine, accepted_before=one)
    yield case("again", "P12", second.encode(), "accepted", anchor=mine, accepted_before=newest)
    yield case(
        "older",
        "P12",
        raw,
        "policy-rollback",
        anchor=mine,
        accepted_before=newest,
        accepted_version=2,
    )
    fork = WORLD.agreement(WORLD.policy_text([("uses = 10", "uses = 11")]))
    yield case("fork", "P16", fork.encode(), "policy-conflict", anchor=mine, accepted_before=one)


def main() -> None:
    keys = Keys.make()
    FOLDER.mkdir(exist_ok=True)
    for name, cases in {
        "signatures": signatures(keys),
        "thresholds": thresholds(keys),
        "history": history(keys),
        "withdrawals": withdrawals(),
        "anchors": anchors(),
    }.items():
        document = {
            "about": README,
            "at": AT.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "roots": ["intel", "simulation"],
            "cases": list(cases),
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
