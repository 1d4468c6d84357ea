"""Train what a recipe describes.

    python -m dlreview.fit RECIPE.yaml [--out DIR] [--resume] [--checkpoint_every N]
                           [--wandb offline|online|off] [--trust PACKAGE]
                           [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE]

  --out DIR              the run's folder (default: runs/<recipe>/<number>)
  --resume               go on from the run's last checkpoint, to the same weights as unbroken
  --checkpoint_every N   write last.ckpt every N optimizer steps too (it is written every epoch,
                         every ten minutes, and on Ctrl-C)
  --wandb WHERE          Weights & Biases: offline (default, inside the run's folder), online, off
  --trust PACKAGE        let the recipe name classes of PACKAGE, your own networks, say; repeatable
  --model.net.width 64   change one value of the recipe; any key, init_args may be left out

Exit status: 0 done; 2 a mistake in the recipe or the command; 1 a failure while running;
130 after Ctrl-C, with a checkpoint written.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlreview.messages import UserError, nearest
from dlreview.running.recipe import override, read

FLAGS = ("--out", "--resume", "--checkpoint_every", "--wandb", "--trust", "--help")
SECTIONS = ("model", "data", "trainer", "seed_everything")
WANDB = ("offline", "online", "off")


@dataclass
class Command:
    """A parsed command line."""

    recipe: Path
    out: str | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    wandb: str = "offline"
    trust: tuple[str, ...] = ()
    overrides: list[tuple[str, str]] = field(default_factory=list)


def parse(argv: list[str]) -> Command:
    """Read the command line.

    Raises:
        UserError: a flag is unknown or its value is not valid.
    """
    words = list(argv)
    command = Command(recipe=Path())
    recipes = []
    while words:
        word = words.pop(0)
        name, _, value = word.partition("=")
        if not word.startswith("--"):
            recipes.append(word)
            continue
        if name == "--resume":
            command.resume = True
            continue
        section = name[2:].split(".")[0]
        if name not in FLAGS and section not in SECTIONS:
            raise UserError(
                name,
                "unknown flag",
                nearest(name, (*FLAGS, "--model.KEY", "--data.KEY", "--trainer.KEY")),
            )
        if "=" not in word:
            if not words:
                raise UserError(name, "needs a value")
            value = words.pop(0)
        if name == "--checkpoint_every":
            if not value.isdecimal() or int(value) < 1:
                raise UserError(name, f"expected a whole number of at least 1, got {value!r}")
            command.checkpoint_every = int(value)
        elif name == "--wandb":
            if value not in WANDB:
                raise UserError(name, f"got {value!r}", nearest(value, WANDB))
            command.wandb = value
        elif name == "--trust":
            if not value.isidentifier():
                raise UserError(name, f"expected the name of a top-level package, got {value!r}")
            command.trust += (value,)
        elif name == "--out":
            command.out = value
        else:
            command.overrides.append((name[2:], value))
    if len(recipes) != 1:
        problem = "no recipe given" if not recipes else f"one recipe at a time, got {recipes}"
        raise UserError(
            "", problem, "usage: python -m dlreview.fit RECIPE.yaml [--out DIR] [--resume]"
        )
    command.recipe = Path(recipes[0])
    return command


def load_recipe(command: Command) -> dict[str, Any]:
    """Read the recipe and put the command line's values into it.

    Raises:
        UserError: either is faulty.
    """
    tree = read(command.recipe)
    for key, value in command.overrides:
        override(tree, key, value)
    return tree


def complain(command: Command | None, error: ValueError) -> int:
    """Tell a mistake in at most three lines."""
    where = f"{command.recipe}: " if command else ""
    lines = [line for line in str(error).splitlines() if line.strip()][:3]
    print(f"dlreview.fit: {where}" + "\n".join(lines), file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or "--help" in argv or "-h" in argv:
        print((__doc__ or "").strip())
        return 0 if argv else 2
    command = None
    try:
        command = parse(argv)
        tree = load_recipe(command)
        if command.trust:
            sys.path.insert(0, os.getcwd())  # a user's own package is found where they stand
    except UserError as error:
        return complain(command, error)
    from dlreview.running.session import run

    return run(command, tree)


if __name__ == "__main__":
    sys.exit(main())
