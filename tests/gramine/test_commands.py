"""`ratls measure` and `ratls enclave manifest`, `sign`, `lint`, as people type them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_app.cli import app as enclave
from policy.cli_policy import policy
from ratls.cli_measure import measure
from tests.gramine.test_measurement import _vectors
from tests.gramine.world import FILES, TEMPLATE, Machine, elf, key, key_file
from tests.support.parties import Consortium, local_party
from tests.support.typed import typed
from verifier.gramine.signed import SignedManifest
from verifier.gramine.trusted import PACKAGES

pytestmark = pytest.mark.slow


class Desk:
    """A machine with image and Gramine, and what an operator types there."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine.installed(folder)
        self.folder = folder
        self.signed = folder / "enclave.manifest.sgx"
        self.sig = folder / "enclave.sig"
        self.key = key_file(folder)
        # Small, so that measuring is quick; the rules leave the size to the operator.
        self.template = folder / "enclave.manifest.template"
        self.template.write_text(TEMPLATE.read_text("utf-8").replace('"16G"', '"64M"'), "utf-8")
        self.libpal = self.machine.gramine / "sgx" / "libpal.so"

    def manifest(self, status: int = 0, template: Path | None = None, *more: object) -> Any:
        words = [
            "manifest",
            template or self.template,
            "-D",
            f"image={self.machine.image}",
            "-o",
            self.signed,
        ]
        return self.answer(enclave, [*words, "--gramine", self.machine.gramine, *more], status)

    def sign(self, status: int = 0, *more: object) -> Any:
        words = ["sign", self.signed, "--key", self.key, "--gramine", self.machine.gramine]
        return self.answer(enclave, [*words, *more], status)

    def measure(self, status: int = 0, *more: object, known: bool = True) -> Any:
        words = ["manifest", self.signed, "--libpal", self.libpal]
        if known:
            words += ["--expect-libpal", self.machine.libpal]
            words += ["--expect-libsysdb", self.machine.libsysdb]
        return self.answer(measure, [*words, *more], status)

    def answer(self, app: Any, words: list[object], status: int) -> Any:
        lines = typed(app, [*words, "--json"], status).stdout.splitlines()
        return json.loads(lines[-1])

    def image(self, path: str) -> Path:
        return self.machine.image / path.lstrip("/")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.manifest()
    made.sign()
    return made


def code(answer: Any) -> str:
    return str(answer["error"]["code"])


def test_from_a_template_to_a_measurement_that_a_party_accepts(desk: Desk) -> None:
    answer = desk.measure(0, "--chroot", "/", "--sigstruct", desk.sig, "--explain")
    assert answer["error"] is None
    assert answer["files"] == {"measured": len(FILES) + 3, "differ": []}
    assert answer["sigstruct"]["mr_enclave"] == answer["mr_enclave"]
    assert answer["areas"][0]["name"] == "manifest"
    assert len({area["name"] for area in answer["areas"]}) == 8
    linted = typed(enclave, ["lint", desk.signed, "--expect-libsysdb", desk.machine.libsysdb])
    assert "0 of " in linted.stdout


def test_what_people_see(desk: Desk) -> None:
    words = ["manifest", desk.signed, "--libpal", desk.libpal, "--explain", "--no-lint"]
    shown = typed(measure, [*words, "--expect-libpal", desk.machine.libpal]).stdout.splitlines()
    assert shown[0].startswith("mr_enclave ")
    assert any("stack x 128" in line for line in shown)
    assert all(len(line) <= 110 for line in shown)
    typed(measure, ["sigstruct", desk.sig])
    typed(measure, ["image", desk.machine.image, "--manifest", desk.signed])
    typed(measure, ["diff", desk.signed, desk.signed])


def test_signing_twice_gives_the_same_bytes(desk: Desk) -> None:
    before = desk.signed.read_bytes(), desk.sig.read_bytes()
    desk.manifest()
    desk.sign()
    assert (desk.signed.read_bytes(), desk.sig.read_bytes()) == before
    desk.sign(0, "--date", "2026-01-02", "-o", desk.folder / "dated.sig")
    assert (desk.folder / "dated.sig").read_bytes()[20:24] == bytes.fromhex("02012620")


