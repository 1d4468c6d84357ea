"""Where a classifier looks: class activation maps (row 43) and Grad-CAM.

CAM: Zhou et al. 2016, arXiv:1512.04150. Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from dlreview.messages import check_known
from dlreview.nn.feature_map import by_place, check_finite, evaluating, find_feature_map, patch_grid
from dlreview.plots.heat import overlay

Images = Float[Tensor, "batch channels height width"]
Maps = Float[Tensor, "batch rows columns"]


class NoMeanBeforeHead(ValueError):
    """The network does not end in a mean over all places and a linear head."""


def weigh(
    features: Float[Tensor, "batch features rows columns"], weights: Float[Tensor, "batch features"]
) -> Maps:
    """M(x, y) = sum_k w_k f_k(x, y), eq. 2 of CAM."""
    return torch.einsum("b k y x, b k -> b y x", features, weights)


@torch.no_grad()
def class_activation(
    net: nn.Module, images: Images, classes: Int[Tensor, " _"] | None = None
) -> Maps:
    """Return the class activation map of each image.

    The network must end in the mean over all places and a linear `head`. Then the mean of the map
    is the logit of the class without its bias, which is checked.

    Args:
        net: has `head`, and `feature_map(images)` or patches.
        images: a batch.
        classes: whose maps are wanted; by default each image's likeliest class.

    Raises:
        NoMeanBeforeHead: the network does not end so.
        ValueError: it has no features by place, a class is unknown, or a pixel is not a number.
    """
    check_finite(images)
    head = getattr(net, "head", None)
    if not isinstance(head, nn.Linear):
        raise NoMeanBeforeHead(f"{type(net).__name__} has no linear head; use Grad-CAM")
    with evaluating(net):
        features, logits = find_feature_map(net)(images), net(images)
    pooled = features.mean(dim=(2, 3))
    same = pooled.shape[1] == head.in_features and logits.ndim == 2
    if not same or not torch.allclose(head(pooled), logits, rtol=1e-3, atol=1e-3):
        problem = f"{type(net).__name__} has no mean before its linear head; use Grad-CAM"
        raise NoMeanBeforeHead(problem)
    return weigh(features, head.weight[choose(logits, classes)])


def choose(
    logits: Float[Tensor, "batch classes"], classes: Int[Tensor, " _"] | None
) -> Int[Tensor, " batch"]:
    """Return `classes`, by default the likeliest ones.

    Raises:
        ValueError: a class is not one of the network's, or there is not one for each image.
    """
    if classes is None:
        return logits.argmax(dim=1)
    if len(classes) != len(logits):
        raise ValueError(f"classes must be {len(logits)} numbers, got {len(classes)}")
    if wrong := [k for k in classes.tolist() if not 0 <= k < logits.shape[1]]:
        raise ValueError(f"class must be in 0..{logits.shape[1] - 1}, got {wrong[0]}")
    return classes.to(logits.device)


@torch.inference_mode(False)  # Lightning validates in it, and it knows no gradients
@torch.enable_grad()
def grad_cam(
    net: nn.Module,
    images: Images,
    classes: Int[Tensor, " _"] | None = None,
    layer: str | None = None,
) -> Maps:
    """Return Grad-CAM: relu(sum_k a_k f_k), where a_k is the mean of d logit / d f_k (eqs. 1, 2).

    It needs no certain end of the network. Where `class_activation` is defined, this is its
    positive part divided by the number of places.

    Args:
        net: gives logits.
        images: a batch.
        classes: whose maps are wanted; by default each image's likeliest class.
        layer: name of the module whose output is f: a feature map, or the tokens of a Transformer.
            By default f is the network's `feature_map(images)`.

    Raises:
        ValueError: the layer does not exist, gives no map, or has no effect on the logits; a class
            is unknown, or a pixel is not a number.
    """
    check_finite(images)
    images = images.detach().clone().requires_grad_()  # also where the weights are frozen
    with evaluating(net), recorded(net, layer) as outputs:
        logits = net(images)
    name = f"{type(net).__name__}: {layer or 'feature_map'}"
    if not outputs:
        raise ValueError(f"{name} is not called for the logits; name another layer")
    output = outputs[-1]
    if not isinstance(output, Tensor) or logits.ndim != 2:
        problem = "gives no tensor" if logits.ndim == 2 else "needs one vector of logits per image"
        raise ValueError(f"{name} {problem}")
    chosen = logits.gather(1, choose(logits, classes)[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, output, allow_unused=True)
    slopes = None if gradient is None else as_map(gradient, net, images, name)
    # Zero weights give zeros. But if only special tokens have an effect, the map would lie.
    if slopes is None or (gradient.any() and not slopes.any()):
        raise ValueError(f"{name} has no effect on the logits; name an earlier layer")
    features = as_map(output, net, images, name)
    return weigh(features, slopes.mean(dim=(2, 3))).relu().detach()


@contextlib.contextmanager
def recorded(net: Any, layer: str | None) -> Iterator[list[Tensor]]:
    """Collect what a layer, or `net.feature_map`, returns while the network is called.

    The network goes on with a copy, because its next step may change a tensor in place (ReLU).
    """
    outputs: list[Tensor] = []
    if layer is not None:
        layers = dict(net.named_modules())
        check_known("layer", layer, [name for name in layers if name])

        def record(module: nn.Module, inputs: Any, output: Any) -> Any:
            outputs.append(output)
            return output.clone() if isinstance(output, Tensor) else output

        handle = layers[layer].register_forward_hook(record)
        try:
            yield outputs
        finally:
            handle.remove()
        return
    if not hasattr(net, "feature_map"):
        raise ValueError(f"{type(net).__name__} has no feature_map(images); name a layer")
    plain = net.feature_map

    def feature_map(*args: Any) -> Tensor:
        outputs.append(plain(*args))
        return outputs[-1].clone()

    net.feature_map = feature_map  # hides the method of the class for a while
    try:
        yield outputs
    finally:
        del net.feature_map


def as_map(
    output: Tensor, net: Any, images: Images, name: str
) -> Float[Tensor, "batch features rows columns"]:
    """Return a layer's output by place.

    Raises:
        ValueError: it is neither a feature map nor the tokens of a Transformer.
    """
    if output.ndim == 4:
        return by_place(output, net)
    if output.ndim == 3 and hasattr(net, "embedding") and hasattr(net, "prefix"):
        try:
            return patch_grid(output, net, images)
        except ValueError as error:
            raise ValueError(f"{name} gives no map: {error}") from None
    raise ValueError(f"{name} gives no map but shape {tuple(output.shape)}")


def explain(
    net: nn.Module,
    images: Images,
    classes: Int[Tensor, " _"] | None = None,
    layer: str | None = None,
) -> Maps:
    """Return class activation maps where the network has such, and Grad-CAM elsewhere.

    Raises:
        ValueError: the network has neither; see `grad_cam`.
    """
    if layer is None:
        with contextlib.suppress(NoMeanBeforeHead):
            return class_activation(net, images, classes)
    return grad_cam(net, images, classes, layer)


def cam(
    net: nn.Module,
    images: Images,
    classes: Int[Tensor, "batch shown"] | None = None,
    layer: str | None = None,
) -> UInt8[Tensor, "tall wide 3"]:
    """Draw a row for each image: the image, then its map for each of some classes.

    Args:
        net: see `explain`.
        images: of 1 or 3 channels, pixels in any scale.
        classes: of each image; by default its likeliest class.
        layer: see `grad_cam`.

    Raises:
        ValueError: see `explain`.
    """
    columns = [None] if classes is None else list(classes.unbind(dim=1))
    maps = [explain(net, images, column, layer) for column in columns]
    return overlay(images, torch.stack(maps, dim=1))
