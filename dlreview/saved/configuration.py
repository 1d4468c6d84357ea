"""A network and its configuration {class_path, init_args}, one from the other.

Every constructor argument of a network of `dlreview.nn` is kept as an attribute of the same name
(scikit-learn's convention), so that the configuration is read off the network itself. An argument
that is a network becomes a section of its own. A recipe's `net:` section has the same form.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from dlreview.messages import nearest
from dlreview.saved.earlier import modernise
from dlreview.saved.layout import CONFIG

NETWORKS = "dlreview.nn."


def config_of(net: nn.Module) -> dict[str, Any]:
    """Return {class_path, init_args} from which `build` makes an equal network.

    Raises:
        ValueError: a constructor argument is not kept as an attribute, or is no plain value.
    """
    cls = type(net)
    path = f"{cls.__module__}.{cls.__qualname__}"
    arguments = {}
    for name in list(inspect.signature(cls.__init__).parameters)[1:]:
        if not hasattr(net, name):
            raise ValueError(f"{path} does not keep its argument {name!r} as an attribute")
        arguments[name] = _plain(getattr(net, name), f"{path}.{name}")
    return {"class_path": path, "init_args": arguments}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, nn.ModuleList | list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, nn.Module):
        return config_of(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} is {value!r}, which a configuration cannot hold")


def build(config: Any, where: str = CONFIG) -> nn.Module:
    """Construct the network that `config` describes, an earlier version's too.

    Args:
        config: {class_path, init_args}; only classes of `dlreview.nn` are looked at.
        where: what error messages begin with.

    Raises:
        ValueError: `config` is not of the form of `config_of`, or the class refuses its arguments.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_path"), str):
        raise ValueError(f"{where}: expected class_path and init_args, got {str(config)[:80]!r}")
    arguments = config.get("init_args") or {}
    if not isinstance(arguments, dict) or set(config) - {"class_path", "init_args"}:
        raise ValueError(f"{where}: expected class_path and init_args, got {sorted(config)}")
    try:
        config = modernise(config)
    except Exception as error:  # arguments of an earlier version, which nobody has checked
        raise ValueError(f"{where}: {config['class_path']}: {error!r}") from error
    cls, arguments = _network_class(config["class_path"], where), config.get("init_args") or {}
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            hint = nearest(key, known)
            raise ValueError(f"{where}: {cls.__name__} has no argument {key!r}; {hint}")
    built = {key: _built(value, f"{where}: {key}") for key, value in arguments.items()}
    try:
        return cls(**built)
    except Exception as error:  # whatever a constructor makes of values that nobody has checked
        raise ValueError(f"{where}: {cls.__name__}: {error or type(error).__name__}") from error


def _network_class(path: str, where: str) -> type[nn.Module]:
    """Import a class of `dlreview.nn`; nothing else is imported."""
    module_name, _, name = path.rpartition(".")
    cls = None
    if path.startswith(NETWORKS) and all(part.isidentifier() for part in path.split(".")):
        try:
            cls = getattr(importlib.import_module(module_name), name, None)
        except ImportError:
            cls = None
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module_name:
        return cls
    raise ValueError(f"{where}: class_path {path!r} is not a network of dlreview.nn")


def _built(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_built(item, where) for item in value]
    return build(value, where) if isinstance(value, dict) else value
