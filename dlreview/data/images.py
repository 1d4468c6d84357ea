"""Images with labels: the embedded digits, a local folder, or a data set of the Hugging Face hub.

A set that fits in memory is decoded once to uint8; batches are then one indexing operation, and
scaling and augmentation happen on the device, a batch at a time with every sample its own draw.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dlreview.data.order import Rows, batches, check_sizes, order_once, training_order
from dlreview.randomness import hash_seed, seed

EMBEDDED = "digits"
FITS_IN_MEMORY = 4 * 2**30  # bytes of decoded pixels
LARGEST_SIDE = 1024  # pixels; 1,437 digits of this size are 1.5 GB


def digits(train: bool) -> dict[str, Tensor]:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, four fifths of them for training."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, label = load_digits(return_X_y=True)
    image = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(image, label, test_size=0.2, stratify=label, random_state=0)
    image, label = (parts[0], parts[2]) if train else (parts[1], parts[3])
    return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


def decode(
    picture: Image.Image, channels: int, side: int | None
) -> UInt8[np.ndarray, "channels height width"]:
    """Turn a picture into pixels 0..255, resized to `side` x `side` (antialiased) where given."""
    picture = picture.convert("L" if channels == 1 else "RGB")
    if side is not None and picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def locate(path: str) -> str:
    """Return what `datasets` should open for `path`: $DLREVIEW_DATA wins, then a local folder.

    Raises:
        ValueError: `path` is written as a local folder and there is none.
    """
    root = os.environ.get("DLREVIEW_DATA")
    for folder in ([Path(root) / path] if root else []) + [Path(path)]:
        if folder.exists():
            return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or not path:
        where = f" (nor below DLREVIEW_DATA={root})" if root else ""
        raise ValueError(f"path {path!r}: there is no such folder{where}")
    return path


def open_split(path: str, split: str) -> Any:
    """Open one split of a Hugging Face data set.

    Raises:
        ValueError: there is no such data set or split, or its files are damaged.
        OSError: the hub cannot be reached.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    place = locate(path)
    if Path(place).is_file():
        raise ValueError(f"path {path!r} is a file; a folder or a name on the hub is needed")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(place, split=split)
    except (DatasetGenerationError, DatasetNotFoundError, ValueError, KeyError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200]
        raise ValueError(f"path {path!r}, split {split!r}: cannot be read: {reason}") from None
    except (ConnectionError, OSError) as error:
        hint = "set DLREVIEW_DATA to a folder that holds it to stay offline"
        raise OSError(f"path {path!r} is not here and the hub cannot be reached; {hint}") from error


class Decoding(Dataset[Any]):
    """Pictures decoded when their batch is fetched, for sets larger than memory."""

    def __init__(self, source: Any, images: Images) -> None:
        self.source, self.images = source, images

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        return self.images.decode_rows(self.source[rows])


