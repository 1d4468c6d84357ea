"""Attention maps of a Vision Transformer over its images (row 42).

Attention of the class token in each head: Caron et al. 2021, arXiv:2104.14294. Rollout: Abnar &
Zuidema 2020, arXiv:2005.00928.
"""

import matplotlib
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.nn.vit import ViT
from dlreview.plots.grid import grid


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
def attention(
    net: ViT, images: Float[Tensor, "batch channels height width"], layer: int = -1
) -> UInt8[Tensor, "tall wide 3"]:
    """Draw a row for each image: the image, each head's attention in one layer, the rollout.

    Bright patches get much attention; each map is scaled to its own largest value. Pixels may have
    any scale.

    Raises:
        ValueError: images have neither 1 nor 3 channels, or there is no such layer.
    """
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got shape {tuple(images.shape)}")
    if not -net.depth <= layer < net.depth:
        raise ValueError(f"layer must be in {-net.depth}..{net.depth - 1}, got {layer}")
    maps = net.attention_maps(images).float()
    rows, _ = net.embedding.grid(height, width)
    heat = patch_attention(torch.cat([maps[layer], rollout(maps)[:, None]], dim=1), net, rows)
    heat = heat / heat.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    tall, wide = net.embedding.covered_size(height, width)
    heat = F.interpolate(heat, size=(tall, wide), mode="bilinear")
    heat = F.pad(heat, (0, width - wide, 0, height - tall)).cpu()  # negative padding crops
    coloured = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).float()

    grey = images.float().cpu().mean(dim=1)
    low, high = grey.amin(), grey.amax()
    grey = (grey - low) / (high - low).clamp(min=1e-12)
    # The mean of image and map, so that both can be seen, in the range [-1, 1].
    overlays = rearrange(coloured, "b k h w c -> b k c h w") + repeat(grey, "b h w -> b 1 3 h w")
    panels = torch.cat([repeat(2 * grey, "b h w -> b 1 3 h w"), overlays], dim=1) - 1
    return grid(rearrange(panels, "b k c h w -> (b k) c h w"), columns=panels.shape[1])
