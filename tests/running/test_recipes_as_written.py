"""Every recipe takes two steps as it is written: widths, precision, clipping and callbacks.

Only the batch and the trainer's limits are smaller. Sets that are not embedded are stand-ins with
the same columns.
"""

import datasets
import numpy as np
import pytest

from dlreview.fit import main
from tests.running.forks import checkpoint
from tests.running.recipes import PATHS, TREES, WITHOUT_DOWNLOAD, batch_size_flag

IMAGES = {
    "zalando-datasets/fashion_mnist": ("image", (28, 28)),
    "uoft-cs/cifar10": ("img", (32, 32, 3)),
    "ILSVRC/imagenet-1k": ("image", (224, 224, 3)),
}
WORDS = ["the", "dog", "and", "cat", "work", "in", "houses", "near", "rivers", "every", "day"]


def pictures(column, shape):
    """Return ten classes of random pictures."""
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (40, *shape), dtype=np.uint8)
    features = datasets.Features({
        column: datasets.Image(), "label": datasets.ClassLabel(names=[str(n) for n in range(10)])
    })  # fmt: skip
    rows = {column: list(values), "label": [n % 10 for n in range(40)]}
    return datasets.Dataset.from_dict(rows, features)


def sentences():
    """Return sentences with a tag for each word, of which "work" has two."""
    random = np.random.default_rng(0)
    rows = [random.choice(WORDS, 12).tolist() for _ in range(300)]
    tags = [
        ["VERB" if w == "work" and n % 3 else "NOUN" for w in row] for n, row in enumerate(rows)
    ]
    lines = {"text": rows, "tags": tags, "genre": [["news"]] * len(rows)}
    return datasets.Dataset.from_dict({k: [" ".join(r) for r in v] for k, v in lines.items()})


def pairs():
    """Return texts in three languages."""
    rows = [" ".join(row) for row in np.random.default_rng(0).choice(WORDS, (300, 6))]
    return datasets.Dataset.from_dict({"en": rows, "de": rows, "es": rows})


def captioned():
    """Return random pictures with a text and a category each."""
    classes = pictures("image", (32, 32, 3))
    texts = [f"A {WORDS[n % len(WORDS)]}." for n in range(len(classes))]
    return classes.rename_column("label", "category").add_column("text", texts)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Return a folder of data sets as `DLREVIEW_DATA` names it."""
    folder = tmp_path_factory.mktemp("data")
    made = {path: pictures(*shape) for path, shape in IMAGES.items()}
    made |= {path: sentences() for path in ("brown", "afmck/text8")}
    made |= {path: pairs() for path in ("libreoffice_en_de", "bible_en_es")}
    made |= {"stamps": captioned()}
    for path, rows in made.items():
        (folder / path).mkdir(parents=True)
        for split in ("train", "validation" if "imagenet" in path else "test"):
            rows.to_parquet(folder / path / f"{split}-00000-of-00001.parquet")
    return folder


def limits(name):
    """Return the flags of two steps; U-Nets draw no samples, which takes hundreds more."""
    samples = "unet" in name or name == "quickstart"
    batch = "2" if samples or "resnet50" in name else "8"
    validations = "0" if samples else "1"
    if "tokens_per_batch" in batch_size_flag(name):
        batch = "512"
    return ["--wandb", "off", batch_size_flag(name), batch, "--trainer.max_steps", "2",
            "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", validations,
            "--trainer.check_val_every_n_epoch", "1"]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_recipe_takes_two_steps_as_it_is_written(name, stand_ins, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DLREVIEW_DATA", str(stand_ins))
    status = main([str(PATHS[name]), "--out", str(tmp_path / "run"), *limits(name)])
    assert status == 0, capfd.readouterr().err
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    path = TREES[name]["data"]["init_args"]["path"]
    assert path in WITHOUT_DOWNLOAD or (stand_ins / path).is_dir()
