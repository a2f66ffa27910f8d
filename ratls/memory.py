"""Lets this process keep the memory that large messages were in, for the next ones.

    keep_freed_memory()   # once; where the C library has no such setting, nothing changes

By default glibc gives blocks of a message's size back to the system as soon as they are free, and
takes new ones page by page, each filled with zeros: that cost more than the encryption did.
"""

from __future__ import annotations

import ctypes

from verifier.files import MEBIBYTE

# Parameters of `mallopt` (malloc.h). Blocks below the first are reused, free memory at the top is
# kept up to the second, and the third is asked for beyond what is needed.
_SETTINGS = (
    (-3, 32 * MEBIBYTE),  # M_MMAP_THRESHOLD, its largest
    (-1, 64 * MEBIBYTE),  # M_TRIM_THRESHOLD
    (-2, 16 * MEBIBYTE),  # M_TOP_PAD
)


def keep_freed_memory() -> None:
    """Set them. Speed alone depends on it; a refusal of the C library is none of ours."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter, value in _SETTINGS:
            library.mallopt(parameter, value)
