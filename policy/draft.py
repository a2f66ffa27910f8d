"""A first policy.toml: known values are filled in, the rest are examples in comments.

Its text is `draft.toml`, where a word after `$` stands for a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from string import Template

from policy.statement import instant_text


def draft_policy(
    *,
    study: str,
    party_blocks: Sequence[str],
    mr_enclave: str,
    isv_prod_id: int = 1,
    isv_svn: int = 1,
    root: str,
    machines: Sequence[str],
    not_before: datetime,
    expires: datetime,
) -> str:
    """The text of a draft. `lint` refuses placeholders that were not replaced."""
    listed = "[" + ", ".join(f'"{machine}"' for machine in machines) + "]"
    if not machines:
        listed += '    # "ppid:<32 hex>" or "piid:<32 hex>" of each machine that may run it'
    template = Template(files("policy").joinpath("draft.toml").read_text("utf-8"))
    return template.substitute(
        study=study,
        not_before=instant_text(not_before),
        expires=instant_text(expires),
        parties="\n".join(party_blocks),
        mr_enclave=mr_enclave,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        root=root,
        machines=listed,
    )
