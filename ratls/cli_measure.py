"""`ratls measure`: what an enclave is, recomputed by whoever has nothing but its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import (
    ExpectLibpal,
    ExpectLibsysdb,
    Json,
    ManifestFile,
)
from ratls.cli_measure_image import image
from ratls.said import Said
from verifier.usage import Commands

if TYPE_CHECKING:
    from collections.abc import Iterable

    from verifier.gramine.findings import Finding
    from verifier.gramine.measurement import Area, Measurement
    from verifier.gramine.signed import SignedManifest
    from verifier.gramine.sigstruct import Sigstruct

measure = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What an enclave is: recomputed from its files, without Gramine and without SGX.",
)

measure.command("image")(image)

Libpal = Annotated[Path, typer.Option(metavar="FILE", help="Gramine's loader, libpal.so.")]
Chroot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Compare the files below it with the manifest; / for this machine's."
    ),
]


@measure.command("manifest")
def measure_manifest(
    signed: ManifestFile,
    libpal: Libpal,
    chroot: Chroot = None,
    sigstruct: Annotated[
        Path | None, typer.Option(metavar="SIG", help="The .sig file, to be verified and compared.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="TOML", help="A policy or agreement that must name this enclave."),
    ] = None,
    expect_libpal: ExpectLibpal = None,
    expect_libsysdb: ExpectLibsysdb = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show it area by area.")] = False,
    no_lint: Annotated[
        bool,
        typer.Option(
            "--no-lint", help="Without the rules of `ratls enclave lint`: for other programs."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """MRENCLAVE of a signed manifest, and what speaks against it.

    It is shown in any case. Exit status 6: the loader is unknown, a rule of `ratls enclave lint`
    is broken, or files, signature or policy say something else.

    Few loaders are known. For another one: take the signed package of Gramine's distributor, unpack
    it with `dpkg-deb -x`, and give the SHA-256 of its gramine/sgx/libpal.so to --expect-libpal, of
    its gramine/libsysdb.so to --expect-libsysdb.

    Example: ratls measure manifest ratls-enclave.manifest.sgx --libpal libpal.so --chroot /
    --sigstruct ratls-enclave.sig --policy policy.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.measured import require_agreed, require_agreed_attributes, require_same
        from verifier.files import parse_file
        from verifier.gramine.known import require_known_loader
        from verifier.gramine.lint import lint, require_acceptable
        from verifier.gramine.loader import FILE_CAP, Loader
        from verifier.gramine.measurement import measure as measured_of
        from verifier.gramine.signed import SignedManifest
        from verifier.gramine.sigstruct import Sigstruct

        manifest = parse_file(signed, SignedManifest.parse)
        loader = parse_file(libpal, Loader.parse, cap=FILE_CAP)
        said = Said()
        found = measured_of(manifest, loader)
        facts: dict[str, Any] = {"file": str(signed), "mr_enclave": str(found.mr_enclave)}
        lines = [f"mr_enclave {found.mr_enclave}", _sizes_line(found)]
        with said.refusal():
            said.build = require_known_loader(loader.sha256, expect_libpal)
        known = said.build or "of no known build of Gramine"
        facts["libpal"] = {"sha256": loader.sha256.hex(), "build": said.build}
        lines.append(f"  libpal     {loader.sha256.hex()}, {known}")
        if not no_lint:
            findings = lint(manifest, **_libsysdbs(expect_libsysdb))
            facts["findings"] = [finding.as_json() for finding in findings]
            lines.append(f"  rules      {_count(findings)}; see `ratls enclave lint`")
            with said.refusal():
                require_acceptable(findings, str(signed))
        facts["files"] = None
        lines += _files(said, facts, manifest, chroot)
        signature = None
        if sigstruct is not None:
            signature = parse_file(sigstruct, Sigstruct.parse)
            with said.refusal():
                signature.verify()
                require_same(signature, manifest, found)
            facts["sigstruct"] = signature.as_json()
            lines.append(f"  signed by  {signature.mr_signer}, {signature.date_text}")
        if policy is not None:
            from policy.agreement_file import read_policy

            agreed = read_policy(policy)
            facts["enclave"] = None
            with said.refusal():
                facts["enclave"] = require_agreed(agreed, manifest, found)
                if signature is not None:
                    require_agreed_attributes(agreed, facts["enclave"], signature)
            lines.append(f"  policy     {facts['enclave'] or 'names another enclave'}")
        if explain:
            facts["areas"] = [_area_json(area) for area in found.areas]
            lines += ["", *_areas_table(found.areas)]
        said.end(shell, facts, lines)


