"""The files of a model folder and of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlreview.messages import one_line

# A folder of one network has CONFIG and WEIGHTS; one of several has INDEX, and a folder with these
# two for each network. The other files lie at the top.
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "index.json"
CARD, USAGE, PICTURE = "README.md", "usage.json", "sample.png"
# A run writes its networks to MODEL when it is finished.
MODEL, CHECKPOINT, RECIPE = "model", Path("checkpoints", "last.ckpt"), "config.yaml"
ONLY = "net"  # name of the network in a folder of one
LARGEST_JSON = 50_000_000  # bytes; a vocabulary is long


def holds_networks(folder: Path) -> bool:
    """Whether this is a model folder."""
    return (folder / CONFIG).is_file() or (folder / INDEX).is_file()


def model_folder(folder: Path) -> Path:
    """Return the model folder of a finished run, and any other folder as it is."""
    return folder / MODEL if holds_networks(folder / MODEL) else folder


def is_unfinished(folder: Path) -> bool:
    """Whether this is the folder of a run that has a checkpoint and no model folder yet."""
    model = holds_networks(folder) or holds_networks(folder / MODEL)
    return not model and (folder / CHECKPOINT).is_file()


def write_json(file: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not JSON, or much longer than any that we write.
    """
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"longer than {LARGEST_JSON} bytes")
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{file}: not sound JSON: {one_line(str(error))}") from error
