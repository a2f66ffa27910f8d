"""`ratls task export`: a released model as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json


def export(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What `task result` wrote.")],
    skops: Annotated[Path, typer.Option(metavar="FILE", help="File to make, for `skops.io.load`.")],
    json_output: Json = False,
) -> None:
    """Make a model file for scikit-learn from released numbers. No pickle is written or read.

    Example: ratls task export result.json --skops model.skops
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.models import as_skops, read_result
        from verifier.files import parse_file, write_new

        model = parse_file(result, read_result, cap=64 << 20)
        raw, named = as_skops(model)
        write_new(skops, raw, mode=0o644)
        told = f", trusted={named}" if named else ""
        shell.answer(
            {"file": str(skops), "bytes": len(raw), "trusted": named},
            f"made {skops} ({len(raw)} bytes)\n  read it with skops.io.load({str(skops)!r}{told})",
        )
