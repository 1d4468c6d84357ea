"""Transformer blocks and their stack (Vaswani et al. 2017, arXiv:1706.03762, section 3.1).

Tokens are passed on by residual connections, from which attention and a feed-forward network
branch off: x + f(x).
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.attention import MultiHeadAttention, TokenMask
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.norm import LayerNorm
from dlreview.nn.stochastic_depth import drop_path

Tokens = Float[Tensor, "batch tokens width"]


class Block(nn.Module):
    """Attend, then transform each token; norms come first (Xiong et al. 2020, arXiv:2002.04745).

    Parts that are not given are plain: attention with `heads` heads, a GELU network of
    `hidden_width` (4 times the width), layer norms. `layer_scale` is the first value of a learned
    factor per feature on each branch (Touvron et al. 2021, arXiv:2103.17239). `dropout` falls on
    the features of the branches, `drop_path` on whole branches.

    Raises:
        ValueError: A size is not positive, a rate not in [0, 1), or `width` not divisible by
            `heads`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_width: int | None = None,
        attention: MultiHeadAttention | None = None,
        feed_forward: nn.Module | None = None,
        attention_norm: nn.Module | None = None,
        feed_forward_norm: nn.Module | None = None,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not (0 <= dropout < 1 and 0 <= drop_path < 1):
            raise ValueError(f"dropout {dropout} and drop_path {drop_path} must be in [0, 1)")
        self.width, self.heads, self.hidden_width = width, heads, hidden_width
        self.layer_scale, self.dropout, self.drop_path = layer_scale, dropout, drop_path
        self.attention = attention or MultiHeadAttention(width, heads)
        self.attention_norm = attention_norm or LayerNorm(width)
        self.feed_forward = feed_forward or FeedForward(width, hidden_width or 4 * width)
        self.feed_forward_norm = feed_forward_norm or LayerNorm(width)
        self.attention_scale: Tensor | None = None
        self.feed_forward_scale: Tensor | None = None
        if layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((width,), float(layer_scale)))
            self.feed_forward_scale = nn.Parameter(torch.full((width,), float(layer_scale)))

    def attend(
        self, x: Tokens, mask: TokenMask | None, causal: bool, first: int | None
    ) -> Float[Tensor, "batch kept width"]:
        """Let all tokens, or the `first`, attend to all."""
        if first is None:
            return self.attention(x, mask=mask, causal=causal)
        if causal:
            raise ValueError(f"first {first} is not for causal attention")
        return self.attention(x[:, :first], x, mask=mask)

    def add(
        self, x: Tokens, branch: Tokens, scale: Float[Tensor, " width"] | None
    ) -> Float[Tensor, "batch tokens width"]:
        """Add a branch, scaled and at times dropped, to what is passed on."""
        if self.dropout:
            branch = F.dropout(branch, self.dropout, self.training)
        branch = drop_path(branch, self.drop_path, self.training)
        return x + branch if scale is None else torch.addcmul(x, branch, scale)

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the layer, or of its tokens only the `first`, which attend to all.

        `mask` and `causal` are as in `MultiHeadAttention`; `causal` is not for the `first`.
        """
        seen = self.attention_norm(x)
        attended = self.attend(seen, mask, causal, first)
        x = self.add(x[:, :first], attended, self.attention_scale)
        return self.add(x, self.feed_forward(self.feed_forward_norm(x)), self.feed_forward_scale)

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Show what `forward` attends to."""
        return self.attention.weights(self.attention_norm(x), mask=mask, causal=causal)


class PostNormBlock(Block):
    """Norm after each sum, as Vaswani et al. and BERT do: norm(x + f(x))."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the layer as `Block` does, but for the place of the norms."""
        attended = self.attend(x, mask, causal, first)
        x = self.attention_norm(self.add(x[:, :first], attended, self.attention_scale))
        return self.feed_forward_norm(self.add(x, self.feed_forward(x), self.feed_forward_scale))

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Show what `forward` attends to."""
        return self.attention.weights(x, mask=mask, causal=causal)


class BranchNormBlock(PostNormBlock):
    """Norm at the end of each branch: x + norm(f(x)) (Liu et al. 2022, arXiv:2111.09883)."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the layer as `Block` does, but for the place of the norms."""
        attended = self.attention_norm(self.attend(x, mask, causal, first))
        x = self.add(x[:, :first], attended, self.attention_scale)
        return self.add(x, self.feed_forward_norm(self.feed_forward(x)), self.feed_forward_scale)


class Encoder(nn.Module):
    """Stack `depth` copies of `block`, each with weights of its own.

    `drop_path` grows from 0 at the first block to this rate at the last; a list gives every rate.
    At 0 each block keeps the rate that it came with.

    Raises:
        ValueError: `depth` is not positive, or `drop_path` is a list of another length.
    """

    def __init__(self, block: Block, depth: int, drop_path: float | list[float] = 0.0) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be positive, not {depth}")
        if isinstance(drop_path, list) and len(drop_path) != depth:
            raise ValueError(f"drop_path {drop_path} must have a rate for each of {depth} blocks")
        # The mould of the blocks is no part of the stack: its weights are not to be trained.
        self.__dict__["block"] = block
        self.depth, self.drop_path = depth, drop_path
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(depth))
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if drop_path:
            rates = drop_path
            if not isinstance(rates, list):
                rates = torch.linspace(0, rates, depth, dtype=torch.float64, device="cpu").tolist()
            for copied, rate in zip(cast(list[Block], self.blocks), rates, strict=True):
                copied.drop_path = rate

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the layers in turn; with `first` the last one gives only so many tokens."""
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x, mask=mask, causal=causal)
        return last(x, mask=mask, causal=causal, first=first)

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Show what each layer attends to, first layer first."""
        weights = []
        for block in cast(list[Block], self.blocks):
            weights.append(block.attention_weights(x, mask=mask, causal=causal))
            x = block(x, mask=mask, causal=causal)
        return weights
