"""The image DataModule, on the embedded digits and on folders as the hub would give them."""

import datasets
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from kornia.augmentation import RandomHorizontalFlip
from PIL import Image

from dlreview.data.images import Images, Pictures
from dlreview.data.order import Rows
from dlreview.usage import classification


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
    data = Images(str(folder), 8, image_size=6, num_workers=workers)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 3, 6, 6)
    assert batch["image"].dtype == torch.uint8
    assert data.class_names == ["a", "b", "c"]
    assert data.image_shape == (3, 6, 6)


def test_dlreview_data_wins_over_the_hub(folder, monkeypatch):
    monkeypatch.setenv("DLREVIEW_DATA", str(folder.parent.parent))
    data = Images("owner/set", 8)
    data.setup()
    assert data.image_shape == (3, 9, 7)


def test_a_set_larger_than_memory_gives_the_same_batches(folder, monkeypatch):
    held = Images(str(folder), 8)
    held.setup()
    monkeypatch.setattr("dlreview.data.images.FITS_IN_MEMORY", 10)
    streamed = Images(str(folder), 8)
    streamed.setup()
    assert isinstance(streamed.train_set, Pictures) and isinstance(held.train_set, Rows)
    assert streamed.train_set[[]]["image"].shape == (0, 3, 9, 7)
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
        ({"test_split": 1.0}, r"test_split must be a name or a share in \(0, 1\), got 1.0"),
        ({"test_split": "tset"}, "split of 'digits' 'tset' is unknown; did you mean 'test'"),
        ({"train_split": "all"}, "split of 'digits' 'all' is unknown; valid: train, test"),
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


def picture_folder(place, names, size=(6, 5), mode="RGB"):
    """Write a picture a file, of a colour of its own."""
    for number, name in enumerate(names):
        file = place / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 10 * number if mode == "L" else (10 * number, 0, 0)).save(file)
    return place


def table(place, columns, split="train"):
    """Write a split of grey pictures with other columns as Parquet."""
    place.mkdir(exist_ok=True)
    rows = len(next(iter(columns.values())))
    columns = {"image": [Image.new("L", (4, 4), 9 * n) for n in range(rows)]} | columns
    datasets.Dataset.from_dict(columns).to_parquet(place / f"{split}-00000-of-00001.parquet")
    return str(place)


def test_classes_right_below_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"{kind}/{n}" for kind in ("cat", "ant") for n in range(10)]
    picture_folder(tmp_path / "set", names)
    data = Images("~/set", 4)
    data.setup()
    assert "~/set has one split, 'train': 0.1" in capsys.readouterr().out
    assert (len(data.train_set), len(data.test_set)) == (18, 2)
    assert data.class_names == ["ant", "cat"] and data.num_classes == 2
    assert sorted(data.test_set.columns["label"].tolist()) == [0, 1], "one of each class"
    assert data.image_shape == (3, 5, 6)
    assert data.usage()["split"] == "0.1 of train"
    red = torch.cat([part.columns["image"][:, 0, 0, 0] for part in (data.train_set, data.test_set)])
    assert sorted(red.tolist()) == [10 * n for n in range(20)], "each row is in one part"
    share = Images("~/set", 4, test_split=0.5, label_column=None)
    share.setup()
    assert len(share.test_set) == 10 and share.gives == ("image",)
    assert set(share.test_set.columns) == {"image"} and share.num_classes == 0


def test_validation_stands_in_for_test(tmp_path):
    names = [f"{split}/{kind}/{n}" for split in ("train", "val") for kind in "ab" for n in (0, 1)]
    data = Images(str(picture_folder(tmp_path, names, mode="L")), 2)
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (4, 4)
    assert data.usage()["split"] == "validation" and data.image_shape == (1, 5, 6)


def test_one_colour_picture_makes_a_set_rgb(tmp_path, monkeypatch):
    for n in range(5):
        mode = "RGB" if n == 3 else ("L", "1", "LA", "I;16", "I;16")[n]
        for split in ("train", "test"):
            (tmp_path / split).mkdir(exist_ok=True)
            Image.new(mode, (3, 2)).save(tmp_path / split / f"{n}.png")
    data = Images(str(tmp_path), 2, label_column=None)
    data.setup()
    assert data.image_shape == (3, 2, 3)
    monkeypatch.setattr("dlreview.data.images.CHUNK", 2)  # the colour comes in a later chunk
    chunks = Images(str(tmp_path), 2, label_column=None)
    chunks.setup()
    assert torch.equal(chunks.train_set.columns["image"], data.train_set.columns["image"])
    (tmp_path / "train" / "3.png").unlink()  # of the test split alone it is turned to grey
    grey = Images(str(tmp_path), 2, label_column=None)
    grey.setup()
    assert grey.image_shape == (1, 2, 3) and grey.test_set.columns["image"].shape[1] == 1
    monkeypatch.setattr("dlreview.data.images.FITS_IN_MEMORY", 10)
    monkeypatch.setattr("dlreview.data.images.FIRST_ROWS", 2)
    Image.new("RGB", (3, 2)).save(tmp_path / "train" / "3.png")
    streamed = Images(str(tmp_path), 2, label_column=None)
    streamed.setup()
    assert streamed.train_set[[3, 0]]["image"].shape == (2, 1, 2, 3), "the first pictures decide"


