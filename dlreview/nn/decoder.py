"""Decoder blocks: a token attends to earlier tokens, then to a context (rows 97-100).

Vaswani et al. 2017, arXiv:1706.03762, section 3.1: the context is what an encoder has made of a
sentence or, in a captioner, of a picture. `Decoder` reads a whole text at once or, with a `Cache`,
word by word.
"""

from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dlreview.nn.attention import MultiHeadAttention, TokenMask
from dlreview.nn.cache import Cache, LayerCache
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block, Tokens, copies

Context = Float[Tensor, "batch places context_width"]
ContextMask = (
    Shaped[Tensor, "#batch #places"]
    | Shaped[Tensor, "#batch #queries #places"]
    | Shaped[Tensor, "#batch #heads #queries #places"]
)


class DecoderBlock(Block):
    """Attend to earlier tokens, attend to a context, transform; norms come first.

    `context_width` is the width of the context's tokens, by default `width` (row 100: where they
    differ, W_K and W_V project). `cross_attention` and `cross_attention_norm` replace the defaults;
    the other arguments are those of `Block`.

    Raises:
        ValueError: See `Block`.
    """

    def __init__(  # 13 arguments: those of `Block` and three for the context
        self,
        width: int,
        heads: int,
        hidden_width: int | None = None,
        context_width: int | None = None,
        attention: MultiHeadAttention | None = None,
        cross_attention: MultiHeadAttention | None = None,
        feed_forward: nn.Module | None = None,
        attention_norm: nn.Module | None = None,
        cross_attention_norm: nn.Module | None = None,
        feed_forward_norm: nn.Module | None = None,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        parts = (attention, feed_forward, attention_norm, feed_forward_norm)
        super().__init__(width, heads, hidden_width, *parts, layer_scale, dropout, drop_path)
        self.context_width = context_width
        self.cross_attention = cross_attention or MultiHeadAttention(width, heads, context_width)
        self.cross_attention_norm = cross_attention_norm or LayerNorm(width)
        self.cross_attention_scale: Tensor | None = None
        if layer_scale is not None:
            self.cross_attention_scale = nn.Parameter(torch.full((width,), float(layer_scale)))

    def attend_to_context(
        self,
        x: Tokens,
        cache: LayerCache | None,
        context: Context | None,
        mask: ContextMask | None,
    ) -> Tokens:
        """Let the tokens attend to the context, whose keys and values a cache keeps.

        Raises:
            ValueError: there is no context.
        """
        attention = self.cross_attention
        kept = None if cache is None else cache.context
        if kept is None:
            if context is None:
                raise ValueError("context is missing: this decoder attends to one")
            kept = attention.keys(context), attention.values(context), mask
        if cache is not None:
            cache.context = kept
        return attention.attend(attention.queries(x), *kept)

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = True,
        first: int | None = None,
        cache: LayerCache | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the tokens; with `causal` none of them sees a later one."""
        branch = self.attend(self.attention_norm(x), mask, causal, first, cache)
        x = self.add(x[:, :first], branch, self.attention_scale)
        normed = self.cross_attention_norm(x)
        branch = self.attend_to_context(normed, cache, context, context_mask)
        x = self.add(x, branch, self.cross_attention_scale)
        return self.add(x, self.feed_forward(self.feed_forward_norm(x)), self.feed_forward_scale)

    def context_weights(
        self, x: Tokens, context: Context, context_mask: ContextMask | None = None
    ) -> Float[Tensor, "batch heads tokens places"]:
        """Return the weight of each place of the context for each token, as `forward` uses them."""
        attended = self.attend(self.attention_norm(x), None, True)
        x = self.cross_attention_norm(self.add(x, attended, self.attention_scale))
        return self.cross_attention.weights(x, context, mask=context_mask)


class OptionalDecoderBlock(DecoderBlock):
    """Attend to a context if there is one, as GPT-2 of transformers does."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = True,
        first: int | None = None,
        cache: LayerCache | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the tokens as `DecoderBlock` or, without a context, as `Block` does."""
        if context is None and (cache is None or cache.context is None):
            return Block.forward(self, x, mask, causal, first, cache)
        return super().forward(x, mask, causal, first, cache, context, context_mask)


class PostNormDecoderBlock(DecoderBlock):
    """Normalise each sum, as Vaswani et al. do: norm(x + f(x))."""

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        causal: bool = True,
        first: int | None = None,
        cache: LayerCache | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """Compute the tokens as `DecoderBlock` does, with the norms in other places."""
        branch = self.attend(x, mask, causal, first, cache)
        x = self.attention_norm(self.add(x[:, :first], branch, self.attention_scale))
        branch = self.attend_to_context(x, cache, context, context_mask)
        x = self.cross_attention_norm(self.add(x, branch, self.cross_attention_scale))
        return self.feed_forward_norm(self.add(x, self.feed_forward(x), self.feed_forward_scale))

    def attention_weights(
        self, x: Tokens, mask: TokenMask | None = None, causal: bool = True
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """Return the weights of the tokens' attention to each other."""
        return self.attention.weights(x, mask=mask, causal=causal)

    def context_weights(
        self, x: Tokens, context: Context, context_mask: ContextMask | None = None
    ) -> Float[Tensor, "batch heads tokens places"]:
        """Return the weight of each place of the context for each token, as `forward` uses them."""
        x = self.attention_norm(self.add(x, self.attend(x, None, True), self.attention_scale))
        return self.cross_attention.weights(x, context, mask=context_mask)


class Decoder(nn.Module):
    """Stack `depth` copies of a `DecoderBlock`, or of a `Block` where there is no context.

    The copies do not share weights.

    Raises:
        ValueError: `depth` is below 1.
    """

    def __init__(self, block: Block, depth: int) -> None:
        super().__init__()
        self.__dict__["block"] = block  # a template, as in Encoder
        self.depth = depth
        self.blocks = copies(block, depth)

    def forward(
        self,
        x: Tokens,
        mask: TokenMask | None = None,
        cache: Cache | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Tokens:
        """Run the blocks in turn.

        `mask` covers the tokens and, with a `cache`, all tokens that were read before them. The
        cache keeps the context of the first call.
        """
        extra = {} if context is None else {"context": context, "context_mask": context_mask}
        for i, block in enumerate(self.blocks):
            layer = None if cache is None else cache.layers[i]
            x = block(x, mask=mask, causal=True, cache=layer, **extra)
        return x

    def start(
        self, capacity: int, context: Context | None = None, context_mask: ContextMask | None = None
    ) -> Cache:
        """Make a cache with room for `capacity` tokens, and the keys and values of the context.

        Raises:
            ValueError: `capacity` is below 1.
        """
        cache = Cache(self.depth, capacity)
        if context is not None:
            for block, layer in zip(
                cast(list[DecoderBlock], self.blocks), cache.layers, strict=True
            ):
                attention = block.cross_attention
                layer.context = attention.keys(context), attention.values(context), context_mask
        return cache

    def context_weights(
        self, x: Tokens, context: Context, context_mask: ContextMask | None = None
    ) -> list[Float[Tensor, "batch heads tokens places"]]:
        """Return the weights of the context in every block, the first block first."""
        weights = []
        for block in cast(list[DecoderBlock], self.blocks):
            weights.append(block.context_weights(x, context, context_mask))
            x = block(x, context=context, context_mask=context_mask)
        return weights
