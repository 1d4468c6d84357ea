"""What the libraries of Hugging Face have in common: constructors with switches, and reports."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any


def switches_of(cls: type) -> Iterator[dict[str, bool]]:
    """Yield every setting of the switches that a constructor has beside the configuration.

    A switch adds a part, for example a pooler. The default setting comes first.
    """
    parameters = inspect.signature(cls).parameters.values()
    switches = {p.name: p.default for p in parameters if isinstance(p.default, bool)}
    for flips in itertools.product((False, True), repeat=len(switches)):
        pairs = zip(switches.items(), flips, strict=True)
        yield {name: default != flip for (name, default), flip in pairs if flip}


class Quiet:
    """Silence the progress bars and reports of a library of Hugging Face."""

    def __init__(self, logging: Any) -> None:
        self.logging = logging

    def __enter__(self) -> None:
        self.level, self.bars = self.logging.get_verbosity(), self.logging.is_progress_bar_enabled()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.level)
        if self.bars:
            self.logging.enable_progress_bar()