def test_an_unknown_loader_is_measured_and_refused(desk: Desk) -> None:
    """Other builds may lay out other areas: a number is shown, and nobody vouches for it."""
    known = desk.measure()["mr_enclave"]
    answer = desk.measure(6, "--no-lint", known=False)
    assert (code(answer), answer["mr_enclave"]) == ("loader-unknown", known)
    answer = desk.measure(6, "--no-lint", "--expect-libpal", "0" * 64, known=False)
    assert code(answer) == "loader-unknown"
    typed(measure, ["manifest", desk.signed, "--libpal", desk.libpal, "--expect-libpal", "x"], 2)


def test_the_rules_are_a_part_of_the_answer(desk: Desk) -> None:
    """M01: the measurement of a debug enclave is shown, and refused."""
    text = desk.signed.read_text("utf-8")
    desk.signed.write_text(text.replace("debug = false", "debug = true"), "utf-8")
    answer = desk.measure(6)
    assert code(answer) == "manifest-refused"
    assert len(answer["mr_enclave"]) == 64
    linted = typed(enclave, ["lint", desk.signed, "--json"], 6).stdout.splitlines()[-1]
    assert code(json.loads(linted)) == "manifest-refused"
    assert desk.measure(0, "--no-lint")["error"] is None


# Files: M05, M13


def test_m05_one_byte_of_one_file(desk: Desk) -> None:
    """M05: named, by `measure`, by `image` and before anything is signed."""
    changed = desk.image(f"{PACKAGES}/numpy/__init__.py")
    changed.write_bytes(b"version = 3\n")
    for answer in (
        desk.measure(6, "--chroot", "/"),
        desk.answer(measure, ["image", desk.machine.image, "--manifest", desk.signed], 6),
        desk.sign(6),
    ):
        assert code(answer) == "image-differs"
        assert answer["error"]["message"].startswith(str(changed))
    assert desk.measure()["files"] is None  # not compared, and so it says
    desk.sign(0, "--no-files")


@pytest.mark.parametrize("kind", ["file", "link", "fifo", "folder-link", "empty-folder"])
def test_m13_something_that_is_not_listed(desk: Desk, kind: str) -> None:
    """M13: it is seen, cannot be opened, and turns an import into another error."""
    place = desk.image(f"{PACKAGES}/numpy/more.py")
    match kind:
        case "file":
            place.write_bytes(b"")
        case "link":
            place.symlink_to("__init__.py")
        case "fifo":
            os.mkfifo(place)
        case "empty-folder":
            place.mkdir()
        case _:
            place.symlink_to(desk.machine.image)
    answer = desk.measure(6, "--chroot", "/")
    assert code(answer) == "image-differs"
    assert [f["key"] for f in answer["files"]["differ"]] == [str(place)]


def test_a_file_that_is_gone(desk: Desk) -> None:
    desk.image("/usr/lib/x86_64-linux-gnu/libz.so.1").unlink()
    assert code(desk.measure(6, "--chroot", "/")) == "image-differs"


def test_files_of_gramine_itself_are_compared_too(desk: Desk) -> None:
    """The C library, and the library OS, which checks all other hashes."""
    for path in ("runtime/glibc/libc.so.6", "libsysdb.so"):
        place = desk.machine.gramine / path
        before, known = place.read_bytes(), desk.machine.libsysdb
        place.write_bytes(b"another")
        more = ("--chroot", "/", "--expect-libpal", desk.machine.libpal)
        answer = desk.measure(6, *more, "--expect-libsysdb", known, known=False)
        assert code(answer) == "image-differs"
        place.write_bytes(before)
    assert desk.measure(0, "--chroot", "/")["error"] is None


