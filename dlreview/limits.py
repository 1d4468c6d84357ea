"""A limit on the size of networks: parameters are counted before memory is used for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

MOST_PARAMETERS = 20_000  # tensors, not numbers; the largest language models have about a thousand


def machine_memory() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextlib.contextmanager
def within_memory(limit: int | None = None) -> Iterator[None]:
    """Refuse a network under construction as soon as its parameters outgrow `limit` bytes.

    A parameter's memory is reserved when it is registered, and used only when it is filled, so that
    nothing is taken that is not there.

    Args:
        limit: bytes of parameters; by default this machine's memory.

    Raises:
        ValueError: the parameters under construction take more than `limit`.
    """
    limit = machine_memory() if limit is None else limit
    size = count = 0

    def count_bytes(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal size, count
        if parameter is not None:
            size, count = size + parameter.numel() * parameter.element_size(), count + 1
        if size > limit or count > MOST_PARAMETERS:
            raise ValueError(
                f"its parameters take more than {size / 2**30:,.0f} GiB in {count:,} tensors; "
                f"this machine has {limit / 2**30:,.0f} GiB"
            )

    handle = register_module_parameter_registration_hook(count_bytes)
    try:
        yield
    except (MemoryError, OverflowError) as error:
        raise ValueError(f"a size is far too large ({error or 'out of memory'})") from None
    finally:
        handle.remove()


@contextlib.contextmanager
def without_memory(limit: int | None = None) -> Iterator[None]:
    """Construct networks on the meta device, within `limit` bytes as in `within_memory`.

    Raises:
        ValueError: the parameters under construction take more than `limit`.
    """
    with within_memory(limit), torch.device("meta"):
        yield
