"""`ratls explain`: what the code of a refusal means, without a network.

The codes of all packages are in `refusals.json`, written by `make errors` beside docs/errors.md: a
party has neither the enclave's packages nor the scheduler's, and is shown their codes as well.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from policy.options import Json
from verifier.errors import ConfigError, Exit

_EXITS = {
    Exit.USAGE: "the command was typed wrongly",
    Exit.UNUSABLE: "something local cannot be used: a file, a key, a folder, an address",
    Exit.NOT_GENUINE: "it is not genuine",
    Exit.UNDECIDED: "this could not be decided",
    Exit.NOT_ADMITTED: "it is genuine, but not admitted; or the agreement or task is not valid",
    Exit.PEER: "the other side failed or refused",
}
_WHERE = {
    "verifier": "the verifier of quotes and collateral, on the side that judges",
    "policy": "policies, agreements, tasks and keys, on either side",
    "ratls": "the attested channel, on either side",
    "scheduler": "the mailbox",
    "provider": "the program that releases rows or collects results",
    "enclave_app": "the enclave; a party is told the code over the channel",
    "simulation": "the simulation",
}


class CodeUnknown(ConfigError):
    """There is no refusal with this code."""

    code = "code-unknown"
    default_fix = "copy what stands in [brackets] in the message"
    says = "{thing} is no code of a refusal; {found}"


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="What stands in [brackets].")],
    json_output: Json = False,
) -> None:
    """Explain a refusal of ours, of an enclave or of a mailbox. Needs no network.

    Example: ratls explain tcb-status-not-accepted
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        found = _entry(code.strip("[]` "))
        status = Exit(found["exit"])
        shell.answer(
            found,
            f"{found['code']}: {status.word}, exit status {found['exit']}\n\n"
            f"{found['meaning']}\n\n"
            f"to do     {found['fix'] or 'see the message itself'}\n"
            f"status    {found['exit']}: {_EXITS[status]}\n"
            f"raised by {_WHERE[found['package']]}\n"
            f"kind      {found['branch']}",
        )


def _entry(code: str) -> dict[str, Any]:
    import json
    from difflib import get_close_matches
    from importlib.resources import files

    entries = json.loads(files("ratls").joinpath("refusals.json").read_text("utf-8"))
    if code not in entries:
        close = get_close_matches(code, entries, n=3)
        near = f"the nearest are {', '.join(close)}" if close else "none is like it"
        raise CodeUnknown(ascii(code[:80]), expected="a code of docs/errors.md", found=near)
    return {"code": code, **entries[code]}
