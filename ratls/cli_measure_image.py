"""`ratls measure image`: an image hashed, or built again, and compared file by file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json, checked_digest
from ratls.options import DebFolder, ForComputations, WheelFolder
from ratls.said import Said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verifier.gramine.findings import Finding
    from verifier.gramine.listing import Entry
    from verifier.shell import Shell


def image(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="An image, unpacked anywhere.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="SIGNED", help="The signed manifest that lists it.")
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A checkout of the release, whose locks it is built from again."
        ),
    ] = None,
    wheels: WheelFolder = None,
    debs: DebFolder = None,
    computations: ForComputations = None,
    expect_tree: Annotated[
        str | None,
        typer.Option(
            metavar="sha256:HEX",
            callback=checked_digest,
            help="The digest that others say an image has.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Hash an image, and compare it with a signed manifest: each file, and nothing unlisted.

    With --release an image is built from the locks, in a temporary folder, and looked at in the
    same way; an image that is named too is compared with it, where there is no manifest. The first
    file that differs is named.

    Example: ratls measure image --release . --manifest ratls-enclave.manifest.sgx
    """
    from verifier.shell import refusals_as_exit_status

    if folder is None and release is None:
        raise typer.BadParameter("name an image, or a release to build it from", param_hint="DIR")
    if release is None and (wheels or debs or computations is not None):
        raise typer.BadParameter(
            "--wheels, --debs and --computations need it", param_hint="--release"
        )
    with refusals_as_exit_status(json) as shell:
        from ratls.image_files import require_folder, walk
        from verifier.files import parse_file
        from verifier.gramine.listing import listed, require_equal, require_tree
        from verifier.gramine.signed import SignedManifest
        from verifier.gramine.trusted import require_root

        signed = None if manifest is None else parse_file(manifest, SignedManifest.parse)
        root = str(folder or "") if signed is None else require_root(signed.document)
        images: list[tuple[str, Sequence[Entry]]] = []
        # What each is compared with, and what people call that.
        wanted: Mapping[str, str] | None = None
        source = f"listed in {manifest}"
        if signed is not None:
            wanted = {p: d for p, d in listed(signed).items() if p.startswith(f"{root}/")}
        if release is not None:
            built = _built(shell, release, root, wheels, debs, computations)
            images.append((f"built from {release}", built))
            if wanted is None:
                wanted, source = _files(built), f"built from {release}"
        if folder is not None:
            require_folder(folder)
            images.insert(0, (str(folder), list(walk(folder, root))))
        said = Said()
        lines: list[str] = []
        differ: list[Finding] = []
        trees: list[dict[str, Any]] = []
        for name, entries in images:
            tree = _tree(entries, root)
            trees.append(tree)
            lines.append(f"{name}: {tree['files']} files, {tree['bytes'] / 1e6:.1f} MB")
            lines.append(f"  tree {tree['tree']}")
            if expect_tree is not None:
                with said.refusal():
                    require_tree(name, tree["tree"], expect_tree)
            found = _differ(entries, wanted)
            if wanted is not None and name != source:
                lines.append(f"  {len(wanted)} {source}, {len(found)} differ")
            differ += found
        facts = {
            "folder": None if folder is None else str(folder),
            **trees[0],
            "release": None if release is None else str(release),
            "built": None if release is None else trees[-1],
            "differ": [finding.as_json() for finding in differ],
        }
        with said.refusal():
            require_equal(differ)
        said.end(shell, facts, lines)


def _built(
    shell: Shell,
    release: Path,
    root: str,
    wheels: Path | None,
    debs: Path | None,
    computations: str | None,
) -> list[Entry]:
    """All files of an image of this release, which is gone afterwards."""
    from tempfile import TemporaryDirectory

    from ratls.image.make import make
    from ratls.image.release import read_computations
    from ratls.image_files import walk

    chosen = read_computations(computations)
    with TemporaryDirectory(prefix="ratls-image-") as top:
        out = Path(top, "image")
        make(out, release, chosen, wheels=wheels, debs=debs, say=shell.say)
        return list(walk(out, root))


def _files(entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.path: entry.sha256 or "" for entry in entries}


def _tree(entries: Sequence[Entry], root: str) -> dict[str, Any]:
    from verifier.gramine.listing import tree_digest

    return {
        "files": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "tree": f"sha256:{tree_digest(entries, root)}",
    }


def _differ(entries: Sequence[Entry], wanted: Mapping[str, str] | None) -> list[Finding]:
    """What is another file than wanted; where nothing is, what no manifest could list."""
    from verifier.gramine.listing import compare

    if wanted is not None:
        return list(compare(wanted, entries))
    unread = [entry for entry in entries if entry.sha256 is None]
    return list(compare(_files(unread), unread))
