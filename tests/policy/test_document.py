"""Reading a policy: everything is stated, seen, in range and consistent, or it is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.document import Policy, PolicyInvalid, digest_text
from policy.references import PolicyKeysShared
from policy.sections import Status
from policy.syntax import PolicyEncoding, PolicySyntax, PolicyTooLarge
from tests.support.parties import ROOTS, Consortium, local_party
from tests.support.refusal import refused
from verifier.errors import RatlsError

WORLD = Consortium.create(operator=True)
TEXT = WORLD.policy_text()


def read(text: str | bytes, roots: frozenset[str] = ROOTS) -> Policy:
    return Policy.parse(text.encode() if isinstance(text, str) else text, known_roots=roots)


def changed(old: str, new: str) -> str:
    assert old in TEXT, old
    return TEXT.replace(old, new, 1)


def test_honest_policy_reads_as_written() -> None:
    """The twin of every refusal below."""
    policy = read(TEXT)
    assert policy.party[0].id == "alice-clinic"
    assert list(policy.dataset[0].columns) == ["patient", "age", "bmi", "y"]
    assert policy.dataset[0].columns["age"].max == 120
    assert [p.id for p in policy.voters] == ["alice-clinic", "bob-hospital", "carol-lab"]
    assert policy.party_by_channel(WORLD.bob.channel_spki_sha256) is policy.party[1]
    assert policy.raw == TEXT.encode()
    assert digest_text(policy.digest).startswith("sha256:")


# One change each; the path at which the one problem must be reported.
MEANING = [
    # P05: a threshold that would be met by nobody, by everybody, or by an accident of types
    ('threshold = "all"', "threshold = 0", "agreement.threshold"),
    ('threshold = "all"', "threshold = -1", "agreement.threshold"),
    ('threshold = "all"', "threshold = 4", "agreement.threshold"),  # the operator has no vote
    ('threshold = "all"', "threshold = true", "agreement.threshold"),
    ('threshold = "all"', "threshold = 2.0", "agreement.threshold"),
    ('threshold = "all"', 'threshold = "any"', "agreement.threshold"),
    # P10: a field that only a newer reader would understand, at each level
    ("version = 1", "version = 1\ncritical = true", "critical"),
    ('threshold = "all"', 'threshold = "all"\nquorum = 1', "agreement.quorum"),
    ('roles = ["provider"]', 'roles = ["provider"]\nadmin = true', "party[0].admin"),
    ("isv_prod_id = 0", "isv_prod_id = 0\nmr_signer = 1", "enclave[0].mr_signer"),
    ("machines = ", "debug = true\nmachines = ", "platform.debug"),
    ("max_rows = 100_000", "max_rows = 1\nfilter = 1", "dataset[0].filter"),
    ("uses = 10", "uses = 10\ncode = 1", "computation[0].code"),
    ("significant_digits = 6", "significant_digits = 6, raw = 1", "computation[0].release.raw"),
    ("min = 0, max = 120 }", "min = 0, max = 120, x = 1 }", "dataset[0].columns.age.x"),
    # P14: a version from which no successor could follow
    ("version = 1", "version = 4611686018427387904", "version"),
    ("version = 1", "version = 0", "version"),
    ("version = 1", "version = true", "version"),
    ("version = 1", "version = 2", "previous"),
    ("version = 1", f'version = 1\nprevious = "sha256:{"0" * 64}"', "previous"),
    # P19: wildcards, empty lists, zero values
    (WORLD.mr_enclave, "any", "enclave[0].mr_enclave"),
    (WORLD.mr_enclave, "0" * 64, "enclave[0].mr_enclave"),
    (WORLD.mr_enclave, "AB" * 32, "enclave[0].mr_enclave"),
    (WORLD.mr_enclave, "ab" * 31, "enclave[0].mr_enclave"),
    ('"UpToDate"', "", "platform.tcb_statuses"),
    ('"UpToDate"', '"Revoked"', "platform.tcb_statuses[0]"),
    ('"UpToDate"', '"uptodate"', "platform.tcb_statuses[0]"),
    ('"UpToDate"', '"UpToDate", "UpToDate"', "platform.tcb_statuses"),
    ("accepted_advisories = []", 'accepted_advisories = ["*"]', "platform.accepted_advisories[0]"),
    (f'"{WORLD.machines[0]}"', "", "platform.machines"),
    (f'["{WORLD.machines[0]}"]', '"any"', "platform.machines"),
    (WORLD.machines[0], "ppid:" + "0" * 32, "platform.machines"),
    (WORLD.machines[0], "fmspc:00606a000000", "platform.machines"),
    ('roles = ["provider"]', "roles = []", "party[0].roles"),
    ('roles = ["provider"]', 'roles = ["admin"]', "party[0].roles[0]"),
    ('inputs = ["train_party_1", "train_party_2"]', "inputs = []", "computation[0].inputs"),
    ('outputs = ["model_weights"]', "outputs = []", "computation[0].release.outputs"),
    ("min_subjects_per_input = 20", "min_subjects_per_input = 0",
     "computation[0].release.min_subjects_per_input"),
    ("significant_digits = 6", 'significant_digits = 6, reasons = "all"',
     "computation[0].release.reasons"),
    ("significant_digits = 6", "significant_digits = 7",
     "computation[0].release.significant_digits"),
    ("uses = 10", "uses = 0", "computation[0].uses"),
    ("isv_prod_id = 0", "isv_prod_id = 65536", "enclave[0].isv_prod_id"),
    ("min_isv_svn = 0", 'min_isv_svn = 0\nattributes = { flags = "0700000000000000" }',
     "enclave[0].attributes.flags"),  # X06: a debug enclave
    ("min_isv_svn = 0", 'min_isv_svn = 0\nattributes = { flags_mask = "0500000000000000" }',
     "enclave[0].attributes.flags"),  # DEBUG left to chance
    # values that TOML can say and nobody means
    ("max_rows = 100_000", "max_rows = inf", "dataset[0].max_rows"),
    ("max = 120", "max = nan", "dataset[0].columns.age.max"),
    ("max = 120", "max = -1", "dataset[0].columns.age"),
    ("max = 120", "max = true", "dataset[0].columns.age"),
    ("max = 120", "max = 1.5", "dataset[0].columns.age"),
    ('y = "int64"', 'y = "int8"', "dataset[0].columns.y.type"),
    ('y = "int64"', 'y = "int64??"', "dataset[0].columns.y.type"),
    ('y = "int64"', 'y = { type = "string", min = 1 }', "dataset[0].columns.y"),
    ("min_tcb_date = 2020-01-01", "min_tcb_date = 2020-01-01T00:00:00Z", "platform.min_tcb_date"),
    ("min_tcb_date = 2020-01-01", "min_tcb_date = 09:00:00", "platform.min_tcb_date"),
    ("expires = 2026-12-25T12:00:00Z", "expires = 2026-12-25T12:00:00", "expires"),
    ("expires = 2026-12-25T12:00:00Z", "expires = 2026-11-24T12:00:00Z", "expires"),
    ("expires = 2026-12-25T12:00:00Z", "expires = 2029-12-25T12:00:00Z",
     "party[0].channel_certificate"),
    ('y = "int64"', 'y = { type = "int32", max = 2147483648 }', "dataset[0].columns.y"),
    ('bmi = "float64"', 'bmi = { type = "float64", max = 9007199254740993 }',
     "dataset[0].columns.bmi"),
    ('y = "int64"', 'y = { type = "timestamp[us, UTC]", max = 2026-01-01T00:00:00 }',
     "dataset[0].columns.y.max"),
    ('bmi = "float64"', 'bmi = "float64?"', "computation[0].parameters.features"),
    # references that do not hold
    ('owner = "alice-clinic"', 'owner = "mallory"', "dataset[0].owner"),
    ('owner = "alice-clinic"', 'owner = "carol-lab"', "dataset[0].owner"),
    ('subject = "patient"', 'subject = "name"', "dataset[0].subject"),
    ('patient = "string"', 'patient = "string?"', "dataset[0].subject"),
    ('inputs = ["train_party_1"', 'inputs = ["train_party_9"', "computation[0].inputs[0]"),
    ('recipients = ["carol-lab"]', 'recipients = ["bob-hospital"]', "computation[0].recipients[0]"),
    ('submitters = ["carol-lab"]', 'submitters = ["alice-clinic"]', "computation[0].submitters[0]"),
    ('features = ["age", "bmi"]', 'features = ["age", "y"]', "computation[0].parameters.label"),
    ('label = "y"', 'label = "patient"', "computation[0].parameters.label"),
    ("max_iter = { min = 50, max = 5000 }", "max_iter = { min = 50 }", "computation[0].parameters"),
    ("max_iter = { min = 50, max = 5000 }", "max_iter = { choose = [] }",
     "computation[0].parameters"),
    ("max_iter = { min = 50, max = 5000 }", "max_iter = 2026-01-01", "computation[0].parameters"),
    ('id = "train_party_2"', 'id = "train_party_1"', "dataset[1].id"),
    ('id = "bob-hospital"', 'id = "alice-clinic"', "party[1].id"),
    # names that a reader takes for each other
    ('id = "train_party_2"', 'id = "Train_Party_1"', "dataset[1].id"),
    ('id = "train_party_2"', 'id = "train_party_I"', "dataset[1].id"),
    ('id = "bob-hospital"', 'id = "aIice-clinic"', "party[1].id"),
    ('id = "bob-hospital"', 'id = "alice-c1inic"', "party[1].id"),
    ('y = "int64"', 'y = "int64", AGE = "int64"', "dataset[0].columns"),
    ('bmi = "float64"', 'bmi = "float64", brni = "float64"', "dataset[0].columns"),
    # two organisations at least stand behind a joint computation
    ("uses = 10", "uses = 10\nmin_owners = 3", "computation[0].inputs"),
    ("uses = 10", "uses = 10\nmin_owners = 0", "computation[0].min_owners"),
    ('study = "breast', 'study = "Breast', "study"),
    ('id = "train_party_1"', 'id = "../etc"', "dataset[0].id"),
    ('schema = "ratls-policy/0"', 'schema = "ratls-policy/1"', "schema"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uses = 10", "uses = 10\nmin_owners = 2"),
        ("train_party_2", "train_party_Z"),
        ('y = "int64"', 'y = "int64", aged = "int64"'),
    ],
)
def test_names_that_nobody_confuses_and_enough_owners(old: str, new: str) -> None:
    read(TEXT.replace(old, new))


def test_two_inputs_of_one_owner_are_no_joint_computation() -> None:
    """Alice lists the same rows twice: without the rule nobody would have to join her."""
    text = TEXT.replace('owner = "bob-hospital"', 'owner = "alice-clinic"')
    read(text)
    with refused(PolicyInvalid):
        read(text.replace("uses = 10", "uses = 10\nmin_owners = 2"))


@pytest.mark.parametrize(("old", "new", "path"), MEANING, ids=[f"{m[1][:40]}" for m in MEANING])
def test_policy_says_too_little_too_much_or_nonsense(old: str, new: str, path: str) -> None:
    """P05, P10, P14, P19, X06: absence and surprises never mean "any"."""
    with refused(PolicyInvalid) as refusal:
        read(changed(old, new))
    assert isinstance(refusal.error, PolicyInvalid)
    assert path in [problem.path for problem in refusal.error.problems]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('threshold = "all"', "threshold = 3"),
        (f'["{WORLD.machines[0]}"]', '"any genuine platform"'),
        (WORLD.machines[0], "piid:" + "ab" * 16),
        ('"UpToDate"', '"UpToDate", "SWHardeningNeeded"'),
        ("accepted_advisories = []", 'accepted_advisories = ["INTEL-SA-00615"]'),
        ("min_isv_svn = 0", 'min_isv_svn = 0\nattributes = { xfrm = "e700000000000000" }'),
        ('bmi = "float64", y = "int64"', 'bmi = "float64", y = "int64", "größe 血圧" = "float32?"'),
        ('bmi = "float64"', 'bmi = { type = "float64", max = 9007199254740994 }'),
        ("max_iter = { min = 50, max = 5000 }", "max_iter = { choose = [100, 200] }"),
        ("expires = 2026-12-25T12:00:00Z", "expires = 2026-12-25T12:00:00+01:00"),
        ("max_rows = 100_000", "max_rows = 0x10 # sixteen"),
    ],
)
def test_accepted_twin(old: str, new: str) -> None:
    """What stands beside each refused value is read."""
    read(changed(old, new))


@pytest.mark.parametrize("section", ["agreement", "enclave", "platform", "computation", "expires"])
def test_author_leaves_a_section_out(section: str) -> None:
    """P19: absence never means "any"."""
    with refused(PolicyInvalid) as refusal:
        read(WORLD.policy_text((), **{section: ""}))
    assert isinstance(refusal.error, PolicyInvalid)
    assert refusal.error.problems[0].path == section


def test_author_makes_five_mistakes_and_hears_of_all_at_once() -> None:
    """One run per mistake would make people stop reading; each has its line and a hint."""
    text = TEXT.replace("max_rows", "maxrows", 1).replace('label = "y"', 'label = "z"')
    text = text.replace('"UpToDate"', '"Revoked"').replace(
        'owner = "bob-hospital"', 'owner = "eve"'
    )
    text = text.replace('roles = ["operator"]', 'roles = ["owner"]')
    with refused(PolicyInvalid) as refusal:
        read(text)
    assert isinstance(refusal.error, PolicyInvalid)
    found = {problem.path: problem for problem in refusal.error.problems}
    # train_party_1 could not be read, so the label is judged against train_party_2 alone
    assert set(found) >= {
        "dataset[0].maxrows",
        "dataset[0].max_rows",
        "computation[0].parameters.label",
        "platform.tcb_statuses[0]",
        "dataset[1].owner",
        "party[3].roles[0]",
    }
    assert found["dataset[0].maxrows"].fix == "did you mean max_rows?"
    for needle, path in (("maxrows", "dataset[0].maxrows"), ('"eve"', "dataset[1].owner")):
        lines = [i for i, line in enumerate(text.split("\n"), 1) if needle in line]
        assert found[path].line == lines[0]


ENCODING = [
    (TEXT.replace("\n", "\r\n").encode(), "carriage returns"),
    (b"\xef\xbb\xbf" + TEXT.encode(), "byte order mark"),
    (TEXT.encode("utf-16"), "UTF-16"),
    (TEXT.encode() + b"\xff", "not UTF-8"),
    ((TEXT + "# \u202e reversed").encode(), "bidirectional override"),
    ((TEXT + "# \u200b").encode(), "zero width space"),
    ((TEXT + "# \x1b[2J").encode(), "terminal escape"),
    ((TEXT + "# \u3164").encode(), "filler"),
    ((TEXT + "# \u00a0").encode(), "no-break space"),
    ((TEXT + "\x00").encode(), "zero byte"),
]


@pytest.mark.parametrize("raw", [e[0] for e in ENCODING], ids=[e[1] for e in ENCODING])
def test_attacker_writes_what_people_cannot_see(raw: bytes) -> None:
    """P08: people sign what they see; comments are seen too."""
    with refused(PolicyEncoding):
        read(raw)


@pytest.mark.parametrize("escape", [r"\u202e", r"\u200b", r"\u0000", r"\u001b", r"\r", r"\n"])
def test_attacker_hides_a_character_behind_an_escape(escape: str) -> None:
    """The file shows the escape; what is rendered from the document would not."""
    with refused(PolicyInvalid):
        read(changed('subject = "patient"', f'subject = "patient{escape}"'))


NAMES = [
    ("p\u0430tient", "Cyrillic a inside"),
    ("\u0430_1", "nothing but a Cyrillic a"),
    ("\uff50atient", "full-width p"),
    ("pati\u0435nt \u0430", "several"),
    ("\u03bfmega", "Greek omicron"),
    ("\u13aage", "Cherokee"),
    ("e\u0301tat", "decomposed, not NFC"),
    ("\u212bngstrom", "a sign that NFC makes a letter"),
    ("\u30cf\u3099", "decomposed kana"),
    ("\u5e74\uff21", "full-width A beside no ASCII letter"),
    ("x\u0332", "a mark on a letter"),
    ("a b ", "trailing space"),
    ("a  b", "two spaces"),
    ("a\u2215b", "a symbol like a slash"),
    ("a/b", "a slash"),
    ("\ufb01rst", "ligature"),
    ("l\u0131ne", "dotless i"),
]


@pytest.mark.parametrize("name", [n[0] for n in NAMES], ids=[n[1] for n in NAMES])
def test_attacker_names_a_column_like_another(name: str) -> None:
    """Two columns that look alike would be signed as one."""
    with refused(PolicyInvalid):
        read(changed('y = "int64"', f'y = "int64", "{name}" = "int64"'))


@pytest.mark.parametrize(
    "name", ["年齢", "血压 mmHg", "größe", "возраст", "état", "ηλικία_2", "a.b-c"]
)
def test_clinics_of_the_world_name_their_columns(name: str) -> None:
    """A clinic in Beijing has its own names."""
    policy = read(changed('y = "int64"', f'y = "int64", "{name}" = "int64"'))
    assert name in policy.dataset[0].columns


@pytest.mark.parametrize(
    "text",
    [
        TEXT + "a = ",
        TEXT.replace("uses = 10", "uses = 10\nuses = 11"),  # P08: which one was signed?
        TEXT + "\nx = " + "[" * 10_000,
        TEXT + "\nx = " + "9" * 5_000,
        TEXT.replace("2026-12-25T12", "2026-02-30T12"),
    ],
    ids=["cut", "duplicate", "deep", "huge number", "no such day"],
)
def test_text_is_not_toml(text: str) -> None:
    """Syntax comes before meaning; a crash of the reader is no answer."""
    with refused(PolicySyntax):
        read(text)


def test_syntax_error_names_line_and_column() -> None:
    with refused(PolicySyntax) as refusal:
        read('schema = "ratls-policy/0"\nstudy == "x"\n')
    assert refusal.error.thing == "policy: line 2, column 8"


@pytest.mark.parametrize("raw", [b"#" * (1 << 20) + b"\n", b"a." * 600 + b"a = 1"])
def test_attacker_sends_endless_data(raw: bytes) -> None:
    """P20: refused by size, before any work on it."""
    with refused(PolicyTooLarge):
        read(raw)


def test_deeply_dotted_key_ends_in_a_refusal() -> None:
    """As deep as a line can be; the walk over the values must not exhaust the stack."""
    with refused(PolicyInvalid):
        read("a." * 300 + "a = 1")


def test_production_does_not_know_the_simulated_root() -> None:
    """X03, X06: without the simulation distribution there is no way to name another root."""
    with refused(PolicyInvalid) as refusal:
        read(TEXT, roots=frozenset({"intel"}))
    assert isinstance(refusal.error, PolicyInvalid)
    assert [p.path for p in refusal.error.problems] == ["platform.root"]
    read(changed(WORLD.root, "intel"), roots=frozenset({"intel"}))


def test_one_measurement_under_two_names() -> None:
    """A task for one name would run in the other."""
    enclave = WORLD.sections()["enclave"]
    twin = enclave.replace("joint-training-1.0", "joint-training-1.1")
    with refused(PolicyInvalid) as refusal:
        read(WORLD.policy_text(enclave=enclave + twin))
    assert isinstance(refusal.error, PolicyInvalid)
    assert [p.path for p in refusal.error.problems] == ["enclave[1].mr_enclave"]
    read(WORLD.policy_text(enclave=enclave + twin.replace(WORLD.mr_enclave, "44" * 32)))


def test_certificate_of_another_name() -> None:
    """I05: Flight would call Bob's connection by what his certificate says."""
    bob = local_party("bob-hospital").public.channel_certificate.pem
    with refused(PolicyInvalid) as refusal:
        read(changed(bob, local_party("dora-clinic").public.channel_certificate.pem))
    assert isinstance(refusal.error, PolicyInvalid)
    assert [p.path for p in refusal.error.problems] == ["party[1].channel_certificate"]


