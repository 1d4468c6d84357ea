"""One call of `fit`: check, build, train, save, report, each failure with its exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlreview.messages import UserError, nearest, one_line
from dlreview.running.changes import (
    changed_batch,
    dropped_averaging,
    earlier_steps,
    global_batch,
)
from dlreview.running.command import complain
from dlreview.running.quiet import HeldStderr, quiet

if TYPE_CHECKING:
    from dlreview.running.builder import Section

SECTIONS = ("seed_everything", "model", "data", "trainer")


def run(recipe: Path, tree: dict[str, Any], options: dict[str, Any]) -> int:
    """Train `tree`, the recipe with the command line's values in it; return the exit status."""
    from dlreview.running.memory import keep_freed_memory

    keep_freed_memory()
    held = HeldStderr()
    sys.stderr = held
    fit = None
    try:
        quiet()
        try:
            fit = Fit(recipe, tree, options)
        except UserError as error:
            held.release(tell=False)
            return complain("fit", error, str(recipe))
        held.release(tell=True)
        fit.tell()
        if options["print_config"]:
            fit.directory.discard()
            print(yaml.safe_dump(fit.config, sort_keys=False, allow_unicode=True), end="")
            return 0
        return fit.train()
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
        if isinstance(stop, SystemExit) and not (fit and fit.checkpoints.interrupted):
            return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        held.release(tell=False)
        last = fit.directory.checkpoint if fit else None
        what = f"the last checkpoint is {last}" if last and last.exists() else "no checkpoint yet"
        print(f"dlreview.fit: stopped at once; {what}", file=sys.stderr)
        return 130
    except Exception as error:
        held.release(tell=True)
        if fit is not None and (refusal := fit.refusal(error)):
            return complain("fit", refusal, str(recipe)) if fit.first else 2
        return report_failure(error, fit)
    finally:
        held.release(tell=False)
        sys.stderr = held.real
        leave_no_group()


