"""Ask a model in an attested TDX guest; the prompt leaves only after the guest proved itself.

python examples/tdx_inference.py HOST:PORT agreement.json PARTY_FOLDER collateral.json
    PASSPHRASE_FILE "a prompt" [--allow-simulation]
"""

import sys

import httpx

import ratls

where, policy, party, collateral, passphrase, prompt, *simulated = sys.argv[1:]
own, verifier = ratls.own_end(
    policy=policy,  # names the guest by MRTD and RTMRs, and the machines it may run on
    party=party,
    collateral=collateral,
    passphrase_file=passphrase,
    allow_simulation=simulated == ["--allow-simulation"],
)
asked = {"model": "default", "messages": [{"role": "user", "content": prompt}]}
with httpx.Client(transport=ratls.HttpTransport(own, verifier), timeout=120) as client:
    answer = client.post(f"https://{where}/v1/chat/completions", json=asked).raise_for_status()
print(answer.json()["choices"][0]["message"]["content"])