def test_an_image_that_is_unpacked_elsewhere(desk: Desk, tmp_path: Path) -> None:
    """A party does not own /opt: it unpacks all below a folder of its own."""
    elsewhere = tmp_path / "elsewhere"
    inside = elsewhere / str(desk.folder).lstrip("/")
    inside.parent.mkdir(parents=True)
    for part in ("image", "gramine"):
        (inside / part).parent.mkdir(exist_ok=True)
        (desk.folder / part).rename(inside / part)
    desk.libpal = inside / "gramine" / "sgx" / "libpal.so"
    desk.machine = Machine(inside)
    assert desk.measure(0, "--chroot", elsewhere)["error"] is None
    assert code(desk.measure(6, "--chroot", tmp_path / "nowhere")) == "image-differs"
    before = desk.signed.read_bytes()
    words = ["manifest", desk.template, "-D", f"image={desk.folder / 'image'}", "-o", desk.signed]
    # The library OS is the one of the machine that signs.
    desk.machine.put(desk.folder / "gramine" / "libsysdb.so", b"library OS")
    words += ["--gramine", desk.folder / "gramine", "--chroot", elsewhere]
    typed(enclave, words)
    assert desk.signed.read_bytes() == before
    image = desk.answer(measure, ["image", inside / "image", "--manifest", desk.signed], 0)
    assert image["files"] == len(FILES)
    other = desk.answer(measure, ["image", inside / "image"], 0)
    assert (other["tree"], other["bytes"]) == (image["tree"], image["bytes"])


def test_the_digest_of_a_tree_is_that_of_sha256sum(desk: Desk) -> None:
    import subprocess

    answer = desk.answer(measure, ["image", desk.machine.image], 0)
    by_hand = "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    done = subprocess.run(
        ["/bin/sh", "-c", by_hand], cwd=desk.machine.image, capture_output=True, check=True
    )
    assert answer["tree"] == f"sha256:{done.stdout.split()[0].decode()}"


def test_there_is_no_image(desk: Desk) -> None:
    answer = desk.answer(measure, ["image", desk.folder / "nowhere"], 3)
    assert code(answer) == "image-folder-missing"
    other = desk.folder / "other.manifest.sgx"
    other.write_bytes(b"a = 1\n")
    words = ["image", desk.machine.image, "--manifest", other]
    assert code(desk.answer(measure, words, 3)) == "image-not-named"


# What the signer would leave out in silence


@pytest.mark.parametrize("kind", ["out", "folder", "dangling", "fifo", "empty", "name"])
def test_a_file_that_cannot_be_trusted_is_named(desk: Desk, kind: str) -> None:
    """A link out of the image is the host's to change; a file that is left out breaks the start."""
    place = desk.image(f"{PACKAGES}/numpy/strange.py")
    match kind:
        case "out":
            place.symlink_to("/etc/passwd")
        case "folder":
            place.symlink_to(desk.machine.image / "usr")
        case "dangling":
            place.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(place)
        case "empty":
            place.mkdir()
        case _:
            place = place.with_name("stra\u00f1ge.py")
            place.write_bytes(b"")
    answer = desk.manifest(3)
    assert code(answer) == "image-file-unusable"
    place.rmdir() if kind == "empty" else place.unlink()
    desk.manifest()


def test_a_link_to_a_file_of_the_image_is_listed_with_its_bytes(desk: Desk) -> None:
    link = desk.image("/usr/lib/x86_64-linux-gnu/libz.so")
    link.symlink_to("libz.so.1")
    assert desk.manifest()["files"] == len(FILES) + 3
    assert desk.measure(0, "--chroot", "/")["error"] is None


def test_gramine_links_its_runtime_to_its_libraries(desk: Desk) -> None:
    """As it is installed: `runtime/glibc` has links to `../../../`; to further away none leads."""
    library = desk.machine.put(desk.folder / "libmbedtls_gramine.so.21", b"\x7fELF tls")
    link = desk.machine.gramine / "runtime" / "glibc" / library.name
    link.symlink_to(f"../../../{library.name}")
    assert desk.manifest()["files"] == len(FILES) + 3
    desk.sign()
    assert desk.measure(0, "--chroot", "/")["error"] is None
    link.unlink()
    link.symlink_to("/etc/passwd")
    assert code(desk.manifest(3)) == "image-file-unusable"


