"""The parallel and the sequential part of recurrent networks (row 10, "sequential - slow").

    python benchmarks/sequential.py [--lengths 16,64,256,1024] [--json FILE]

The products with the inputs (U v_i, or W_x x_t of all four gates) are one matrix product over all
steps; the recurrence must wait for each h_{i-1}. The script times this product and torch's whole
kernel, forward in float32; the difference is the sequential part. For comparison it times one layer
of self-attention of the same width, which has no sequential part (row 19).
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from speed import processor, version, wait

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.lstm import LSTM
from dlreview.nn.rnn import RNN


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call."""
    work()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


@torch.no_grad()
def measure(length: int, width: int, batch: int, device: str, repeats: int) -> list[dict[str, Any]]:
    """Time the parts at one length."""
    x = torch.randn(batch, length, width, device=device)
    rows = []
    for net, name in ((RNN(width, width), "U"), (LSTM(width, width), "W_x")):
        net = net.to(device)
        inputs = getattr(net.recurrence.ahead[0], name)
        whole = milliseconds(lambda net=net: net(x), repeats)
        parallel = milliseconds(lambda inputs=inputs: F.linear(x, inputs), repeats)
        rows.append({"net": type(net).__name__, "whole_ms": whole, "parallel_ms": parallel})
    attention = MultiHeadAttention(width, max(1, width // 64)).to(device)
    whole = milliseconds(lambda: attention(x), repeats)
    rows.append({"net": "self-attention", "whole_ms": whole, "parallel_ms": whole})
    return [{"length": length} | row for row in rows]


def table(results: list[dict[str, Any]], title: str) -> Table:
    """Format the results."""
    formatted = Table(title=title)
    for heading in ("net", "steps", "parallel ms", "sequential ms", "sequential share"):
        formatted.add_column(heading, justify="left" if heading == "net" else "right")
    for r in sorted(results, key=lambda r: r["net"]):
        sequential = max(0.0, r["whole_ms"] - r["parallel_ms"])
        formatted.add_row(
            r["net"], str(r["length"]), f"{r['parallel_ms']:.2f}", f"{sequential:.2f}",
            f"{sequential / r['whole_ms']:.0%}",
        )  # fmt: skip
    return formatted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lengths", default="16,64,256,1024")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args(argv)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    results = [
        row
        for length in map(int, options.lengths.split(","))
        for row in measure(length, options.width, options.batch, device, options.repeats)
    ]
    title = f"{name}, width {options.width}, batch {options.batch}, float32 forward"
    Console().print(table(results, title))
    if options.json:
        about = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": "python benchmarks/sequential.py " + " ".join(sys.argv[1:]),
            "device": name,
            "threads": torch.get_num_threads(),
            "torch": version("torch"),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
