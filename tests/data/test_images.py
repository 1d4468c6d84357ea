"""The image DataModule, on the embedded digits and on folders as the hub would give them."""

import datasets
import numpy as np
import pytest
import torch
from kornia.augmentation import RandomHorizontalFlip
from PIL import Image

from dlreview.data.images import Images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Parquet data set of 30 + 10 RGB pictures of 9x7 pixels."""
    path = tmp_path_factory.mktemp("data") / "owner" / "set"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, rows in (("train", 30), ("test", 10)):
        pictures = [Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)) for _ in range(rows)]
        columns = {"image": pictures, "label": [i % 3 for i in range(rows)]}
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        )
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            path / f"{split}-00000-of-00001.parquet"
        )
    return path


def test_digits_are_split_and_scaled():
    data = Images(batch_size=64)
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (1437, 360)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["image"].shape == (64, 1, 8, 8)
    assert batch["image"].min() == -1
    assert batch["image"].max() == 1
    assert sum(len(b["label"]) for b in data.val_dataloader()) == 360


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_is_read_and_resized(folder, workers):
    data = Images(str(folder), 8, image_size=6, channels=3, num_workers=workers)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 3, 6, 6)
    assert batch["image"].dtype == torch.uint8
    assert data.class_names == ["a", "b", "c"]
    assert data.image_shape == (3, 6, 6)


def test_dlreview_data_wins_over_the_hub(folder, monkeypatch):
    monkeypatch.setenv("DLREVIEW_DATA", str(folder.parent.parent))
    data = Images("owner/set", 8, channels=3)
    data.setup()
    assert data.image_shape == (3, 9, 7)


def test_a_set_larger_than_memory_gives_the_same_batches(folder, monkeypatch):
    held = Images(str(folder), 8, channels=3)
    held.setup()
    monkeypatch.setattr("dlreview.data.images.FITS_IN_MEMORY", 10)
    streamed = Images(str(folder), 8, channels=3)
    streamed.setup()
    for ours, theirs in zip(held.train_dataloader(), streamed.train_dataloader(), strict=True):
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_augmentation_is_for_training_alone_and_drawn_per_sample():
    data = Images(batch_size=64, augment=[RandomHorizontalFlip(p=0.5)])
    data.setup()
    batch = next(iter(data.train_dataloader()))
    plain = data.on_after_batch_transfer(batch, 0)["image"]

    class Training:
        training, current_epoch, global_rank = True, 0, 0

        class fit_loop:
            class epoch_loop:
                class batch_progress:
                    class current:
                        ready = 3

    data.trainer = Training()
    flipped = data.on_after_batch_transfer(batch, 0)["image"]
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0.2 < same.float().mean() < 0.8
    assert torch.equal(flipped, data.on_after_batch_transfer(batch, 0)["image"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": "./nowhere"}, "no such folder"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5000}, "batch_size 5000"),
        ({"image_size": 0}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"num_workers": -1}, "num_workers"),
    ],
)
def test_bad_arguments_are_named(arguments, told):
    with pytest.raises(ValueError, match=told):
        Images(**arguments).setup()


def test_a_missing_column_lists_those_there_are(folder):
    with pytest.raises(ValueError, match="no column 'img'; it has image, label"):
        Images(str(folder), image_column="img").setup()


def test_a_damaged_file_is_told_in_one_line(folder, tmp_path):
    for file in folder.iterdir():
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2 :] = b"x" * (len(damaged) // 2)
        (tmp_path / file.name).write_bytes(damaged)
    with pytest.raises(ValueError, match="cannot be read") as error:
        Images(str(tmp_path), 4, channels=3).setup()
    assert "\n" not in str(error.value)
