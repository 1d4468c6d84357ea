"""Patch embeddings and position tables: the parts of the maps that all ViTs share."""

from collections.abc import Iterable

from einops import rearrange

from dlreview.nn.patch_embedding import PatchEmbedding
from dlreview.reference.weights import Op, Rule

FIRST = Op(lambda theirs: theirs[0], lambda ours: ours[None])  # theirs has a batch axis


def unpair(size: Iterable[int]) -> int | list[int]:
    """Write (height, width) as one number if they are equal."""
    height, width = size
    return height if height == width else [height, width]


def patch_rules(embedding: PatchEmbedding, theirs: str) -> list[Rule]:
    """Pair our linear layer on flat patches with their convolution called `theirs`."""
    channels, p, q = embedding.image_channels, embedding.patch_height, embedding.patch_width
    kernel = Op(
        lambda w: rearrange(w, "d c p q -> d (c p q)"),
        lambda w: rearrange(w, "d (c p q) -> d c p q", c=channels, p=p, q=q),
    )
    return [
        ("embedding.E.weight", f"{theirs}.weight", kernel),
        ("embedding.E.bias", f"{theirs}.bias"),
    ]
