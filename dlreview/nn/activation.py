"""Activation functions by name, so that a recipe can name them.

GELU and its tanh approximation: Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dlreview.messages import check_known


def identity(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x`."""
    return x


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Approximate GELU by x sigmoid(1.702 x), as CLIP does."""
    return x * torch.sigmoid(1.702 * x)


def fast_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Approximate GELU by tanh with sqrt(2/pi) rounded to 0.7978845608."""
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x)))


def clipped_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Clip GELU to [-10, 10]."""
    return F.gelu(x).clip(-10, 10)


def hard_mish(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Approximate Mish by x/2 times x + 2 clipped to [0, 2]."""
    return 0.5 * x * (x + 2).clip(0, 2)


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Square the positive part."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_clipped": clipped_gelu,
    "gelu_fast": fast_gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "hard_mish": hard_mish,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "identity": identity,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "relu_squared": relu_squared,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function of this name.

    Raises:
        ValueError: The name is unknown.
    """
    check_known("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
