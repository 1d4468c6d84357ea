"""Pooling: the tokens of an image or a sentence become one feature vector.

Every pooling takes the tokens and `prefix`, the number of special tokens before the patches or
words. If it needs only the first tokens, its attribute `reads` is their number, so that the other
tokens need not be computed. Attention pooling: Zhai et al. 2022, arXiv:2106.04560. Distillation
token: Touvron et al. 2021, arXiv:2012.12877.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.activation import find_activation
from dlreview.nn.attention import (
    MultiHeadAttention,
    combine_heads,
    compute_attention,
    split_heads,
)
from dlreview.nn.feed_forward import FeedForward


class ClassToken(nn.Module):
    """Take the first token."""

    reads = 1

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        return x[:, 0]


class ClassAndDistillation(nn.Module):
    """Keep the class token and the distillation token apart (Touvron et al. 2021, DeiT).

    A ViT with this pooling and one register, the distillation token, has a linear classifier for
    each of these tokens, and averages the logits.
    """

    reads = 2
    heads_of_tokens = 2  # classifiers, one for each token

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 2
    ) -> Float[Tensor, "batch 2 width"]:
        """Pool."""
        return x[:, :2]


class AverageOfHeads(nn.Module):
    """Apply a linear classifier to each token and average; with `num_classes` 0 average tokens."""

    def __init__(self, width: int, num_classes: int, heads: int) -> None:
        super().__init__()
        self.width, self.num_classes = width, num_classes
        self.heads = nn.ModuleList(
            nn.Linear(width, num_classes) if num_classes else nn.Identity() for _ in range(heads)
        )

    def forward(self, x: Float[Tensor, "batch heads width"]) -> Float[Tensor, "batch outputs"]:
        """Classify."""
        logits = [head(token) for head, token in zip(self.heads, x.unbind(1), strict=True)]
        return torch.stack(logits).mean(dim=0)


class EveryToken(nn.Module):
    """Do not pool: the head then sees every token."""

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch tokens width"]:
        """Return `x`."""
        return x


class Mean(nn.Module):
    """Average the patches; with `include_prefix` also the class and register tokens."""

    def __init__(self, include_prefix: bool = False) -> None:
        super().__init__()
        self.include_prefix = include_prefix

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        return x[:, 0 if self.include_prefix else prefix :].mean(dim=1)


class Max(Mean):
    """Take the largest value of each feature over the same tokens."""

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        return x[:, 0 if self.include_prefix else prefix :].amax(dim=1)


class MeanMax(Mean):
    """Average the mean and the largest value of each feature."""

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        x = x[:, 0 if self.include_prefix else prefix :]
        return 0.5 * (x.amax(dim=1) + x.mean(dim=1))


class MeanAndMax(nn.Module):
    """Concatenate the mean and the largest value of each feature over the patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.output_width = 2 * width

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch output_width"]:
        """Pool."""
        return torch.cat([x[:, prefix:].mean(dim=1), x[:, prefix:].amax(dim=1)], dim=-1)


class ClassAndMean(nn.Module):
    """Concatenate the class token and the mean of the patches, as DINOv2's linear probe does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.output_width = 2 * width

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch output_width"]:
        """Pool."""
        return torch.cat([x[:, 0], x[:, prefix:].mean(dim=1)], dim=-1)


class Pooler(nn.Module):
    """Apply a linear layer and an activation f to the first token: BERT's pooler.

    Raises:
        ValueError: The activation is unknown.
    """

    reads = 1

    def __init__(
        self, width: int, output_width: int | None = None, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.width, self.activation = width, activation
        self.output_width = width if output_width is None else output_width
        self.f = find_activation(activation)
        self.W = nn.Linear(width, self.output_width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch output_width"]:
        """Pool."""
        return self.f(self.W(x[:, 0]))


class AttentionPooling(nn.Module):
    """Let a learned query attend to the tokens, then apply a feed-forward network to it."""

    def __init__(
        self,
        width: int,
        heads: int,
        norm: nn.Module,
        feed_forward: FeedForward,
        include_prefix: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.include_prefix = width, heads, include_prefix
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = MultiHeadAttention(width, heads)
        self.norm = norm
        self.feed_forward = feed_forward

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        x = x[:, 0 if self.include_prefix else prefix :]
        x = self.attention(self.query.expand(x.shape[0], -1, -1), x)
        return (x + self.feed_forward(self.norm(x)))[:, 0]


class RefinedPooling(nn.Module):
    """Apply self-attention without learned weights, then `pooling`."""

    def __init__(self, heads: int, pooling: nn.Module) -> None:
        super().__init__()
        self.heads, self.pooling = heads, pooling

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch width"]:
        """Pool."""
        heads = split_heads(x, self.heads)
        return self.pooling(combine_heads(compute_attention(heads, heads, heads)), prefix)
