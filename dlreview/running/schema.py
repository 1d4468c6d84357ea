"""What a recipe may say: every class, key, type and size is checked before anything is built.

The schema is the code's own signatures, so it cannot drift from them. A class is imported only when
its top-level package is allowed; the networks of a first, throw-away construction live on torch's
meta device, so that a size that would not fit is refused before memory is taken.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dlreview.limits import without_memory
from dlreview.messages import UserError, nearest, one_line
from dlreview.running.hints import (
    SCALARS,
    check_bounds,
    coerce,
    describe,
    describe_keys,
    fits,
    passes_on,
    plain,
    signature,
    takes_class,
)

ALLOWED = ("dlreview", "torch", "torchvision", "lightning", "torchmetrics", "kornia")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

# Bounds of values that the libraries accept silently and choke on later: (key, least, greatest).
TRAINER_BOUNDS: dict[str, tuple[int | float, int | float]] = {
    "accumulate_grad_batches": (1, math.inf),
    "check_val_every_n_epoch": (1, math.inf),
    "gradient_clip_val": (0, math.inf),
    "limit_train_batches": (0, math.inf),
    "limit_val_batches": (0, math.inf),
    "limit_test_batches": (0, math.inf),
    "limit_predict_batches": (0, math.inf),
    "log_every_n_steps": (0, math.inf),
    "max_epochs": (-1, math.inf),
    "max_steps": (-1, math.inf),
    "min_epochs": (0, math.inf),
    "min_steps": (0, math.inf),
    "num_nodes": (1, math.inf),
    "num_sanity_val_steps": (-1, math.inf),
    "overfit_batches": (0, math.inf),
    "reload_dataloaders_every_n_epochs": (0, math.inf),
    "val_check_interval": (0, math.inf),
}
NEEDS_TRAINING = ("max_epochs", "max_steps", "limit_train_batches")
BOUNDS: dict[str, dict[str, tuple[int | float, int | float]]] = {
    "EMAWeightAveraging": {
        "decay": (0, 1),
        "update_every_n_steps": (1, math.inf),
        "update_starting_at_step": (0, math.inf),
        "update_starting_at_epoch": (0, math.inf),
    },
}


def trusted_packages(extra: tuple[str, ...]) -> frozenset[str]:
    """Return the top-level packages whose classes a recipe may name."""
    return frozenset(ALLOWED) | set(extra)


class Schema:
    """Checks a recipe against the signatures of what it names.

    Args:
        trust: top-level packages whose classes a recipe may name.
    """

    def __init__(self, trust: frozenset[str]) -> None:
        self.trust = trust

    # -- classes ------------------------------------------------------------------------------

    def resolve(self, path: str, key: str) -> type:
        """Import the class at `path`, if its package is allowed."""
        root = path.split(".")[0]
        if not DOTTED.fullmatch(path):
            problem = f"{path!r} is not a class" if path else "the class is missing"
            raise UserError(key, problem, "write package.module.Class")
        if root not in self.trust:
            allowed = ", ".join(sorted(self.trust))
            raise UserError(
                key, f"{path!r} is outside the allowed packages", f"allowed: {allowed} (--trust)"
            )
        module_name, _, name = path.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise UserError(key, f"{path!r} cannot be imported: {error}") from None
            raise UserError(
                key, f"there is no module {module_name!r}", _module_hint(module_name)
            ) from None
        except (ImportError, ValueError) as error:
            raise UserError(key, f"{path!r} cannot be imported: {error}") from None
        found = getattr(module, name, None)
        if not isinstance(found, type):
            classes = [n for n, v in vars(module).items() if isinstance(v, type) and n[0] != "_"]
            hint = nearest(name, classes) if classes else ""
            raise UserError(key, f"{path!r} is not a class", hint)
        if found.__module__.split(".")[0] not in self.trust:
            raise UserError(key, f"{path!r} is {found.__module__}.{name}: not allowed")
        return found

    def check_class(self, node: Any, base: type, key: str, given: int = 0) -> None:
        """Check a {class_path, init_args} section, or a plain class path, of kind `base`."""
        if isinstance(node, str):
            node = {"class_path": node}
        if not isinstance(node, dict) or "class_path" not in node:
            raise UserError(
                key, f"expected a section with class_path (a {base.__name__}), got {node!r}"
            )
        for name in node:
            if name not in ("class_path", "init_args"):
                hint = nearest(str(name), ("class_path", "init_args"))
                raise UserError(f"{key}.{name}", f"unknown key, value {node[name]!r}", hint)
        path = node["class_path"]
        if not isinstance(path, str):
            raise UserError(f"{key}.class_path", f"expected a class path, got {path!r}")
        cls = self.resolve(path, f"{key}.class_path")
        if not issubclass(cls, base) or inspect.isabstract(cls):
            kind = f"{base.__module__.split('.')[0]} {base.__name__}"
            raise UserError(f"{key}.class_path", f"{path!r} is not a usable {kind}")
        if cls in (nn.Module, torch.optim.Optimizer) or cls.__module__.startswith(
            ("lightning.pytorch.core", "torch.utils")
        ):
            raise UserError(f"{key}.class_path", f"{path!r} is only the base class of its kind")
        arguments = node.get("init_args")
        if arguments is not None and not isinstance(arguments, dict):
            raise UserError(f"{key}.init_args", f"expected a mapping, got {arguments!r}")
        self.check_arguments(cls, arguments or {}, f"{key}.init_args", given)

    def check_arguments(
        self, cls: type, arguments: Mapping[str, Any], key: str, given: int = 0
    ) -> None:
        """Check the keyword `arguments` of `cls`, whose first `given` ones the caller supplies."""
        parameters, hints = signature(cls)
        names = list(parameters)[given:]
        for name, value in arguments.items():
            if name not in names and value is None and passes_on(cls):
                continue  # a resolved recipe spells out what **kwargs may hold; its parser judges
            if name not in names:
                raise UserError(
                    f"{key}.{name}", f"unknown key, value {value!r}", nearest(str(name), names)
                )
            hint = hints.get(name, Any)
            self.check_value(value, hint, f"{key}.{name}", parameters[name].default)
            least, greatest = BOUNDS.get(cls.__name__, {}).get(name, (-math.inf, math.inf))
            check_bounds(value, least, greatest, f"{key}.{name}")
        for name in names:
            if parameters[name].default is inspect.Parameter.empty and name not in arguments:
                raise UserError(
                    f"{key}.{name}",
                    f"this key is missing; {cls.__name__} needs it",
                    describe_keys(parameters, given),
                )

    # -- values -------------------------------------------------------------------------------

    def check_value(self, value: Any, hint: Any, key: str, default: Any = None) -> None:
        """Check `value` against a type hint.

        Raises:
            UserError: it does not fit; of a union, as the alternative meant would say.
        """
        hint = plain(hint)
        origin, options = typing.get_origin(hint), typing.get_args(hint)
        expected = f"expected {describe(hint)}, got {value!r}"
        if value is None and default is None and hint is not type(None):
            return  # a parameter whose default is None takes None, whatever its hint says
        if hint is Any or isinstance(hint, typing.TypeVar | str):
            self.scan(value, key)
        elif origin in (typing.Union, types.UnionType):
            self._check_union(value, options, key, expected)
        elif origin is typing.Literal:
            if not any(value == o and type(value) is type(o) for o in options):
                raise UserError(key, expected, nearest(str(value), map(str, options)))
        elif origin in (list, collections.abc.Sequence, collections.abc.Iterable, set, frozenset):
            if not isinstance(value, list):
                raise UserError(key, expected)
            for position, item in enumerate(value):
                self.check_value(item, (options or (Any,))[0], f"{key}.{position}", 0)
        elif origin is tuple:
            self._check_tuple(value, options, key, expected)
        elif origin in (dict, collections.abc.Mapping):
            if not isinstance(value, dict):
                raise UserError(key, expected)
            for name, item in value.items():
                self.check_value(item, (options or (Any, Any))[1], f"{key}.{name}", 0)
        elif origin is type:
            self.resolve(str(value), key)
        elif origin is collections.abc.Callable:
            self._check_callable(value, options, key, expected)
        elif isinstance(hint, type) and not fits(value, hint):
            if hint in SCALARS or not isinstance(value, str | dict):
                raise UserError(key, expected)
            self.check_class(value, hint, key)

    def _check_union(self, value: Any, options: tuple[Any, ...], key: str, expected: str) -> None:
        classes = [o for o in map(plain, options) if takes_class(o)]
        if classes and isinstance(value, str) and DOTTED.fullmatch(value):
            self.resolve(value, key)  # a class as a plain string: never imported unless allowed
        if classes and isinstance(value, dict) and "class_path" in value:
            for option in classes[:-1]:
                try:
                    return self.check_value(value, option, key, 0)
                except UserError:
                    continue
            return self.check_value(value, classes[-1], key, 0)
        lists = [o for o in map(plain, options) if typing.get_origin(o) in (list, tuple)]
        if isinstance(value, list) and len(lists) == 1:
            return self.check_value(value, lists[0], key, 0)
        for option in options:
            try:
                return self.check_value(value, option, key, 0)
            except UserError:
                continue
        words = [
            str(w) for o in options if typing.get_origin(o) is typing.Literal for w in o.__args__
        ]
        raise UserError(key, expected, nearest(str(value), words) if words else "")

    def _check_tuple(self, value: Any, options: tuple[Any, ...], key: str, expected: str) -> None:
        if not isinstance(value, list):
            raise UserError(key, expected)
        if len(options) == 2 and options[1] is Ellipsis:
            options = (options[0],) * len(value)
        if options and len(options) != len(value):
            raise UserError(key, expected)
        for position, item in enumerate(value):
            self.check_value(
                item, (options or (Any,) * len(value))[position], f"{key}.{position}", 0
            )

    def _check_callable(
        self, value: Any, options: tuple[Any, ...], key: str, expected: str
    ) -> None:
        """A callable that returns an optimizer, say, is a section without its first arguments."""
        returned = plain(options[1]) if len(options) == 2 else Any
        alternatives = typing.get_args(returned) or (returned,)
        bases = tuple(b for b in alternatives if isinstance(b, type))
        if not bases or not isinstance(value, str | dict):
            raise UserError(key, expected)
        path = value if isinstance(value, str) else value.get("class_path", "")
        cls = self.resolve(str(path), f"{key}.class_path")
        base = next((b for b in bases if issubclass(cls, b)), bases[0])
        taken = options[0] if isinstance(options[0], list) else []
        self.check_class(value, base, key, given=len(taken))

    def scan(self, value: Any, key: str) -> None:
        """Refuse classes outside the allowed packages where no type hint says what is expected."""
        if isinstance(value, dict):
            if isinstance(value.get("class_path"), str):
                self.resolve(value["class_path"], f"{key}.class_path")
            for name, item in value.items():
                self.scan(item, f"{key}.{name}")
        elif isinstance(value, list):
            for position, item in enumerate(value):
                self.scan(item, f"{key}.{position}")

    # -- the whole recipe ---------------------------------------------------------------------

    def check(self, tree: Mapping[str, Any]) -> None:
        """Check a whole recipe.

        Raises:
            UserError: the first mistake found.
        """
        from lightning.pytorch import LightningDataModule, LightningModule, Trainer

        sections = ("seed_everything", "model", "data", "trainer")
        for name, value in tree.items():
            if name not in sections:
                raise UserError(
                    str(name),
                    f"unknown key, value {one_line(repr(value), 80)}",
                    nearest(str(name), sections),
                )
        for name in ("model", "data"):
            if tree.get(name) is None:
                raise UserError(name, "this section is missing", "needs class_path and init_args")
        seed = tree.get("seed_everything", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(
                "seed_everything", f"expected a number from 0 to 2**32 - 1, got {seed!r}"
            )
        self.check_class(tree["data"], LightningDataModule, "data")
        self.check_class(tree["model"], LightningModule, "model")
        trainer = tree.get("trainer")
        if not isinstance(trainer, dict | None):
            raise UserError("trainer", f"expected a mapping of Trainer arguments, got {trainer!r}")
        for name, value in (trainer or {}).items():
            if name in NEEDS_TRAINING and value == 0 and not isinstance(value, bool):
                raise UserError(f"trainer.{name}", "got 0: there would be nothing to train")
            check_bounds(value, *TRAINER_BOUNDS.get(name, (-math.inf, math.inf)), f"trainer.{name}")
        self.check_arguments(Trainer, trainer or {}, "trainer")

    def build(self, node: Any, hint: Any, key: str) -> Any:
        """Construct what `node` says, networks on the meta device, to hear every constructor.

        Raises:
            UserError: a constructor refused its arguments; the message names its section.
        """
        if isinstance(node, list):
            return coerce(
                [self.build(item, Any, f"{key}.{i}") for i, item in enumerate(node)], plain(hint)
            )
        if isinstance(node, str) and takes_class(plain(hint)) and DOTTED.fullmatch(node):
            node = {"class_path": node}
        if not (isinstance(node, dict) and "class_path" in node):
            return coerce(node, plain(hint))
        cls = self.resolve(node["class_path"], key)
        _, hints = signature(cls)
        arguments = {
            name: self.build(value, hints.get(name, Any), f"{key}.init_args.{name}")
            for name, value in (node.get("init_args") or {}).items()
        }
        try:
            if issubclass(cls, torch.optim.Optimizer):
                cls([nn.Parameter(torch.zeros(1))], **arguments)
                return lambda parameters: cls(parameters, **arguments)
            if issubclass(cls, torch.optim.lr_scheduler.LRScheduler):
                probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
                cls(probe, **arguments)
                if any(group["lr"] < 0 for group in probe.param_groups):
                    raise ValueError(f"a negative learning rate, with {arguments}")
                return lambda optimizer: cls(optimizer, **arguments)
            if (
                cls.__module__.startswith(("dlreview.nn.", "dlreview.reference."))
                or cls.__module__.split(".")[0] not in ALLOWED
            ):
                with without_memory():
                    return cls(**arguments)
            return cls(**arguments)
        except UserError:
            raise
        except (
            ValueError,
            TypeError,
            RuntimeError,
            OSError,
            AttributeError,
            MemoryError,
            OverflowError,
            ArithmeticError,
            LookupError,
        ) as error:
            raise UserError(key, str(error) or type(error).__name__) from None

    def dry_run(self, tree: Mapping[str, Any]) -> None:
        """Construct everything but the trainer once, without the networks' memory."""
        self.build(tree["data"], object, "data")
        for position, callback in enumerate(_as_list((tree.get("trainer") or {}).get("callbacks"))):
            self.build(callback, object, f"trainer.callbacks.{position}")
        self.build(tree["model"], object, "model")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _module_hint(module_name: str) -> str:
    """Name the nearest module to one that does not exist."""
    parent, _, name = module_name.rpartition(".")
    try:
        package = importlib.import_module(parent)
    except ImportError:
        return _module_hint(parent) if "." in parent else ""
    siblings = [m.name for m in pkgutil.iter_modules(getattr(package, "__path__", []))]
    return nearest(name, siblings)
