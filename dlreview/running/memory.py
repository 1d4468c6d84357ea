"""Memory that one step frees is kept for the next.

A tensor of many megabytes comes from the operating system and goes back to it, page by page, in
every step. On a CPU that is much of a step where activations are large: of the LSTM language model
on Brown, whose scores of 10,000 words are 41 MB, two fifths (recipes/language_model_lstm_brown).
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
FOREVER = 2**31 - 1
AT_ONCE = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed; return whether it does.

    Other C libraries are left alone. The process then holds as much as it once needed at its most.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")  # glibc's name; musl, say, has another
        set_option = libc.mallopt
    except (OSError, AttributeError):
        return False
    options = {MMAP_MAX: 0, TRIM_THRESHOLD: FOREVER, TOP_PAD: AT_ONCE}
    return all([set_option(name, value) for name, value in options.items()])
