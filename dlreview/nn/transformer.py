"""Transformer blocks and their stack (Vaswani et al. 2017, arXiv:1706.03762, section 3.1).

A block passes its tokens on by residual connections x + f(x); each branch f is attention or a
feed-forward network.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.attention import MultiHeadAttention, TokenMask
from dlreview.nn.cache import LayerCache
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.norm import LayerNorm
from dlreview.nn.stochastic_depth import drop_path

Tokens = Float[Tensor, "batch tokens width"]


class Block(nn.Module):
    """Attend, then transform each token; norms come first (Xiong et al. 2020, arXiv:2002.04745).

    By default the parts are attention with `heads` heads, a GELU network of `hidden_width` (4 times
    the width), and layer norms. `layer_scale` is the initial value of a learned factor per feature
    of each branch (Touvron et al. 2021, arXiv:2103.17239). `dropout` drops features of the
    branches, `drop_path` whole branches.

    Raises:
        ValueError: A size is below 1, a rate is not in [0, 1), or `width` is not divisible by
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
        check_share(dropout=dropout, drop_path=drop_path)
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
        self,
        x: Tokens,
        mask: TokenMask | None,
        causal: bool,
        first: int | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Let all tokens, or only the `first` ones, attend to all tokens."""
        if first is None:
            return self.attention(x, mask=mask, causal=causal, cache=cache)
        if causal:
            raise ValueError(f"first {first} does not go with causal attention")
        return self.attention(x[:, :first], x, mask=mask)

    def add(
        self, x: Tokens, branch: Tokens, scale: Float[Tensor, " width"] | None
    ) -> Float[Tensor, "batch tokens width"]:
        """Add a branch to the tokens, after dropout and layer scale."""
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
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute all tokens or, given a number `first`, only that many, which attend to all.

        `mask`, `causal` and `cache` are as in `MultiHeadAttention`; `first` does not go with
        `causal`.
        """
        attended = self.attend(self.attention_norm(x), mask, causal, first, cache)
        x = self.add(x[:, :first], attended, self.attention_scale)
        return self.add(x, self.feed_forward(self.feed_forward_norm(x)), self.feed_forward_scale)

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the attention weights that `forward` uses."""
        return self.attention.weights(self.attention_norm(x), mask=mask, causal=causal)


class PostNormBlock(Block):
    """Normalise each sum, as Vaswani et al. and BERT do: norm(x + f(x))."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the tokens as `Block` does, with the norms in other places."""
        attended = self.attend(x, mask, causal, first, cache)
        x = self.attention_norm(self.add(x[:, :first], attended, self.attention_scale))
        return self.feed_forward_norm(self.add(x, self.feed_forward(x), self.feed_forward_scale))

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the attention weights that `forward` uses."""
        return self.attention.weights(x, mask=mask, causal=causal)


class BranchNormBlock(PostNormBlock):
    """Normalise each branch: x + norm(f(x)) (Liu et al. 2022, arXiv:2111.09883)."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = False,
        first: int | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the tokens as `Block` does, with the norms in other places."""
        attended = self.attention_norm(self.attend(x, mask, causal, first, cache))
        x = self.add(x[:, :first], attended, self.attention_scale)
        return self.add(x, self.feed_forward_norm(self.feed_forward(x)), self.feed_forward_scale)


def copies(block: Block, depth: int) -> nn.ModuleList:
    """Copy a block `depth` times, with linear layers that are drawn anew.

    Raises:
        ValueError: `depth` is below 1.
    """
    check_at_least(1, depth=depth)
    blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(depth))
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return blocks


class Encoder(nn.Module):
    """Stack `depth` copies of `block`, which do not share weights.

    `drop_path` is the rate of the last block, and rates grow linearly from 0 at the first; a list
    has one rate per block. With 0 the copies keep the rate of `block`.

    Raises:
        ValueError: `depth` is below 1, or `drop_path` is a list of another length.
    """

    def __init__(self, block: Block, depth: int, drop_path: float | list[float] = 0.0) -> None:
        super().__init__()
        if isinstance(drop_path, list) and len(drop_path) != depth:
            raise ValueError(f"drop_path must have depth {depth} rates, got {drop_path}")
        self.__dict__["block"] = block  # a template, not a submodule: its weights are not trained
        self.depth, self.drop_path = depth, drop_path
        self.blocks = copies(block, depth)
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
        """Run the blocks in turn; with `first` the last block computes only that many tokens."""
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x, mask=mask, causal=causal)
        return last(x, mask=mask, causal=causal, first=first)

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = False
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Return the attention weights of every block, the first block first."""
        weights = []
        for block in cast(list[Block], self.blocks):
            weights.append(block.attention_weights(x, mask=mask, causal=causal))
            x = block(x, mask=mask, causal=causal)
        return weights
