"""Group normalisation (Wu & He 2018, arXiv:1803.08494) of feature maps.

Each group of channels of an image gets mean 0 and variance 1; then each channel gets a learned
scale and offset.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Features = Float[Tensor, "batch channels height width"]


def normalise_by_channel_sums(
    x: Features,
    groups: int,
    weight: Float[Tensor, " channels"],
    bias: Float[Tensor, " channels"],
    eps: float,
) -> Features:
    """Normalise by sums over the pixels of each channel, in the order of channels-last memory.

    The variance is E[x^2] - E[x]^2, as in torch's own kernel for this layout. This is for use
    without gradients: the result overwrites the squares, since allocating memory costs more than
    filling it.
    """
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).view(b, h * w, c)
    size = h * w * c // groups
    squares = tokens * tokens
    mean = tokens.sum(dim=1).view(b, groups, -1).sum(dim=-1, keepdim=True).div_(size)
    square = squares.sum(dim=1).view(b, groups, -1).sum(dim=-1, keepdim=True).div_(size)
    variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0)
    scale = variance.add_(eps).rsqrt_() * weight.view(groups, -1)
    shift = torch.addcmul(bias.view(groups, -1), mean, scale, value=-1)
    y = torch.addcmul(shift.view(b, 1, c), tokens, scale.view(b, 1, c), out=squares)
    return y.view(b, h, w, c).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """torch's module, with a faster computation on a CPU where torch's kernel is slow."""

    def forward(self, x: Features) -> Features:
        """Normalise each group of channels in each image."""
        if not torch.compiler.is_compiling() and self.is_slow_in_torch(x):
            return normalise_by_channel_sums(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def is_slow_in_torch(self, x: Features) -> bool:
        """Whether torch's kernel would take many steps, each over the channels of one group.

        For channels last and maps below 1,024 pixels it takes a step per pixel and group: up to
        20 ns where the channels of a group do not fill its vectors of 8, and 6 ns where they fill
        exactly one, so that only a larger number of steps is slower than the sums. With gradients
        the sums have to keep more tensors, and are not faster.
        """
        images, channels, height, width = x.shape
        steps, group_width = images * height * width * self.num_groups, channels // self.num_groups
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and x.dtype in (torch.float32, torch.float64)
            and (group_width % 8 != 0 or (group_width == 8 and steps > 100_000))
            and height * width < 1024
            and steps > 16_384
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
        )
