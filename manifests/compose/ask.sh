#!/bin/sh
# Carol signs a task, leaves it in the mailbox, and waits for the model.
set -eu
umask 077

carol="--party carol/keys --passphrase-file carol/passphrase"
mailbox="--scheduler scheduler:7444 --scheduler-certificate mailbox/scheduler.crt"
task=carol/task-$(date +%s).json
# Words of these are separate arguments.
# shellcheck disable=SC2086
{
    ratls task sign --study my-study --computation train --set max_iter=1000 $carol \
        --state carol/state -o "$task" --allow-simulation
    ratls task submit --task "$task" $mailbox $carol --state carol/state --allow-simulation
    ratls task result --task "$task" --enclave enclave:7443 --collateral intel/collateral.json $carol \
        --state carol/state -o "$task.model" --wait 120 --allow-simulation
}
cat "$task.model"
