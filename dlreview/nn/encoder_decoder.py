"""The transformer that translates (Vaswani et al. 2017, arXiv:1706.03762), rows 20-27.

An encoder reads the sentence of one language. A decoder writes the sentence of the other one: each
of its tokens attends to the tokens before it, then to those of the encoder. One table of vectors
serves the words of both languages and, as the last layer, the scores of the next word (Press & Wolf
2017, arXiv:1608.05859).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.cache import Cache
from dlreview.nn.decoder import Decoder, DecoderBlock, PostNormDecoderBlock
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.head import Score, apply_head
from dlreview.nn.inputs import look_up
from dlreview.nn.norm import LayerNorm
from dlreview.nn.positions import Sinusoids, SinusoidTable
from dlreview.nn.transformer import Block, Encoder, PostNormBlock

Source = Int[Tensor, "batch places"]
Target = Int[Tensor, "batch tokens"]
Mask = Shaped[Tensor, "_ _"]  # as wide as the tokens, which `as_mask` checks


def is_readable(x: Shaped[Tensor, "..."]) -> bool:
    """Return whether the numbers of `x` can be looked at without cost.

    torch.compile and fake tensors have no numbers, and those of a GPU must be waited for.
    """
    return type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()


def as_mask(
    name: str, mask: Mask | None, ids: Shaped[Tensor, "rows columns"]
) -> Bool[Tensor, "rows columns"] | None:
    """Make a mask boolean: True keeps a token.

    Raises:
        ValueError: there are no tokens, the mask has another shape, or a row has no token left.
    """
    if ids.shape[1] == 0:
        raise ValueError(f"{name.removesuffix('_mask')} must have at least 1 token, got 0")
    if mask is None:
        return None
    if mask.shape != ids.shape:
        raise ValueError(f"{name} must have shape {tuple(ids.shape)}, got {tuple(mask.shape)}")
    mask = mask.bool()
    if is_readable(mask):
        empty = (~mask.any(dim=1)).nonzero()
        if len(empty):
            raise ValueError(
                f"{name} must keep a token of every row, got none in row {empty[0, 0]}"
            )
    return mask


class EncoderDecoder(nn.Module):
    """Score the token after each token of the target, given the source.

    The blocks are by default the paper's: norms after the sums, ReLU, a hidden layer of 4 times the
    width. `encoder_block` is copied `depth` times and `decoder_block`, which may have other heads,
    `decoder_depth` times (by default `depth`). `max_length` is the length of a table of sinusoids;
    with None they are computed for any length. `scale_embedding` multiplies the words' vectors by
    sqrt(width). `source_vocabulary_size` gives the source a table of its own; without `tied` the
    last layer has its own weights. `logit_bias` adds a bias to the scores. The vector of token
    `padding_id` gets no gradient from the tokens that are read. `dropout` acts on the sums of
    vectors and positions and, in the default blocks, on the branches.

    Raises:
        ValueError: A size is below 1, a rate is not in [0, 1), `width` is not divisible by `heads`,
            `padding_id` is outside a vocabulary, or a block has other sizes.
    """

    def __init__(  # 14 arguments: sizes, and the parts in which Marian's networks vary
        self,
        vocabulary_size: int,
        width: int,
        depth: int,
        heads: int,
        decoder_depth: int | None = None,
        max_length: int | None = 512,
        source_vocabulary_size: int | None = None,
        scale_embedding: bool = True,
        tied: bool = True,
        logit_bias: bool = True,
        padding_id: int | None = None,
        encoder_block: Block | None = None,
        decoder_block: DecoderBlock | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.source_vocabulary_size = vocabulary_size, source_vocabulary_size
        self.width, self.depth, self.heads = width, depth, heads
        self.decoder_depth, self.max_length = decoder_depth, max_length
        self.scale_embedding, self.tied, self.logit_bias = scale_embedding, tied, logit_bias
        self.padding_id, self.dropout = padding_id, dropout
        self.__dict__["encoder_block"] = encoder_block  # templates, as in Encoder
        self.__dict__["decoder_block"] = decoder_block
        self.check_arguments()
        self.embedding = nn.Embedding(vocabulary_size, width, padding_id)
        self.source_embedding = (
            nn.Embedding(source_vocabulary_size, width, padding_id)
            if source_vocabulary_size is not None
            else None
        )
        self.source_positions = self.make_positions()
        self.target_positions = self.make_positions()
        self.encoder = Encoder(encoder_block or self.make_block(PostNormBlock), depth)
        self.decoder = Decoder(
            decoder_block or self.make_block(PostNormDecoderBlock), decoder_depth or depth
        )
        self.head = nn.Linear(width, vocabulary_size, bias=logit_bias)
        self.initialise()
        if tied:
            self.head.weight = self.embedding.weight

    def check_arguments(self) -> None:
        """Refuse sizes and rates outside their ranges, and blocks of other sizes."""
        check_at_least(1, vocabulary_size=self.vocabulary_size, width=self.width, depth=self.depth)
        check_at_least(1, heads=self.heads, decoder_depth=self.decoder_depth)
        check_at_least(1, max_length=self.max_length)
        check_at_least(1, source_vocabulary_size=self.source_vocabulary_size)
        check_share(dropout=self.dropout)
        sizes = (self.vocabulary_size, self.source_vocabulary_size or self.vocabulary_size)
        if self.padding_id is not None and not 0 <= self.padding_id < min(sizes):
            raise ValueError(
                f"padding_id must be a token from 0 to {min(sizes) - 1}, got {self.padding_id}"
            )
        for part, name in (("encoder", "width"), ("encoder", "heads"), ("decoder", "width")):
            block, size = getattr(self, f"{part}_block"), getattr(self, name)
            if block is not None and getattr(block, name) != size:
                got = getattr(block, name)
                raise ValueError(f"{name} of {part}_block must be {name} {size}, got {got}")

    def make_positions(self) -> nn.Module:
        """Create the positions of one language."""
        if self.max_length is None:
            return Sinusoids(self.width)
        return SinusoidTable(self.max_length, self.width)

    def make_block(self, cls: type[Block]) -> Block:
        """Create a block of the paper, with the eps of torch's layer norm."""
        width, network = self.width, FeedForward(self.width, 4 * self.width, "relu")
        parts: dict[str, Any] = {"feed_forward": network, "dropout": self.dropout}
        parts |= {f"{name}_norm": LayerNorm(width, 1e-5) for name in ("attention", "feed_forward")}
        if issubclass(cls, DecoderBlock):
            parts["cross_attention_norm"] = LayerNorm(width, 1e-5)
        return cls(width, self.heads, **parts)

    def initialise(self) -> None:
        """Draw weights with which the words' vectors, times sqrt(width), have variance 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.width**-0.5)

    def embed(
        self, ids: Target, table: nn.Embedding, positions: nn.Module, first: int = 0
    ) -> Float[Tensor, "batch tokens width"]:
        """Look up the vectors of tokens and add the positions from `first` on."""
        x = look_up("ids", table, ids, table.num_embeddings)
        x = positions(x * self.width**0.5 if self.scale_embedding else x, first)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def embed_target(self, ids: Target, first: int = 0) -> Float[Tensor, "batch tokens width"]:
        """Embed the decoder's tokens."""
        return self.embed(ids, self.embedding, self.target_positions, first)

    def encode(
        self, source: Source, source_mask: Mask | None = None
    ) -> Float[Tensor, "batch places width"]:
        """Encode a sentence; every token attends to all tokens that the mask keeps."""
        mask = as_mask("source_mask", source_mask, source)
        table = self.embedding if self.source_embedding is None else self.source_embedding
        return self.encoder(self.embed(source, table, self.source_positions), mask=mask)

    def hidden(
        self,
        source: Source,
        target: Target,
        source_mask: Mask | None = None,
        target_mask: Mask | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the decoder's last hidden states, which are the input of the head."""
        return self.decoder(
            self.embed_target(target),
            mask=as_mask("target_mask", target_mask, target),
            context=self.encode(source, source_mask),
            context_mask=as_mask("source_mask", source_mask, source),
        )

    def forward(
        self,
        source: Source,
        target: Target,
        source_mask: Mask | None = None,
        target_mask: Mask | None = None,
        score: Score = apply_head,
    ) -> Float[Tensor, "batch tokens *vocabulary"]:
        """Return the logits of the token after each token of the target; see `Score`.

        Raises:
            ValueError: A token is outside the vocabulary, a text is longer than `max_length`, a row
                has no token, or a mask has another shape.
        """
        return score(self.hidden(source, target, source_mask, target_mask), self.head)

    @torch.no_grad()
    def start(self, source: Source, source_mask: Mask | None, capacity: int) -> Cache:
        """Encode the source, and make a cache for texts of `capacity` tokens about it.

        Raises:
            ValueError: `capacity` is below 1 or above `max_length`; see `forward`.
        """
        if self.max_length is not None and capacity > self.max_length:
            raise ValueError(
                f"capacity must be at most max_length {self.max_length}, got {capacity}"
            )
        mask = as_mask("source_mask", source_mask, source)
        return self.decoder.start(capacity, self.encode(source, source_mask), mask)

    @torch.no_grad()
    def read(self, ids: Target, cache: Cache) -> Float[Tensor, "batch vocabulary"]:
        """Read new tokens of the target; return the logits of the token after the last one."""
        x = self.decoder(self.embed_target(ids, cache.length), cache=cache)
        return self.head(x[:, -1])

    def context_weights(
        self, source: Source, target: Target, source_mask: Mask | None = None
    ) -> Float[Tensor, "layers batch heads tokens places"]:
        """Return the weight that each token of the target gives to each token of the source."""
        context, x = self.encode(source, source_mask), self.embed_target(target)
        mask = as_mask("source_mask", source_mask, source)
        return torch.stack(self.decoder.context_weights(x, context, mask))
