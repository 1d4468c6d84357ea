"""Load a network from a model folder, a run, or a repository on the hub.

Nothing that is read here is trusted: a configuration names classes of `dlreview.nn` only, weights
are plain numbers, and the sizes that both give are compared before memory is taken.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlreview.limits import without_memory
from dlreview.messages import nearest, one_line
from dlreview.saved.configuration import build
from dlreview.saved.folder import checksum
from dlreview.saved.layout import (
    CHECKPOINT,
    CONFIG,
    INDEX,
    ONLY,
    RECIPE,
    USAGE,
    WEIGHTS,
    is_unfinished,
    model_folder,
    read_json,
)
from dlreview.saved.refuse import (
    NoStart,
    limited,
    match,
    refuse_large_numbers,
    refuse_large_tables,
)
from dlreview.saved.run import read_checkpoint


def load(path: str | os.PathLike[str], name: str | None = None) -> nn.Module:
    """Load a network of `dlreview.nn`, in evaluation mode, on the CPU.

    Args:
        path: a training run's folder, a model folder, or the name `owner/name` of a repository on
            the hub. A run gives the averaged weights where it has such; the network's attribute
            `weights_from` says which were taken.
        name: of the network, where there are several; by default the main one.

    Raises:
        ValueError: what is there is damaged or no network of ours; one line names the fault.
        OSError: there is nothing there, or the hub cannot be reached.
    """
    try:
        folder = locate(path, (CONFIG, INDEX))
        if not Path(path).is_dir():  # a repository: the weights of this network alone
            part = _part(folder, name).relative_to(folder)
            folder = locate(path, (CONFIG, INDEX, f"{part / CONFIG}", f"{part / WEIGHTS}"))
        return load_folder(folder, name)
    except (ValueError, OSError) as error:
        # Those of the Hub's client, say, have several lines.
        if "\n" not in str(error) and type(error) in (ValueError, OSError, FileNotFoundError):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(one_line(f"{path}: {error}", 600)) from error
    except Exception as error:
        raise ValueError(one_line(f"{path}: {type(error).__name__}: {error}")) from error


def locate(path: str | os.PathLike[str], files: tuple[str, ...]) -> Path:
    """Return the local folder that `path` stands for; `files` of a repository are downloaded.

    Raises:
        OSError: there is nothing there.
    """
    folder = Path(path)
    if folder.is_dir():
        return model_folder(folder)
    if folder.exists():
        raise ValueError(f"{path}: is a file; give the folder that holds {CONFIG} and {WEIGHTS}")
    name = str(path)
    owner, slash, rest = name.partition("/")
    local = owner in ("", ".", "..") or owner.startswith("~") or Path(owner).is_dir()
    if local or not (slash and rest) or "/" in rest:  # the hub is not asked for a local folder
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        close = difflib.get_close_matches(folder.name, [p.name for p in beside if p.is_dir()], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise FileNotFoundError(f"{path}: there is no such folder{hint}")
    from dlreview.saved.hub import download

    return download(name, files)


def names(folder: Path) -> list[str]:
    """List the networks in a local folder, the main network first.

    Raises:
        ValueError: the index or the checkpoint is damaged.
    """
    folder = model_folder(folder)
    if is_unfinished(folder):
        return list(read_checkpoint(folder).configs)
    if not (folder / INDEX).is_file():
        return [ONLY]
    index = read_json(folder / INDEX)
    found = index.get("networks") if isinstance(index, dict) else None
    sound = isinstance(found, list) and all(isinstance(x, str) and x.isidentifier() for x in found)
    if not found or not sound:
        raise ValueError(f"{folder / INDEX}: expected names of networks, got {str(index)[:80]!r}")
    return found


def _chosen(folder: Path, name: str | None) -> str:
    """Return the name of the network to load.

    Raises:
        ValueError: there is no network of this name.
    """
    known = names(folder)
    if name is not None and name not in known:
        raise ValueError(f"{folder}: network {name!r} is unknown; {nearest(name, known)}")
    return name or known[0]


def _part(folder: Path, name: str | None) -> Path:
    """Return the folder of one network in a model folder."""
    chosen = _chosen(folder, name)
    return folder / chosen if (folder / INDEX).is_file() else folder


def config_in(folder: Path, name: str | None = None) -> Any:
    """Read the configuration of a network in a local folder.

    Raises:
        ValueError: it is damaged, or there is no such network.
        OSError: there is none.
    """
    folder = model_folder(folder)
    if is_unfinished(folder):
        return read_checkpoint(folder).configs[_chosen(folder, name)]
    return read_json(_part(folder, name) / CONFIG)


def load_folder(folder: Path, name: str | None = None) -> nn.Module:
    """Load from a local folder: a model's, or a run's.

    Raises:
        ValueError: see `load`.
        OSError: a file is missing.
    """
    folder = model_folder(folder)
    if is_unfinished(folder):
        found, name = read_checkpoint(folder), _chosen(folder, name)
        file = folder / CHECKPOINT
        net = _filled(found.configs[name], found.state_of(name), file, file)
        net.weights_from = found.origin  # type: ignore[assignment]
        return net
    part = _part(folder, name)
    for needed in (CONFIG, WEIGHTS):
        if not (part / needed).is_file():
            runs = sorted(p.name for p in folder.iterdir() if (p / RECIPE).is_file())
            hint = f"; runs in it: {', '.join(runs)}" if runs else ""
            raise FileNotFoundError(f"{part}: there is no {needed} in it{hint}")
    net = _load_weights(part)
    usage = read_json(folder / USAGE) if (folder / USAGE).is_file() else {}
    kind = usage.get("weights") if isinstance(usage, dict) else None
    net.weights_from = f"{part / WEIGHTS}" + (f": {kind}" if kind else "")  # type: ignore[assignment]
    return net


def _load_weights(folder: Path) -> nn.Module:
    """Build the network that CONFIG describes around the tensors of WEIGHTS."""
    from safetensors import SafetensorError, safe_open

    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    try:
        with safe_open(file, framework="pt") as weights:
            # These tensors take no memory until their numbers are used.
            state = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
            written = (weights.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise ValueError(f"{file}: not a sound safetensors file: {one_line(str(error))}") from error
    net = _filled(config, state, folder / CONFIG, file)
    if written is not None and written != checksum(state):
        raise ValueError(f"{file}: damaged: its numbers do not give its checksum")
    return net


def _filled(config: Any, state: Mapping[str, Tensor], where: Path, file: Path) -> nn.Module:
    """Build what `config` says around the tensors of a file, once they are known to fit."""
    refuse_large_numbers(config, state, where)
    with without_memory(), limited(state):
        outline = build(config, str(where))
    refuse_large_tables(outline, where)
    tensors = match(outline.state_dict(keep_vars=True), state, file)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), NoStart():
        net = build(config, str(where))
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:  # for tables outside the state, which follow the parameters
        net.to(dtypes.pop())
    for name, place in net.state_dict(keep_vars=True).items():
        if name in tensors:
            place.data = tensors[name]  # keeps the Parameter object, and so what is tied
    return net.eval()