def test_a_folder_without_its_slash(desk: Desk, tmp_path: Path) -> None:
    text = desk.template.read_text("utf-8")
    for old, new in (('"file:{{ image }}/"', '"file:{{ image }}"'), ('}}/",\n]', '}}/x/",\n]')):
        assert old in text
        (tmp_path / "t").write_text(text.replace(old, new), "utf-8")
        assert code(desk.manifest(3, tmp_path / "t")) == "image-file-unusable"


def test_a_hash_that_the_author_preset(desk: Desk, tmp_path: Path) -> None:
    """Gramine's signer would believe it."""
    text = desk.template.read_text("utf-8")
    good = json.dumps(str(desk.image("/usr/bin/python3.11")))[1:-1]
    for digest, status in (("0" * 64, 3), ("", 3)):
        entry = f'  {{ uri = "file:{good}", sha256 = "{digest}" }},\n]'
        (tmp_path / "t").write_text(text.replace('}}/",\n]', f'}}}}/",\n{entry}'), "utf-8")
        assert code(desk.manifest(status, tmp_path / "t")) == "preset-hash-differs"
    loader = '", sha256 = "' + "0" * 64 + '" }\n# Isolated'
    (tmp_path / "t").write_text(text.replace('" }\n# Isolated', loader), "utf-8")
    assert code(desk.manifest(3, tmp_path / "t")) == "preset-hash-differs"


@pytest.mark.parametrize(
    "text",
    [
        "{{ nothing }}",
        "{% if %}",
        "{{ ''.__class__.__mro__ }}{{ x() }}",
        "{{ 1/0 }}",
        "{{ env.HOME }}",
        "{{ ldd('/bin/sh') }}",
        "\udcff",
    ],
)
def test_a_template_that_does_not_render(desk: Desk, tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text, "utf-8", "surrogateescape")
    assert code(desk.manifest(3, tmp_path / "t")) == "template-invalid"


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "sgx = 1",
        "sgx.trusted_files = 1",
        "sgx.trusted_files = [1]",
        'sgx.trusted_files = [{uri = "file:/x", other = 1}]',
        'sgx.trusted_files = ["dev:/x"]',
        'sgx.trusted_files = [{uri = "file:/x", sha256 = 1}]',
        'loader.entrypoint = "file:/x"',
        "loader.entrypoint.uri = 1",
        "loader.entrypoint.sha256 = 1",
        "sgx.cpu_features = 1",
    ],
)
def test_a_template_of_another_form(desk: Desk, tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text, "utf-8")
    assert code(desk.manifest(3, tmp_path / "t")) == "manifest-malformed"


@pytest.mark.parametrize("name", ["image", "=x", "a b=c"])
def test_a_name_without_a_value(desk: Desk, name: str) -> None:
    words = ["manifest", TEMPLATE, "-D", name, "-o", desk.signed]
    typed(enclave, words, 2)


# Signing


def test_a_key_that_is_none(desk: Desk) -> None:
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 64):
        desk.key.write_bytes(content)
        assert code(desk.sign(3)) == "enclave-key-unsuited"
    key_file(desk.folder, rsa.generate_private_key(65537, 3072))
    assert code(desk.sign(3)) == "enclave-key-unsuited"
    from cryptography.hazmat.primitives.asymmetric import ec

    key_file(desk.folder, ec.generate_private_key(ec.SECP256R1()))
    assert code(desk.sign(3)) == "enclave-key-unsuited"


def test_a_key_that_others_read(desk: Desk) -> None:
    desk.key.chmod(0o644)
    assert code(desk.sign(3)) == "enclave-key-exposed"
    desk.key.chmod(0o600)
    desk.sign()


def test_no_day(desk: Desk) -> None:
    assert code(desk.sign(3, "--date", "today")) == "signed-value-invalid"


