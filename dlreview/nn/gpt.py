"""GPT (Radford et al. 2018, 2019): a decoder that predicts each next token (rows 25-28, 97-99).

p(w_{i+1} | w_1 ... w_i) = softmax(M h_i), where h_i is what the blocks have made of token i; it
attends to no later token. With blocks that attend to a context, a picture for example, the same
network writes captions.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.cache import Cache
from dlreview.nn.decoder import Decoder, DecoderBlock
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.head import Score, apply_head
from dlreview.nn.inputs import look_up
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block

Ids = Int[Tensor, "batch tokens"]
# A mask of another shape is told by a ValueError of the network.
Mask = Shaped[Tensor, "rows columns"]
Context = Float[Tensor, "batch places context_width"]
ContextMask = Shaped[Tensor, "batch places"]
RESIDUAL = ("W_o.weight", "W_2.weight", "W_out.weight")  # the last layer of each branch


def gpt_block(width: int, heads: int, dropout: float = 0.0) -> Block:
    """Build the block of GPT-2: norms first with eps 1e-5, GELU by tanh."""
    return Block(
        width,
        heads,
        attention=MultiHeadAttention(width, heads, dropout=dropout),
        feed_forward=FeedForward(width, 4 * width, "gelu_tanh"),
        attention_norm=LayerNorm(width, 1e-5),
        feed_forward_norm=LayerNorm(width, 1e-5),
        dropout=dropout,
    )


class GPT(nn.Module):
    """Predict the token after each token, given all tokens up to it.

    Texts have up to `max_length` tokens, each position a learned vector. By default the parts are
    those of GPT-2: a pre-norm `block`, which is copied `depth` times, and a last `norm` like the
    first of the block. A `DecoderBlock` attends to a context too. `dropout` acts on the sums of
    vectors and positions and, without a `block`, in the blocks. A `tied` head uses the tokens'
    vectors as M (Press & Wolf 2017, arXiv:1608.05859). `scale_by_layer` divides the attention
    scores of block i = 1, 2, ... by i. Weights are drawn from N(0, `initial_std`^2); in the last
    layer of each branch the deviation is divided by sqrt(2 depth).

    Raises:
        ValueError: A size is below 1, `dropout` is not in [0, 1), `initial_std` is negative,
            `width` is not divisible by `heads`, or `block` has other sizes.
    """

    def __init__(  # 11 arguments: the sizes, and all in which GPT-2's configurations vary
        self,
        vocabulary_size: int,
        width: int,
        depth: int,
        heads: int,
        max_length: int,
        block: Block | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        tied: bool = True,
        scale_by_layer: bool = False,
        initial_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.max_length = vocabulary_size, max_length
        self.width, self.depth, self.heads = width, depth, heads
        self.dropout, self.tied = dropout, tied
        self.scale_by_layer, self.initial_std = scale_by_layer, initial_std
        self.__dict__["block"] = block  # a template, as in Decoder
        self.check_arguments()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_length, width)
        self.decoder = Decoder(block or gpt_block(width, heads, dropout), depth)
        template: Any = self.decoder.block
        self.norm: nn.Module = norm or copy.deepcopy(template.attention_norm)
        self.head = nn.Linear(width, vocabulary_size, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        if scale_by_layer:
            self.divide_scores()
        self.initialise()

    def check_arguments(self) -> None:
        """Refuse sizes and rates outside their ranges, and a block of other sizes."""
        check_at_least(1, vocabulary_size=self.vocabulary_size, max_length=self.max_length)
        check_at_least(1, width=self.width, depth=self.depth, heads=self.heads)
        check_at_least(0, initial_std=self.initial_std)
        check_share(dropout=self.dropout)
        for name in () if self.block is None else ("width", "heads"):
            size, of_block = getattr(self, name), getattr(self.block, name)
            if of_block != size:
                raise ValueError(f"{name} of block must be {name} {size}, got {of_block}")

    def divide_scores(self) -> None:
        """Divide the attention scores of block i by i."""
        for i, block in enumerate(self.decoder.blocks, start=1):
            for layer in block.modules():
                if isinstance(layer, MultiHeadAttention):
                    head_width = layer.head_width or layer.width // layer.heads
                    layer.scale = (head_width**-0.5 if layer.scale is None else layer.scale) / i

    def initialise(self) -> None:
        """Draw the weights as GPT-2 does."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.initial_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.decoder.named_parameters():
            if name.endswith(RESIDUAL):  # 2 depth branches are summed
                nn.init.normal_(weight, std=self.initial_std / (2 * self.depth) ** 0.5)

    def check_inputs(
        self, ids: Ids, mask: Mask | None, earlier: int, context: Context | None
    ) -> None:
        """Refuse a text that is too long, a mask of another shape, a context without use for it."""
        length = earlier + ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"ids must have at most max_length {self.max_length}, got {length}")
        if mask is not None and mask.shape != ids.shape:
            raise ValueError(
                f"mask must have the shape of ids {tuple(ids.shape)}, got {tuple(mask.shape)}"
            )
        if context is not None and not isinstance(self.decoder.block, DecoderBlock):
            raise ValueError("context needs a block that attends to it: DecoderBlock")

    def embed(
        self, ids: Ids, mask: Mask | None = None, earlier: int = 0
    ) -> Float[Tensor, "batch tokens width"]:
        """Add to the vector of each token that of its position (row 23).

        `earlier` tokens were read before. `mask` covers them and the new ones; padding has no
        number.
        """
        if mask is None:
            positions = self.positions.weight[earlier : earlier + ids.shape[1]]
        else:
            numbers = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
            positions = self.positions(numbers[:, earlier:])
        x = look_up("ids", self.embedding, ids, self.vocabulary_size) + positions
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def hidden(
        self,
        ids: Ids,
        mask: Mask | None = None,
        cache: Cache | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return h_i of each token, after the last norm.

        A mask is 1 at tokens and 0 at padding. With a `cache` the tokens follow those that it has
        read; it keeps the context.

        Raises:
            ValueError: there are more than `max_length` tokens, an id is not in the vocabulary,
                `mask` has another shape than `ids`, or the blocks do not attend to a context.
        """
        earlier = 0 if cache is None else cache.length
        self.check_inputs(ids, mask, earlier, context)
        if cache is not None:
            mask = cache.extend_mask(mask, ids.shape[0], ids.shape[1], ids.device)
        mask = None if mask is None else mask.bool()
        context_mask = None if context_mask is None else context_mask.bool()
        x = self.decoder(self.embed(ids, mask, earlier), mask, cache, context, context_mask)
        return self.norm(x)

    def forward(
        self,
        ids: Ids,
        mask: Mask | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
        score: Score = apply_head,
    ) -> Float[Tensor, "batch tokens *vocabulary"]:
        """Return the logits M h_i of the token after each token; see `hidden` and `Score`."""
        return score(self.hidden(ids, mask, None, context, context_mask), self.head)

    def start(
        self,
        capacity: int,
        mask: Mask | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
    ) -> Cache:
        """Make a cache for `read`, with room for `capacity` tokens.

        `mask` is that of the first tokens to be read; texts of unequal lengths are padded on the
        left.

        Raises:
            ValueError: `capacity` is below 1 or above `max_length`.
        """
        if capacity > self.max_length:
            raise ValueError(
                f"capacity must be at most max_length {self.max_length}, got {capacity}"
            )
        context_mask = None if context_mask is None else context_mask.bool()
        cache = self.decoder.start(capacity, context, context_mask)
        cache.mask = None if mask is None else mask.bool()
        return cache

    @torch.no_grad()
    def read(self, ids: Ids, cache: Cache) -> Float[Tensor, "batch vocabulary"]:
        """Read new tokens; return the logits of the token after the last one.

        Raises:
            ValueError: see `hidden`; or the cache has no room for the tokens.
        """
        return self.head(self.hidden(ids, cache=cache)[:, -1])
