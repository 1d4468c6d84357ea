"""Draw from a trained network, or ask it about files.

    python -m dlreview.sample RUN_OR_DIR_OR_REPO [WORD ...] [--network NAME] [--out DIR]
                              [--device DEVICE] [FLAGS]

  --network NAME     which network, where there are several (default: the main one)
  --out DIR          folder for pictures; new or empty (default: samples/<number>)
  --device DEVICE    cpu, cuda, ... (default: cuda where there is one)

    python -m dlreview.sample RUN_OR_DIR_OR_REPO --features [--data RECIPE] [--trust PACKAGE] ...

writes the network's features of a data set, with labels, as DIR/train.parquet and DIR/test.parquet
for any other classifier (default DIR: features/<number>), and says how well nearest neighbours do.
The weights may also be those of timm, transformers or diffusers.

  --data RECIPE      a recipe whose data are taken (default: those of the run)
  --trust PACKAGE    see `fit`

The other words and flags depend on the task that the network was trained for:
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, parse, run

COMMON = {"--network": Flag(str), "--out": Flag(str), "--device": Flag(str)}
USAGE = "usage: python -m dlreview.sample RUN_OR_DIR_OR_REPO [WORD ...]"


def text() -> str:
    """Return the help, with the words and flags of every task."""
    from dlreview.usage import tasks

    lines = [(__doc__ or "").strip()]
    for task in tasks():
        module = importlib.import_module(f"dlreview.usage.{task}")
        lines.append(f"\n{task}:{module.HELP}")
    return "\n".join(lines)


def next_folder(parent: Path) -> Path:
    """Return the first folder parent/<number> after those that exist."""
    used = [int(p.name) for p in parent.glob("*") if re.fullmatch(r"\d+", p.name)]
    return parent / str(max(used, default=-1) + 1)


def new_folder(out: str | None, parent: Path) -> Path:
    """Return the folder to write to: new or empty.

    Raises:
        UserError: there are files in it.
    """
    folder = Path(out or next_folder(parent))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("--out", f"{folder} exists and is not empty")
    return folder


def find_file(name: str, source: str) -> str:
    """Return a file of the current folder, else the one of this name beside the network."""
    from dlreview import saved

    if Path(name).exists() or not re.fullmatch(r"[\w.-]+", name):
        return name
    try:
        found = saved.locate(source, (name,)) / name
    except (ValueError, OSError):  # the repository has no such file; the task says so
        return name
    return str(found) if found.is_file() else name


def check_network(name: str | None, folder: Path) -> None:
    """Refuse the name of a network that the folder does not hold.

    Raises:
        UserError: lists the names.
    """
    from dlreview import saved

    names = saved.names(folder)
    if name is not None and name not in names:
        raise UserError("--network", f"{name!r} is unknown", nearest(name, names))


def load(source: str, name: str | None, device: str | None, any_library: bool = False) -> Any:
    """Load a network onto a device, with `any_library` also from the weights of another library.

    Raises:
        UserError: there is no such device.
    """
    import torch

    from dlreview import saved
    from dlreview.running.memory import keep_freed_memory

    keep_freed_memory()
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if any_library:
            from dlreview.reference.pretrained import Source, start

            if Source(source, name).library != "dlreview":
                net = start(source, frozen=True, subfolder=name)
                net.weights_from = source  # type: ignore[assignment]
                return net.to(place)
        return saved.load(source, name).to(place)
    except (RuntimeError, AssertionError) as error:
        raise UserError("--device", f"got {device!r}: {error}") from None


def write_features(source: str, argv: list[str]) -> int:
    """Write the features of a data set.

    Raises:
        UserError: a mistake in the command.
    """
    from dlreview import saved, usage
    from dlreview.running.features import FLAGS, find_data, write

    _, options = parse(argv, COMMON | FLAGS, USAGE, (0, 0))
    try:
        folder = saved.locate(source, (saved.CONFIG, saved.INDEX, saved.USAGE))
        check_network(options["network"], folder)
        out = new_folder(options["out"], Path("features"))
        data = find_data(usage.read(folder), options["data"], options["trust"])
        net = load(source, options["network"], options["device"], any_library=True)
    except (ValueError, OSError) as error:
        raise error if isinstance(error, UserError) else UserError("", str(error)) from None
    print(f"network: {net.weights_from}")
    write(net, data, out)
    return 0


def body(argv: list[str]) -> int:
    """Draw.

    Raises:
        UserError: a mistake in the command.
    """
    from dlreview import saved, usage

    source = argv[0]
    if source.startswith("--"):
        raise UserError("", "the network comes first", USAGE)
    if "--features" in argv:
        return write_features(source, [word for word in argv[1:] if word != "--features"])
    try:
        folder = saved.locate(source, (saved.CONFIG, saved.INDEX, saved.USAGE))
    except (ValueError, OSError) as error:
        raise UserError("", str(error)) from None
    called = usage.read(folder)
    if not called and saved.is_unfinished(folder):
        problem = "this run is not finished, and its checkpoint does not say how it is called"
        hint = "an earlier version wrote it; dlreview.load reads its network"
        raise UserError(source, problem, hint)
    task = usage.task_of(called)
    words, options = parse(argv[1:], COMMON | task.FLAGS, USAGE, task.WORDS)
    check_network(options["network"], folder)
    if task.FILES:
        words = [find_file(word, source) for word in words]
    options["out"] = new_folder(options["out"], Path("samples"))
    net = load(source, options["network"], options["device"])
    print(f"network: {net.weights_from}")
    task.sample(net, called, words, options)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    wanted = text() if not words or "--help" in words or "-h" in words else ""
    return run("sample", wanted, body, words)


if __name__ == "__main__":
    sys.exit(main())
