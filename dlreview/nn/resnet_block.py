"""The parts of a diffusion U-Net: residual blocks that know the time, attention between pixels.

Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal & Nichol 2021, arXiv:2105.05233.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.activation import find_activation
from dlreview.nn.attention import MultiHeadAttention, compute_attention
from dlreview.nn.group_norm import GroupNorm

Layer = TypeVar("Layer", bound=nn.Module)


def count_groups(width: int, groups: int | None) -> int:
    """Say how many groups a norm has: `groups`, or without them width / 4, at most 32.

    Raises:
        ValueError: They do not divide `width`.
    """
    groups = min(width // 4, 32) if groups is None else groups
    if groups < 1 or width % groups:
        raise ValueError(f"width {width} is not divisible by groups {groups}")
    return groups


def group_norm(width: int, groups: int | None, eps: float) -> GroupNorm:
    """Normalise groups of channels in each image; see `count_groups`."""
    return GroupNorm(count_groups(width, groups), width, eps)


def start_at_zero(layer: Layer) -> Layer:
    """Make a new layer give zeros, so that what it adds to is passed on, and deep nets train."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResNetBlock(nn.Module):
    """Add to x what two convolutions make of it and of the embedding e of time and condition.

    y = (x + conv2(act(norm2(conv1(act(norm1(x))) + W e)))) / output_scale, with x projected where
    the widths differ (or always, if `project`). With `scale_shift` the embedding acts after the
    norm: norm2(h) (1 + scale(e)) + shift(e). `resample` comes before the first convolution, and on
    x. The embedding arrives activated; `embedding_width` None is a block without one. `in_groups`
    are those of the first norm where they differ.

    Raises:
        ValueError: `activation` is unknown or `groups` do not divide a width.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        embedding_width: int | None,
        groups: int | None = 32,
        in_groups: int | None = None,
        eps: float = 1e-5,
        activation: str = "silu",
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: nn.Module | None = None,
        output_scale: float = 1.0,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift, self.output_scale = scale_shift, output_scale
        self.activation = find_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.resample = resample
        self.norm_1 = group_norm(width_in, in_groups or groups, eps)
        self.conv_1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm_2 = group_norm(width_out, groups, eps)
        self.conv_2 = start_at_zero(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.embed = self.project = None
        if embedding_width is not None:
            self.embed = nn.Linear(embedding_width, width_out * (2 if scale_shift else 1))
        if project or width_in != width_out:
            self.project = nn.Conv2d(width_in, width_out, 1)

    def forward(
        self,
        x: Float[Tensor, "batch width_in height columns"],
        embedding: Float[Tensor, "#batch embedding"] | None = None,
    ) -> Float[Tensor, "batch width_out new_height new_columns"]:
        """Compute y, at another resolution if the block resamples."""
        h = self.activate(self.norm_1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv_1(h)
        if self.embed is None:
            h = self.norm_2(h)
        elif self.scale_shift:
            scale, shift = self.embed(embedding)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h += self.embed(embedding)[:, :, None, None]
            h = self.norm_2(h)
        h = self.conv_2(self.dropout(self.activate(h)))
        h += x if self.project is None else self.project(x)
        return h if self.output_scale == 1 else h / self.output_scale

    def activate(self, h: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply the activation to what only it reads: without gradients, in place."""
        if self.activation is F.silu and not torch.is_grad_enabled():
            return F.silu(h, inplace=True)
        return self.activation(h)


class PixelAttention(nn.Module):
    """Let every pixel gather from all pixels: y = (x + attention(norm(x))) / output_scale.

    `head_width` None is one head; a width that it does not divide has as many heads as fit in.
    `normalise` False leaves the norm out.

    Raises:
        ValueError: `head_width` is larger than `width`, or `groups` do not divide `width`.
    """

    def __init__(
        self,
        width: int,
        head_width: int | None = None,
        groups: int | None = 32,
        eps: float = 1e-5,
        normalise: bool = True,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        head_width = head_width or width
        if head_width > width:
            raise ValueError(f"head_width {head_width} is larger than width {width}")
        self.output_scale = output_scale
        self.norm = group_norm(width, groups, eps) if normalise else nn.Identity()
        self.attention = MultiHeadAttention(width, width // head_width, head_width=head_width)
        start_at_zero(self.attention.W_o)

    def forward(
        self, x: Float[Tensor, "batch width height columns"]
    ) -> Float[Tensor, "batch width height columns"]:
        """Attend over all pixels of an image."""
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        tokens = self.fold(tokens) if self.folds(tokens) else self.attention(tokens)
        y = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])
        y += x
        return y if self.output_scale == 1 else y / self.output_scale

    def fold(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Attend with one head by two projections for four: those that follow each other multiply.

        The scores (W_q x_i + b_q)^T (W_k x_j + b_k) are (W_k^T W_q x_i + W_k^T b_q)^T x_j but for
        what is the same for all j, which a softmax does not see. Its weights sum to 1, so that
        W_o (sum_j w_ij (W_v x_j + b_v)) + b_o is sum_j w_ij (W_o W_v x_j + W_o b_v + b_o).
        """
        q, k, v, o = (getattr(self.attention, f"W_{name}") for name in "qkvo")
        scale = q.out_features**-0.5 if self.attention.scale is None else self.attention.scale
        weight = torch.cat([scale * (k.weight.T @ q.weight), o.weight @ v.weight])
        bias = torch.cat([scale * (q.bias @ k.weight), F.linear(v.bias, o.weight, o.bias)])
        query, value = F.linear(x, weight, bias).chunk(2, dim=-1)
        images, tokens, _ = x.shape
        if images < 16 or images * tokens**2 > 2**21:
            return compute_attention(query[:, None], x[:, None], value[:, None], scale=1.0)[:, 0]
        # Where the caches hold the scores, two products take 0.5 to 0.9 of the fused kernel's time.
        scores = torch.bmm(query, x.mT)
        return torch.bmm(torch.softmax(scores, dim=-1, out=scores), value)

    def folds(self, x: Float[Tensor, "batch tokens width"]) -> bool:
        """Whether multiplying the weights pays: with one head, for many tokens, on a CPU.

        Not with gradients, which would run through the products; not where somebody has put
        another layer in place of a projection.
        """
        layers = self.attention.children()
        return (
            x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and self.attention.heads == 1
            and all(type(layer) is nn.Linear and layer.bias is not None for layer in layers)
            and x.shape[0] * x.shape[1] >= 4 * x.shape[2]
            and not torch.is_grad_enabled()
        )
