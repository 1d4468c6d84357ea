"""What functions that look inside a network ask of it, by its methods and not by its class.

`feature_map(images)` gives features by place; in a Transformer they are the patches of
`tokens(images)`. `features(images)` gives the vector that the classifier reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch channels height width"]
FeatureMap = Float[Tensor, "batch features rows columns"]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode for a while; every part then gets its own mode back."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_finite(rows: Float[Tensor, "batch ..."], first: int = 0, name: str = "a pixel") -> None:
    """Refuse a batch with values that are infinite or not numbers.

    Args:
        rows: the batch, usually of images.
        first: number of its first row, for the message.
        name: of one value, for the message.

    Raises:
        ValueError: names the row.
    """
    faulty = (~rows.isfinite()).flatten(1).any(dim=1).nonzero()
    if len(faulty):
        raise ValueError(f"row {first + int(faulty[0])}: {name} is infinite or not a number")


def patch_grid(
    tokens: Float[Tensor, "batch tokens features"], net: Any, images: Images
) -> FeatureMap:
    """Arrange the patches of a Transformer by their places; special tokens are left out.

    Raises:
        ValueError: there is not one token for each place.
    """
    rows, columns = net.embedding.grid(*images.shape[-2:])
    wanted = net.prefix + rows * columns
    if tokens.shape[1] != wanted:
        raise ValueError(f"tokens must be {wanted} for each image, got {tokens.shape[1]}")
    return rearrange(tokens[:, net.prefix :], "b (h w) c -> b c h w", h=rows)


def by_place(features: Float[Tensor, "batch _ _ _"], net: Any) -> FeatureMap:
    """Put the features of a map before its rows; a network says where they are otherwise."""
    return features.movedim(-1, 1) if getattr(net, "features_last", False) else features


def find_feature_map(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images to the features of every place.

    Raises:
        ValueError: the network has none.
    """
    parts: Any = net
    if hasattr(net, "feature_map"):
        return lambda images: by_place(parts.feature_map(images), net)
    if hasattr(net, "tokens") and hasattr(net, "embedding") and hasattr(net, "prefix"):
        return lambda images: patch_grid(parts.tokens(images), net, images)
    raise ValueError(f"{type(net).__name__} has neither feature_map(images) nor patches")


def feature_vectors(net: nn.Module, images: Images) -> Float[Tensor, "batch features"]:
    """Return a feature vector for each image; without `features(images)` the mean of all places.

    Raises:
        ValueError: the network gives no features.
    """
    parts: Any = net
    if hasattr(net, "features"):
        return parts.features(images).flatten(1)
    if hasattr(net, "encode_image"):
        return parts.encode_image(images)
    return find_feature_map(net)(images).mean(dim=(2, 3))
