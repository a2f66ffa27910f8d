"""A first policy.toml: known values are filled in, the rest are examples in comments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from policy.statement import instant_text

_TEMPLATE = """\
# The policy of a study. Every party signs exactly these bytes: after the first signature, a
# changed comma makes another policy. Check it with `ratls policy lint`, read it back with
# `ratls policy show`, sign it with `ratls policy sign`.

schema = "ratls-policy/0"
study = "{study}"
version = 1
# previous = "sha256:…"        # from version 2 on: the digest of the version before
not_before = {not_before}
expires = {expires}

[agreement]
threshold = "all"              # or a number of parties; owners of datasets must sign in any case

# Who takes part. Each block is the `party.toml` that this party made with `ratls party new`.
# Compare every key with its owner, on the telephone or in person, before you sign.

{parties}
# Which code may receive rows. Get the measurement from your own build of the release.
[[enclave]]
name = "joint-training"
tee = "sgx"
mr_enclave = "{mr_enclave}"
isv_prod_id = 1
min_isv_svn = 1

# On which machines, at which patch level.
[platform]
root = "{root}"
tcb_statuses = ["UpToDate"]    # also possible, and weaker: "SWHardeningNeeded", …
accepted_advisories = []       # every advisory that comes with a status must be listed here
min_tcb_evaluation_data_number = 17
min_tcb_date = 2025-05-14
max_collateral_age_days = 30
machines = {machines}
# fmspcs = ["00606a000000"]    # optional; then machine and family must both match

# How rows travel; these are the values if the table is absent. Rows are sealed to the enclave in
# any case. bulk = "sealed" saves the second encryption; whoever watches sees that chunks travel.
# [transport]
# bulk = "tls"
# challenge_minutes = 15        # the enclave proves itself again in a stream that lasts longer,
# challenge_mebibytes = 16384   # or carries more

# What is released. Remove the # and adapt; one block per dataset.
#
# [[dataset]]
# id = "train_party_1"
# owner = "alice-clinic"       # a party with the role provider
# subject = "patient"          # the column that names a person; counted, never released
# max_rows = 5_000_000
# # bool, int32, int64, float32, float64, string, date32, "timestamp[us, UTC]"; a ? at the end
# # allows nulls; a table gives the allowed values. Ids of persons are the same person's if they
# # are the same text; {{ type = "string", spelling = "folded" }} admits no capitals in them.
# columns = {{ patient = "string", age = {{ type = "int64", min = 0, max = 120 }}, y = "int64" }}

# What is computed from it, for whom.
#
# [[computation]]
# id = "train"
# run = "logistic_regression"
# inputs = ["train_party_1"]
# # A value is fixed; {{ choose = [..] }} or {{ min = , max = }} leaves a number
# # to the task; columns are always fixed.
# parameters = {{ features = ["age"], label = "y", max_iter = {{ min = 50, max = 5000 }} }}
# submitters = ["carol-lab"]   # parties with the role submitter
# recipients = ["carol-lab"]   # parties with the role recipient
# uses = 10                    # counted by the providers
# release = {{ outputs = ["model_weights"], min_subjects_per_input = 100, significant_digits = 6 }}
"""


def draft_policy(
    *,
    study: str,
    party_blocks: Sequence[str],
    mr_enclave: str,
    root: str,
    machines: Sequence[str],
    not_before: datetime,
    expires: datetime,
) -> str:
    """The text of a draft. `lint` refuses placeholders that were not replaced."""
    listed = "[" + ", ".join(f'"{machine}"' for machine in machines) + "]"
    if not machines:
        listed += '    # "ppid:<32 hex>" or "piid:<32 hex>" of each machine that may run it'
    return _TEMPLATE.format(
        study=study,
        not_before=instant_text(not_before),
        expires=instant_text(expires),
        parties="\n".join(party_blocks),
        mr_enclave=mr_enclave,
        root=root,
        machines=listed,
    )
