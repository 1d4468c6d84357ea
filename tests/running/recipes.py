"""The recipes that tests train: all on embedded data, at the small size that their headers give."""

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PATHS = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
TREES = {name: yaml.safe_load(path.read_text()) for name, path in PATHS.items()}
WITHOUT_DOWNLOAD = ("digits", "python-reference", "python-source", "numbers")
# Every recipe that needs no download, and of these one for each learner.
EMBEDDED = [
    name for name, tree in TREES.items() if tree["data"]["init_args"]["path"] in WITHOUT_DOWNLOAD
]
LEARNERS = {TREES[name]["model"]["class_path"]: name for name in reversed(EMBEDDED)}
ONE_EACH = sorted(LEARNERS.values())
SHORT = ["--trainer.limit_train_batches", "11", "--trainer.limit_val_batches", "2",
         "--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1",
         "--trainer.log_every_n_steps", "3"]  # fmt: skip


def small(name: str) -> list[str]:
    """Return the flags that a recipe's header gives for its small size."""
    header = re.search(r"# Small, for a first look:\n((?:#   .*\n)+)", PATHS[name].read_text())
    assert header, f"recipes/{name}.yaml: the header gives no small size"
    return shlex.split(header[1].replace("#", ""))


def batch_size_flag(name: str) -> str:
    """Return the flag that sets a recipe's batch size, in rows or in tokens."""
    tokens = "tokens_per_batch" in TREES[name]["data"]["init_args"]
    return "--data.tokens_per_batch" if tokens else "--data.batch_size"


def batch_size(name: str) -> int:
    """Return the batch size of a small run, in rows or in tokens."""
    flags, flag = small(name), batch_size_flag(name)
    if flag in flags:
        return int(flags[flags.index(flag) + 1])
    return TREES[name]["data"]["init_args"][flag.rpartition(".")[2]]


def half_batch(name: str) -> list[str]:
    """Return the flag that halves a small run's batch."""
    return [batch_size_flag(name), str(batch_size(name) // 2)]


def arguments(name: str, out: Path, *more: str) -> list[str]:
    """Return a small, short run's command line."""
    return [str(PATHS[name]), "--wandb", "off", "--out", str(out), *small(name), *SHORT, *more]
