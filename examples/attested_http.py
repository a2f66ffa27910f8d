"""GET from a web service inside the agreed enclave; no request leaves before it proved itself.

python examples/attested_http.py HOST:PORT/path agreement.json PARTY_FOLDER collateral.json
    PASSPHRASE_FILE [--allow-simulation]
"""

import sys

import httpx

import ratls

where, policy, party, collateral, passphrase, *simulated = sys.argv[1:]
own, verifier = ratls.own_end(
    policy=policy,
    party=party,
    collateral=collateral,
    passphrase_file=passphrase,
    allow_simulation=simulated == ["--allow-simulation"],
)
with httpx.Client(transport=ratls.HttpTransport(own, verifier)) as client:
    print(client.get(f"https://{where}").raise_for_status().text)
