"""The run directory: where it is, what it holds, whether it is finished."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dlreview.messages import UserError, one_line
from dlreview.running.changes import changed_averaging
from dlreview.running.checkpoints import LAST
from dlreview.running.recipe import read

CONFIG = "config.yaml"
MODEL = "model"
# What may differ between a run and its resumption beside the trainer.
FREE = ("num_workers", "pin_memory", "batch_size", "tokens_per_batch")
FILLED = ("total_steps", "T_max")  # the trainer's number of steps


class RunDirectory:
    """One training run's folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.checkpoint = path / "checkpoints" / LAST
        self.metrics = path / "metrics.csv"
        self.pictures = path / "pictures"
        self.model = path / MODEL
        self.made: list[Path] = []
        self.new = False

    @property
    def finished(self) -> bool:
        """Whether `model/` is complete; it is the last thing a run writes, and by renaming."""
        return any((self.model / name).is_file() for name in ("config.json", "index.json"))

    def last(self) -> dict[str, Any]:
        """Return the last checkpoint without its numbers.

        Raises:
            ValueError: it is damaged.
        """
        import torch

        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint, weights_only=True, map_location="meta"
            )
        except Exception as error:  # of several kinds, by where the file is damaged
            raise ValueError(
                f"{self.checkpoint} is damaged: {one_line(str(error), 120)}"
            ) from error
        return state

    def progress(self) -> tuple[int, int]:
        """Return how many epochs and optimizer steps the last checkpoint has done."""
        state = self.last()
        loop = state["loops"]["fit_loop"]
        ended = loop["epoch_loop.batch_progress"]["is_last_batch"]
        return loop["epoch_progress"]["current"]["processed"] + int(ended), state["global_step"]

    def reserve(self) -> bool:
        """Make the folder, unless another start of the recipe made it first; tell which."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                "--out", f"{self.path.parent} cannot be made: {error.strerror}"
            ) from None
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        self.made = missing
        return True

    def discard(self) -> None:
        """Remove the folders that `reserve` made, if they are empty."""
        for folder in self.made:
            with contextlib.suppress(OSError):  # another run may be in it by now
                folder.rmdir()

    def withdraw(self) -> None:
        """Remove what this start wrote into a folder that was new or empty."""
        if self.new:
            shutil.rmtree(self.path)
            self.discard()

    def begin(self, config: dict[str, Any], afresh: bool) -> None:
        """Make the folder and write the resolved recipe into it.

        What an earlier start left is removed: the log of one that wrote no checkpoint (`afresh`),
        and `model/` of a finished run that goes on, which would else count as finished.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.new = not any(self.path.iterdir())
        if afresh:
            self.metrics.unlink(missing_ok=True)
        if self.finished:
            shutil.rmtree(self.model)
        staged = self.path / f".{CONFIG}.tmp"
        staged.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
        staged.replace(self.config)

    def check_same(self, config: dict[str, Any]) -> list[str]:
        """Refuse to go on with another network, objective or data than the run began with.

        Return what of the trainer and the loading is another, a line each.

        Raises:
            UserError: the first key that differs.
        """
        stored = read(self.config)
        changes = changed_averaging(stored.get("trainer"), config["trainer"])
        for section in ("seed_everything", "model", "data", "trainer"):
            for key, old, new in _differences(stored.get(section), config.get(section), section):
                difference = f"{one_line(repr(new), 60)}, it was {one_line(repr(old), 60)}"
                name = key.rpartition(".")[2]
                if name in FILLED:
                    continue
                if section != "trainer" and name not in FREE:
                    raise UserError(
                        key,
                        f"is {difference} in {self.path}",
                        "resume with the recipe it began with, or start a new run (from these "
                        f"weights: --model.net dlreview.reference.Pretrained "
                        f"--model.net.path {self.path})",
                    )
                changes.append(f"{key} {difference}")
        return changes


def _differences(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Give (key, old value, new value) of each difference of two sections."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            inner = key if name == "init_args" else f"{key}.{name}"
            yield from _differences(old.get(name), new.get(name), inner)
    elif old != new:
        yield key, old, new


def numbered(stem: str) -> list[Path]:
    """Return the runs of a recipe, oldest first."""
    folder = Path("runs") / stem
    runs = [p for p in folder.glob("*") if re.fullmatch(r"\d+", p.name) and p.is_dir()]
    return sorted(runs, key=lambda p: int(p.name))


def choose(stem: str, out: str | None, resume: bool, judge: bool = True) -> RunDirectory:
    """Return the directory of a new run, or of the one to resume.

    Processes after the first find what that one has made already; they do not `judge`.

    Raises:
        UserError: `out` is in use, or there is nothing to resume.
    """
    if out is None:
        runs = [p for p in numbered(stem) if not resume or (p / CONFIG).is_file()]
        if resume and not runs:
            raise UserError("--resume", f"there is no run in {Path('runs') / stem} to resume")
        if resume or (runs and not judge):  # the first process has made it
            return RunDirectory(runs[-1])
        number = int(runs[-1].name) + 1 if runs else 0
        found = RunDirectory(Path("runs") / stem / str(number))
        while judge and not found.reserve():  # another start of the recipe was faster
            number += 1
            found = RunDirectory(Path("runs") / stem / str(number))
        return found
    path = Path(out)
    if not judge:
        return RunDirectory(path)
    if path.exists() and not path.is_dir():
        raise UserError("--out", f"{out} is a file, not a folder")
    used = path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir())
    if used and not resume:
        raise UserError("--out", f"{out} is not empty", "add --resume to go on with that run")
    if used and not (path / CONFIG).is_file():
        raise UserError("--out", f"{out} holds no run: there is no {CONFIG} in it")
    if resume and not path.exists():
        raise UserError("--out", f"there is no run in {out} to resume")
    return RunDirectory(path)
