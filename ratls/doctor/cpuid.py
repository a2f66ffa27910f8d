"""`python -m ratls.doctor.cpuid`: what the processor says about SGX, as one line of JSON.

The instruction needs no rights and no device, and no module of the interpreter has it: some bytes
of machine code run it. In a process of its own: a machine that forbids this ends that process.

Source: Intel SDM, volume 2A, CPUID, leaf 07H and leaf 12H.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import platform
import subprocess
import sys
from collections.abc import Mapping

_SECONDS = 3.0
_EPC_LEAVES = range(2, 10)
# void f(unsigned *r /* rdi */), System V: rbx is the caller's; eax and ecx come from r[0] and r[2].
_CODE = bytes.fromhex("53 8b07 8b4f08 0fa2 8907 895f04 894f08 89570c 5b c3")


def _leaf(code: mmap.mmap, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    call = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(address)
    registers = (ctypes.c_uint32 * 4)(leaf, 0, subleaf, 0)
    call(registers)
    a, b, c, d = registers
    return a, b, c, d


def main() -> None:
    """Print the leaves that matter; none where this is another processor."""
    found: dict[str, tuple[int, int, int, int]] = {}
    if platform.machine() == "x86_64":
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=rights)
        code.write(_CODE)
        found["0.0"] = _leaf(code, 0, 0)
        most = found["0.0"][0]
        if most >= 7:
            found["7.0"] = _leaf(code, 7, 0)
        if most >= 0x12 and found["7.0"][1] & 4:  # leaf 12H means nothing without SGX
            found.update({f"12.{n}": _leaf(code, 0x12, n) for n in (0, 1, *_EPC_LEAVES)})
    print(json.dumps(found))


def ask_processor() -> Mapping[str, tuple[int, int, int, int]]:
    """The leaves, from a process of its own.

    Raises: OSError, subprocess.SubprocessError, ValueError: it did not work here.
    """
    line = [sys.executable, "-I", "-B", "-m", "ratls.doctor.cpuid"]
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        line, capture_output=True, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
    )
    answer = json.loads(done.stdout)
    return {name: (a, b, c, d) for name, (a, b, c, d) in answer.items()}


if __name__ == "__main__":
    main()
