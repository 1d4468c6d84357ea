"""The shapes that the exam's problem 9 asks for (rows 98-100), read from a live captioner.

A word attends to the k features of a picture. W_Q makes its query; W_K and W_V make a key and a
value of each feature. The widths are those of all heads together.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AttentionShapes:
    """Weights as (width in, width out), and Q, K, V as (tokens, width).

    `projection` is the layer between the two networks, None if there is none (row 100).
    """

    W_Q: Shape
    W_K: Shape
    W_V: Shape
    Q: Shape
    K: Shape
    V: Shape
    projection: Shape | None


def weight_shape(layer: nn.Linear) -> Shape:
    """Return (width in, width out); torch stores the transpose."""
    return tuple(layer.weight.T.shape)


@torch.no_grad()
def first_word_shapes(
    net: Any, images: Float[Tensor, "batch ..."], ids: Int[Tensor, "batch 1"], layer: int = 0
) -> AttentionShapes:
    """Let a captioner read the first word, and measure what its cross-attention computes.

    `net` is a `VisionEncoderDecoder`, and `layer` the number of one of its decoder's blocks.
    """
    attention = net.decoder.decoder.blocks[layer].cross_attention
    layers = {"Q": attention.W_q, "K": attention.W_k, "V": attention.W_v}
    computed: dict[str, Shape] = {}
    hooks = []
    for name, linear in layers.items():

        def record(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
            computed[name] = tuple(output.shape[1:])

        hooks.append(linear.register_forward_hook(record))
    try:
        net.hidden(images, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return AttentionShapes(
        **{f"W_{name}": weight_shape(linear) for name, linear in layers.items()},
        **computed,
        projection=None if net.projection is None else weight_shape(net.projection),
    )
