#!/bin/sh
# Everything that parties and operators have before the servers start: keys, rows, one signed policy.
set -eu
umask 077

if [ -e policy.agreement.json ]; then
    echo "this job is prepared; docker compose down --volumes begins another"
    exit 0
fi
ratls simulation new intel > intel.txt
for who in alice bob carol; do
    mkdir -p $who
    head -c 18 /dev/urandom | base64 > $who/passphrase
done
ratls party new alice-clinic --dir alice/keys --role provider --passphrase-file alice/passphrase
ratls party new bob-hospital --dir bob/keys --role provider --passphrase-file bob/passphrase
ratls party new carol-lab --dir carol/keys --role recipient --role submitter \
    --passphrase-file carol/passphrase

python - << 'END'
import random

random.seed(7)
for who, count in (("alice", 300), ("bob", 250)):
    with open(f"{who}/rows.csv", "w") as file:
        print("patient,age,marker,ill", file=file)
        for number in range(count):
            age, marker = random.randint(20, 90), random.gauss(0, 1)
            ill = int(random.gauss(age / 25 + marker, 1) > 2.2)
            print(f"{who}-{number},{age},{marker:.6f},{ill}", file=file)
END

for number in 1 2; do
    owner=$([ $number = 1 ] && echo alice-clinic || echo bob-hospital)
    cat >> datasets.toml << END
[[dataset]]
id = "train_party_$number"
owner = "$owner"
subject = "patient"
max_rows = 10_000
columns = { patient = "string", age = { type = "int64", min = 0, max = 120 }, marker = "float64", ill = "int64" }

END
done
cat > train.toml << 'END'
[[computation]]
id = "train"
run = "logistic_regression"
inputs = ["train_party_1", "train_party_2"]
parameters = { features = ["age", "marker"], label = "ill", max_iter = { min = 50, max = 5000 } }
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 10
release = { outputs = ["model_weights"], min_subjects_per_input = 100, significant_digits = 6 }
END
ratls policy new --study my-study --party-file alice/keys/party.toml \
    --party-file bob/keys/party.toml --party-file carol/keys/party.toml \
    --dataset datasets.toml --computation train.toml \
    --mr-enclave "$(ratls simulation measure)" --root "$(cat intel/root.txt)" \
    --machine "ppid:$(awk '/^ppid/ {print $2}' intel.txt)" \
    --expires "$(date -u -d '+30 days' +%FT%TZ)" -o policy.toml
read_and_agreed=$(ratls policy lint policy.toml | grep -o 'sha256:[0-9a-f]*')
for who in alice bob carol; do
    ratls policy sign policy.toml --party $who/keys --passphrase-file $who/passphrase \
        --yes "$read_and_agreed"
done
for who in alice bob carol; do
    ratls policy accept policy.agreement.json --party $who/keys --state $who/state \
        --yes "$read_and_agreed"
done

for who in alice bob; do
    number=$([ $who = alice ] && echo 1 || echo 2)
    cat > $who/agent.toml << END
study = "my-study"
party = "keys"
passphrase_file = "passphrase"
state = "state"

[scheduler]
address = "scheduler:7444"
certificate = "../mailbox/scheduler.crt"

[[enclave]]
name = "joint-training"
address = "enclave:7443"
collateral = "../intel/collateral.json"

[[dataset]]
id = "train_party_$number"
source = { kind = "csv", path = "rows.csv" }
END
done

mkdir database
head -c 18 /dev/urandom | od -An -tx1 | tr -d ' \n' > database/password
printf '*:*:*:*:%s\n' "$(cat database/password)" > database/pgpass
echo "prepared: docker compose up starts the servers"