def test_gramines_own_tools_are_not_here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(desk.folder))
    assert code(desk.manifest(3, None, "--with-gramine")) == "gramine-tool-failed"
    assert code(desk.sign(3, "--with-gramine")) == "gramine-tool-failed"


def test_gramines_own_tools_are_compared_with(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that copy what they are told, or other bytes."""
    monkeypatch.setenv("PATH", f"{desk.folder}:/usr/bin:/bin")

    def tool(name: str, script: str) -> None:
        path = desk.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o700)

    last = "for last; do :; done; cp"
    tool("gramine-manifest", f'{last} {desk.signed} "$last"')
    desk.manifest(0, None, "--with-gramine")
    tool("gramine-sgx-sign", f'cp {desk.signed} "$4"; cp {desk.sig} "$6"')
    desk.sign(0, "--with-gramine")
    tool("gramine-manifest", f'{last} {desk.sig} "$last"')
    assert code(desk.manifest(6, None, "--with-gramine")) == "gramine-differs"
    tool("gramine-sgx-sign", f'cp {desk.signed} "$4"; head -c 1000 {desk.sig} > "$6"')
    assert code(desk.sign(6, "--with-gramine")) == "gramine-differs"
    tool("gramine-sgx-sign", "echo no >&2; exit 2")
    assert code(desk.sign(3, "--with-gramine")) == "gramine-tool-failed"


# Signature and policy


def test_a_signature_of_another_enclave(desk: Desk) -> None:
    text = desk.signed.read_text("utf-8")
    desk.signed.write_text(text.replace("isvsvn = 1", "isvsvn = 2"), "utf-8")
    assert code(desk.measure(6, "--sigstruct", desk.sig)) == "sigstruct-of-another"


def test_m07_a_signature_with_other_attributes(desk: Desk) -> None:
    """M01, M07: the same measurement, signed with DEBUG: a policy on MRENCLAVE alone admits it."""
    from verifier.gramine.sigstruct import Sigstruct, sign

    raw = bytearray(desk.sig.read_bytes())
    raw[928] |= 2
    desk.sig.write_bytes(sign(bytes(raw), key()).raw)
    Sigstruct.parse(desk.sig.read_bytes()).verify()
    assert code(desk.measure(6, "--sigstruct", desk.sig)) == "sigstruct-of-another"


def test_a_signature_that_is_damaged(desk: Desk) -> None:
    raw = bytearray(desk.sig.read_bytes())
    raw[600] ^= 1
    desk.sig.write_bytes(raw)
    assert code(desk.measure(4, "--sigstruct", desk.sig)) == "sigstruct-signature-invalid"
    assert code(desk.answer(measure, ["sigstruct", desk.sig], 4)) == "sigstruct-signature-invalid"
    desk.sig.write_bytes(raw[:-1])
    assert code(desk.answer(measure, ["sigstruct", desk.sig], 3)) == "sigstruct-malformed"


def policy_file(desk: Desk, mr_enclave: str, *replace: tuple[str, str]) -> Path:
    text = Consortium.create(mr_enclave=mr_enclave).policy_text(replace)
    path = desk.folder / "policy.toml"
    path.write_text(text, "utf-8")
    return path


IDENTITY = ("isv_prod_id = 0\nmin_isv_svn = 0", "isv_prod_id = 1\nmin_isv_svn = 1")


def test_a_policy_that_names_it(desk: Desk) -> None:
    found = desk.measure()["mr_enclave"]
    agreed = policy_file(desk, found, IDENTITY)
    assert desk.measure(0, "--policy", agreed, "--sigstruct", desk.sig)["enclave"]
    lint = ["lint", agreed, "--manifest", desk.signed, "--libpal", desk.libpal]
    lint += ["--expect-libpal", desk.machine.libpal, "--expect-libsysdb", desk.machine.libsysdb]
    shown = typed(policy, lint).stdout
    assert "is the enclave joint-training-1.0" in shown
    typed(policy, [*lint[:4]], 2)


@pytest.mark.parametrize(
    "replace",
    [
        (IDENTITY[0], "isv_prod_id = 2\nmin_isv_svn = 1"),
        (IDENTITY[0], "isv_prod_id = 1\nmin_isv_svn = 2"),
    ],
)
def test_m06_a_policy_about_another_product_or_version(
    desk: Desk, replace: tuple[str, str]
) -> None:
    """M06: the same bytes by the same signer, and still not what was agreed on."""
    agreed = policy_file(desk, desk.measure()["mr_enclave"], replace)
    answer = desk.measure(6, "--policy", agreed)
    assert (code(answer), answer["enclave"]) == ("measurement-not-agreed", None)


def test_a_policy_about_another_enclave(desk: Desk) -> None:
    agreed = policy_file(desk, "ab" * 32, IDENTITY)
    assert code(desk.measure(6, "--policy", agreed)) == "measurement-not-agreed"
    lint = ["lint", agreed, "--manifest", desk.signed, "--libpal", desk.libpal]
    lint += ["--expect-libpal", desk.machine.libpal, "--expect-libsysdb", desk.machine.libsysdb]
    assert code(desk.answer(policy, lint, 6)) == "measurement-not-agreed"


def test_m07_a_policy_with_other_attributes(desk: Desk) -> None:
    """M07: such a policy would refuse every quote of this enclave; better said before it is."""
    other = 'attributes = { xfrm = "e700000000000000", xfrm_mask = "ffffffffffffffff" }'
    identity = (IDENTITY[0], f"{IDENTITY[1]}\n{other}")
    agreed = policy_file(desk, desk.measure()["mr_enclave"], identity)
    answer = desk.measure(6, "--policy", agreed, "--sigstruct", desk.sig)
    assert code(answer) == "measurement-not-agreed"
    assert desk.measure(0, "--policy", agreed)["error"] is None


def test_a_draft_is_filled_in_from_a_manifest(desk: Desk) -> None:
    made = desk.folder / "draft.toml"
    party = local_party("alice-clinic").folder / "party.toml"
    new = ["new", "--study", "s", "--party-file", party, "--expires", "2999-01-01T00:00:00Z"]
    new += ["-o", made, "--enclave", desk.signed, "--libpal", desk.libpal]
    assert code(desk.answer(policy, new, 6)) == "loader-unknown"
    new += ["--expect-libpal", desk.machine.libpal]
    assert code(desk.answer(policy, new, 6)) == "manifest-refused"
    assert not made.exists()
    typed(policy, [*new, "--expect-libsysdb", desk.machine.libsysdb])
    assert f'mr_enclave = "{desk.measure()["mr_enclave"]}"' in made.read_text("utf-8")
    assert "isv_prod_id = 1\nmin_isv_svn = 1" in made.read_text("utf-8")


def test_a_draft_is_filled_in_from_a_sigstruct(desk: Desk) -> None:
    """Its holder's word for what was measured; one that nobody signed is no word at all."""
    made = desk.folder / "draft.toml"
    party = local_party("alice-clinic").folder / "party.toml"
    new = ["new", "--study", "s", "--party-file", party, "--expires", "2999-01-01T00:00:00Z"]
    forged = desk.folder / "forged.sig"
    forged.write_bytes(desk.sig.read_bytes().replace(b"\x01\x00\x01\x00", b"\x01\x00\x02\x00"))
    assert forged.read_bytes() != desk.sig.read_bytes()
    answer = desk.answer(policy, [*new, "-o", made, "--enclave", forged], 4)
    assert code(answer) == "sigstruct-signature-invalid"
    assert not made.exists()
    typed(policy, [*new, "-o", made, "--enclave", desk.sig])
    text = made.read_text("utf-8")
    assert f'mr_enclave = "{desk.measure()["mr_enclave"]}"\nisv_prod_id = 1' in text


def test_two_manifests_by_meaning(desk: Desk) -> None:
    new = desk.folder / "new.manifest.sgx"
    desk.image(f"{PACKAGES}/enclave_app/gramine_main.py").write_bytes(b"print('other')\n")
    old = desk.folder / "old.manifest.sgx"
    desk.signed.rename(old)
    desk.manifest()
    changed = desk.signed.read_text("utf-8")
    new.write_text(changed.replace("isvsvn = 1", "isvsvn = 2").replace('"64M"', '"128M"'), "utf-8")
    answer = desk.answer(measure, ["diff", old, new], 0)
    assert [(c["kind"], c["key"]) for c in answer["changes"]] == [
        ("sizes", "sgx.enclave_size"),
        ("identity", "sgx.isvsvn"),
        ("code", f"{PACKAGES}/enclave_app/gramine_main.py"),
    ]
    assert SignedManifest.parse(new.read_bytes()).sizes().enclave == 128 << 20


def test_the_same_meaning_in_other_bytes(desk: Desk) -> None:
    new = desk.folder / "new.manifest.sgx"
    new.write_bytes(desk.signed.read_bytes() + b"\n")
    answer = desk.answer(measure, ["diff", desk.signed, new], 0)
    assert (answer["changes"], answer["equal_bytes"]) == ([], False)


def test_a_mount_that_was_exchanged_is_shown_itself(desk: Desk) -> None:
    """Two long lists, cut to a line, would look alike."""
    desk.manifest()
    new = desk.folder / "new.manifest.sgx"
    text = desk.signed.read_text("utf-8")
    new.write_text(text.replace('path = "/tmp"', 'path = "/dev/attestation"'), "utf-8")
    (change,) = desk.answer(measure, ["diff", desk.signed, new], 0)["changes"]
    assert (change["kind"], change["key"]) == ("mounts", "fs.mounts")
    assert "/tmp" in change["before"]
    assert "/dev/attestation" in change["after"]
    assert "agreement" not in change["before"] + change["after"], "what is the same is left out"


def test_files_that_cannot_be_read(desk: Desk) -> None:
    for words in (
        ["manifest", desk.folder / "nowhere", "--libpal", desk.libpal],
        ["manifest", desk.signed, "--libpal", desk.folder / "nowhere"],
    ):
        assert code(desk.answer(measure, words, 3)) == "file-unreadable"
    desk.libpal.write_bytes(elf()[:100])
    assert code(desk.measure(3)) == "loader-malformed"


# Vectors of the signer


@pytest.mark.parametrize(("folder", "vector"), _vectors())
def test_the_signers_own_bytes(
    vectors: Path,
    folder: Path,
    vector: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the manifest as it was written to the one that was signed, and its measurement."""
    monkeypatch.chdir(vectors / "gramine")
    made, signed = tmp_path / "made.manifest.sgx", folder / vector["manifest_sgx"]
    typed(enclave, ["manifest", folder / vector["manifest_in"], "-o", made])
    assert made.read_bytes() == signed.read_bytes()
    if vector["libpal"].get("file") is None:
        return
    words = ["manifest", signed, "--libpal", vector["libpal"]["file"], "--chroot", "."]
    words += ["--sigstruct", folder / vector["sigstruct"], "--no-lint", "--json"]
    assert code(json.loads(typed(measure, words, 6).stdout.splitlines()[-1])) == "loader-unknown"
    words += ["--expect-libpal", vector["libpal"]["sha256"]]
    answer = json.loads(typed(measure, words).stdout.splitlines()[-1])
    assert answer["mr_enclave"] == answer["sigstruct"]["mr_enclave"]
    assert answer["files"]["differ"] == []


def test_genuine_manifests_of_others_are_refused(vectors: Path) -> None:
    """Arguments and environment from the host, folders that are allowed, debug."""
    found = sorted((vectors / "manifests").glob("*.manifest.sgx"))
    assert found
    for path in found:
        shown = typed(enclave, ["lint", path, "--json"], 6).stdout.splitlines()[-1]
        keys = {f["key"] for f in json.loads(shown)["findings"] if f["level"] == "refuse"}
        assert keys >= {"sgx.debug", "sgx.allowed_files", "libos.entrypoint"}
