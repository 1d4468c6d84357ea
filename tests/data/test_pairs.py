"""Images with texts: class names in a template, a column of captions, several captions."""

import datasets
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from dlreview.data.images import Images
from dlreview.data.pairs import ImageText
from dlreview.data.tokenizer import BOS, BPE, EOS, PAD, Encoder, Words
from dlreview.randomness import hash_seed


@pytest.fixture(scope="module")
def digits():
    data = ImageText(batch_size=64)
    data.setup()
    return data


def folder(path, train, test=None):
    """Write a data set of grey 4x4 pictures; that of row n has the value n."""
    for split, texts in (("train", train), ("test", test or train)):
        pictures = [Image.fromarray(np.full((4, 4), n, np.uint8)) for n in range(len(texts))]
        data = datasets.Dataset.from_dict({"image": pictures, "text": texts})
        data.cast_column("image", datasets.Image()).to_parquet(
            path / f"{split}-00000-of-00001.parquet"
        )
    return str(path)


def test_digits_have_their_names_as_captions(digits):
    batch = next(iter(digits.train_dataloader()))
    assert set(digits.gives) <= set(batch)
    told = [digits.encoder.decode(ids) for ids in batch["ids"].tolist()]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert told == [f"a photo of a {names[label]}" for label in batch["label"].tolist()]
    ids, mask = batch["ids"], batch["mask"]
    assert (ids[:, 0] == BOS).all() and (ids[:, -1] == EOS).all() and mask.all()
    plain = Images(batch_size=64)
    plain.setup()
    assert torch.equal(batch["image"], next(iter(plain.train_dataloader()))["image"])
    assert digits.on_after_batch_transfer(batch, 0)["image"].min() == -1


def test_usage_and_sizes(digits):
    usage, sizes = digits.usage(), digits.sizes
    assert sizes == {"image_channels": 1, "image_size": 8, "max_length": 64,
                     "vocabulary_size": len(digits.encoder)}  # fmt: skip
    assert len(Encoder.from_json(usage["tokenizer"])) == sizes["vocabulary_size"] == 5 + 3 + 10
    assert usage["image"]["channels"] == 1 and usage["template"] == "a photo of a {}"
    assert usage["class_names"][3] == "three"


def test_rows_keep_their_text_and_rows_without_are_left_out(tmp_path, capsys):
    texts = [f"t{n}" for n in range(12)]
    texts[2], texts[5] = "", None
    data = ImageText(folder(tmp_path, texts), 3, "text", test_split=0.25, tokenizer=BPE(300))
    data.setup()
    assert "split 'train': " in capsys.readouterr().out
    assert len(data.train_set) + len(data.test_set) == 10
    seen = []
    for batch in (data.train_set[list(range(len(data.train_set)))],
                  *data.val_dataloader()):  # fmt: skip
        assert "label" not in batch and torch.equal(batch["mask"], batch["ids"] != PAD)
        for image, ids in zip(batch["image"], batch["ids"].tolist(), strict=True):
            assert data.encoder.decode(ids) == f"t{int(image[0, 0, 0])}"
            seen.append(int(image[0, 0, 0]))
    assert sorted(seen) == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
    assert "template" not in data.usage()


def test_one_of_several_texts_is_drawn_in_each_epoch(tmp_path):
    texts = [[f"a{n}", f"b{n}", f"c{n}"] for n in range(6)]
    data = ImageText(folder(tmp_path, texts), 3, "text")
    data.setup()
    loader, kinds = data.train_dataloader(), set()
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)
        told = {}
        for batch in loader:
            for image, ids in zip(batch["image"], batch["ids"].tolist(), strict=True):
                told[int(image[0, 0, 0])] = data.encoder.decode(ids)
        expected = {n: f"{'abc'[hash_seed(0, epoch, n) % 3]}{n}" for n in range(6)}
        assert told == expected
        kinds.add(tuple(told[n] for n in range(6)))
    assert len(kinds) > 4
    (first, _) = list(data.val_dataloader())
    assert [data.encoder.decode(ids) for ids in first["ids"].tolist()] == ["a0", "a1", "a2"]


def test_texts_are_padded_alike_in_all_processes_and_cut(tmp_path):
    data = ImageText(folder(tmp_path, ["a", "a b c d e f g", "b", "c d"]), 2, "text", length=5)
    data.setup()
    assert data.train_set[[0, 1]]["ids"].shape == (2, 5)
    assert data.train_set[[1]]["ids"][0, -1] == EOS
    order = data.train_dataloader().sampler
    order.processes, order.batch_size = 2, 1
    lengths = set()
    for rank in (0, 1):
        order.rank = rank
        lengths.add(tuple(data.train_set[share]["ids"].shape[1] for share in order))
    assert len(lengths) == 1


def test_what_cannot_be_is_refused(tmp_path):
    for options, told in (
        ({"template": "a photo"}, "has no {} for the name"),
        ({"label_column": None}, "both null"),
        ({"length": 2}, "length must be at least 3, got 2"),
        ({"text_column": "text"}, "path 'digits' has no column 'text'"),
    ):
        with pytest.raises(ValueError, match=told):
            ImageText(**options).setup()
    path = folder(tmp_path, [None, " "])
    with pytest.raises(ValueError, match="no picture has a text"):
        ImageText(path, 1, "text").setup()
    with pytest.raises(ValueError, match="has no column 'photo'"):
        ImageText(path, 1, "text", image_column="photo").setup()


def test_a_recipe_sets_what_images_take():
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageText, "data")
    tokenizer = {"class_path": "dlreview.data.tokenizer.BPE", "init_args": {"vocabulary_size": 300}}
    given = {"class_path": "dlreview.data.pairs.ImageText",
             "init_args": {"channels": 3, "image_size": 6, "tokenizer": tokenizer}}  # fmt: skip
    data = parser.instantiate_classes(parser.parse_object({"data": given})).data
    assert data.image_size == 6 and data.channels == 3 and data.tokenizer.vocabulary_size == 300
    assert isinstance(ImageText().tokenizer, Words)
