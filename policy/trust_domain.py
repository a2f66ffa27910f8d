"""`[[enclave]] tee = "tdx"`: a trust domain that may receive rows, named by all of its registers.

    [[enclave]]
    name = "joint-training-td"
    tee = "tdx"
    mr_td = "…"                # 96 hex digits each
    rtmr0 = "…"

MRTD alone says which firmware was loaded. The kernel, its command line and the initial file system
are in RTMR1 and RTMR2, so a policy that leaves out a register is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from policy.fields import (
    LIST_CAP,
    ONE_OR_MORE,
    Hex8,
    Hex16,
    Hex48,
    Hex48OrZero,
    Identifier,
    Strict,
    at_most,
    distinct,
    hex48,
    little_endian,
    not_zero,
)
from policy.problems import Unfit, shortened
from policy.sections import Enclave
from verifier.td import SEPT_VE_DISABLE, TD_UNPROTECTED

AT_RUN_TIME = "extended at run time"
ANY_MODULE = "any TDX module by Intel"
# In the order of the checks: what the host's firmware loads first comes first.
REGISTERS = (
    "mr_td",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
)
MAX_EVENTS = 32  # in RTMR3: they travel in the evidence, which has 8 KiB


def _rtmr3(value: Any) -> Any:
    if value == AT_RUN_TIME:
        return value
    if not isinstance(value, str):
        raise Unfit(f'96 hex digits, or the words "{AT_RUN_TIME}"', ascii(value)[:80])
    return hex48(value)


def _modules(value: Any) -> tuple[str, ...]:
    """A list of MRSEAM values, or the words, which give the empty tuple."""
    if value == ANY_MODULE:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(m, str) for m in value):
        raise Unfit(f'a non-empty list, or the words "{ANY_MODULE}"', shortened(value))
    if len(value) > LIST_CAP:
        raise Unfit(f"at most {LIST_CAP} modules", str(len(value)))
    return distinct(tuple(not_zero(hex48(m)) for m in value))


class TrustDomain(Strict):
    """One release of the guest that may receive rows, on machines of one shape.

    TDATTRIBUTES and XFAM are little-endian hex as in a quote; bits under the mask must be equal.
    The defaults are closed: SEPT_VE_DISABLE on; PKS and PERFMON free; debug, profiling, migration,
    key locker and reserved bits off; of XFAM x87 and SSE on, what guests use besides free, all
    else off.
    """

    name: Identifier
    tee: Literal["tdx"]
    mr_td: Hex48
    rtmr0: Hex48
    rtmr1: Hex48
    rtmr2: Hex48
    rtmr3: Annotated[str, PlainValidator(_rtmr3)]
    # With `rtmr3 = "extended at run time"`, and never without: each event that may be in it.
    rtmr3_events: (
        Annotated[
            tuple[Hex48, ...],
            Field(strict=False, min_length=1),
            AfterValidator(distinct),
            at_most(MAX_EVENTS),
        ]
        | None
    ) = None
    mr_config_id: Hex48OrZero
    mr_owner: Hex48OrZero
    mr_owner_config: Hex48OrZero
    mr_seam: Annotated[tuple[str, ...], PlainValidator(_modules)]  # empty: any by Intel
    min_tee_tcb_svn: Hex16
    td_attributes: Hex8 = "0000001000000000"
    td_attributes_mask: Hex8 = "ffffffbfffffff7f"
    xfam: Hex8 = "0300000000000000"
    xfam_mask: Hex8 = "1b24f9ffffffffff"
    # Hashes of service domains that may be bound to it; absent: none may.
    service_tds: Annotated[tuple[Hex48, ...], *ONE_OR_MORE] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        value, mask = little_endian(self.td_attributes), little_endian(self.td_attributes_mask)
        fixed = TD_UNPROTECTED | SEPT_VE_DISABLE
        if mask & fixed != fixed or value & fixed != SEPT_VE_DISABLE:
            raise Unfit(
                "SEPT_VE_DISABLE on, bits 0 to 7 off, all under the mask",
                "a policy that would admit an unprotected domain",
                field="td_attributes",
            )
        if (self.rtmr3 == AT_RUN_TIME) != (self.rtmr3_events is not None):
            raise Unfit(
                f'a list of events with rtmr3 = "{AT_RUN_TIME}", and only with it',
                "one without the other",
                field="rtmr3_events",
            )
        return self

    @property
    def bits(self) -> dict[str, int]:
        """The bits that must and that may be on, as `verifier.acceptance` takes them."""
        full = 2**64 - 1
        needed = little_endian(self.td_attributes) & little_endian(self.td_attributes_mask)
        xfam = little_endian(self.xfam) & little_endian(self.xfam_mask)
        return {
            "needed": needed,
            "allowed": needed | (full & ~little_endian(self.td_attributes_mask)),
            "xfam_needed": xfam,
            "xfam_allowed": xfam | (full & ~little_endian(self.xfam_mask)),
        }


Agreed: TypeAlias = Enclave | TrustDomain  # what an `[[enclave]]` may be