def test_text_labels_and_faulty_labels(tmp_path):
    table(tmp_path / "text", {"label": ["b", "a", "b", "c"]})
    path = table(tmp_path / "text", {"label": ["c", "a"]}, "test")
    data = Images(path, 2)
    data.setup()
    assert data.class_names == ["a", "b", "c"] and data.sizes["num_classes"] == 3
    assert data.train_set.columns["label"].tolist() == [1, 0, 1, 2]
    assert data.test_set.columns["label"].tolist() == [2, 0]
    table(tmp_path / "text", {"label": ["c", "z"]}, "test")
    with pytest.raises(ValueError, match=r"split 'test', column 'label', row 1: label 'z' is no"):
        Images(path, 2).setup()
    path = table(tmp_path / "gap", {"label": [1, 2, 3], "flag": [True, False, True]})
    with pytest.raises(ValueError, match=r"split 'train', column 'label': labels are 1\.\.3"):
        Images(path, 2).setup()
    flags = Images(path, 2, label_column="flag", test_split="train")
    flags.setup()
    assert flags.train_set.columns["label"].tolist() == [1, 0, 1] and flags.num_classes == 2
    with pytest.raises(ValueError, match="column 'flag': not pictures but bool"):
        Images(path, 2, image_column="flag").setup()


@pytest.mark.parametrize("fits", [4 * 2**30, 0])
def test_a_damaged_picture_is_named(tmp_path, monkeypatch, fits):
    monkeypatch.setattr("dlreview.data.images.FITS_IN_MEMORY", fits)
    picture_folder(tmp_path, [f"{split}/a/{n}" for split in ("train", "test") for n in range(4)])
    file = tmp_path / "test" / "a" / "2.png"
    file.write_bytes(file.read_bytes()[:45])
    told = r"split 'test', row 2 \(2\.png\) is a damaged picture: "
    with pytest.raises(ValueError, match=told):
        Images(str(tmp_path), 2, label_column=None).setup()


def test_pictures_of_other_sizes_are_named(tmp_path):
    picture_folder(tmp_path, [f"{split}/a/{n}" for split in ("train", "test") for n in range(3)])
    Image.new("RGB", (5, 6)).save(tmp_path / "test" / "a" / "1.png")
    told = r"row 1 \(1\.png\): pictures differ in size, 6 x 5 and 5 x 6\nset image_size"
    with pytest.raises(ValueError, match=told):
        Images(str(tmp_path), 2, label_column=None).setup()
    data = Images(str(tmp_path), 2, image_size=4, label_column=None)
    data.setup()
    assert data.image_shape == (3, 4, 4)
    table(tmp_path / "missing", {"image": [Image.new("L", (4, 4)), None], "label": [0, 0]})
    with pytest.raises(ValueError, match="row 1: the picture is missing"):
        Images(str(tmp_path / "missing"), 1, test_split="train").setup()


def test_sample_reads_a_picture_as_fit_does(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 8
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        pixels = rng.integers(0, 255, (9, 6, 4), np.uint8)
        Image.fromarray(pixels).save(tmp_path / split / "0.png", exif=exif)
        Image.fromarray(pixels[..., :3]).save(tmp_path / split / "1.jpg", exif=exif)
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / split / "2.tif")
    data = Images(str(tmp_path), 3, image_size=7, label_column=None)
    data.setup()
    usage = data.usage()
    usage["image"]["range"] = [0.0, 255.0]
    for row, name in enumerate(("0.png", "1.jpg", "2.tif")):
        image = classification.read_picture(str(tmp_path / "train" / name), usage)
        assert torch.equal(image[0].round().byte(), data.train_set[[row]]["image"][0])


def test_what_the_command_line_gives_for_a_test_split():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Images, "data")
    for text, value in (("0.25", 0.25), ("dev", "dev"), ("train[90%:]", "train[90%:]")):
        assert parser.parse_args(["--data.test_split", text]).data.test_split == value


def test_labels_of_the_test_split_are_checked_when_the_data_are_opened(tmp_path):
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split, labels in {"train": [0, 1, 0, 1], "test": [0, -1]}.items():
        pictures = [Image.new("L", (4, 4))] * len(labels)
        rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"split 'test', column 'label', row 1: label -1 is no cl"):
        Images(str(tmp_path), 2).setup()
