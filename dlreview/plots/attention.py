"""Attention maps of a Vision Transformer over its images (row 42).

Attention of the class token in each head: Caron et al. 2021, arXiv:2104.14294. Rollout: Abnar &
Zuidema 2020, arXiv:2005.00928.
"""

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.nn.feature_map import check_finite
from dlreview.nn.vit import ViT
from dlreview.plots.heat import overlay


def rollout(
    maps: Float[Tensor, "depth batch heads tokens tokens"],
) -> Float[Tensor, "batch tokens tokens"]:
    """Multiply the attention of all layers: the product of (A + I) / 2, with A averaged over heads.

    I stands for the residual connection. A row sums to 1: it has the shares of all input tokens in
    one output token.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    joint = identity.expand(maps.shape[1], -1, -1)
    for layer in maps.mean(dim=2):
        joint = (layer + identity) / 2 @ joint
    return joint


def patch_attention(
    weights: Float[Tensor, "*batch tokens tokens"], net: ViT, rows: int
) -> Float[Tensor, "*batch rows columns"]:
    """Return the attention of the class token (without one, the mean of all) to each patch."""
    shares = weights[..., 0, :] if net.class_token else weights.mean(dim=-2)
    return rearrange(shares[..., net.prefix :], "... (h w) -> ... h w", h=rows)


@torch.no_grad()
def attention_heat(
    net: ViT, images: Float[Tensor, "batch channels height width"], layer: int = -1
) -> Float[Tensor, "batch maps rows columns"]:
    """Return the attention to each patch: a map for each head of one layer, then the rollout.

    Raises:
        ValueError: there is no such layer, or a pixel is infinite or not a number.
    """
    if not -net.depth <= layer < net.depth:
        raise ValueError(f"layer must be in {-net.depth}..{net.depth - 1}, got {layer}")
    check_finite(images)
    maps = net.attention_maps(images).float()
    rows, _ = net.embedding.grid(*images.shape[-2:])
    return patch_attention(torch.cat([maps[layer], rollout(maps)[:, None]], dim=1), net, rows)


def attention(
    net: ViT, images: Float[Tensor, "batch channels height width"], layer: int = -1
) -> UInt8[Tensor, "tall wide 3"]:
    """Draw a row for each image: the image, each head's attention in one layer, the rollout.

    Bright patches get much attention; each map is scaled to its own largest value. Pixels may have
    any scale.

    Raises:
        ValueError: images have neither 1 nor 3 channels, or there is no such layer.
    """
    heat = attention_heat(net, images, layer)
    return overlay(images, heat, net.embedding.covered_size(*images.shape[-2:]))
