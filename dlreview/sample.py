"""Draw from a trained network, or ask it about files.

    python -m dlreview.sample RUN_OR_DIR_OR_REPO [FILE ...] [--out DIR] [--device DEVICE] [FLAGS]

  --out DIR          where pictures go; new or empty (default: samples/<number>)
  --device DEVICE    cpu, cuda, ... (default: cuda where there is one)

What else there is to say depends on what the network is for; it knows that itself:
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dlreview.messages import UserError
from dlreview.running.command import Flag, parse, run

COMMON = {"--out": Flag(str), "--device": Flag(str)}
USAGE = "usage: python -m dlreview.sample RUN_OR_DIR_OR_REPO [FILE ...]"


def text() -> str:
    """Return the help, with what each task adds."""
    from dlreview.usage import tasks

    lines = [(__doc__ or "").strip()]
    for task in tasks():
        module = importlib.import_module(f"dlreview.usage.{task}")
        lines.append(f"\n{task}:{module.HELP}")
    return "\n".join(lines)


def next_folder(parent: Path) -> Path:
    """Return the first folder parent/<number> after those that exist."""
    used = [int(p.name) for p in parent.glob("*") if re.fullmatch(r"\d+", p.name)]
    return parent / str(max(used, default=-1) + 1)


def body(argv: list[str]) -> int:
    """Draw.

    Raises:
        UserError: a mistake in the command.
    """
    from dlreview import saved, usage

    if argv[0].startswith("--"):
        raise UserError("", "the network comes first", USAGE)
    try:
        folder = saved.locate(argv[0], (saved.CONFIG, saved.WEIGHTS, saved.USAGE))
    except (ValueError, OSError) as error:
        raise UserError("", str(error)) from None
    told = usage.read(folder)
    task = usage.task_of(told)
    least, greatest = task.WORDS
    files, options = parse(argv[1:], COMMON | task.FLAGS, USAGE, (least, greatest))
    out = options["out"] = Path(options["out"] or next_folder(Path("samples")))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("--out", f"{out} exists and is not empty")

    import torch

    from dlreview.running.memory import keep_freed_memory

    keep_freed_memory()
    try:
        device = torch.device(options["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
        net = saved.load(folder).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError("--device", f"got {options['device']!r}: {error}") from None
    print(f"network: {net.weights_from}")
    task.sample(net, told, files, options)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    wanted = text() if not words or "--help" in words or "-h" in words else ""
    return run("sample", wanted, body, words)


if __name__ == "__main__":
    sys.exit(main())