def leave_no_group() -> None:
    """End a process group of this process alone, so that a later run here begins without one."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() == 1:
        dist.destroy_process_group()


def report_failure(error: Exception, fit: Fit | None) -> int:
    """Say what failed, last and in one line; the traceback goes first where it can help."""
    kept = ""
    if fit is not None and fit.directory.checkpoint.exists():
        kept = f"; {fit.directory.checkpoint} is intact, go on with --resume"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        print(f"dlreview.fit: the disk is full: {one_line(str(error))}{kept}", file=sys.stderr)
        return 1
    if not isinstance(error, OSError | ValueError):
        traceback.print_exception(error)
    message = one_line(str(error)) or "no message"
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(f"dlreview.fit: {kind}{message}{kept}", file=sys.stderr)
    return 1


class Fit:
    """A recipe that passed every check, built and ready to train.

    The order: check the recipe, open the data, fill what the data and the trainer know, build the
    networks and the learner, try one batch. The run has no folder before `train`.

    Raises:
        UserError: the recipe or the command is at fault; nothing was written.
    """

    def __init__(self, recipe: Path, tree: dict[str, Any], options: dict[str, Any]) -> None:
        from dlreview.running.directory import choose
        from dlreview.running.packages import allow

        allow(options["trust"])
        self.recipe, self.options, self.first = recipe, options, first_process()
        seed = check_recipe(tree)
        self.directory = choose(recipe.stem, options["out"], options["resume"], judge=self.first)
        self.resuming = options["resume"] and self.directory.checkpoint.is_file()
        try:
            self._build(tree, seed)
        except BaseException:
            self.directory.discard()
            raise
        self.changes: list[str] = []
        if options["resume"] and (self.resuming or self.directory.finished):
            self.changes = self.directory.check_same(self.config)
        if self.resuming:
            self._check_limits()
            began = self.directory.last().get("dlreview", {}).get("global_batch")
            self.changes += changed_batch(began, self.checkpoints.about["global_batch"])

    def _build(self, tree: dict[str, Any], seed: int) -> None:
        """Build everything once, each part with what the parts before it know."""
        from lightning.pytorch import seed_everything

        from dlreview.running import trial
        from dlreview.running.builder import Section, build_data, build_learner
        from dlreview.running.flags import check_learner, fill_folders
        from dlreview.running.ordered import keep_order
        from dlreview.running.signatures import expand, find_class
        from dlreview.running.sizes import fill_sizes, fill_steps
        from dlreview.running.strategies import check_sharding
        from dlreview.running.trainer import make_trainer

        tree = expand(tree)
        data = Section("data", tree["data"])
        seed_everything(seed, workers=True, verbose=False)  # a share of the rows is chosen by it
        learner = find_class(tree["model"]["class_path"])
        trial.check_batches(learner, find_class(tree["data"]["class_path"]))
        self.data = build_data(data)
        trial.check_batches(learner, self.data)
        model = fill_sizes(tree["model"], getattr(self.data, "sizes", {}))
        trainer = Section("trainer", fill_folders(tree.get("trainer"), self.directory.path))
        made = make_trainer(trainer, model, self.directory, self.options)
        self.trainer, self.metrics, self.checkpoints = made
        self.data.trainer = self.trainer
        keep_order(self.data, self.trainer)
        steps = self._count_steps()
        section = Section("model", fill_steps(model, steps))
        self.model = build_learner(section, seed)
        self.model.earlier_steps = self.checkpoints.about["earlier_steps"]
        check_learner(self.trainer, self.model, self.data)
        check_sharding(self.trainer, self.model)
        if self.first:
            trial.check_fit(self.model, self.data, self.trainer, steps)
        self._describe(seed, {"model": section, "data": data, "trainer": trainer})

    def _describe(self, seed: int, parts: dict[str, Section]) -> None:
        """Resolve the recipe, and tell what the checkpoints are to say of the networks."""
        from dlreview.running.networks import configs_of, networks_of
        from dlreview.usage import collect

        self.config = {"seed_everything": seed} | {k: v.resolved() for k, v in parts.items()}
        self.networks = networks_of(self.model, self.config)
        self.checkpoints.about |= {
            "networks": configs_of(self.networks, self.config),
            "usage": collect(self.model, self.data, {}),
        }

    def _count_steps(self) -> float:
        """Count the optimizer steps of the whole training, also of a resumed one."""
        from dlreview.running.sizes import count_batches, count_steps, steps_of

        batches = count_batches(self.trainer, self.data)
        batch, earlier = global_batch(self.data, self.trainer), 0
        if self.resuming:
            per_epoch = steps_of(batches, 1.0, self.trainer)
            earlier = earlier_steps(self.directory.last(), batch, per_epoch)
        self.checkpoints.about = {"global_batch": batch, "earlier_steps": earlier}
        return count_steps(self.trainer, batches, earlier)

    def tell(self) -> None:
        """Say which flags change nothing, and what the command line dropped."""
        from dlreview.running.flags import without_effect

        trainer = self.config["trainer"]
        lines = [
            *without_effect(trainer, self.trainer, self.directory.path),
            *dropped_averaging(self.options["written"].get("trainer"), trainer),
        ]
        for line in lines if self.first else []:
            print(f"dlreview.fit: {line}", file=sys.stderr)

    def refusal(self, error: Exception) -> UserError | None:
        """Return what Lightning or a callback refused before the first step, and undo the start."""
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        refused = isinstance(error, UserError | MisconfigurationException | ImportError)
        if not refused or self.checkpoints.began or self.resuming:
            return None
        if self.first:
            self.directory.withdraw()
        return error if isinstance(error, UserError) else UserError("trainer", str(error))

    def train(self) -> int:
        """Train, save the networks, report; return the exit status."""
        from dlreview.running.checkpoints import Interrupted
        from dlreview.running.weights_and_biases import finish

        directory = self.directory
        if self.options["resume"] and directory.finished and self._complete():
            if self.first:
                print(f"{directory.path} is finished; nothing to do")
            return 0
        if self.first:
            for change in self.changes:
                print(f"resuming with {change}")
            directory.begin(self.config, afresh=not self.resuming)
        if self.resuming and not self.changes and self._ended():
            return 0
        if self.first and self.config["trainer"]["enable_autolog_hparams"]:
            for logger in self.trainer.loggers:
                logger.log_hyperparams(self.config)
        try:
            with self._signals():
                self.trainer.fit(
                    self.model,
                    datamodule=self.data,
                    ckpt_path=str(directory.checkpoint) if self.resuming else None,
                    weights_only=True,
                )
        except Interrupted:
            if self.first:
                print(
                    f"\ndlreview.fit: stopped by Ctrl-C at step {self.trainer.global_step}; "
                    f"go on with: python -m dlreview.fit {self.recipe} --resume "
                    f"--out {directory.path}",
                    file=sys.stderr,
                )
            return 130
        finally:
            finish(130 if self.checkpoints.interrupted else int(sys.exc_info()[0] is not None))
        if self.trainer.is_global_zero:
            self._save()
        return 0

    def _ended(self) -> bool:
        """Complete a run whose training was at its end when it was killed; tell whether it was."""
        state = self.directory.last()
        limits = [self.trainer.max_epochs, self.trainer.max_steps]
        if self.directory.finished or state.get("dlreview", {}).get("done") != limits:
            return False
        if self.first:
            self.metrics.restore(state["metrics_csv"])
            self.metrics.flush()
            self._save()
        return True

    def _save(self) -> None:
        """Write the networks and say what there is to look at."""
        from dlreview.running.report import report, save_networks

        if not self.directory.checkpoint.exists():
            raise ValueError("nothing was trained: the trainer's limits allow no step")
        if self.trainer.global_step == 0 and self.checkpoints.stepped:
            raise ValueError("no optimizer took a step: the networks are as they began, not saved")
        about, final = self.checkpoints.about, self.metrics.final()
        report(
            self.directory,
            save_networks(
                self.networks, about, self.directory, self.config, final, self.data, self._trained()
            ),
        )

    def _trained(self) -> tuple[dict[str, Any], str] | None:
        """Return what the trainer holds after steps in this process, and which weights these are.

        Callbacks average at the end, after the last checkpoint. Without a step they do nothing.
        """
        from lightning.pytorch.callbacks import StochasticWeightAveraging

        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
            return None
        return (self.model.state_dict(), "averaged") if self.checkpoints.stepped else None

    def _complete(self) -> bool:
        """Whether the finished run already did all that the trainer's limits now ask for."""
        epochs, steps = self.directory.progress()
        limits = self.trainer.max_epochs, self.trainer.max_steps
        enough_epochs = limits[0] is not None and 0 <= limits[0] <= epochs
        # A run with the very same recipe may have stopped early by itself.
        same = self.first and not self.changes
        return enough_epochs or 0 <= limits[1] <= steps or same

    def _check_limits(self) -> None:
        """Refuse to go on with an unfinished run to fewer epochs or steps than it has done."""
        epochs, steps = self.directory.progress()
        limits = {"max_epochs": (self.trainer.max_epochs, epochs)}
        limits |= {"max_steps": (self.trainer.max_steps, steps)}
        for name, (limit, done) in limits.items():
            if limit is not None and 0 <= limit < done and not self.directory.finished:
                problem = f"is {limit}, the run has done {done}"
                raise UserError(f"trainer.{name}", problem, f"valid: at least {done}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM while training."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, self._on_interrupt) for number in numbers]
        self.checkpoints.on_signal = self._on_interrupt
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)

    def _on_interrupt(self, *_: Any) -> None:
        """Ctrl-C or SIGTERM: finish the step, write a checkpoint; a second one stops at once."""
        if self.checkpoints.interrupted or not self.checkpoints.stepped:
            self.checkpoints.interrupted = True
            raise KeyboardInterrupt
        self.checkpoints.interrupted = True
        print(
            "\nfinishing the step and writing a checkpoint; Ctrl-C again stops at once",
            file=sys.stderr,
        )


