"""Train what a recipe describes.

    python -m dlreview.fit RECIPE.yaml [--out DIR] [--resume] [--checkpoint_every N]
                           [--wandb offline|online|off] [--trust PACKAGE] [--print_config]
                           [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE]

  --out DIR              the run's folder (default: runs/<recipe>/<number>)
  --resume               go on from the run's last checkpoint, to the same weights as unbroken;
                         the trainer's limits may be raised with it
  --checkpoint_every N   write last.ckpt every N optimizer steps too (it is written every epoch,
                         every ten minutes, and on Ctrl-C)
  --wandb WHERE          Weights & Biases: offline (default, inside the run's folder), online, off
  --trust PACKAGE        let the recipe name classes of PACKAGE, your own networks, say; repeatable
  --print_config         print the resolved recipe, sizes filled, and train nothing
  --model.net.width 64   change one value of the recipe; any key, init_args may be left out;
                         --trainer.callbacks+=CLASS adds to a list

Exit status: 0 done; 2 a mistake in the recipe or the command; 1 a failure while running;
130 after Ctrl-C, with a checkpoint written.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

from dlreview.messages import UserError
from dlreview.running.command import Flag, complain, one_of, package, parse, whole
from dlreview.running.recipe import override, read
from dlreview.threads import share_cores

FLAGS = {
    "--out": Flag(str),
    "--resume": Flag(default=False),
    "--checkpoint_every": Flag(whole(1)),
    "--wandb": Flag(one_of("offline", "online", "off"), "offline"),
    "--trust": Flag(package, (), repeats=True),
    "--print_config": Flag(default=False),
}
SECTIONS = ("model", "data", "trainer", "seed_everything")
USAGE = "usage: python -m dlreview.fit RECIPE.yaml [--out DIR] [--resume]"


def main(argv: list[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or "--help" in argv or "-h" in argv:
        print((__doc__ or "").strip())
        return 0 if argv else 2
    where = ""
    try:
        words, options = parse(argv, FLAGS, USAGE, (1, 1), SECTIONS)
        where = words[0]
        tree = read(Path(where))
        options["written"] = copy.deepcopy(tree)
        for key, value in options["overrides"]:
            override(tree, key, value)
    except UserError as error:
        return complain("fit", error, where)
    if options["trust"]:
        sys.path.insert(0, os.getcwd())  # a user's own package is found where they stand
    share_cores()
    from dlreview.running.session import run

    return run(Path(where), tree, options)


if __name__ == "__main__":
    sys.exit(main())
