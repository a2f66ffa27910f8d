"""Is this quote genuine, up to date, and about my bytes?

python examples/verify_quote.py quote.bin collateral.json REPORT_DATA_IN_HEX
"""

import sys
from pathlib import Path

import ratls

quote, bundle, expected = sys.argv[1:]
try:
    verified = ratls.verify_quote(
        Path(quote).read_bytes(), bundle, report_data=bytes.fromhex(expected)
    )
except ratls.RatlsError as refusal:
    sys.exit(f"[{refusal.code}] {refusal}\nto do: {refusal.fix}")
print(verified.tcb.status, verified.quote.report.mr_enclave)
