"""The libraries' names of the activations of `dlreview.nn.activation`."""

from typing import Any

# Of several names of one function, we write the first.
TRANSFORMERS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_10": "gelu_clipped",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "hardswish": "hard_swish",
    "leaky_relu": "leaky_relu",
    "linear": "identity",
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
# Classes of torch.nn and timm.layers. These are also all activations of timm's registry that we
# have, and it calls them by our names.
MODULES = {
    "CELU": "celu",
    "ELU": "elu",
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "HardMish": "hard_mish",
    "HardMishMe": "hard_mish",
    "HardSigmoid": "hard_sigmoid",
    "HardSigmoidMe": "hard_sigmoid",
    "Hardsigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "HardSwishMe": "hard_swish",
    "Hardswish": "hard_swish",
    "Identity": "identity",
    "LeakyReLU": "leaky_relu",
    "Mish": "mish",
    "MishMe": "mish",
    "QuickGELU": "quick_gelu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SELU": "selu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Swish": "silu",
    "SwishMe": "silu",
    "Tanh": "tanh",
}
DEFAULTS = {"negative_slope": 0.01, "alpha": 1.0}


def from_transformers(name: Any, field: str = "hidden_act") -> str:
    """Translate a name of transformers.

    Raises:
        ValueError: we do not have that activation; names the `field` of the configuration.
    """
    if name not in TRANSFORMERS:
        raise ValueError(f"{field}={name!r} is not supported; supported: {', '.join(TRANSFORMERS)}")
    return TRANSFORMERS[name]


def to_transformers(name: str) -> str:
    """Translate our name.

    Raises:
        ValueError: transformers does not have that activation.
    """
    for theirs, ours in TRANSFORMERS.items():
        if ours == name:
            return theirs
    raise ValueError(f"transformers has no activation {name!r}")


def from_module(module: Any, field: str = "act_layer") -> str:
    """Return the name of the activation that a module of torch.nn or timm.layers computes.

    Raises:
        ValueError: we do not have that activation, or not with these parameters.
    """
    name = MODULES.get(type(module).__name__)
    unusual = {k: v for k, v in DEFAULTS.items() if getattr(module, k, v) != v}
    if name is None or unusual:
        raise ValueError(f"{field}={module} is not supported; supported: {', '.join(MODULES)}")
    return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else name


def to_timm(name: str) -> str:
    """Translate our name to timm's.

    Raises:
        ValueError: timm does not have that activation.
    """
    if name not in MODULES.values():
        raise ValueError(f"timm has no activation {name!r}")
    return name
