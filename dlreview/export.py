"""Write a trained network as a folder that another library reads with its own public call.

python -m dlreview.export RUN_OR_DIR_OR_REPO DIR [--format FORMAT] [--network NAME] [--class NAME]
                          [--license ID]

DIR                what to write; new or empty
--format FORMAT    dlreview (default), timm, transformers, diffusers, ...: what the network fits
--network NAME     which network, where there are several (default: all of them for dlreview, the
                   main one for other formats)
--class NAME       of a diffusion network with classes: write one that draws this class only,
                   which a pipeline of diffusers can call; "none" for the null class
--license ID       the hub's word for the licence, for the model card (default: apache-2.0)
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, parse, run
from dlreview.sample import check_network

if TYPE_CHECKING:
    from torch import nn

FLAGS = {
    "--format": Flag(str, "dlreview"),
    "--network": Flag(str),
    "--class": Flag(str),
    "--license": Flag(str, "apache-2.0"),
}
USAGE = "usage: python -m dlreview.export RUN_OR_DIR_OR_REPO DIR [--format FORMAT]"
OF_MAIN = ("task", "settings", "example")  # parts of the usage that are about the main network


@dataclass
class Trained:
    """Networks by name, the main one first, and their usage.

    Args:
        networks: what was read.
        usage: see `dlreview.usage`.
        picture: samples that the card shows.
        files: further files that belong beside the networks, by name.
    """

    networks: dict[str, nn.Module]
    usage: Mapping[str, Any]
    picture: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def main(self) -> nn.Module:
        """The main network."""
        return next(iter(self.networks.values()))


def read(source: str, options: Mapping[str, Any]) -> Trained:
    """Load networks from a run, a model folder or a repository.

    Args:
        source: where they are.
        options: the values of `FLAGS`.

    Raises:
        UserError: there are none.
    """
    from dlreview import saved, usage

    files = (saved.CONFIG, saved.INDEX, saved.USAGE, saved.PICTURE, usage.EXAMPLE)
    try:
        folder = saved.locate(source, files)
    except (ValueError, OSError) as error:
        raise UserError("", str(error)) from None
    called, names, name = usage.read(folder), saved.names(folder), options["network"]
    check_network(name, folder)
    if name not in (None, names[0]):
        called = {key: value for key, value in called.items() if key not in OF_MAIN}
        return Trained({name: saved.load(source, name)}, called)
    several = name is None and options["format"] == "dlreview"
    networks = {name: saved.load(source, name) for name in (names if several else names[:1])}
    picture, example = (folder / file for file in (saved.PICTURE, usage.EXAMPLE))
    return Trained(
        networks,
        called,
        picture if picture.is_file() else None,
        {example.name: example} if example.is_file() else {},
    )


def single_class(trained: Trained, name: str) -> Trained:
    """Make of a class-conditional diffusion network one that draws this class only.

    Raises:
        UserError: the network is of another kind, or there is no such class.
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
    return Trained({"net": without_classes(trained.main, label)}, usage)


def write(trained: Trained, folder: Path, options: Mapping[str, Any], where: str) -> None:
    """Write the folder, whole or not at all.

    Args:
        trained: the networks.
        folder: new or empty.
        options: the values of `FLAGS`.
        where: what the card says to load: a folder, or `owner/name`.

    Raises:
        UserError: there is no such format for the network.
        OSError: the disk is full or not writable.
    """
    from dlreview.reference.folders import writable

    library = options["format"]
    if options["class"] is not None:
        trained = single_class(trained, options["class"])
    writers = writable(trained.main)
    if library == "dlreview":
        write_ours(trained, folder, list(writers), options, where)
    elif library in writers:
        write_theirs(trained, folder, writers[library], options, where)
    else:
        problem = f"{library!r}: not for this {type(trained.main).__name__}"
        raise UserError("--format", problem, nearest(library, ["dlreview", *writers]))


def card_of(trained: Trained, loading: str, options: Mapping[str, Any]) -> str:
    """Write the model card around the Markdown that says how to load the folder."""
    from dlreview import saved, usage
    from dlreview.saved.card import card

    return card(
        type(trained.main).__name__,
        trained.usage,
        loading,
        tag=usage.tag_of(trained.usage),
        library=options["format"],
        license=options["license"],
        picture=saved.PICTURE if trained.picture else None,
    )


def write_ours(
    trained: Trained, folder: Path, formats: list[str], options: Mapping[str, Any], where: str
) -> None:
    """Write a folder of dlreview with all networks."""
    from dlreview import saved, usage
    from dlreview.saved.card import how_to_load

    classes = {name: type(net).__name__ for name, net in trained.networks.items()}
    command = usage.next_command(trained.usage, where, usage.example_of(trained.usage))
    text = card_of(trained, how_to_load(classes, where, command, formats=formats), options)
    called = trained.usage or None
    saved.save(trained.networks, folder, text, called, trained.picture, files=trained.files)


def write_theirs(
    trained: Trained, folder: Path, writer: Any, options: Mapping[str, Any], where: str
) -> None:
    """Write a folder of another library with the main network.

    Raises:
        UserError: the library has no word for a part of the network.
    """
    from dlreview import saved

    library = options["format"]
    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        code = loading(writer(trained.main, trained.usage, staged), library, folder, where)
        if trained.picture:
            shutil.copyfile(trained.picture, staged / saved.PICTURE)
        text = card_of(trained, f"```python\n{code}```", options)
        (staged / saved.CARD).write_text(text, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        staged.replace(folder)
    except ValueError as error:
        raise UserError("--format", f"{library!r}: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def loading(code: str, library: str, folder: Path, where: str) -> str:
    """Put the folder or the repository into the code that loads, as the library writes it."""
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
    write(read(source, options), folder, options, str(folder))
    print(f"{options['format']}: {folder}")
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(f"  {file.stat().st_size:>12,}  {file.relative_to(folder)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return run("export", __doc__ or "", body, argv)


if __name__ == "__main__":
    sys.exit(main())
