"""Write a trained network as a folder that another library reads with its own public call.

python -m dlreview.export RUN_OR_DIR_OR_REPO DIR [--format FORMAT] [--class NAME] [--license ID]

DIR                what to write; new or empty
--format FORMAT    dlreview (default), timm, transformers, diffusers, ...: what the network fits
--class NAME       of a diffusion network with classes: write one that draws this class only,
which a pipeline of diffusers can call; "none" for the null class
--license ID       the hub's word for the licence, for the model card (default: apache-2.0)
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, parse, run

if TYPE_CHECKING:
    from torch import nn

FLAGS = {
    "--format": Flag(str, "dlreview"),
    "--class": Flag(str),
    "--license": Flag(str, "apache-2.0"),
}
USAGE = "usage: python -m dlreview.export RUN_OR_DIR_OR_REPO DIR [--format FORMAT]"


@dataclass
class Trained:
    """A network with what is told of it."""

    net: nn.Module
    usage: Mapping[str, Any]
    picture: Path | None


def read(source: str) -> Trained:
    """Load a network from a run, a model folder or a repository.

    Raises:
        UserError: there is none.
    """
    from dlreview import saved, usage

    files = (saved.CONFIG, saved.WEIGHTS, saved.USAGE, saved.PICTURE)
    try:
        folder = saved.locate(source, files)
    except (ValueError, OSError) as error:
        raise UserError("", str(error)) from None
    picture = folder / saved.PICTURE
    told = usage.read(folder)
    return Trained(saved.load(folder), told, picture if picture.is_file() else None)


def single_class(trained: Trained, name: str, format: str) -> Trained:
    """Make of a class-conditional diffusion network one that draws this class only.

    Raises:
        UserError: the network or the format is another, or there is no such class.
    """
    from dlreview.reference.folders import without_classes
    from dlreview.usage import class_number

    settings = trained.usage.get("settings")
    classes = settings.get("num_classes") if isinstance(settings, Mapping) else None
    drawing = trained.usage.get("task") == "diffusion"
    if not (drawing and classes and isinstance(settings, Mapping)):
        raise UserError("--class", "this network does not draw images of classes")
    label = settings.get("null_class")
    if name != "none":
        label = class_number(trained.usage, name, classes)
    elif not isinstance(label, int):
        raise UserError("--class", "this network was trained without a null class")
    alone = dict(settings) | {"num_classes": None, "null_class": None, "guidance": 1.0}
    usage = dict(trained.usage) | {"settings": alone, "class_names": [], "class": name}
    return Trained(without_classes(trained.net, label), usage, None)


def write(trained: Trained, folder: Path, options: Mapping[str, Any], where: str) -> None:
    """Write the folder, whole or not at all.

    Args:
        trained: the network.
        folder: new or empty.
        options: the values of `FLAGS`.
        where: what the card says to load: a folder, or `owner/name`.

    Raises:
        UserError: there is no such format for the network.
        OSError: the disk is full or not writable.
    """
    from dlreview import saved
    from dlreview.model_card import card, load_here
    from dlreview.reference.folders import writable

    library = options["format"]
    if options["class"] is not None:
        trained = single_class(trained, options["class"], library)
    net, name = trained.net, type(trained.net).__name__
    writers = writable(net)
    valid = ["dlreview", *writers]
    if library not in valid:
        raise UserError("--format", f"{library!r}: not for this {name}", nearest(library, valid))
    told = {"library": library, "license": options["license"]}
    told |= {"picture": saved.PICTURE if trained.picture else None}
    if library == "dlreview":
        text = card(name, trained.usage, load_here(where, where, valid[1:]), **told)
        saved.save(net, folder, text, trained.usage, trained.picture)
        return
    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        code = loading(writers[library](net, trained.usage, staged), library, folder, where)
        if trained.picture:
            shutil.copyfile(trained.picture, staged / saved.PICTURE)
        text = card(name, trained.usage, f"```python\n{code}```", **told)
        (staged / saved.CARD).write_text(text, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        staged.replace(folder)
    except ValueError as error:
        raise UserError("--format", f"{library!r}: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def loading(code: str, library: str, folder: Path, where: str) -> str:
    """Put the place into the code that loads: a folder, or a repository in the library's way."""
    local = where == str(folder)
    if library == "timm":
        return code.replace("{where}", ("local-dir:" if local else "hf-hub:") + where)
    if library == "gensim" and not local:  # it does not know the hub
        code = code.replace('"{where}', f'snapshot_download("{where}") + "')
        return f"from huggingface_hub import snapshot_download\n{code}"
    return code.replace("{where}", where)


def body(argv: list[str]) -> int:
    """Export.

    Raises:
        UserError: a mistake in the command.
    """
    (source, target), options = parse(argv, FLAGS, USAGE, (2, 2))
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(target, "exists and is not empty")
    write(read(source), folder, options, str(folder))
    print(f"{options['format']}: {folder}")
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(f"  {file.stat().st_size:>12,}  {file.relative_to(folder)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return run("export", __doc__ or "", body, argv)


if __name__ == "__main__":
    sys.exit(main())
