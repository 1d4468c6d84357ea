"""How a saved network is called: `usage.json` beside its weights, and what `sample` does with it.

A network knows shapes only. The learner and the data it was trained with know what its pixels mean,
which class is which and how samples are drawn. Each may have a method `usage()` that returns plain
JSON values:

    learner.usage() -> {"task": "diffusion", "settings": {...}}
    data.usage() -> {"data": "digits", "class_names": [...],
                     "image": {"channels": 1, "height": 8, "width": 8, "range": [-1, 1]}}

`task` names a module of this folder, which has
    FLAGS: dict[str, Flag], the flags of `dlreview.sample` for it beside the common ones;
    WORDS: how many words may follow the network on the command line, at least and at most;
    FILES: whether these words are files;
    HELP: the lines of the help about words and flags;
    tag(usage) -> str, the hub's name of the task;
    example(data, folder) -> list[str] | None, words for a first call, or None where there are none;
                             a picture among them is written to the folder as EXAMPLE;
    sample(net, usage, words, options) -> None, which draws, writes and prints.
A new task is a new module; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, number, whole
from dlreview.saved import USAGE, is_unfinished, read_checkpoint, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dlreview.data.tokenizer import Encoder

SECTIONS = ("seed_everything", "model", "data", "trainer")
SIZES = ("channels", "height", "width")
EXAMPLE = "example.png"  # the picture that `example` writes
SEARCH = {"--beams": Flag(whole(1, 1000), 4), "--length_penalty": Flag(number, 1.0)}


def collect(
    learner: Any,
    data: Any,
    recipe: Mapping[str, Any],
    weights: str = "last",
    metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Join what learner and data say with how the network came about.

    Args:
        learner: may have `usage()`.
        data: may have `usage()`.
        recipe: the resolved recipe.
        weights: "averaged" or "last".
        metrics: the last value of each.
    """
    usage: dict[str, Any] = {}
    for source in (learner, data):
        usage |= source.usage() if hasattr(source, "usage") else {}
    kept = {key: recipe[key] for key in SECTIONS if key in recipe}
    return usage | {"weights": weights, "metrics": dict(metrics or {}), "recipe": kept}


def read(folder: Path) -> dict[str, Any]:
    """Read how the main network of a model folder, or of an unfinished run, is called.

    Raises:
        ValueError: the file is damaged.
    """
    if is_unfinished(folder):
        return read_checkpoint(folder).usage
    usage = read_json(folder / USAGE) if (folder / USAGE).is_file() else {}
    if not isinstance(usage, dict):
        raise ValueError(f"{folder / USAGE}: expected an object, got {str(usage)[:80]!r}")
    return usage


def tasks() -> list[str]:
    """List the tasks that `sample` can do."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def task_of(usage: Mapping[str, Any]) -> ModuleType:
    """Return the module of this folder for the task that `usage` names.

    Raises:
        UserError: it names none, or one that is not here.
    """
    task = usage.get("task")
    if task is None:
        raise UserError("", f"this network does not say how it is called: no task in its {USAGE}")
    if task not in tasks():
        raise UserError("", f"task {str(task)[:40]!r} is unknown", nearest(str(task), tasks()))
    return importlib.import_module(f"{__name__}.{task}")


def _task_or_none(usage: Mapping[str, Any]) -> ModuleType | None:
    return task_of(usage) if usage.get("task") in tasks() else None


def tag_of(usage: Mapping[str, Any]) -> str | None:
    """Return the hub's name of the task; None without a task."""
    task = _task_or_none(usage)
    return task.tag(usage) if task else None


def example(usage: Mapping[str, Any], data: Any, folder: Path) -> list[str] | None:
    """Return words for a first call of `sample`; a picture among them is written to `folder`."""
    task = _task_or_none(usage)
    return task.example(data, folder) if task else None


