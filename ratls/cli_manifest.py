"""`ratls enclave manifest`, `sign` and `lint`: from a template to what the processor measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import ExpectLibsysdb, Json, ManifestFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from verifier.gramine.signed import SignedManifest
    from verifier.shell import Shell

Gramine = Annotated[
    Path, typer.Option(metavar="DIR", help="Where Gramine is installed, with libsysdb.so.")
]
_GRAMINE = Path("/usr/lib/x86_64-linux-gnu/gramine")
WithGramine = Annotated[
    bool, typer.Option("--with-gramine", help="Run Gramine's own tool, too, and compare.")
]


def manifest(
    template: Annotated[Path, typer.Argument(metavar="TEMPLATE", help="A manifest's template.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="NAME.manifest.sgx to write.")
    ],
    define: Annotated[
        list[str] | None,
        typer.Option("--define", "-D", metavar="NAME=VALUE", help="A name of the template."),
    ] = None,
    gramine: Gramine = _GRAMINE,
    chroot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The files are below this folder.")
    ] = None,
    with_gramine: WithGramine = False,
    json: Json = False,
) -> None:
    """Write the signed form of a manifest, byte for byte as Gramine 1.9 does.

    Trusted folders are listed, and each file is hashed. What Gramine would leave out in silence
    (unreadable files, links to folders or out of the folder, devices) is refused by name.

    Example: ratls enclave manifest ratls-enclave.manifest.template -D image=/opt/ratls/image
    -o ratls-enclave.manifest.sgx
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from hashlib import sha256

        from ratls.image_files import expand
        from ratls.manifest_template import render
        from verifier.files import parse_file, write_atomically
        from verifier.gramine.complete import complete, libsysdb_entry, trusted_entries, write
        from verifier.gramine.signed import SignedManifest

        names = _names(define or [])
        text = parse_file(template, lambda raw: render(_text(raw), names, gramine))
        source = SignedManifest.parse(text.encode("utf-8")).document
        default = str(gramine / "libsysdb.so")
        # Gramine takes its library OS from the machine that signs, in any case.
        (libsysdb,) = expand([libsysdb_entry(source, default)], None)
        files = expand(trusted_entries(source), chroot)
        raw = write(complete(source, libsysdb, files))
        SignedManifest.parse(raw)  # what is written can be read back
        if with_gramine:
            from ratls.gramine_tools import require_same_manifest

            require_same_manifest(raw, template, names, chroot)
        write_atomically(output, raw)
        digest = sha256(raw).hexdigest()
        shell.answer(
            {"manifest": str(output), "sha256": digest, "files": len(files), "bytes": len(raw)},
            f"{output}: {len(files)} trusted files, {len(raw):,} bytes, sha256:{digest}",
        )
        shell.say(f"next: ratls enclave lint {output}")


def _names(defined: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in defined]
    if any(not mark or not name.isidentifier() for name, mark, _ in pairs):
        raise typer.BadParameter("write NAME=VALUE", param_hint="--define")
    return {name: value for name, _, value in pairs}


def _text(raw: bytes) -> str:
    from ratls.manifest_template import TemplateInvalid

    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TemplateInvalid(
            f"template, byte {error.start}", expected="UTF-8", found=f"{raw[error.start]:#04x}"
        ) from error


