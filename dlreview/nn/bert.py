"""BERT (Devlin et al. 2019, arXiv:1810.04805): a Transformer encoder that reads both directions.

The vector of a token is the sum of its word's, its position's and its segment's. In training some
words are hidden, and a head says which: p(w_i | text) = softmax(E norm(f(W h_i + b)) + c), where E
are the vectors of the words.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.activation import find_activation
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.head import Score, apply_head
from dlreview.nn.inputs import look_up
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block, Encoder, PostNormBlock

EPS = 1e-12  # of the paper's layer norms
Ids = Int[Tensor, "batch tokens"]
Mask = Shaped[Tensor, "batch tokens"]


def as_boolean(mask: Mask | None) -> Bool[Tensor, "batch tokens"] | None:
    """Convert a mask once for all layers; there a float mask would be added to the scores."""
    return None if mask is None else mask.bool()


class MaskedTokenHead(nn.Module):
    """Score every word for each token: a linear layer, an activation f, a norm, the words' vectors.

    `weight` is the matrix of the last layer, which `BERT` can tie to the vectors of the words.
    `unused_bias` keeps a second bias without any effect, as transformers' untied head does.

    Raises:
        ValueError: A size is below 1 or the activation unknown.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        activation: str = "gelu",
        norm: nn.Module | None = None,
        unused_bias: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, vocabulary_size=vocabulary_size, width=width)
        self.vocabulary_size, self.width, self.activation = vocabulary_size, width, activation
        self.f = find_activation(activation)
        self.W = nn.Linear(width, width)
        self.norm = norm or LayerNorm(width, EPS)
        self.scores = nn.Linear(width, vocabulary_size)
        self.unused_bias = unused_bias
        self.second_bias = nn.Parameter(torch.zeros(vocabulary_size)) if unused_bias else None

    @property
    def weight(self) -> Tensor:
        """The matrix that turns features into scores, a row for each word."""
        return self.scores.weight

    @property
    def bias(self) -> Tensor:
        """The bias of each word's score."""
        return self.scores.bias

    def forward(
        self, x: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch {self.vocabulary_size}"]:
        """Score."""
        return self.scores(self.norm(self.f(self.W(x))))


def bert_block(width: int, heads: int, dropout: float) -> PostNormBlock:
    """Make the paper's block."""
    return PostNormBlock(
        width,
        heads,
        attention=MultiHeadAttention(width, heads, dropout=dropout),
        attention_norm=LayerNorm(width, EPS),
        feed_forward_norm=LayerNorm(width, EPS),
        dropout=dropout,
    )


class BERT(nn.Module):
    """Encode texts of at most `max_length` tokens, each with all other tokens of its text.

    Without a `head` the network returns hidden states, with a `MaskedTokenHead` logits. `types` is
    the number of segments that a text may have, `padding` the word whose vector is not trained, if
    any. By default the parts are the paper's: a post-norm `block`, which is copied `depth` times,
    and a `norm` of the embeddings. `pooling` makes one feature of a text, see `features`. `tied`
    shares the vectors of the words with the head. `dropout` acts on the embeddings and in the
    default block.

    Raises:
        ValueError: A size is below 1, `dropout` is not in [0, 1), `padding` is not a word, `width`
            is not divisible by `heads`, or `block` or `head` has other sizes.
    """

    def __init__(  # 13 arguments: sizes, and each part in which BERTs vary
        self,
        vocabulary_size: int,
        width: int,
        depth: int,
        heads: int,
        max_length: int,
        types: int = 2,
        padding: int | None = 0,
        dropout: float = 0.1,
        block: Block | None = None,
        norm: nn.Module | None = None,
        pooling: nn.Module | None = None,
        head: MaskedTokenHead | None = None,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.max_length, self.types = vocabulary_size, max_length, types
        self.width, self.depth, self.heads = width, depth, heads
        self.padding, self.dropout, self.tied = padding, dropout, tied
        self.__dict__["block"] = block  # a template, as in Encoder
        self.check_arguments(head)
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=padding)
        self.positions = nn.Embedding(max_length, width)
        self.segments = nn.Embedding(types, width)
        self.norm = norm or LayerNorm(width, EPS)
        self.encoder = Encoder(block or bert_block(width, heads, dropout), depth)
        self.pooling = pooling
        self.head = head
        if head is not None and tied:
            head.scores.weight = self.embedding.weight
        self.initialise()

    def check_arguments(self, head: MaskedTokenHead | None) -> None:
        """Refuse sizes and rates outside their ranges, and parts of other sizes."""
        check_at_least(1, vocabulary_size=self.vocabulary_size, width=self.width, depth=self.depth)
        check_at_least(1, heads=self.heads, max_length=self.max_length, types=self.types)
        check_share(dropout=self.dropout)
        if self.padding is not None and not 0 <= self.padding < self.vocabulary_size:
            size = self.vocabulary_size
            raise ValueError(f"padding must be in 0..{size - 1}, got {self.padding}")
        in_common = {"block": ("width", "heads"), "head": ("width", "vocabulary_size")}
        for part, module in (("block", self.block), ("head", head)):
            for name in in_common[part] if module is not None else ():
                size, found = getattr(self, name), getattr(module, name)
                if found != size:
                    raise ValueError(f"{name} of {part} must be {name} {size}, got {found}")

    def initialise(self) -> None:
        """Draw small weights, as the paper's authors do."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.padding is not None:
            with torch.no_grad():
                self.embedding.weight[self.padding].zero_()

    def embed(self, ids: Ids, types: Ids | None = None) -> Float[Tensor, "batch tokens width"]:
        """Add the vectors of word, position and segment, and normalise.

        Raises:
            ValueError: the texts are longer than `max_length`.
        """
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"length must be at most max_length {self.max_length}, got {length}")
        # Without types, all tokens are of segment 0.
        segments = self.segments.weight[0] if types is None else self.segments(types)
        x = self.norm(
            look_up("ids", self.embedding, ids, self.vocabulary_size)
            + segments
            + self.positions.weight[:length]
        )
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def hidden(
        self, ids: Ids, mask: Mask | None = None, types: Ids | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the hidden states after the last block.

        `mask` is 1 at tokens and 0 at padding, None if nothing is padding, which is faster; `types`
        gives the segment of each token, by default 0.
        """
        return self.encoder(self.embed(ids, types), mask=as_boolean(mask))

    def features(
        self, ids: Ids, mask: Mask | None = None, types: Ids | None = None
    ) -> Float[Tensor, "batch features"]:
        """Return one feature for each text, as `pooling` makes it.

        If the pooling reads only the first token, the last block computes no other.

        Raises:
            ValueError: there is no `pooling`.
        """
        if self.pooling is None:
            raise ValueError("pooling must be a network for features, got None")
        first = getattr(self.pooling, "reads", None)
        return self.pooling(
            self.encoder(self.embed(ids, types), mask=as_boolean(mask), first=first)
        )

    def forward(
        self,
        ids: Ids,
        mask: Mask | None = None,
        types: Ids | None = None,
        score: Score = apply_head,
    ) -> Float[Tensor, "batch *outputs"]:
        """Return the logits of every token, see `Score`; without a head the hidden states."""
        x = self.hidden(ids, mask, types)
        return x if self.head is None else score(x, self.head)

    def attention_maps(
        self, ids: Ids, mask: Mask | None = None, types: Ids | None = None
    ) -> Float[Tensor, "depth batch heads tokens tokens"]:
        """Return the attention weights of all tokens in every layer."""
        return torch.stack(
            self.encoder.attention_weights(self.embed(ids, types), mask=as_boolean(mask))
        )
