"""`metrics.csv`: one line a step, never torn, and the same after a resume as without the break."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

FIRST = ("step", "epoch")


class MetricsCSV(Logger):
    """A Lightning logger that keeps every metric of a run in one table.

    What is logged at one step becomes one line, written when a later step begins (or at the end),
    with a single write call. A new column rewrites the file under a temporary name.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns = list(FIRST)
        self.rows = 0
        self.pending: dict[str, int | float] = {}

    @property
    def name(self) -> str:
        """Nothing below the run directory."""
        return ""

    @property
    def version(self) -> str:
        """Nothing below the run directory."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Do nothing: `config.yaml` holds the resolved recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add numbers to the line of `step`."""
        step = self.pending.get("step", 0) if step is None else step  # type: ignore[assignment]
        if self.pending and self.pending["step"] != step:
            self.flush()
        self.pending |= {"step": step or 0} | {k: _number(v) for k, v in metrics.items()}

    def flush(self) -> None:
        """Write the pending line."""
        if not self.pending:
            return
        new = [name for name in self.pending if name not in self.columns]
        if new or not self.path.exists():
            lines = self.read()
            self.columns += new
            self._rewrite(lines)
        line = _csv([self.pending.get(name, "") for name in self.columns]).encode()
        end = self.path.stat().st_size
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, end)
                raise OSError(28, os.strerror(28), str(self.path))
        finally:
            os.close(descriptor)
        self.rows += 1
        self.pending = {}

    def read(self) -> list[dict[str, str]]:
        """Return the written lines."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, lines: list[dict[str, str]]) -> None:
        staged = self.path.with_name(f".{self.path.name}.tmp")
        table = [self.columns] + [[line.get(name, "") for name in self.columns] for line in lines]
        staged.write_text("".join(_csv(row) for row in table), newline="")
        staged.replace(self.path)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the log."""
        return {"rows": self.rows, "columns": list(self.columns), "pending": dict(self.pending)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint's log; later lines are dropped."""
        lines = self.read()[: state["rows"]]
        self.columns, self.rows = list(state["columns"]), len(lines)
        self.pending = dict(state["pending"])
        self._rewrite(lines)

    def final(self) -> dict[str, float]:
        """Return the last value of each metric."""
        last: dict[str, float] = {}
        for line in self.read():
            last |= {k: float(v) for k, v in line.items() if k and v and k not in FIRST}
        return last

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is pending when a run ends well."""
        if status == "success":
            self.flush()


def _number(value: int | float) -> int | float:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def _csv(row: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()