def _libsysdbs(expected: str | None) -> dict[str, Any]:
    return {} if expected is None else {"libsysdbs": frozenset({expected})}


def _count(findings: Iterable[Finding]) -> str:
    from verifier.gramine.findings import Level

    levels = [finding.level for finding in findings]
    return f"{levels.count(Level.REFUSE)} refuse, {levels.count(Level.WARN)} warn"


def _sizes_line(found: Measurement) -> str:
    sizes = found.sizes
    heap = "heap added later" if sizes.edmm else "heap measured"
    size = f"{sizes.enclave >> 20:,} MiB" if sizes.enclave >> 20 else f"{sizes.enclave:,} bytes"
    return f"  enclave    {size}, {sizes.threads} threads, {heap}"


def _files(
    said: Said,
    facts: dict[str, Any],
    manifest: SignedManifest,
    chroot: Path | None,
) -> list[str]:
    """Every listed file hashed again, nothing unlisted in the folders that are seen."""
    from ratls.image_files import found_on
    from verifier.gramine.listing import compare, measured_files, require_equal
    from verifier.gramine.trusted import image_folders

    wanted = measured_files(manifest)
    if chroot is None:
        return [f"  files      {len(wanted)} measured, none compared: say --chroot DIR"]
    differ = list(compare(wanted, found_on(wanted, image_folders(manifest.document), chroot)))
    facts["files"] = {
        "measured": len(wanted),
        "differ": [finding.as_json() for finding in differ],
    }
    with said.refusal():
        require_equal(differ)
    return [f"  files      {len(wanted)} hashed again, {len(differ)} differ"]


def _area_json(area: Area) -> dict[str, Any]:
    return {
        "name": area.name,
        "start": f"{area.start:#x}",
        "end": f"{area.end:#x}",
        "access": area.access,
        "measured": area.measured,
    }


def _areas_table(areas: Iterable[Area]) -> list[str]:
    """One line each; the stacks of all threads in one."""
    rows: list[list[Any]] = []
    for area in areas:
        if rows and rows[-1][0] == area.name and area.name.endswith("stack"):
            rows[-1][1], rows[-1][4] = area.start, rows[-1][4] + 1
        else:
            rows.append([area.name, area.start, area.end, area, 1])
    return [
        f"  {start:>#14x} {end:>#14x} {area.access} "
        + ("content and place" if area.measured else "place only       ")
        + f"  {name}{f' x {count}' if count > 1 else ''}"
        for name, start, end, area, count in rows
    ]


@measure.command("sigstruct")
def measure_sigstruct(
    file: Annotated[Path, typer.Argument(metavar="SIG", help="A .sig file of an enclave.")],
    json: Json = False,
) -> None:
    """What the signer of an enclave says, once the signature has been verified.

    Example: ratls measure sigstruct ratls-enclave.sig
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from verifier.errors import placed
        from verifier.files import parse_file
        from verifier.gramine.sigstruct import Sigstruct

        sigstruct = parse_file(file, Sigstruct.parse)
        with placed(str(file)):
            sigstruct.verify()
        shell.answer(
            {"file": str(file), **sigstruct.as_json(), "verdict": "accepted", "error": None},
            _sigstruct_text(sigstruct),
        )


def _sigstruct_text(sigstruct: Sigstruct) -> str:
    facts = sigstruct.as_json()
    if not sigstruct.debug:
        del facts["debug"]
    else:
        facts["debug"] = "on: the host may read the enclave's memory"
    return "\n".join(f"{name:<15} {value}" for name, value in facts.items())


@measure.command("diff")
def measure_diff(
    old: Annotated[Path, typer.Argument(metavar="A", help="A signed manifest.")],
    new: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """What changed between two signed manifests: code, arguments, environment, files, sizes.

    Example: ratls measure diff before.manifest.sgx ratls-enclave.manifest.sgx
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from verifier.files import parse_file
        from verifier.gramine.difference import differences
        from verifier.gramine.signed import SignedManifest

        before, after = (parse_file(path, SignedManifest.parse) for path in (old, new))
        changes = differences(before, after)
        text = "\n".join(map(str, changes)) or "nothing changed in meaning"
        if not changes and before.raw != after.raw:
            text += "; the bytes differ, and so does MRENCLAVE"
        shell.answer(
            {
                "changes": [change.as_json() for change in changes],
                "equal_bytes": before.raw == after.raw,
            },
            text,
        )
