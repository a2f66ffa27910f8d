"""Bits by their names, for refusals: who reads `0x10` has to look it up, and may look it up wrong.

differing(TD_ATTRIBUTES, off=0, on=1 << 27)   # "LASS (bit 27) is on"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# `sgx_attributes_t` and `sgx_misc_select_t` in `sgx_attributes.h`.
FLAGS = {
    0: "INIT",
    1: "DEBUG",
    2: "MODE64BIT",
    4: "PROVISION_KEY",
    5: "EINITTOKEN_KEY",
    6: "CET",
    7: "KSS",
    10: "AEX_NOTIFY",
}
MISC_SELECT = {0: "EXINFO", 1: "CPINFO"}
# TDX DCAP Quoting Library API, appendix A.3.4.
TD_ATTRIBUTES = {
    0: "DEBUG",
    4: "HGS_PLUS_PROF",
    5: "PERF_PROF",
    6: "PMT_PROF",
    16: "ICSSD",
    27: "LASS",
    28: "SEPT_VE_DISABLE",
    29: "MIGRATABLE",
    30: "PKS",
    31: "KL",
    62: "TPA",
    63: "PERFMON",
}
# Components of extended state, the same in XFRM and XFAM: those of XCR0 and of IA32_XSS.
STATE = {
    0: "x87",
    1: "SSE",
    2: "AVX",
    3: "MPX bounds",
    4: "MPX configuration",
    5: "AVX-512 masks",
    6: "AVX-512 upper halves",
    7: "AVX-512 upper registers",
    8: "PT",
    9: "PKRU",
    10: "PASID",
    11: "CET_U",
    12: "CET_S",
    13: "HDC",
    14: "UINTR",
    15: "LBR",
    16: "HWP",
    17: "AMX configuration",
    18: "AMX data",
}
MOST = 8  # named in one refusal


def differing(names: Mapping[int, str], *, off: int, on: int) -> str:
    """Which bits are off or on, and should not be; the first ones, and how many more.

    Args:
        names: By the number of the bit.
        off: The bits that are off.
        on: The bits that are on.
    """
    told = [f"{name} is off" for name in _named(names, off)]
    told += [f"{name} is on" for name in _named(names, on)]
    more = [f"and {len(told) - MOST} more"] if len(told) > MOST else []
    return ", ".join(told[:MOST] + more)


def _named(names: Mapping[int, str], bits: int) -> Iterator[str]:
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            yield f"{names[number]} (bit {number})" if number in names else f"bit {number}"
