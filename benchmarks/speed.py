"""Time our networks and the libraries' in turn, in one process, on the same work.

    python benchmarks/speed.py [--only TEXT] [--modes eager,compiled] [--json FILE]

Both have the same weights (`dlreview.reference`) and the same inputs; they take turns, and the one
that begins alternates. A ratio is the time of theirs divided by the time of ours: above 1 ours is
faster. The table shows the median over the turns and the quartiles. "of peak" is the speed of our
multiplications as a share of that of one large matrix product, measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import json
import pkgutil
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import torch
from pair import Pair, Row
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], Any]
LIBRARIES = ("torch", "timm", "diffusers", "transformers", "gensim")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LEAST = 0.05  # shortest turn in seconds, so that the resolution of the clock does not matter


def wait() -> None:
    """Wait until the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(work: Work, times: int, now: Callable[[], float]) -> float:
    """Return the seconds that one of `times` calls takes."""
    wait()
    start = now()
    for _ in range(times):
        work()
    wait()
    return (now() - start) / times


def in_turn(
    ours: Work, theirs: Work, repeats: int, now: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Warm up, then time both `repeats` times in turn; return the seconds of both."""
    for work in (ours, theirs):
        for _ in range(3):
            work()
    times = max(1, round(LEAST / min(clock(work, 1, now) for work in (ours, theirs))))
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 else (1, 0):
            seconds[side].append(clock((ours, theirs)[side], times, now))
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def peak_memory(work: Work) -> int | None:
    """Return the largest memory of `work` in bytes, beyond the memory used before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        wait()
        return torch.cuda.max_memory_allocated() - before
    try:  # Linux records the largest memory of a process, and resets it on request
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        work()
        return resident("VmHWM") - before
    except OSError:
        return None


def resident(line: str) -> int:
    """Return a line of this process's memory status in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) * 1024


def operations(work: Work) -> int:
    """Count the multiplications and additions in matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def matmul_peak(device: str, now: Callable[[], float]) -> float:
    """Return the operations per second of one large matrix product, the best of six times."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = min(clock(lambda: a @ b, 3, now) for _ in range(6))
    return 2 * size**3 / seconds


def all_rows() -> list[Row]:
    """Return the rows of every module in `rows/`."""
    names = [f"rows.{module.name}" for module in pkgutil.iter_modules(rows.__path__)]
    return [row for name in names for row in importlib.import_module(name).ROWS]


def measure(
    pair: Pair, name: str, work: str, mode: str, options: argparse.Namespace, peak: float
) -> dict[str, Any]:
    """Time one kind of work in one mode."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    compiled = options.compile_mode if mode == "compiled" else None
    ours, theirs = pair.work(work, compiled)
    a, b = in_turn(ours, theirs, options.repeats, CLOCKS[options.clock])
    low, middle, high = quartiles([t / o for o, t in zip(a, b, strict=True)])
    flops = operations(pair.work(work, None)[0])
    return {
        "row": name,
        "work": work,
        "mode": mode,
        "ours_ms": 1e3 * statistics.median(a),
        "theirs_ms": 1e3 * statistics.median(b),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "ours_bytes": peak_memory(ours),
        "theirs_bytes": peak_memory(theirs),
        "flops": flops,
        "ours_of_peak": flops / statistics.median(a) / peak,
        "theirs_of_peak": flops / statistics.median(b) / peak,
    }


def environment(device: str, peak: float, options: argparse.Namespace) -> dict[str, Any]:
    """Describe the machine, the versions and the options of the measurements."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    cuda = device == "cuda"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "commit": commit,
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "dtype": "bfloat16 autocast" if cuda else "float32",
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "repeats": options.repeats,
        "compile_mode": options.compile_mode,
        "matmul_flops": peak,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def version(library: str) -> str | None:
    """Return a library's version, None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def mebibytes(size: int | None) -> str:
    """Format a size."""
    return "" if size is None else f"{size / 2**20:,.0f}"


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> Table:
    """Format the results."""
    formatted = Table(
        title=f"{about['device']}, {about['dtype']}, {about['threads']} threads, "
        f"torch {about['versions']['torch']}"
    )
    for heading in ("row", "work", "mode"):
        formatted.add_column(heading)
    for heading in ("ours ms", "theirs ms", "ratio", "quartiles", "MiB ours/theirs", "of peak"):
        formatted.add_column(heading, justify="right")
    for r in results:
        low, high = r["ratio_quartiles"]
        formatted.add_row(
            *(r["row"], r["work"], r["mode"]),
            *(f"{r['ours_ms']:,.1f}", f"{r['theirs_ms']:,.1f}"),
            f"{r['ratio']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{mebibytes(r['ours_bytes'])} / {mebibytes(r['theirs_bytes'])}",
            f"{r['ours_of_peak']:.0%}" if r["flops"] else "",  # 0 if no kernel of it is counted
        )
    return formatted


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only", default="", help="text in the names of the rows and works to time"
    )
    parser.add_argument("--modes", default="eager,compiled", help="eager, compiled or both")
    parser.add_argument("--compile_mode", default="default", help="mode of torch.compile for both")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="by default a GPU if there is one"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    parser.add_argument("--repeats", type=int, default=11, help="number of turns")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall",
        help="cpu counts only the seconds of this process, for a busy machine with --threads 1",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args(argv)
    options.modes = options.modes.split(",")
    if not set(options.modes) <= {"eager", "compiled"}:
        parser.error(f"--modes must be eager, compiled or both, got {','.join(options.modes)}")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(sys.argv[1:] if argv is None else argv)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    peak = matmul_peak(device, CLOCKS[options.clock])
    about, results, console = environment(device, peak, options), [], Console()
    if not console.is_terminal:
        console = Console(width=140)
    for row in all_rows():
        build = getattr(row, device)
        if build is None:
            continue
        torch.manual_seed(0)
        pair = build()
        works = [w for w in (*pair.works, *pair.samplers) if options.only in f"{row.name} {w}"]
        if works:
            pair.check()
        for work in works:
            for mode in options.modes if row.compiled else {"eager"} & set(options.modes):
                results.append(measure(pair, row.name, work, mode, options, peak))
                r = results[-1]
                console.print(f"{row.name}, {work}, {mode}: {r['ratio']:.2f}", style="dim")
                if options.json:  # after every result, so that they are not lost if the run stops
                    options.json.write_text(json.dumps(about | {"rows": results}, indent=2) + "\n")
    if not results:
        print(f"no row or work has a name with {options.only!r}", file=sys.stderr)
        return 2
    console.print(table(results, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
