"""The layers of a diffusion U-Net: residual blocks that read the time, attention between pixels.

Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal & Nichol 2021, arXiv:2105.05233.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_divisible
from dlreview.nn.activation import find_activation
from dlreview.nn.attention import MultiHeadAttention, compute_attention
from dlreview.nn.group_norm import GroupNorm

Layer = TypeVar("Layer", bound=nn.Module)


def count_groups(width: int, groups: int | None) -> int:
    """Return the number of groups of a norm: `groups`, or by default width / 4, at most 32.

    Raises:
        ValueError: The number does not divide `width`.
    """
    groups = min(width // 4, 32) if groups is None else groups
    check_divisible("width", width, "groups", groups)
    return groups


def group_norm(width: int, groups: int | None, eps: float) -> GroupNorm:
    """Make a norm of groups of channels; see `count_groups`."""
    return GroupNorm(count_groups(width, groups), width, eps)


def start_at_zero(layer: Layer) -> Layer:
    """Set all parameters of a layer to zero: a new branch adds nothing, and deep nets train."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResNetBlock(nn.Module):
    """Add two convolutions of x to x; the embedding e of time and label acts between them.

    y = (x + conv2(act(norm2(conv1(act(norm1(x))) + W e)))) / output_scale. With `scale_shift` the
    embedding acts after the norm: norm2(h) (1 + scale(e)) + shift(e).

    Args:
        width_in: Channels of x.
        width_out: Channels of y. Where they differ from `width_in`, x is projected.
        embedding_width: Width of e, which comes activated; None for a block without embedding.
        groups: Groups of both norms; see `count_groups`.
        eps: Added to the variances by the norms.
        activation: One of `nn.activation`.
        dropout: Share of the features that is set to zero before the second convolution.
        scale_shift: Whether e scales and shifts.
        resample: Changes the resolution of x, and of its branch before the first convolution.
        output_scale: Divisor of the sum.
        project: Whether x is projected where the widths are equal, too.

    Raises:
        ValueError: `activation` is unknown or `groups` do not divide a width.
    """

    def __init__(  # the block of three papers (DDPM, ADM, NCSN++): BlockOptions sets most of these
        self,
        width_in: int,
        width_out: int,
        embedding_width: int | None,
        groups: int | None = 32,
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
        self.norm_1 = group_norm(width_in, groups, eps)
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
        """Compute y, at another resolution if the block has `resample`."""
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
        """Apply the activation; in place without gradients, since nothing else reads `h`."""
        if self.activation is F.silu and not torch.is_grad_enabled():
            return F.silu(h, inplace=True)
        return self.activation(h)


class PixelAttention(nn.Module):
    """Let every pixel attend to all pixels: y = (x + attention(norm(x))) / output_scale.

    With `head_width` None there is one head; else there are as many heads as fit into `width`.
    With `normalise` False there is no norm.

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
        tokens = self.attend_folded(tokens) if self.can_fold(tokens) else self.attention(tokens)
        y = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])
        y += x
        return y if self.output_scale == 1 else y / self.output_scale

    def attend_folded(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Attend with one head and two projections instead of four: multiply their weights first.

        The scores (W_q x_i + b_q)^T (W_k x_j + b_k) are (W_k^T W_q x_i + W_k^T b_q)^T x_j plus
        terms that are equal for all j, which the softmax cancels. The softmax weights w_ij sum to
        1, so W_o (sum_j w_ij (W_v x_j + b_v)) + b_o = sum_j w_ij (W_o W_v x_j + W_o b_v + b_o).
        """
        q, k, v, o = (getattr(self.attention, f"W_{name}") for name in "qkvo")
        scale = q.out_features**-0.5 if self.attention.scale is None else self.attention.scale
        weight = torch.cat([scale * (k.weight.T @ q.weight), o.weight @ v.weight])
        bias = torch.cat([scale * (q.bias @ k.weight), F.linear(v.bias, o.weight, o.bias)])
        query, value = F.linear(x, weight, bias).chunk(2, dim=-1)
        images, tokens, _ = x.shape
        if images < 16 or images * tokens**2 > 2**21:
            return compute_attention(query[:, None], x[:, None], value[:, None], scale=1.0)[:, 0]
        # While the scores fit into the caches, two products take 0.5 to 0.9 of the fused kernel's
        # time.
        scores = torch.bmm(query, x.mT)
        return torch.bmm(torch.softmax(scores, dim=-1, out=scores), value)

    def can_fold(self, x: Float[Tensor, "batch tokens width"]) -> bool:
        """Whether `attend_folded` is valid and faster: one head, many tokens, on a CPU.

        It is not used with gradients, which would have to pass through the products of weights, nor
        after a projection has been replaced by another layer (an adapter, say).
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


class BlockOptions(nn.Module):
    """Options that all blocks of a U-Net share.

    Args:
        activation: One of `nn.activation`.
        eps: Added to the variances by the norms.
        scale_shift: Whether the embedding scales and shifts after a norm (ADM) or is added before
            it (DDPM).
        head_width: Width of an attention head; None for one head.
        embedding_width: Width of the embedding of time and label; None for four times the width of
            the finest level.

    Raises:
        ValueError: `activation` is unknown, a width is below 1, or `eps` is negative.
    """

    def __init__(
        self,
        activation: str = "silu",
        eps: float = 1e-5,
        scale_shift: bool = False,
        head_width: int | None = None,
        embedding_width: int | None = None,
    ) -> None:
        super().__init__()
        find_activation(activation)
        check_at_least(0, eps=eps)
        check_at_least(1, head_width=head_width, embedding_width=embedding_width)
        self.activation, self.eps, self.scale_shift = activation, eps, scale_shift
        self.head_width, self.embedding_width = head_width, embedding_width
