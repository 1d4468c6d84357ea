"""Group normalisation (Wu & He 2018, arXiv:1803.08494) of feature maps.

Every group of channels of an image gets mean 0 and variance 1; every channel then a learned scale
and offset.
"""

import torch
import torch.nn.functional as F
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