def check_recipe(tree: dict[str, Any]) -> int:
    """Check what needs no data: sections, bounds, classes, keys and types; return the seed.

    Raises:
        UserError: the first mistake. What is only missing may yet be filled, and is judged later.
    """
    from dlreview.running.bounds import check_bounds
    from dlreview.running.builder import Section
    from dlreview.running.complaints import MISSING
    from dlreview.running.sizes import check_schedules

    for name, value in tree.items():
        if name not in SECTIONS:
            problem = f"unknown key, value {one_line(repr(value), 80)}"
            raise UserError(str(name), problem, nearest(str(name), SECTIONS))
    seed = tree.get("seed_everything", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError("seed_everything", f"expected a number from 0 to 2**32 - 1, got {seed!r}")
    trainer = tree.get("trainer")
    if not isinstance(trainer, dict | None):
        raise UserError("trainer", f"expected a mapping of Trainer arguments, got {trainer!r}")
    check_bounds(trainer or {})
    check_schedules(tree.get("model"))
    for name in ("data", "trainer", "model"):
        try:
            Section(name, tree.get(name))
        except UserError as error:
            if not error.problem.startswith(MISSING):
                raise
    return seed


def first_process() -> bool:
    """Whether this process speaks and writes: it is the only one, or the first of all nodes'."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)
