"""The gradient of an RNN and an LSTM against the distance in words (rows 10 and 16).

    python benchmarks/gradient_reach.py RUN [RUN ...] [--length 100] [--picture PNG] [--json FILE]

Each RUN is a finished run of a language model (recipes/language_model_*.yaml). On windows of its
test split the loss of the last word is differentiated with respect to the vector of every word
before it. The result is the mean norm at each distance, divided by that at distance 0, for the
trained network and for the same network before training.
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


def build(config: Any) -> Any:
    """Construct a network from the configuration that `config_of` returns."""
    if not (isinstance(config, dict) and "class_path" in config):
        return config
    module, _, name = config["class_path"].rpartition(".")
    arguments = {key: build(value) for key, value in config["init_args"].items()}
    return getattr(importlib.import_module(module), name)(**arguments)


def windows(run: Path, length: int, most: int) -> Tensor:
    """Split the test data of a run into at most `most` windows of `length` + 1 words."""
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


def measure(runs: list[Path], length: int, most: int) -> dict[str, Tensor]:
    """Return the norms of each network, trained and untrained."""
    results: dict[str, Tensor] = {}
    for run in runs:
        trained = dlreview.load(str(run))
        torch.manual_seed(0)
        untrained = build(config_of(trained))
        ids = windows(run, length, most)
        name = type(trained.core).__name__
        results[f"{name}, untrained"] = distances(untrained, ids)
        results[f"{name}, trained"] = distances(trained, ids)
    return results


def table(results: dict[str, Tensor], length: int) -> Table:
    """Format the results."""
    formatted = Table(title=f"share of the gradient that arrives, {length} steps")
    formatted.add_column("network")
    for k in SHOWN:
        formatted.add_column(f"{k} back", justify="right")
    formatted.add_column("below 1 % from", justify="right")
    for name, norms in results.items():
        shares = [f"{norms[k] / norms[0]:.1e}" for k in SHOWN if k < len(norms)]
        formatted.add_row(name, *shares, *[""] * (len(SHOWN) - len(shares)), str(reach(norms)))
    return formatted


def save_picture(results: dict[str, Tensor], file: Path) -> None:
    """Draw the curves of all networks."""
    shares = {name: norms / norms[0] for name, norms in results.items()}
    picture = curves(shares, "steps back", "share of the gradient that arrives")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.numpy()).save(file)


def save_json(results: dict[str, Tensor], file: Path) -> None:
    """Write the results with date, command and machine."""
    content = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/gradient_reach.py " + " ".join(sys.argv[1:]),
        "device": processor(),
        "torch": version("torch"),
        "reach": {name: reach(norms) for name, norms in results.items()},
        "norms": {name: norms.tolist() for name, norms in results.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--windows", type=int, default=256, help="number of windows to average")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    results = measure(options.runs, options.length, options.windows)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table(results, options.length))
    if options.picture:
        save_picture(results, options.picture)
    if options.json:
        save_json(results, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
