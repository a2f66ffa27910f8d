"""`ratls task export`: a released model as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json


def export(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What `task result` wrote.")],
    skops: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to make, for `skops.io.load`.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to make, for any runtime of ONNX.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Make model files from released numbers. No pickle is written or read.

    A file of skops is an estimator of scikit-learn (`pip install "ratls[models]"`). One of ONNX
    needs no Python, and has an input for each column: rows x 1, doubles or texts (`"ratls[onnx]"`).

    Example: ratls task export result.json --skops model.skops --onnx model.onnx
    """
    from verifier.shell import refusals_as_exit_status

    if skops is None and onnx is None:
        raise typer.BadParameter("name a file to make", param_hint="--skops or --onnx")
    with refusals_as_exit_status(json_output) as shell:
        from provider.models import as_skops, read_result
        from verifier.files import parse_file, write_together

        model = parse_file(result, read_result, cap=64 << 20)
        made: list[tuple[Path, bytes, str]] = []
        told: dict[str, object] = {}
        if skops is not None:
            raw, named = as_skops(model)
            trusted = f", trusted={named}" if named else ""
            told |= {"file": str(skops), "bytes": len(raw), "trusted": named}
            made.append((skops, raw, f"read it with skops.io.load({str(skops)!r}{trusted})"))
        if onnx is not None:
            from provider.onnx_file import as_onnx, inputs_of

            raw = as_onnx(model)
            told["onnx"] = {"file": str(onnx), "bytes": len(raw), "inputs": inputs_of(model)}
            takes = ", ".join(f"{name}: {kind}" for name, kind in inputs_of(model).items())
            made.append((onnx, raw, f"inputs, each rows x 1: {takes}"))
        with write_together() as write:
            for path, raw, _ in made:
                write(path, raw, mode=0o644)
        lines = [f"made {path} ({len(raw)} bytes)\n  {use}" for path, raw, use in made]
        shell.answer(told, "\n".join(lines))
