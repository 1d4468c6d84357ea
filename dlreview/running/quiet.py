"""What libraries say is held back while a recipe is judged, unless the user asked for it."""

from __future__ import annotations

import io
import logging
import sys
import warnings

ASKED_FOR = ("lightning.pytorch.callbacks.model_summary", "lightning.pytorch.profilers.profiler")
"""Loggers of tables that a recipe asks for."""


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
    for name in ASKED_FOR:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [Printer()]


class Printer(logging.Handler):
    """Prints what is logged to stdout, beside the other results of a run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print."""
        print(record.getMessage(), flush=True)
