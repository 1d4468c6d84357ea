"""Whether a learner can work with the batches of a data module, and with a network."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

from dlreview.messages import UserError


def check_pair(learner: Any, data: Any) -> None:
    """Compare what the learner `reads` from a batch with what the data module `gives`.

    Each is a tuple of names, an attribute of the class; of a class without one nothing is known.

    Raises:
        UserError: something is missing; the data modules of dlreview that have it are named.
    """
    reads, gives = getattr(learner, "reads", None), getattr(data, "gives", None)
    if reads is None or gives is None or set(reads) <= set(gives):
        return
    problem = (
        f"{type(learner).__name__} reads {', '.join(reads)} from a batch, "
        f"{type(data).__name__} gives {', '.join(gives)}"
    )
    valid = ", ".join(sorted(modules_that_give(reads)))
    raise UserError("data.class_path", problem, f"valid here: {valid}" if valid else "")


def check_call(learner: Any) -> None:
    """Compare what the learner `calls` its network with, a tuple of names, with what that takes.

    Raises:
        UserError: their numbers differ: it is a network for something else.
    """
    calls, net = getattr(learner, "calls", None), getattr(learner, "net", None)
    if calls is None or net is None:
        return
    takes = inspect.signature(net.forward)
    try:
        takes.bind(*calls)
    except TypeError:
        problem = f"{type(learner).__name__} calls net({', '.join(calls)}), "
        problem += f"{type(net).__name__} takes ({', '.join(takes.parameters)})"
        raise UserError("model.net.class_path", problem) from None


def modules_that_give(names: tuple[str, ...]) -> Iterator[str]:
    """Name the classes of `dlreview.data` whose batches hold all of `names`."""
    import dlreview.data

    for found in pkgutil.iter_modules(dlreview.data.__path__, "dlreview.data."):
        module = importlib.import_module(found.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and set(names) <= set(getattr(kind, "gives", ())):
                yield f"{module.__name__}.{name}"
