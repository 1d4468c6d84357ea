"""One call of `fit`: check, build, train, save, report, each failure with its exit status."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import yaml

from dlreview.messages import UserError, one_line

if TYPE_CHECKING:
    from dlreview.fit import Command


class HeldStderr(io.TextIOBase):
    """Keeps what libraries say while a recipe is judged, so that a refusal is all that is read."""

    def __init__(self) -> None:
        self.real, self.held = sys.stderr, io.StringIO()
        self.holding = True

    def write(self, text: str) -> int:
        """Write, now or later."""
        return (self.held if self.holding else self.real).write(text)

    def flush(self) -> None:
        """Flush the real stream."""
        self.real.flush()

    def isatty(self) -> bool:
        """Answer for the real stream."""
        return self.real.isatty()

    def fileno(self) -> int:
        """Answer for the real stream."""
        return self.real.fileno()

    def release(self, tell: bool) -> None:
        """Stop holding; pass on what was held if `tell`."""
        if self.holding and tell:
            self.real.write(self.held.getvalue())
        self.holding = False


def quiet() -> None:
    """Silence notices that ask nothing of the user."""
    import lightning.pytorch  # noqa: F401 (it sets its own log levels)

    for module in ("lightning", "jsonargparse", "torch", "kornia"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run(command: Command, tree: dict[str, Any]) -> int:
    """Train `tree`; return the exit status."""
    from dlreview.fit import complain
    from dlreview.running.memory import keep_freed_memory

    keep_freed_memory()
    held = HeldStderr()
    sys.stderr = held
    fit = None
    try:
        quiet()
        try:
            fit = Fit(command, tree)
        except UserError as error:
            held.release(tell=False)
            return complain(command, error)
        held.release(tell=True)
        return fit.train()
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
        if isinstance(stop, SystemExit) and not (fit and fit.checkpoints.interrupted):
            return int(stop.code or 0)
        held.release(tell=False)
        last = fit.directory.checkpoint if fit else None
        what = f"the last checkpoint is {last}" if last and last.exists() else "no checkpoint yet"
        print(f"dlreview.fit: stopped at once; {what}", file=sys.stderr)
        return 130
    except Exception as error:
        held.release(tell=True)
        return report_failure(error, fit)
    finally:
        held.release(tell=False)
        sys.stderr = held.real


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
    print(f"dlreview.fit: {type(error).__name__}: {message}{kept}", file=sys.stderr)
    return 1


class Fit:
    """A recipe that passed every check, built and ready to train.

    Raises:
        UserError: the recipe or the command is at fault; nothing was written.
    """

    config: dict[str, Any]  # the resolved recipe, once LightningCLI has read it

    def __init__(self, command: Command, tree: dict[str, Any]) -> None:
        from dlreview.running.directory import choose
        from dlreview.running.schema import Schema, trusted_packages

        schema = Schema(trusted_packages(command.trust))
        schema.check(tree)
        schema.dry_run(tree)
        self.first = first_process()
        self.command, self.tree = command, tree
        self.directory = choose(command.recipe.stem, command.out, command.resume, judge=self.first)
        self._build()
        self.resuming = command.resume and self.directory.checkpoint.is_file()
        if self.first and command.resume and (self.directory.path / "config.yaml").is_file():
            self.directory.check_same(self.config)
        if self.first:
            self._open_data()

    def _build(self) -> None:
        """Let LightningCLI construct everything from the checked recipe."""
        from lightning.fabric.utilities.exceptions import MisconfigurationException
        from lightning.pytorch import LightningDataModule, LightningModule
        from lightning.pytorch.cli import LightningCLI

        from dlreview.running.checkpoints import AtomicCheckpointIO, Checkpoints
        from dlreview.running.metrics_csv import MetricsCSV
        from dlreview.running.progress import progress_bar
        from dlreview.running.weights_and_biases import wandb_logger

        self.metrics = MetricsCSV(self.directory.metrics)
        self.checkpoints = Checkpoints(
            self.directory.checkpoint.parent, self.command.checkpoint_every, self.metrics
        )
        fit = self

        class CLI(LightningCLI):
            def instantiate_trainer(self, **kwargs: Any) -> Any:
                fit.config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
                given = dict(self._get(self.config_init, "trainer", default={}))
                loggers = given.get("logger")
                loggers = [] if loggers in (None, True, False) else loggers
                own = [
                    fit.metrics,
                    *wandb_logger(fit.command.wandb, fit.directory.path, fit.config),
                ]
                given["logger"] = own + (loggers if isinstance(loggers, list) else [loggers])
                callbacks = given.get("callbacks") or []
                callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
                best = fit.best(self._get(self.config_init, "model"), callbacks)
                given["callbacks"] = [fit.checkpoints, *callbacks, *best, *progress_bar()]
                plugins = given.get("plugins") or []
                plugins = plugins if isinstance(plugins, list) else [plugins]
                given["plugins"] = [AtomicCheckpointIO(), *plugins]
                given["default_root_dir"] = str(fit.directory.path)
                for name, value in (
                    ("num_sanity_val_steps", 0),
                    ("enable_model_summary", False),
                    ("enable_progress_bar", sys.stdout.isatty()),
                    ("enable_checkpointing", bool(best) or any(map(saves, callbacks))),
                ):
                    given[name] = value if given.get(name) is None else given[name]
                return self.trainer_class(**given)

        try:
            cli = CLI(
                LightningModule,
                LightningDataModule,
                args=self.tree,
                run=False,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False},
            )
        except MisconfigurationException as error:
            raise UserError("trainer", str(error)) from None
        except SystemExit:
            raise UserError("", "Lightning's parser refused the recipe") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise UserError("", str(error)) from None
        self.trainer, self.model, self.data = cli.trainer, cli.model, cli.datamodule
        # The model's optimizer factory refers to the parser and so to this object; weight averaging
        # copies the model deeply and must not meet the trainer, which holds processes, on its way.
        del cli.trainer, cli.model, cli.datamodule, cli.config_init

    def best(self, model: Any, callbacks: list[Any]) -> list[Any]:
        """Keep the best checkpoint too, by the metric the learner names, unless the recipe does."""
        from lightning.pytorch.callbacks import ModelCheckpoint

        if not hasattr(model, "monitor") or any(map(saves, callbacks)):
            return []
        metric, mode = model.monitor
        return [
            ModelCheckpoint(
                dirpath=self.directory.checkpoint.parent.resolve(),
                filename="best",
                monitor=metric,
                mode=mode,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        ]

    def _open_data(self) -> None:
        """Read the data before the run has a folder, so that a faulty set leaves none.

        A learner may have a method accept(data, trainer), which refuses what it cannot work with.
        """
        from dlreview.running.pairing import check_call, check_pair

        check_pair(self.model, self.data)
        check_call(self.model)
        try:
            self.data.prepare_data()
            self.data.setup("fit")
        except ValueError as error:
            raise UserError("data", str(error)) from None
        if hasattr(self.model, "accept"):
            try:
                self.model.accept(self.data, self.trainer)
            except ValueError as error:
                problem, _, hint = str(error).partition("\n")
                raise UserError("model", problem, hint) from None

    def train(self) -> int:
        """Train, save the network, report; return the exit status."""
        from dlreview.running.checkpoints import Interrupted
        from dlreview.running.report import report, save_model
        from dlreview.running.weights_and_biases import finish

        directory = self.directory
        if self.command.resume and directory.finished and self._complete():
            if self.first:
                print(f"{directory.path} is finished; nothing to do")
            return 0
        if self.first:
            directory.create(self.config)
        previous = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
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
                    f"go on with: python -m dlreview.fit {self.command.recipe} --resume "
                    f"--out {directory.path}",
                    file=sys.stderr,
                )
            return 130
        finally:
            finish(130 if self.checkpoints.interrupted else int(sys.exc_info()[0] is not None))
            signal.signal(signal.SIGINT, previous)
        if self.trainer.is_global_zero:
            if not directory.checkpoint.exists():
                raise ValueError("nothing was trained: the trainer's limits allow no step")
            save_model(self.model, self.config, self.directory, self.metrics.final())
            report(self.command, self.directory, self.metrics.final())
        return 0

    def _complete(self) -> bool:
        """Whether the finished run already did all that the trainer's limits now ask for."""
        import torch

        state = torch.load(self.directory.checkpoint, weights_only=True, map_location="meta")
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        loop = state["loops"]["fit_loop"]
        last = loop["epoch_loop.batch_progress"]["is_last_batch"]
        done = loop["epoch_progress"]["current"]["processed"] + int(last)
        enough_epochs = epochs is not None and 0 <= epochs <= done
        return enough_epochs or 0 <= steps <= state["global_step"] or directory_unchanged(self)

    def _on_interrupt(self, *_: Any) -> None:
        """Ctrl-C: finish the step and write a checkpoint; a second one stops at once."""
        if self.checkpoints.interrupted:
            raise KeyboardInterrupt
        self.checkpoints.interrupted = True
        print(
            "\nfinishing the step and writing a checkpoint; Ctrl-C again stops at once",
            file=sys.stderr,
        )


def first_process() -> bool:
    """Whether this process speaks and writes: it is the only one, or the first of all nodes'."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def directory_unchanged(fit: Fit) -> bool:
    """Whether the run was made with this very recipe (it may have stopped early by itself)."""
    stored = yaml.safe_load((fit.directory.path / "config.yaml").read_text(encoding="utf-8"))
    return bool(stored == fit.config)


def saves(callback: Any) -> bool:
    """Whether a callback of the recipe's own writes checkpoints."""
    from lightning.pytorch.callbacks import Checkpoint

    return isinstance(callback, Checkpoint)
