"""Images with labels: the embedded digits, a local folder, or a data set of the Hugging Face hub.

A set that fits in memory is decoded once to uint8; batches are then one indexing operation, and
scaling and augmentation happen on the device, for a whole batch, with random numbers per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import Dataset

from dlreview.data.contents import left_out
from dlreview.data.digits import CLASS_NAMES, EMBEDDED, SPLITS, digits
from dlreview.data.labels import Classes
from dlreview.data.order import Rows
from dlreview.data.picture_column import is_missing, picture_cells, picture_file
from dlreview.data.pictures import decode, read_picture
from dlreview.data.sources import Source, locate, refuse_config
from dlreview.data.splits import TwoSplits, divide
from dlreview.randomness import hash_seed, seed

FITS_IN_MEMORY = 4 * 2**30  # bytes of decoded pixels
LARGEST_SIDE = 1024  # pixels; 1,437 digits of this size are 1.5 GB
FIRST_ROWS = 256  # decide whether a split fits in memory
CHUNK = 2048  # rows that are decoded at a time


class Pictures(Dataset[dict[str, Tensor]]):
    """Pictures of one split, decoded when their batch is fetched.

    Args:
        path: of the data set, for messages.
        split: of the data set.
        cells: a list of pictures, or a column of files.
        labels: class numbers of all cells; None for pictures without labels.
        size: (height, width) to resize to; None keeps the pictures' own, which must agree.
        folder: paths of files are relative to it.
    """

    def __init__(
        self,
        path: str,
        split: str,
        cells: Any,
        labels: Int64[Tensor, " cells"] | None,
        size: tuple[int, int] | None,
        folder: Path | None = None,
    ) -> None:
        self.where, self.split = f"path {path!r}, split {split!r}", split
        self.cells, self.labels, self.size = cells, labels, size
        self.folder = folder
        self.rows = torch.arange(len(cells))
        self.channels: int | None = None
        """1 or 3; None decodes grey pictures to one channel and others to three."""
        self.own_size: tuple[int, int] | None = size
        """(height, width) that all pictures must have."""

    def __len__(self) -> int:
        return len(self.rows)

    def decode_cell(self, row: int, cell: Any) -> UInt8[np.ndarray, "channels height width"]:
        """Decode the picture of a row.

        Raises:
            ValueError: it cannot be decoded or has another size than the first; names row and file.
        """
        name = cell.get("path") if isinstance(cell, dict) else None
        where = f"{self.where}, row {row}" + (f" ({Path(name).name})" if name else "")
        if is_missing(cell):
            raise ValueError(f"{where}: the picture is missing")
        try:
            if isinstance(cell, dict):
                pixels = read_picture(picture_file(cell, self.folder), self.channels, self.size)
            else:
                pixels = decode(cell, self.channels, self.size)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        height, width = pixels.shape[1:]
        self.own_size = self.own_size or (height, width)
        if self.own_size != (height, width):
            raise ValueError(
                f"{where}: pictures differ in size, {height} x {width} and "
                f"{self.own_size[0]} x {self.own_size[1]}\nset image_size"
            )
        return pixels

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        index = self.rows[torch.as_tensor(rows, dtype=torch.int64)].tolist()
        cells = self.cells
        cells = [cells[row] for row in index] if isinstance(cells, list) else cells[index]
        pixels = [self.decode_cell(row, cell) for row, cell in zip(index, cells, strict=True)]
        channels = max((len(p) for p in pixels), default=self.channels or 1)
        image = np.empty((len(pixels), channels, *(self.own_size or (0, 0))), dtype=np.uint8)
        for place, one in enumerate(pixels):
            image[place] = one  # a grey picture fills three channels
        batch = {"image": torch.from_numpy(image)}
        return batch if self.labels is None else batch | {"label": self.labels[index]}

    def in_memory(self) -> Rows | Pictures:
        """Decode all pictures, if they fit in memory. Then `channels` is known in any case."""
        first = self[range(min(FIRST_ROWS, len(self)))]["image"]
        if first[0].numel() * len(self) > FITS_IN_MEMORY:
            self.channels = first.shape[1]
            return self
        chunks = [self[range(i, min(i + CHUNK, len(self)))] for i in range(0, len(self), CHUNK)]
        self.channels = max(chunk["image"].shape[1] for chunk in chunks)
        for chunk in chunks:
            chunk["image"] = chunk["image"].expand(-1, self.channels, -1, -1)
        return Rows({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})


class Images(TwoSplits):
    """Batches {"image": pixels in [-1, 1], "label": class numbers} for training and validation.

    Pictures are turned as their EXIF orientation says, and transparent ones are laid on white. Grey
    pictures of 16 bits are scaled to 8. Of an animation the first picture is taken. Labels may be
    class numbers 0..K-1, false and true, or text, which is numbered by the sorted names.

    Args:
        path: `digits` (embedded), a folder that `datasets` reads, or a name on the hub.
        batch_size: images per process and step.
        image_size: side in pixels to resize to; null keeps the pictures' own, which must agree.
        channels: 1 (grey) or 3 (RGB); null is what the pictures are: 1 if all pictures of the
            training split are grey, and 3 if one of them has colours. Of a set that does not fit in
            memory the first 256 pictures decide.
        image_column: column that holds the pictures: files, their bytes, or their paths, which are
            relative to the folder.
        label_column: column that holds the class; null for a set without labels.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, chosen by the recipe's seed in the proportions of the
            classes. Without a split "test", "test" is the validation split, or 0.1 of the training
            split if that is the only one.
        augment: modules, of kornia.augmentation say, applied in turn to training batches in [0, 1].
        num_workers: processes that fetch batches; 0 is right for a set that fits in memory.
        pin_memory: pinned staging for a GPU; null means where there is one.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, `path` is a folder that does not exist, a column, split
            or configuration is missing, a picture or a label is faulty, pictures differ in size.
        OSError: the hub cannot be reached.
    """

    gives: tuple[str, ...] = ("image", "label")

    def __init__(  # one argument for each property of a set of pictures
        self,
        path: str = EMBEDDED,
        batch_size: int = 128,
        image_size: int | None = None,
        channels: int | None = None,
        image_column: str = "image",
        label_column: str | None = "label",
        train_split: str = "train",
        test_split: float | str = "test",  # in this order, "0.1" on a command line is a number
        augment: list[nn.Module] | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        config: str | None = None,
    ) -> None:
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        super().__init__(path, batch_size, train_split, test_split, num_workers, pinned, config)
        if image_size is not None and not 1 <= image_size <= LARGEST_SIDE:
            raise ValueError(f"image_size must be in 1..{LARGEST_SIDE}, got {image_size}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if path == EMBEDDED:
            refuse_config(path, config)
        else:
            locate(path)
        self.gives = ("image", "label") if label_column else ("image",)
        self.image_size, self.channels = image_size, channels
        self.image_column, self.label_column = image_column, label_column
        self.augment = nn.ModuleList(augment or [])
        self.source: Source | None = None
        self.class_names: list[str] = []
        self.num_classes = 0

    def read(self) -> tuple[Any, Any]:
        """Read both splits, and decode those that fit in memory."""
        return self.decode(*self.pictures())

    def pictures(self) -> tuple[Pictures, Pictures]:
        """Return the pictures of both splits, not decoded yet."""
        source = Source(self.path, self.config) if self.path != EMBEDDED else None
        self.source = source
        if source and source.folder and source.builder.name == "imagefolder":
            self._tell_left_out(source.folder)
        chosen = self.choose_test_split(source.names if source else SPLITS)
        train, classes = self._open(source, self.train_split)
        if isinstance(chosen, str):
            test, _ = self._open(source, chosen, classes)
        else:
            test, _ = self._open(source, self.train_split, classes)
            train.rows, test.rows = divide(len(train), chosen, train.labels)
        if classes is not None:
            self.class_names, self.num_classes = classes.names, len(classes)
        return train, test

    def decode(self, train: Pictures, test: Pictures) -> tuple[Rows | Pictures, Rows | Pictures]:
        """Decode the pictures that fit in memory."""
        train.channels = self.channels
        train_set = train.in_memory()
        test.channels, test.own_size = train.channels, train.own_size
        return train_set, test.in_memory()

    def _tell_left_out(self, folder: Path) -> None:
        """Print a line about pictures in a folder that Pillow cannot read."""
        if unread := left_out(folder):
            rank_zero_only(print)(f"{self.path}: left out {unread}; convert them to PNG or JPEG")

    def _open(
        self, source: Source | None, split: str, classes: Classes | None = None
    ) -> tuple[Pictures, Classes | None]:
        """Return the pictures of a split, and the classes by which their labels are numbered."""
        where = f"path {self.path!r}, split {split!r}"
        names, labels = [], None
        if source is None:
            cells, labels = digits(split)
            names, labels = CLASS_NAMES, labels if self.label_column else None
        else:
            rows = source.read(split, *filter(None, (self.image_column, self.label_column)))
            place = f"path {self.path!r}, column {self.image_column!r}"
            cells = picture_cells(rows, self.image_column, place)
            if self.label_column:
                names = getattr(rows.features[self.label_column], "names", [])
                labels = rows[self.label_column][:]
        numbers = None
        if labels is not None:
            column = f"{where}, column {self.label_column!r}"
            classes = classes or Classes(labels, names, column)
            numbers = classes.encode(labels, column)
        size = (self.image_size, self.image_size) if self.image_size else None
        folder = source.folder if source else None
        return Pictures(self.path, split, cells, numbers, size, folder), classes

    def on_after_batch_transfer(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Scale to [-1, 1] and augment, on the device."""
        image = batch["image"].float() / 255
        if len(self.augment) and self.trainer is not None and self.trainer.training:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            torch.manual_seed(
                hash_seed(seed(), self.trainer.current_epoch, done, self.trainer.global_rank)
            )
            for module in self.augment:
                image = module(image)
        return batch | {"image": image * 2 - 1}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self.train_set[[0]]["image"].shape[1:])

    @property
    def sizes(self) -> dict[str, Any]:
        """What networks need to know of the data, by the names of their arguments."""
        channels, height, width = self.image_shape
        sizes: dict[str, Any] = {
            "image_channels": channels,
            "image_size": height if height == width else [height, width],
        }
        if self.num_classes:
            sizes["num_classes"] = self.num_classes
        return sizes

    def usage(self) -> dict[str, Any]:
        """Describe the network's images: see `dlreview.usage`."""
        channels, height, width = self.image_shape
        return {
            "data": self.path,
            "split": self.tested_on,
            "image": {
                "channels": channels,
                "height": height,
                "width": width,
                "range": [-1.0, 1.0],
            },
            "class_names": self.class_names,
        }

    def train_columns(
        self,
    ) -> tuple[Float[Tensor, "rows channels height width"], Int[Tensor, " rows"]]:
        """Return the whole training split, pixels in [-1, 1], for a classifier such as an SVM.

        Raises:
            ValueError: the set does not fit in memory or has no labels.
        """
        if not isinstance(self.train_set, Rows) or "label" not in self.train_set.columns:
            raise ValueError(f"path {self.path!r}: needs labels, and a set that fits in memory")
        return self.train_set.columns["image"] / 127.5 - 1, self.train_set.columns["label"]
