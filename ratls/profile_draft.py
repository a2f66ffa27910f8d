"""A first `ratls.toml`, with every field that its party may need explained.

    text = draft_profile("provider", study="my-study", party="keys", passphrase_file=None)

`SAMPLE` is a complete one. What is not known yet stands in comments; a profile without it is valid.
"""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["provider", "recipient", "operator"]
ROLES: tuple[str, ...] = get_args(Role)

_HEAD = """\
# What `ratls` takes where it is not typed. `ratls config show` prints it, with the place of each.
# Relative paths start from the folder of this file. It can neither allow a simulation nor consent.
study = "{study}"
party = "{party}"{gap}# keys and certificate; party.toml in it is for the policy
{passphrase_file}
"""
_PARTY = """\
state = "state"                         # accepted agreements, journal, acknowledgements
#agreement = "policy.agreement.json"    # signed by all parties
"""
_MAILBOX = """
[scheduler]
address = "scheduler.example:7444"
certificate = "scheduler.crt"           # no other certificate is accepted
"""
_ENCLAVE = """
[[enclave]]
name = "joint-training-1.0"             # as in the policy
address = "enclave.example:7443"
collateral = "collateral.json"          # kept by `ratls collateral fetch`; read for each release
"""
_COLLATERAL = """
[collateral]                            # whom `ratls collateral fetch` asks, in this order
sources = ["https://api.trustedservices.intel.com"]
"""
_DATASET = """
[[dataset]]
id = "train_party_1"                    # as in the policy
source = { kind = "parquet", path = "rows.parquet" }
"""
_OPERATOR = """\
#agreement = "policy.agreement.json"    # signed by all parties

[serve.enclave]                         # for `ratls enclave serve`
listen = "127.0.0.1:7443"
#attester = "tdx"                       # in a TDX guest

[serve.scheduler]                       # for `ratls scheduler serve`
listen = "127.0.0.1:7444"
state = "mailbox"                       # its key, scheduler.crt for the parties, and the queue
"""
_CLIENT = _MAILBOX + _ENCLAVE + _COLLATERAL
_FILE = "passphrase"
_REST = {"provider": _CLIENT + _DATASET, "recipient": _CLIENT}


def draft_profile(role: Role, *, study: str, party: str, passphrase_file: str | None) -> str:
    """The text of a profile.

    Args:
        party: Folder of the keys.
        passphrase_file: None: the passphrase is typed.
    """
    named = f'passphrase_file = "{passphrase_file or _FILE}"'
    head = _HEAD.format(
        study=study,
        party=party,
        gap=" " * max(1, 30 - len(party)),
        passphrase_file=f"{'' if passphrase_file else '#'}{named:39} "
        "# only you can read it; without it you are asked",
    )
    if role == "operator":
        return head + _OPERATOR
    return head + _PARTY + "".join(_commented(line) for line in _REST[role].splitlines(True))


def _commented(line: str) -> str:
    return f"#{line}" if line.strip() else line


SAMPLE = (
    draft_profile(
        "provider",
        study="breast-cancer-joint-training",
        party="keys",
        passphrase_file=_FILE,
    ).partition("\n\n")[0]
    + "\n"
    + _REST["provider"]
)
