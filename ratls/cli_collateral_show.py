"""`ratls collateral show`: what is in a bundle, and is it current?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json
from ratls.options import At
from verifier.errors import CollateralStaleError
from verifier.text import instant_text, printable

if TYPE_CHECKING:
    from datetime import datetime

    from verifier.anchors import TrustAnchors
    from verifier.collateral import Collateral
    from verifier.contents import Contents
    from verifier.status import SvnLevel
    from verifier.tcb import TcbLevel
    from verifier.tdx_module import TdxModule

Root = Annotated[str, typer.Option(help="Root of trust that must have signed it.")]


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle, or a folder.")],
    at: At = None,
    root: Root = "intel",
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write each bundle in it into this folder, as a file of its own."
        ),
    ] = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """What is in a bundle, for which platforms, and is it current at this instant?

    Everything shown is authentic. A bundle that does not cover the instant ends with status 5.

    A folder of the service's answers is read too: rootcacrl, pckcrl, tcb, identity, and of the
    last three the headers as pckcrl.headers and so on, as curl -D tcb.headers -o tcb leaves them,
    or the issuer chain as tcb.chain.pem. So is Intel's platform_collaterals.json, which holds
    several bundles.

    Example: ratls collateral show collateral.json
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.bundles import read_bundles
        from verifier.contents import Contents
        from verifier.errors import placed

        instant = parse_instant(at)
        bundles = read_bundles(file)
        roots = shell.anchors(root, allow_simulation=allow_simulation)
        with placed(str(file)):
            found = [(bundle, Contents.authenticate(bundle, roots)) for bundle in bundles]
        stale = None
        for bundle, contents in found:
            refusal = _stale(contents, instant)
            stale = stale or refusal
            written = None if split is None else _write(split, bundle, contents)
            facts = {
                "file": str(file),
                "fetched": bundle.fetched or None,
                **summary(contents, roots),
                **_details(contents),
                "written": written,
                "error": refusal.as_json() if refusal else None,
            }
            shell.answer(facts, _for_people(facts))
        shell.end_with(stale)


def _stale(contents: Contents, at: datetime) -> CollateralStaleError | None:
    try:
        contents.require_current(at)
    except CollateralStaleError as stale:
        return stale
    return None


def _write(folder: Path, bundle: Collateral, contents: Contents) -> str:
    """The bundle as a file of its own, named by what it is for; never over another."""
    from verifier.files import make_folder, write_new

    kind = contents.kind
    path = make_folder(folder) / f"{kind.tee}-{kind.fmspc.hex()}-{kind.ca}.json"
    write_new(path, bundle.raw, mode=0o644)
    return str(path)


def _details(contents: Contents) -> dict[str, Any]:
    """Each part with its dates, and every level."""
    info, identity = contents.tcb_info, contents.qe_identity
    return {
        "parts": [
            {
                "part": part.thing,
                "issued": instant_text(part.starts),
                "until": instant_text(part.ends),
            }
            for part in contents.window.issued
        ],
        "revoked": {crl.title: len(crl.serials) for crl in (contents.root_crl, contents.pck_crl)},
        "tcb_levels": [
            _level(level)
            | {
                "components": list(level.components),
                "pce_svn": level.pce_svn,
                "tdx_components": list(level.tdx_components),
            }
            for level in info.levels
        ],
        "tdx_module": _module(info.module) if info.module else None,
        "tdx_module_identities": [
            {
                "id": f"TDX_{identity.version:02X}",
                **_module(identity.module),
                "levels": [_level(level) | {"isv_svn": level.isv_svn} for level in identity.levels],
            }
            for identity in info.module_identities
        ],
        "qe_levels": [_level(level) | {"isv_svn": level.isv_svn} for level in identity.levels],
    }


def _module(module: TdxModule) -> dict[str, str]:
    return {
        "mr_signer": module.mr_signer.hex(),
        "attributes": module.attributes.to_bytes(8, "little").hex(),
        "attributes_mask": module.attributes_mask.to_bytes(8, "little").hex(),
    }


def _level(level: TcbLevel | SvnLevel) -> dict[str, Any]:
    return {
        "status": level.status.value,
        "date": instant_text(level.date),
        "advisory_ids": list(level.advisory_ids),
    }


def _for_people(facts: dict[str, Any]) -> str:
    numbers = {
        "TCB info": f"evaluation {facts['tcb_info_evaluation_data_number']}",
        "QE identity": f"evaluation {facts['qe_identity_evaluation_data_number']}",
        **{title: f"{count} revoked" for title, count in facts["revoked"].items()},
    }
    made = f"; fetched {printable(facts['fetched'])[:40]}, it says" if facts["fetched"] else ""
    lines = [
        f"{facts['file']}: {facts['tee']}, FMSPC {facts['fmspc']}, PCE {facts['pce_id']}, "
        f"{facts['authority']}; mode={facts['mode']}",
        f"good until {facts['earliest_expiration']}{made}",
        *([f"written to {facts['written']}"] if facts["written"] else []),
        *(
            f"  {part['part']:<12} {part['issued']} to {part['until']}  {numbers[part['part']]}"
            for part in facts["parts"]
        ),
        "levels of the platform, the newest first",
        *(_platform_line(level) for level in facts["tcb_levels"]),
        "levels of the quoting enclave",
        *map(_svn_line, facts["qe_levels"]),
    ]
    for identity in facts["tdx_module_identities"]:
        lines.append(f"levels of the TDX module {identity['id']}")
        lines.append(f"  MRSIGNER {identity['mr_signer']}")
        lines += map(_svn_line, identity["levels"])
    return "\n".join(lines)


def _platform_line(level: dict[str, Any]) -> str:
    tdx = f"  TDX {' '.join(map(str, level['tdx_components']))}" if level["tdx_components"] else ""
    return _line(level, f"{' '.join(map(str, level['components']))}  PCE {level['pce_svn']}{tdx}")


def _svn_line(level: dict[str, Any]) -> str:
    return _line(level, f"version {level['isv_svn']}")


def _line(level: dict[str, Any], versions: str) -> str:
    advisories = ", ".join(level["advisory_ids"])
    told = f"{level['status']:<34} as of {level['date'][:10]}  {versions}  {advisories}"
    return f"  {told}".rstrip()


def summary(contents: Contents, roots: TrustAnchors) -> dict[str, Any]:
    """Which platforms it is for, and its dates."""
    info, identity, window = contents.tcb_info, contents.qe_identity, contents.window
    return {
        "mode": roots.mode.value,
        "root": roots.name,
        "tee": info.tee.value,
        "authority": contents.authority.common_name,
        "fmspc": info.fmspc.hex(),
        "pce_id": info.pce_id.hex(),
        "tcb_info_evaluation_data_number": info.evaluation_data_number,
        "qe_identity_evaluation_data_number": identity.evaluation_data_number,
        "earliest_issue": instant_text(window.earliest_issue),
        "earliest_expiration": instant_text(window.earliest_expiration),
    }
