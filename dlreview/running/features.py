"""Write a network's features of a data set as Parquet, for any classifier (rows 28 and 29)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dlreview.data.order import batches, order_once
from dlreview.messages import UserError
from dlreview.metrics.features import Features, embed
from dlreview.metrics.nearest_neighbours import K, T, classify, neighbours
from dlreview.plots.neighbours import neighbours as neighbour_sheet
from dlreview.running.command import Flag, package

FLAGS = {"--data": Flag(str), "--trust": Flag(package, repeats=True)}
SPLITS = {"train": "train_set", "test": "test_set"}
QUERIES, SHOWN = 8, 8  # rows and neighbours of the sheet


def find_data(usage: Mapping[str, Any], recipe: str | None, trusted: tuple[str, ...] | None) -> Any:
    """Build the data module of a recipe, by default of the one that the network was trained with.

    Raises:
        UserError: there is none, or the data are not there.
        OSError: a hub cannot be reached.
    """
    from lightning.pytorch import seed_everything

    from dlreview.running.builder import Section, build_data
    from dlreview.running.packages import allow
    from dlreview.running.quiet import quiet
    from dlreview.running.recipe import read
    from dlreview.running.signatures import expand

    quiet()
    try:
        tree = usage.get("recipe") if recipe is None else read(Path(recipe))
    except UserError as error:
        raise UserError("--data", f"{recipe}: {error.problem}", error.hint) from None
    if not isinstance(tree, Mapping) or not isinstance(tree.get("data"), Mapping):
        problem = "this network does not say with which data it was trained"
        raise UserError("--data", problem if recipe is None else f"{recipe} has no section data")
    allow(trusted or ())
    seed_everything(int(tree.get("seed_everything") or 0), verbose=False)  # it divides the splits
    return build_data(Section("data", expand(dict(tree["data"]))))


def check_images(net: nn.Module, data: Any) -> None:
    """Refuse data that are no images of the network's number of channels.

    Raises:
        UserError: names both numbers.
    """
    rows = getattr(data, "train_set", None)
    if rows is None or "image" not in rows[[0]]:
        raise UserError("--data", f"{type(data).__name__} gives no images")
    wanted, found = getattr(net, "image_channels", None), data.sizes.get("image_channels")
    if wanted not in (None, found):
        problem = f"image_channels of its images is {found}, of the network {wanted}"
        raise UserError("--data", problem, "set channels in the section data")


def image_batches(data: Any, split: str) -> Iterator[dict[str, Tensor]]:
    """Yield every row of a split once, in order and without augmentation."""
    rows = getattr(data, SPLITS[split])
    order = order_once(None, len(rows), data.batch_size)
    for batch in batches(rows, order, data.num_workers):
        yield data.on_after_batch_transfer(batch, 0)


def write_features(found: Features, names: list[str], file: Path) -> None:
    """Write the columns `feature` and, where there are labels, `label`.

    Raises:
        OSError: the disk is full or not writable.
    """
    from datasets import ClassLabel, Dataset, Sequence, Value, disable_progress_bars
    from datasets import Features as Columns

    disable_progress_bars()
    columns: dict[str, Any] = {"feature": found.vectors.numpy()}
    kinds: dict[str, Any] = {"feature": Sequence(Value("float32"), length=found.vectors.shape[1])}
    if found.labels is not None:
        columns["label"] = found.labels.numpy()
        kinds["label"] = ClassLabel(names=names) if names else Value("int64")
    Dataset.from_dict(columns, features=Columns(kinds)).to_parquet(file)


def write(net: nn.Module, data: Any, out: Path) -> None:
    """Write the features of both splits, and show how well nearest neighbours do.

    Raises:
        UserError: the data do not fit the network, or it gives no features.
        OSError: the disk is full or not writable.
    """
    check_images(net, data)
    found: dict[str, Features] = {}
    for split in SPLITS:
        try:
            found[split] = embed(net, image_batches(data, split))
        except ValueError as error:
            raise UserError("", f"{split} split: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    for split, features in found.items():
        file = out / f"{split}.parquet"
        write_features(features, list(getattr(data, "class_names", [])), file)
        rows, width = features.vectors.shape
        print(f"{split}: {rows:,} rows of {width} features: {file}")
    train, test = found["train"], found["test"]
    k = min(K, len(train.vectors))
    if train.labels is not None and test.labels is not None:
        guessed = classify(train.vectors, train.labels, test.vectors, k)
        share = (guessed == test.labels).float().mean()
        print(f"nearest neighbours: {share:.4f} of the test rows are right (k = {k}, T = {T})")
    print(f"picture: {draw(data, found, out)}")


def draw(data: Any, found: dict[str, Features], out: Path) -> Path:
    """Draw the nearest training images of some test images, and return the file."""
    train, test = found["train"], found["test"]
    count = min(QUERIES, len(test.vectors))
    queries = torch.linspace(0, len(test.vectors) - 1, count).long()
    _, rows = neighbours(train.vectors, test.vectors[queries], min(SHOWN, len(train.vectors)))
    right = None
    if train.labels is not None and test.labels is not None:
        right = train.labels[rows] == test.labels[queries][:, None]
    used, places = rows.unique(return_inverse=True)  # only these pictures are read again
    images = {
        split: data.on_after_batch_transfer(getattr(data, SPLITS[split])[index.tolist()], 0)
        for split, index in (("train", used), ("test", queries))
    }
    sheet = neighbour_sheet(images["test"]["image"], images["train"]["image"], places, right)
    final = out / "neighbours.png"
    Image.fromarray(sheet.contiguous().numpy()).save(final)
    return final
