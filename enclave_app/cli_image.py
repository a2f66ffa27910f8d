"""`ratls enclave image`: the folder of files that a manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json
from ratls.options import DebFolder, ForComputations, WheelFolder


def image(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to make; it must not exist.")
    ],
    wheels: WheelFolder = None,
    debs: DebFolder = None,
    computations: ForComputations = None,
    release: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The release: a checkout with locks, list and sources."),
    ] = Path(),
    json_output: Json = False,
) -> None:
    """Make the image of the production enclave: interpreter, libraries, packages, its own modules.

    Two builds of one release are equal to the last byte, wherever and by whomever they are made.
    Nothing is downloaded where both folders are given. Compare the printed SHA-256 with that of
    the other parties; in the folder, `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`
    prints it too.

    Example: ratls enclave image --out image --computations private_set_intersection
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.image.make import make
        from ratls.image.release import read_computations
        from verifier.text import digest_text

        chosen = read_computations(computations)
        made = make(out, release, chosen, wheels=wheels, debs=debs, say=shell.say)
        digest = digest_text(made.digest)
        shell.answer(
            {
                "image": str(out),
                "computations": chosen,
                "files": made.files,
                "bytes": made.size,
                "digest": digest,
            },
            f"image         {out}\n"
            f"computations  {', '.join(chosen)}\n"
            f"files         {made.files}\n"
            f"size          {made.size / 1e6:.1f} MB\n"
            f"digest        {digest}",
        )