def _key(party: str, purpose: str) -> str:
    return str(getattr(local_party(party).public, purpose).pem)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (("bob-hospital", "signing_key"), ("alice-clinic", "signing_key")),  # one voter, two votes
        (("bob-hospital", "operation_key"), ("bob-hospital", "signing_key")),  # one key, two uses
        (("carol-lab", "operation_key"), ("alice-clinic", "signing_key")),
    ],
)
def test_one_key_stands_at_two_places(mine: tuple[str, str], theirs: tuple[str, str]) -> None:
    """P03: whoever holds it could pose as two parties."""
    with refused(PolicyKeysShared):
        read(changed(_key(*mine), _key(*theirs)))


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (_key("carol-lab", "encryption_key"), "a key that cannot sign"),
        (_key("alice-clinic", "channel_certificate"), "a certificate"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key"),
        (_key("bob-hospital", "signing_key") * 2, "two keys"),
        (" " + _key("bob-hospital", "signing_key"), "another spelling"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_signing_key_is_something_else(new: str, why: str) -> None:
    with refused(PolicyInvalid) as refusal:
        read(changed(_key("alice-clinic", "signing_key"), new))
    assert isinstance(refusal.error, PolicyInvalid)
    assert refusal.error.problems[0].path == "party[0].signing_key", why


def test_recipient_without_encryption_key() -> None:
    """Its result could be sealed to nobody."""
    text = TEXT.replace(f'encryption_key = """{_key("carol-lab", "encryption_key")}"""', "")
    with refused(PolicyInvalid) as refusal:
        read(text)
    assert isinstance(refusal.error, PolicyInvalid)
    assert [p.path for p in refusal.error.problems] == ["party[2].encryption_key"]


def test_statuses_are_intels_without_revoked() -> None:
    """T14: the closed list of the policy and that of the verifier must not drift apart."""
    from typing import get_args

    from verifier.tcb import TcbStatus

    assert set(get_args(Status)) == {str(s) for s in TcbStatus} - {"Revoked"}


def test_lasts_as_long_as_it_says() -> None:
    policy = read(TEXT)
    assert policy.expires - policy.not_before == timedelta(days=31)


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.integers(0, len(TEXT)).map(lambda n: TEXT.encode()[:n]),
        st.tuples(st.integers(0, len(TEXT) - 1), st.sampled_from('"[]{}=\n#.0a')).map(
            lambda t: (TEXT[: t[0]] + t[1] + TEXT[t[0] + 1 :]).encode()
        ),
    )
)
def test_any_bytes_give_a_policy_or_a_refusal(raw: bytes) -> None:
    """Prefixes, garbage and single changed characters: never a crash."""
    try:
        policy = read(raw)
    except RatlsError:
        return  # of whichever leaf; anything else is a crash
    assert policy.raw == raw
