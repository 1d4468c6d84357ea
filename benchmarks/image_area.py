"""The cost of Swin and ViT against the area of the image (row 38).

    python benchmarks/image_area.py [--sides 64,128,256] [--picture PNG] [--json FILE]

Both have the same width, depth, heads and patches; Swin has one stage, so that only attention
differs. The cost of a forward pass is counted in operations of matrix products and measured in
seconds. The exponent b is fitted to cost = a area^b by least squares; b = 1 is a linear cost. The
last exponent is that between the two largest images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from speed import CLOCKS, clock, operations, processor, version
from torch import nn

from dlreview.nn.swin import Swin
from dlreview.nn.vit import ViT
from dlreview.plots.curves import curves

SIDES = "32,64,128,256,512"


def networks(width: int, depth: int, heads: int, patch: int, window: int) -> dict[str, nn.Module]:
    """Build the two networks; calls may have any image size."""
    side = window * patch * 2
    swin = Swin(side, patch, width, [depth], [heads], window)
    vit = ViT(side, patch, width, depth, heads, class_token=False)
    return {"Swin": swin.eval(), "ViT": vit.eval()}


@torch.no_grad()
def measure(
    nets: dict[str, nn.Module], sides: list[int], repeats: int, now: Callable[[], float]
) -> dict[str, Any]:
    """Return operations and seconds of each network for an image of each size, taking turns."""
    images = [torch.randn(1, 3, side, side) for side in sides]
    costs: dict[str, Any] = {name: {"operations": [], "seconds": []} for name in nets}
    for image in images:
        seconds: dict[str, list[float]] = {name: [] for name in nets}
        for name, net in nets.items():
            costs[name]["operations"].append(operations(lambda net=net, x=image: net(x)))
        for _ in range(repeats + 1):  # the first turn warms up
            for name, net in nets.items():
                seconds[name].append(clock(lambda net=net, x=image: net(x), 1, now))
        for name in nets:
            costs[name]["seconds"].append(statistics.median(seconds[name][1:]))
    return costs


def exponent(sides: list[int], costs: list[float]) -> float:
    """Fit b of cost = a area^b by least squares of the logarithms."""
    x = [2 * math.log(side) for side in sides]
    return statistics.linear_regression(x, [math.log(cost) for cost in costs]).slope


def exponents(sides: list[int], costs: dict[str, Any]) -> dict[str, Any]:
    """Return the exponents of all costs: over all sizes, and between the two largest images."""
    return {
        f"{name}, {unit}": {
            "all": exponent(sides, values),
            "last": exponent(sides[-2:], values[-2:]),
        }
        for name, units in costs.items()
        for unit, values in units.items()
    }


def table(sides: list[int], costs: dict[str, Any]) -> Table:
    """Format the results."""
    formatted = Table(title="cost of a forward pass against the area of the image")
    formatted.add_column("network, cost")
    for side in sides:
        formatted.add_column(f"{side} x {side}", justify="right")
    formatted.add_column("exponent", justify="right")
    formatted.add_column("last", justify="right")
    for name, fitted in exponents(sides, costs).items():
        network, unit = name.split(", ")
        values = [f"{value:.3g}" for value in costs[network][unit]]
        formatted.add_row(name, *values, f"{fitted['all']:.2f}", f"{fitted['last']:.2f}")
    return formatted


def save_picture(sides: list[int], costs: dict[str, Any], file: Path) -> None:
    """Draw all costs as multiples of those of the smallest image."""
    multiples = {
        f"{name}, {unit}": torch.tensor(values, dtype=torch.float64) / values[0]
        for name, units in costs.items()
        for unit, values in units.items()
    }
    areas = torch.tensor(sides, dtype=torch.float64).square()
    picture = curves(multiples, "area of the image in pixels", "multiple of the first cost", areas)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.numpy()).save(file)


def save_json(options: argparse.Namespace, costs: dict[str, Any], file: Path) -> None:
    """Write the results with date, command and machine."""
    content = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/image_area.py " + " ".join(sys.argv[1:]),
        "device": processor(),
        "clock": options.clock,
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "sides": options.sides,
        "exponents": exponents(options.sides, costs),
        "costs": costs,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", default=SIDES, help="image sides in pixels, smallest first")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--patch", type=int, default=4, help="side of a patch in pixels")
    parser.add_argument("--window", type=int, default=8, help="side of a window in patches")
    parser.add_argument("--repeats", type=int, default=7, help="number of turns")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    options.sides = [int(side) for side in options.sides.split(",")]
    if len(options.sides) < 2 or sorted(options.sides) != options.sides:
        parser.error(f"--sides must be at least two numbers, smallest first, got {options.sides}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = options.width, options.depth, options.heads, options.patch, options.window
    costs = measure(networks(*sizes), options.sides, options.repeats, CLOCKS[options.clock])
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table(options.sides, costs))
    if options.picture:
        save_picture(options.sides, costs, options.picture)
    if options.json:
        save_json(options, costs, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
