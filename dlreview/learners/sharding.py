"""Networks that do not fit on one device: each process keeps a share of every weight.

Fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277): the weights of a block are
gathered while it computes and forgotten after it; its gradients are averaged and shared out again.
Lightning calls `LightningModule.configure_model` for it, with `ModelParallelStrategy`.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def shard(net: nn.Module, mesh: Any) -> None:
    """Share the weights of a network out over the processes of `mesh`, each block by itself.

    Only `net(...)` may be called from then on, and by all processes at the same time.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(net, FSDPModule):
        return
    for part in [module for module in net.modules() if isinstance(module, nn.ModuleList)]:
        for block in part:
            fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)


def is_sharded(net: nn.Module) -> bool:
    """Return whether each process keeps only a share of the weights."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(net, FSDPModule)
