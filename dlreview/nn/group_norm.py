"""Group normalisation (Wu & He 2018, arXiv:1803.08494) of feature maps.

Every group of channels of an image gets mean 0 and variance 1; every channel then a learned scale
and offset.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

Features = Float[Tensor, "batch channels height width"]


def by_channel_sums(
    x: Features,
    groups: int,
    weight: Float[Tensor, " channels"],
    bias: Float[Tensor, " channels"],
    eps: float,
) -> Features:
    """Normalise by sums over the pixels of each channel, which run along memory in channels last.

    The variance is E[x^2] - E[x]^2, as in torch's own kernel for this layout. Without gradients
    only: the result takes the memory of the squares, as fetching more costs more than to fill it.
    """
    tokens = rearrange(x, "b c h w -> b (h w) c")
    size = tokens.shape[1] * tokens.shape[2] // groups
    squares = tokens * tokens
    sums = torch.stack([tokens.sum(dim=1), squares.sum(dim=1)])
    mean, square = rearrange(sums, "s b (g d) -> s b g d", g=groups).sum(dim=-1) / size
    spread = torch.rsqrt((square - mean * mean).clamp_(min=0) + eps)
    mean, spread = (repeat(v, "b g -> b (g d)", d=x.shape[1] // groups) for v in (mean, spread))
    scale = spread * weight
    y = torch.addcmul((bias - mean * scale)[:, None], tokens, scale[:, None], out=squares)
    return rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])


class GroupNorm(nn.GroupNorm):
    """Normalise; torch's module, with a shorter way on a CPU where torch's takes a long one."""

    def forward(self, x: Features) -> Features:
        """Normalise each group of channels in each image."""
        if not torch.compiler.is_compiling() and self.takes_long(x):
            return by_channel_sums(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def takes_long(self, x: Features) -> bool:
        """Whether torch would step through many pixels, by the channels of one group each time.

        Its kernel for channels last does so in maps below 1,024 pixels, and takes up to 20 ns for
        a step where the channels do not fill its vectors of 8; if they fill one, 6 ns, and it takes
        more steps to win. With gradients the way over sums has to keep more, and is not shorter.
        """
        images, channels, height, width = x.shape
        steps, of_group = images * height * width * self.num_groups, channels // self.num_groups
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and x.dtype in (torch.float32, torch.float64)
            and (of_group % 8 != 0 or (of_group == 8 and steps > 100_000))
            and height * width < 1024
            and steps > 16_384
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
        )
