"""The run directory: where it is, what it holds, whether it is finished."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dlreview.messages import UserError, one_line
from dlreview.running.checkpoints import LAST
from dlreview.running.recipe import read

CONFIG = "config.yaml"
MODEL = "model"
# What may differ between a run and its resumption: it changes no number.
FREE = ("num_workers", "pin_memory", "batch_size")


class RunDirectory:
    """One training run's folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoints" / LAST
        self.metrics = path / "metrics.csv"
        self.pictures = path / "pictures"
        self.model = path / MODEL

    @property
    def finished(self) -> bool:
        """Whether `model/` is complete; it is the last thing a run writes, and by renaming."""
        return (self.model / "config.json").is_file()

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and write the resolved recipe into it."""
        self.path.mkdir(parents=True, exist_ok=True)
        staged = self.path / f".{CONFIG}.tmp"
        staged.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
        staged.replace(self.path / CONFIG)

    def check_same(self, config: dict[str, Any]) -> None:
        """Refuse to go on with another network, objective or data than the run began with.

        Raises:
            UserError: the first key that differs.
        """
        stored = read(self.path / CONFIG)
        for section in ("seed_everything", "model", "data"):
            _compare(stored.get(section), config.get(section), section, self.path)


def _compare(old: Any, new: Any, key: str, run: Path) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if name not in FREE:
                _compare(old.get(name), new.get(name), f"{key}.{name}", run)
    elif old != new:
        raise UserError(
            key,
            f"is {one_line(repr(new), 60)}, but the run in {run} began with "
            f"{one_line(repr(old), 60)}",
            "resume with the recipe it began with, or start a new run",
        )


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
        runs = numbered(stem)
        if resume and not runs:
            raise UserError("--resume", f"there is no run in {Path('runs') / stem} to resume")
        if resume:
            return RunDirectory(runs[-1])
        return RunDirectory(Path("runs") / stem / str(int(runs[-1].name) + 1 if runs else 0))
    path = Path(out)
    if not judge:
        return RunDirectory(path)
    if path.exists() and not path.is_dir():
        raise UserError("--out", f"{out} is a file, not a folder")
    used = path.is_dir() and any(path.iterdir())
    if used and not resume:
        raise UserError("--out", f"{out} is not empty", "add --resume to go on with that run")
    if used and not (path / CONFIG).is_file():
        raise UserError("--out", f"{out} holds no run: there is no {CONFIG} in it")
    if resume and not path.exists():
        raise UserError("--out", f"there is no run in {out} to resume")
    return RunDirectory(path)
