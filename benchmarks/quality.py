"""Run recipes as users do and record their metrics, their time and the machine.

    python benchmarks/quality.py recipes/classifier_vit_digits.yaml [...] [--seeds 0,1,2]
                                 [--out FOLDER] [-- --trainer.accelerator gpu ...]

Each run is one `python -m dlreview.fit` in a new process, with the arguments after `--`. Results
are written to benchmarks/results/quality_<recipe>_<device>.json: the final metrics of each seed,
the seconds from start to end (imports, data and pictures included) and the machine.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from speed import processor, version

LIBRARIES = ("torch", "torchvision", "lightning", "kornia", "torchmetrics", "scikit-learn")
RESULTS = Path(__file__).parent / "results"


def final_metrics(file: Path) -> dict[str, float]:
    """Return the last value of each column of a metrics.csv, except step and epoch."""
    last: dict[str, float] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value not in (None, "") and name not in ("step", "epoch"):
                    last[name] = float(value)
    return last


def children_seconds() -> float:
    """Return the processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(recipe: Path, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train once.

    Raises:
        RuntimeError: the run failed.
    """
    command = [sys.executable, "-m", "dlreview.fit", str(recipe), "--out", str(folder)]
    command += ["--wandb", "off", "--seed_everything", str(seed), *overrides]
    start, used = time.perf_counter(), children_seconds()
    done = subprocess.run(command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
    return {
        "seed": seed,
        "metrics": final_metrics(folder / "metrics.csv"),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(children_seconds() - used, 1),
    }


def environment(recipe: Path, overrides: list[str]) -> dict[str, Any]:
    """Describe the recipe, the machine and the versions of a run."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    on_gpu = torch.cuda.is_available() and "accelerator: cpu" not in recipe.read_text()
    return {
        "recipe": recipe.name,
        "overrides": overrides,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    argv, overrides = argv[:cut], argv[cut + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0", help="comma-separated; one run per seed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args(argv)
    for recipe in options.recipes:
        about = environment(recipe, overrides)
        runs: list[dict[str, Any]] = []
        for seed in map(int, options.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(run(recipe, seed, Path(folder) / "run", overrides))
            device = re.sub(r"\W+", "_", about["device"]).strip("_").lower()
            file = options.out / f"quality_{recipe.stem}_{device}.json"
            options.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(about | {"runs": runs}, indent=2) + "\n")
        for name in runs[0]["metrics"]:
            values = [r["metrics"][name] for r in runs if name in r["metrics"]]
            spread = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(f"{recipe.stem} {name}: {statistics.mean(values):.4f}{spread}")
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
