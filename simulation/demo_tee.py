"""What of the demonstration depends on the technology: an SGX enclave, or a TDX guest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simulation.folder import PLATFORM, SGX_COLLATERAL, TDX_COLLATERAL, TRUST_DOMAIN
from simulation.platform import TEE_TCB_SVN
from verifier.quote import Tee


@dataclass(frozen=True, slots=True)
class DemoTee:
    """The files, words and policy of one technology."""

    tee: Tee
    collateral: str  #  as typed in the folder of the demonstration
    attester: str
    code: str  #        the register that the measured code is in
    section: Callable[[Mapping[str, str]], str]  # `[[enclave]]`, of what `measure` printed

    def measuring(self, log: str) -> tuple[str, ...]:
        """Options of `simulation measure`; a guest has an event log, which goes to this file."""
        return () if self.tee is Tee.SGX else ("--tee", self.tee.value, "--event-log", log)


def _enclave(facts: Mapping[str, str]) -> str:
    return f"""[[enclave]]
name = "joint-training"
tee = "sgx"
mr_enclave = "{facts["mr_enclave"]}"
isv_prod_id = 1
min_isv_svn = 1
"""


def _trust_domain(facts: Mapping[str, str]) -> str:
    registers = "\n".join(
        f'{name} = "{facts[name]}"' for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    )
    zero = "0" * 96
    return f"""[[enclave]]
name = "joint-training"
tee = "tdx"
{registers}
mr_config_id = "{zero}"
mr_owner = "{zero}"
mr_owner_config = "{zero}"
mr_seam = ["{facts["mr_seam"]}"]
min_tee_tcb_svn = "{TEE_TCB_SVN.hex()}"
"""


_SGX = DemoTee(
    Tee.SGX, f"intel/{SGX_COLLATERAL}", f"simulation:intel/{PLATFORM}", "mr_enclave", _enclave
)
_TDX = DemoTee(
    Tee.TDX, f"intel/{TDX_COLLATERAL}", f"simulation:intel/{TRUST_DOMAIN}", "rtmr2", _trust_domain
)


def demo_tee(tee: Tee) -> DemoTee:
    """What the demonstration of this technology uses."""
    return _TDX if tee is Tee.TDX else _SGX