class Images(LightningDataModule):
    """Batches {"image": pixels in [-1, 1], "label": class numbers} for training and validation.

    Args:
        path: `digits` (embedded), a folder that `datasets` reads, or a name on the hub.
        batch_size: images per process and step.
        image_size: side in pixels to resize to; null keeps the pictures' own, which must agree.
        channels: 1 (grey) or 3 (RGB).
        image_column: column that holds the pictures.
        label_column: column that holds the class; null for a set without labels.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there.
        augment: modules, of kornia.augmentation say, applied in turn to training batches in [0, 1].
        num_workers: processes that fetch batches; 0 is right for a set that fits in memory.
        pin_memory: pinned staging for a GPU; null means where there is one.

    Raises:
        ValueError: a size is not positive, `path` is a folder that does not exist, a column or
            split is missing, pictures differ in size.
        OSError: the hub cannot be reached.
    """

    gives: tuple[str, ...] = ("image", "label")

    def __init__(
        self,
        path: str = EMBEDDED,
        batch_size: int = 128,
        image_size: int | None = None,
        channels: int = 1,
        image_column: str = "image",
        label_column: str | None = "label",
        train_split: str = "train",
        test_split: str = "test",
        augment: list[nn.Module] | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_workers, batch_size=batch_size)
        if image_size is not None and not 1 <= image_size <= LARGEST_SIDE:
            raise ValueError(f"image_size must be in 1..{LARGEST_SIDE}, got {image_size}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if path != EMBEDDED:
            locate(path)
        self.gives = ("image", "label") if label_column else ("image",)
        self.path, self.batch_size = path, batch_size
        self.image_size, self.channels = image_size, channels
        self.image_column, self.label_column = image_column, label_column
        self.train_split, self.test_split = train_split, test_split
        self.augment = nn.ModuleList(augment or [])
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.class_names: list[str] = []
        self.num_classes = 0
        self.train_set: Rows | Decoding | None = None
        self.test_set: Rows | Decoding | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read both splits once."""
        if self.train_set is None:
            self.train_set = self._read(self.train_split, train=True)
            self.test_set = self._read(self.test_split, train=False)
            if len(self.train_set) < self.batch_size:
                raise ValueError(
                    f"batch_size {self.batch_size} is more than the {len(self.train_set)} rows of "
                    f"{self.path!r}"
                )
            self.num_classes = len(self.class_names) or self._count_classes()

    def _count_classes(self) -> int:
        """Return one more than the largest label, where classes have no names."""
        if self.label_column is None:
            return 0
        largest = 0
        for part in (self.train_set, self.test_set):
            if isinstance(part, Rows):
                labels = part.columns["label"]
            else:
                labels = torch.as_tensor(part.source[self.label_column][:])  # type: ignore[union-attr]
            largest = max(largest, int(labels.max()))
        return largest + 1

    def _read(self, split: str, train: bool) -> Rows | Decoding:
        if self.path == EMBEDDED:
            self.class_names = [str(digit) for digit in range(10)]
            columns = digits(train)
            picture = [Image.fromarray(image[0]) for image in columns["image"].numpy()]
            return Rows(
                self.decode_rows({self.image_column: picture}) | {"label": columns["label"]}
            )
        source = open_split(self.path, split)
        for column in filter(None, (self.image_column, self.label_column)):
            if column not in source.column_names:
                listing = ", ".join(source.column_names)
                raise ValueError(f"path {self.path!r} has no column {column!r}; it has {listing}")
        if len(source) == 0:
            raise ValueError(f"path {self.path!r}, split {split!r}: there are no rows")
        if self.label_column is not None:
            self.class_names = getattr(source.features[self.label_column], "names", [])
        first = self.decode_rows(source[:1])["image"]
        if first.numel() * len(source) > FITS_IN_MEMORY:
            return Decoding(source, self)
        batches = [self.decode_rows(batch) for batch in source.iter(batch_size=2048)]
        return Rows({name: torch.cat([b[name] for b in batches]) for name in batches[0]})

    def decode_rows(self, rows: dict[str, list[Any]]) -> dict[str, Tensor]:
        """Decode a slice of the data set to uint8 pixels and int64 labels."""
        pixels = [decode(p, self.channels, self.image_size) for p in rows[self.image_column]]
        if len({p.shape for p in pixels}) > 1:
            raise ValueError(f"path {self.path!r}: pictures differ in size; set image_size")
        columns = {"image": torch.from_numpy(np.stack(pixels))}
        if self.label_column in rows:
            columns["label"] = torch.as_tensor(rows[self.label_column], dtype=torch.int64)
        return columns

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled full batches, from where the trainer stands."""
        assert self.train_set is not None
        order = training_order(self.trainer, len(self.train_set), self.batch_size)
        return batches(self.train_set, order, self.num_workers, self.pin_memory)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every row of the test split once, in order."""
        assert self.test_set is not None
        order = order_once(self.trainer, len(self.test_set), self.batch_size)
        return batches(self.test_set, order, self.num_workers, self.pin_memory)

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
        assert self.train_set is not None
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
        """Tell what the network's images are: see `dlreview.usage`."""
        channels, height, width = self.image_shape
        return {
            "data": self.path,
            "split": self.test_split,
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
        """Return the whole training split, pixels in [-1, 1], for judges such as an SVM.

        Raises:
            ValueError: the set does not fit in memory or has no labels.
        """
        if not isinstance(self.train_set, Rows) or "label" not in self.train_set.columns:
            raise ValueError(f"path {self.path!r}: needs labels, and a set that fits in memory")
        return self.train_set.columns["image"] / 127.5 - 1, self.train_set.columns["label"]
