"""Row 10 against row 16: how much of a word's gradient arrives how many steps before it.

    python benchmarks/gradient_reach.py RUN [RUN ...] [--length 100] [--picture PNG] [--json FILE]

Each RUN is a finished run of a language model (recipes/language_model_*.yaml). On windows of its
test split the loss of the last word alone is differentiated by the vector of every word before it;
told is the mean norm at each distance, as a share of that at distance 0, of the trained network
and of the same network before training.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from speed import processor, version
from torch import Tensor, nn

import dlreview
from dlreview.data.stream import Stream
from dlreview.learners.language_model import next_word_loss
from dlreview.metrics.gradient_reach import gradient_norms, reach
from dlreview.plots.curves import curves
from dlreview.saved import config_of

SHOWN = (1, 5, 10, 20, 50)  # distances in the table


def build(node: Any) -> Any:
    """Construct anew what `config_of` told of a network."""
    if not (isinstance(node, dict) and "class_path" in node):
        return node
    module, _, name = node["class_path"].rpartition(".")
    arguments = {key: build(value) for key, value in node["init_args"].items()}
    return getattr(importlib.import_module(module), name)(**arguments)


def windows(run: Path, length: int, most: int) -> Tensor:
    """Cut the test split of a run's data into windows of `length` + 1 words."""
    recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    data = Stream(**recipe["data"]["init_args"])
    data.setup()
    rows = len(data.test_text) // (length + 1)
    return data.test_text[: rows * (length + 1)].view(rows, length + 1)[:most]


def distances(net: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean gradient norm at each distance."""
    net.eval()
    vectors, last = net.embedding(ids[:, :-1]), ids[:, -1]
    return gradient_norms(lambda x: next_word_loss(net.read(x)[0][:, -1], last), vectors)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--windows", type=int, default=256, help="how many to take the mean over")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    found: dict[str, Tensor] = {}
    for run in options.runs:
        trained = dlreview.load(str(run))
        torch.manual_seed(0)
        untrained = build(config_of(trained))
        ids = windows(run, options.length, options.windows)
        name = type(trained.core).__name__
        found[f"{name}, untrained"] = distances(untrained, ids)
        found[f"{name}, trained"] = distances(trained, ids)
    drawn = Table(title=f"share of the gradient that arrives, {options.length} steps")
    drawn.add_column("network")
    for k in SHOWN:
        drawn.add_column(f"{k} back", justify="right")
    drawn.add_column("below 1 % from", justify="right")
    for name, norms in found.items():
        shares = [f"{norms[k] / norms[0]:.1e}" for k in SHOWN if k < len(norms)]
        drawn.add_row(name, *shares, *[""] * (len(SHOWN) - len(shares)), str(reach(norms)))
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(drawn)
    if options.picture:
        shares = {name: norms / norms[0] for name, norms in found.items()}
        picture = curves(shares, "steps back", "share of the gradient that arrives")
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(options.picture)
    if options.json:
        about = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": "python benchmarks/gradient_reach.py " + " ".join(sys.argv[1:]),
            "device": processor(),
            "torch": version("torch"),
            "reach": {name: reach(norms) for name, norms in found.items()},
            "norms": {name: norms.tolist() for name, norms in found.items()},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
