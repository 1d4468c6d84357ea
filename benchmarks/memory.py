"""Measure the peak memory of a train step with a large vocabulary: our loss and transformers'.

    python benchmarks/memory.py [--batch 8] [--length 512] [--width 128] [--json FILE]

Each side has a process of its own, the same GPT with the same weights and texts. A step is the
loss, its gradients and AdamW; the peak is what the process holds at most beyond what it held before
its first step (Linux: resident memory; on a GPU: allocated memory).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pair import Pair
from rows.gpt import gpt
from speed import peak_memory
from torch import Tensor, nn

SIDES = ("ours", "transformers")
Loss = Callable[[], Tensor]


def make_loss(side: str, pair: Pair) -> tuple[nn.Module, Loss]:
    """Return a network, and the function that computes the loss of its texts."""
    from dlreview.learners.cross_entropy import token_losses

    (ids,) = pair.inputs
    if side == "transformers":
        return pair.theirs, lambda: pair.theirs(ids, labels=ids).loss
    score = partial(token_losses, targets=ids[:, 1:])
    return pair.ours, lambda: pair.ours(ids[:, :-1], score=score).mean()


def measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take a step; return its loss and its peak memory in bytes."""
    torch.manual_seed(0)
    sizes = {"vocab_size": options.words, "n_positions": options.length, "n_embd": options.width}
    sizes |= {"n_layer": options.depth, "n_head": options.heads}
    pair = gpt(options.device, options.batch, options.length, (), **sizes)
    net, loss_of = make_loss(side, pair)
    optimizer, losses = torch.optim.AdamW(net.parameters(), fused=True), []

    def step() -> None:
        with pair.autocast():
            loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return {"side": side, "peak_bytes": peak_memory(step), "loss": losses[0]}


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sizes = {"batch": 8, "length": 512, "width": 128, "depth": 2, "heads": 4, "words": 50257}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--side", choices=SIDES, help="measure this side, in this process")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return 0
    results = []
    for side in SIDES:
        command = [sys.executable, __file__, *argv, "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{side}: {results[-1]['peak_bytes'] / 2**20:,.0f} MiB, loss {results[-1]['loss']:.4f}"
        )
    if options.json:
        about = {"device": options.device, "torch": torch.__version__}
        options.json.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