def beside(usage: Mapping[str, Any], words: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Prepare an example for the model folder.

    Returns:
        The words, with files as they are called in the model folder, to be kept as
        usage["example"]; and these files by that name.
    """
    task = _task_or_none(usage)
    if task is None or not task.FILES:
        return list(words), {}
    return [Path(word).name for word in words], {Path(word).name: Path(word) for word in words}


def example_of(usage: Mapping[str, Any]) -> list[str] | None:
    """Return the example that was kept; none is needed where the task takes no words."""
    kept = usage.get("example", [])
    return [str(word) for word in kept] if isinstance(kept, list) else None


def next_command(
    usage: Mapping[str, Any], where: str | Path, words: Sequence[str] | None
) -> str | None:
    """Write the shell command that calls a network.

    Args:
        usage: names the task; without one there is no command.
        where: a run, a model folder or a repository.
        words: what `example` returned.
    """
    task = _task_or_none(usage)
    if task is None or words is None or len(words) < task.WORDS[0]:
        return None
    return shlex.join(["python", "-m", "dlreview.sample", str(where), *words])


def class_number(usage: Mapping[str, Any], text: str, count: int) -> int:
    """Find the number of a class given by its name or number.

    Args:
        usage: may have `class_names`.
        text: what the user wrote.
        count: number of classes.

    Raises:
        UserError: there is no such class.
    """
    names = [str(name) for name in usage.get("class_names") or []]
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and int(text) < count:
        return int(text)
    hint = nearest(text, names) if names else f"valid: 0 to {count - 1}"
    raise UserError("--class", f"{text!r} is no class of this network", hint)


def image_shape(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of the network's images.

    Raises:
        ValueError: `usage` does not give the sizes of images.
    """
    image = usage.get("image")
    found = [image.get(k) if isinstance(image, Mapping) else None for k in SIZES]
    sizes = [size for size in found if isinstance(size, int) and 1 <= size <= 65_536]
    if len(sizes) != len(SIZES):
        raise ValueError(f"{USAGE}: image: expected {', '.join(SIZES)}, got {str(image)[:80]!r}")
    channels, height, width = sizes
    return channels, height, width


def first_text(data: Any, column: str) -> str | None:
    """Return a text of the test split; None for data of another form.

    Args:
        data: its batches hold `column`, padded, and it has the tokenizer as `encoder`.
        column: name of the token numbers in a batch.
    """
    try:
        ids = next(iter(data.val_dataloader()))[column][0]
        text: str = data.encoder.decode(ids.tolist())  # without padding, which is a special token
    except (AttributeError, KeyError, TypeError, IndexError, StopIteration):
        return None
    return None if text.startswith("-") else text  # `sample` would take it for a flag


def encoder_of(usage: Mapping[str, Any], net: nn.Module) -> Encoder:
    """Return the tokenizer that the network was trained with.

    Raises:
        ValueError: `usage` has none, a damaged one, or one with more tokens than the network.
    """
    from dlreview.data.tokenizer import Encoder

    parsed, size = usage.get("tokenizer"), getattr(net, "vocabulary_size", 0)
    if not isinstance(parsed, dict):
        raise ValueError(f"{USAGE}: there is no tokenizer")
    try:
        encoder = Encoder.from_json(parsed)
    except ValueError as error:
        raise ValueError(f"{USAGE}: tokenizer: {error}") from None
    if len(encoder) > size:
        raise ValueError(f"{USAGE}: {len(encoder)} tokens for this {type(net).__name__}")
    return encoder


def unwritten(encoder: Encoder, net: Any) -> list[int]:
    """Return the tokens that are never written: special ones, and rows that stand for nothing."""
    from dlreview.data.tokenizer import UNWRITTEN

    return [*UNWRITTEN, *range(len(encoder), net.vocabulary_size)]


def write_text(
    net: Any, cache: Any, encoder: Encoder, length: int, options: Mapping[str, Any]
) -> list[int]:
    """Write the likeliest text for what `cache` was started with, without <bos> and <eos>.

    Args:
        net: has `read`.
        cache: with room for `length` tokens.
        encoder: the tokenizer.
        length: number of tokens at most.
        options: the values of `SEARCH`.
    """
    import torch

    from dlreview.data.tokenizer import BOS, EOS
    from dlreview.samplers.beam_search import likeliest

    prompt = torch.tensor([[BOS]], device=next(net.parameters()).device)
    how: dict[str, Any] = {"length": length, "end": EOS, "never": unwritten(encoder, net)}
    how |= {"beams": options["beams"], "length_penalty": options["length_penalty"]}
    ids = likeliest(net.read, prompt, cache, **how)
    text: list[int] = ids[0, 1:].tolist()
    return text[: text.index(EOS)] if EOS in text else text


def save_picture(picture: Tensor, folder: Path, name: str) -> None:
    """Write a picture to a folder, and print its path.

    Raises:
        OSError: the disk is full or not writable.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.numpy()).save(folder / name)
    print(f"picture: {folder / name}")
