"""One real batch through the loss, before the run has a folder: do data, networks and loss fit?

torch's fake tensors have shapes and types but no memory, so that the trial costs neither time nor
memory. Where shapes depend on the numbers (a count of words, say) it stops without a verdict.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dlreview.learners.learner import TRAIN, Learner
from dlreview.learners.rates import Rate
from dlreview.messages import UserError, one_line

UNDECIDED = ("fake", "Fake", "data-dependent", "DataDependent", "DynamicOutput", "symbolic",
             "SymInt", "SymNode", "tensor subclass", "pickle", "meta tensor", "Unsupported",
             "NotImplemented")  # fmt: skip


def check_fit(learner: Any, data: Any, trainer: Any, steps: float) -> None:
    """Try what can be tried without training, which is to take so many `steps`.

    Raises:
        UserError: learner, data, networks or optimizer do not fit together.
    """
    check_batches(learner, data)
    if not isinstance(learner, Learner):
        return
    if isinstance(learner.lr_schedule, Rate) and math.isinf(steps):
        hint = "set trainer.max_epochs or trainer.max_steps"
        raise UserError("trainer", "has no end, which model.lr_schedule needs", hint)
    try:
        learner.accept(data, trainer)
        made = learner.configure_optimizers()
        if not isinstance(learner.lr_schedule, Rate):  # which needs the trainer's number of steps
            try_factors(made)
    except ValueError as error:
        problem, _, hint = str(error).partition("\n")
        raise UserError("model", problem, hint) from None
    except ZeroDivisionError:  # OneCycleLR with total_steps 5 and pct_start 0.2, say
        hint = "change its number of steps, or the shares of its phases"
        raise UserError("model.lr_schedule", "the schedule divides by zero", hint) from None
    except (TypeError, RuntimeError, AttributeError) as error:
        if learner._trainer is None and "attached to a `Trainer`" in str(error):
            return  # a learner of the user's own asks the trainer
        raise UserError("model", str(error)) from None
    try_loss(learner, data)


def try_factors(made: Any) -> None:
    """Call the functions of a schedule such as torch's LambdaLR, as the second step will.

    Raises:
        TypeError, ValueError: one of them does not make a number of a number.
    """
    schedule = made["lr_scheduler"]["scheduler"] if isinstance(made, dict) else None
    for factor in getattr(schedule, "lr_lambdas", []):
        float(factor(1))


def check_batches(learner: Any, data: Any) -> None:
    """Compare what a learner `reads` from a batch with what the data `gives`; classes will do too.

    Raises:
        UserError: something is missing; the data modules of dlreview that have it are named.
    """
    reads, gives = getattr(learner, "reads", None), getattr(data, "gives", None)
    if not reads or gives is None or set(reads) <= set(gives):
        return
    names = [x.__name__ if isinstance(x, type) else type(x).__name__ for x in (learner, data)]
    problem = (
        f"{names[0]} reads {', '.join(reads)} from a batch, {names[1]} gives {', '.join(gives)}"
    )
    columns = [f"{name}_column" for name in reads if name not in gives]
    if all(hasattr(data, column) for column in columns):  # there, but null
        raise UserError(f"data.{columns[0]}", problem, "name the column")
    valid = ", ".join(sorted(modules_that_give(reads)))
    raise UserError("data.class_path", problem, f"valid here: {valid}" if valid else "")


def modules_that_give(names: tuple[str, ...]) -> Iterator[str]:
    """Name the classes of `dlreview.data` whose batches hold all of `names`."""
    import dlreview.data

    for found in pkgutil.iter_modules(dlreview.data.__path__, "dlreview.data."):
        module = importlib.import_module(found.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and set(names) <= set(getattr(kind, "gives", ())):
                yield f"{module.__name__}.{name}"


def first_batch(data: Any) -> dict[str, Any] | None:
    """Return the first training batch as the loss will meet it, fetched in this process.

    Data that can only be read from a stream give None.

    Raises:
        UserError: a row cannot be read.
    """
    loader = data.train_dataloader()
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    try:
        batch = data.on_after_batch_transfer(fetch(loader), 0)
    except (ValueError, OSError) as error:
        problem, _, hint = str(error).partition("\n")
        raise UserError("data", problem, hint) from None
    return batch if isinstance(batch, dict) else None


def fetch(loader: DataLoader[Any]) -> Any:
    """Fetch the first batch of a loader without its workers."""
    if loader.batch_size is None:
        return loader.dataset[next(iter(loader.sampler))]
    rows = next(iter(loader.batch_sampler))  # type: ignore[arg-type]
    return loader.collate_fn([loader.dataset[row] for row in rows])


def try_loss(learner: Learner, data: Any) -> None:
    """Run a batch through the loss without memory.

    Raises:
        UserError: shapes or types do not fit; both sizes are named.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    if type(learner).loss is Learner.loss:
        return
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = first_batch(data)
        if batch is None:
            return
        env = ShapeEnv()  # for shapes that depend on numbers; the others stay numbers
        fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=env, static_shapes=True)
        try:
            # A copy, so that nothing which the loss may keep stays behind. Its parameters are fake.
            tensors = [*learner.parameters(), *learner.buffers()]
            trial = copy.deepcopy(learner, {id(x): fake.from_tensor(x) for x in tensors})
            batch = {
                k: fake.from_tensor(v) if isinstance(v, Tensor) else v for k, v in batch.items()
            }
            with fake:
                trial.loss(batch, trial.random(batch, TRAIN, 0, 0))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if not any(word in text for word in UNDECIDED):
                raise UserError("model", _fault(learner, error)) from None


def _fault(learner: Learner, error: Exception) -> str:
    names = " and ".join(type(getattr(learner, name)).__name__ for name in learner.networks)
    text = one_line(str(error), 220) or type(error).__name__
    return f"{names} does not fit the data: {text}"