def sign(
    signed: ManifestFile,
    key: Annotated[Path, typer.Option(metavar="PEM", help="RSA, 3,072 bits, exponent 3.")],
    libpal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Gramine's loader. Default: sgx/libpal.so of --gramine."),
    ] = None,
    gramine: Gramine = _GRAMINE,
    chroot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The files are below this folder.")
    ] = None,
    no_files: Annotated[
        bool, typer.Option("--no-files", help="Sign although the listed files are elsewhere.")
    ] = False,
    date: Annotated[
        str, typer.Option(help="Stands in the signature: YYYY-MM-DD. The default is no day at all.")
    ] = "0000-00-00",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="SIG", help="Default: NAME.sig beside the manifest."
        ),
    ] = None,
    with_gramine: WithGramine = False,
    json: Json = False,
) -> None:
    """Measure a manifest and sign that. The same key, date and files give the same bytes.

    All listed files are hashed again: one that changed since the manifest was written is refused.

    Example: ratls enclave sign ratls-enclave.manifest.sgx --key enclave-key.pem
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from ratls.image_files import found_on
        from verifier.files import parse_file, write_atomically
        from verifier.gramine.listing import compare, measured_files, require_equal
        from verifier.gramine.loader import FILE_CAP, Loader
        from verifier.gramine.measurement import measure
        from verifier.gramine.signed import SignedManifest
        from verifier.gramine.sigstruct import parse_day, unsigned
        from verifier.gramine.sigstruct import sign as sign_sigstruct
        from verifier.gramine.trusted import image_folders

        day = parse_day(date)
        found = parse_file(signed, SignedManifest.parse)
        loader_file = libpal or gramine / "sgx" / "libpal.so"
        loader = parse_file(loader_file, Loader.parse, cap=FILE_CAP)
        if not no_files:
            wanted = measured_files(found)
            entries = found_on(wanted, image_folders(found.document), chroot)
            require_equal(list(compare(wanted, entries)))
        measurement = measure(found, loader)
        made = sign_sigstruct(unsigned(found, measurement.mr_enclave, day), _signing_key(key))
        place = output or signed.with_name(signed.name.removesuffix(".manifest.sgx") + ".sig")
        if with_gramine:
            from ratls.gramine_tools import require_same_signature

            require_same_signature(made.raw, signed, key, loader_file, date)
        write_atomically(place, made.raw)
        shell.answer(
            {"sigstruct": str(place), **made.as_json()},
            f"{place}: signed by {made.mr_signer}\n  mr_enclave {made.mr_enclave}",
        )
        _say_what_lint_refuses(shell, found, signed)


def _say_what_lint_refuses(shell: Shell, found: SignedManifest, path: Path) -> None:
    from verifier.gramine.findings import refusals
    from verifier.gramine.lint import lint as lint_manifest

    if count := len(refusals(lint_manifest(found))):
        shell.say(f"a party would refuse it ({count} times): ratls enclave lint {path}")


def _signing_key(path: Path) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from verifier.files import read_secret
    from verifier.gramine.sigstruct import SigningKeyExposed, SigningKeyUnsuited

    raw = read_secret(path, cap=64 * 1024, exposed=SigningKeyExposed)
    try:
        key = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise SigningKeyUnsuited(
            str(path), expected="a private key in PEM, not encrypted", found=type(error).__name__
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SigningKeyUnsuited(str(path), expected="an RSA key", found=type(key).__name__)
    return key


def lint(
    signed: ManifestFile,
    expect_libsysdb: ExpectLibsysdb = None,
    json: Json = False,
) -> None:
    """What a party would refuse in a signed manifest, and what a person should look at.

    Example: ratls enclave lint ratls-enclave.manifest.sgx
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from verifier.errors import RatlsError
        from verifier.files import parse_file
        from verifier.gramine.findings import refusals
        from verifier.gramine.known import LIBSYSDBS
        from verifier.gramine.lint import lint as lint_manifest
        from verifier.gramine.lint import require_acceptable
        from verifier.gramine.signed import SignedManifest

        known = LIBSYSDBS if expect_libsysdb is None else frozenset({expect_libsysdb})
        findings = lint_manifest(parse_file(signed, SignedManifest.parse), libsysdbs=known)
        refusal: RatlsError | None = None
        try:
            require_acceptable(findings, str(signed))
        except RatlsError as refused:
            refusal = refused
        lines = [f"{finding.level:<6} {finding}" for finding in findings]
        lines.append(f"{signed}: {len(refusals(findings))} of {len(findings)} findings refuse it")
        shell.answer(
            {
                "file": str(signed),
                "findings": [finding.as_json() for finding in findings],
                "verdict": "refused" if refusal else "accepted",
                "error": refusal.as_json() if refusal else None,
            },
            "\n".join(lines),
        )
        shell.end_with(refusal)
