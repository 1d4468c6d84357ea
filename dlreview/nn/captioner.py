"""A transformer that describes pictures (row 97): a ViT looks, a decoder writes.

Each word attends to the words before it and then to the patches: its query comes from the decoder,
keys and values come from the features of the ViT (Vaswani et al. 2017, arXiv:1706.03762; with a ViT
Liu et al. 2021, arXiv:2101.10804).
"""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from dlreview.nn.cache import Cache
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.head import Score, apply_head
from dlreview.nn.vit import Images, ViT

Ids = Int[Tensor, "batch tokens"]
Mask = Shaped[Tensor, "_ _"]  # a mask of another shape is told by a ValueError of the decoder


class VisionEncoderDecoder(nn.Module):
    """Score the token after each token of a caption, given the picture.

    `decoder` is a GPT whose block is a `DecoderBlock`. If the encoder's width is not that of the
    decoder there are two ways (row 100): a `DecoderBlock` whose `context_width` is that of the
    encoder, so that W_K and W_V project; else a linear layer projects the features to the decoder's
    width before.

    Raises:
        ValueError: The encoder is no ViT, or the decoder's block attends to no context or to one of
            a third width.
    """

    # A recipe may name `Pretrained` as encoder, which makes a ViT and is none.
    def __init__(self, encoder: nn.Module, decoder: GPT) -> None:
        super().__init__()
        if not isinstance(encoder, ViT):
            raise ValueError(f"encoder must be a ViT, got {type(encoder).__name__}")
        block: Any = decoder.decoder.blocks[0]
        if not isinstance(block, DecoderBlock):
            raise ValueError(f"block of decoder must be a DecoderBlock, got {type(block).__name__}")
        context_width = block.cross_attention.W_k.in_features
        if context_width not in (encoder.width, decoder.width):
            raise ValueError(
                f"context_width of decoder must be the encoder's width {encoder.width} "
                f"or the decoder's {decoder.width}, got {context_width}"
            )
        self.encoder, self.decoder = encoder, decoder
        self.projection: nn.Linear | None = None
        if context_width != encoder.width:
            self.projection = nn.Linear(encoder.width, decoder.width)

    @property
    def head(self) -> nn.Linear:
        """The layer that makes logits of the decoder's hidden states."""
        return self.decoder.head

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return self.decoder.vocabulary_size

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a caption."""
        return self.decoder.max_length

    def encode(self, images: Images) -> Float[Tensor, "batch places context_width"]:
        """Compute the features of the special tokens and the patches, as the decoder reads them."""
        features = self.encoder.tokens(images)
        return features if self.projection is None else self.projection(features)

    def unused(self) -> list[nn.Parameter]:
        """Return the parameters that a caption does not depend on.

        The decoder attends to the encoder's tokens. What a classifier makes of them, by its pooling
        and its head, has no effect here.
        """
        encoder = self.encoder
        parts = (encoder.pooling, encoder.head_norm, encoder.head)
        found = [p for part in parts if part is not None for p in part.parameters()]
        return found if encoder.mask_embedding is None else [*found, encoder.mask_embedding]

    def hidden(
        self, images: Images, ids: Ids, mask: Mask | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the decoder's last hidden states; see `GPT.hidden`."""
        return self.decoder.hidden(ids, mask, context=self.encode(images))

    def forward(
        self, images: Images, ids: Ids, mask: Mask | None = None, score: Score = apply_head
    ) -> Float[Tensor, "batch tokens *vocabulary"]:
        """Return the logits of the token after each token; `mask` is 1 at tokens, 0 at padding.

        See `Score` for other results.

        Raises:
            ValueError: see `GPT.hidden`.
        """
        return score(self.hidden(images, ids, mask), self.head)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches of a picture."""
        return self.encoder.embedding.grid(height, width)

    @torch.no_grad()
    def start(self, images: Images, capacity: int) -> Cache:
        """Encode pictures, and make a cache for captions of `capacity` tokens.

        Raises:
            ValueError: `capacity` is below 1 or above `max_length`.
        """
        return self.decoder.start(capacity, context=self.encode(images))

    def read(self, ids: Ids, cache: Cache) -> Float[Tensor, "batch vocabulary"]:
        """Read new tokens; return the logits of the token after the last one."""
        return self.decoder.read(ids, cache)

    def context_weights(
        self, images: Images, ids: Ids
    ) -> Float[Tensor, "layers batch heads tokens patches"]:
        """Return the weight that each token gives to each patch.

        What is missing to 1 goes to the encoder's special tokens.
        """
        x, context = self.decoder.embed(ids), self.encode(images)
        weights = torch.stack(self.decoder.decoder.context_weights(x, context))
        return weights[..., self.encoder.prefix :]
