"""Compare what the lecture compares: a number, a verdict and a picture.

    python -m dlreview.contrast NAME [WORD ...] [--out DIR] [FLAGS]

  --out DIR          folder for pictures; new or empty (default: contrasts/<NAME>/<number>)

The other words and flags depend on NAME:
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, parse, run
from dlreview.sample import new_folder

USAGE = "usage: python -m dlreview.contrast NAME [WORD ...]"


def text() -> str:
    """Return the help, with the words and flags of every comparison."""
    from dlreview import contrasts

    modules = [importlib.import_module(f"dlreview.contrasts.{name}") for name in contrasts.names()]
    return "\n".join([(__doc__ or "").strip(), *(module.HELP for module in modules)])


def body(argv: list[str]) -> int:
    """Compare.

    Raises:
        UserError: a mistake in the command.
    """
    from dlreview import contrasts

    name = argv[0]
    if name not in contrasts.names():
        raise UserError("", f"{name!r} is no comparison", nearest(name, contrasts.names()))
    module = importlib.import_module(f"dlreview.contrasts.{name}")
    words, options = parse(argv[1:], {"--out": Flag(str)} | module.FLAGS, USAGE, module.WORDS)
    options["out"] = new_folder(options["out"], Path("contrasts") / name)
    module.contrast(words, options)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    wanted = text() if not words or "--help" in words or "-h" in words else ""
    return run("contrast", wanted, body, words)


if __name__ == "__main__":
    sys.exit(main())
