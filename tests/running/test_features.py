"""`sample RUN --features`: Parquet files that any classifier can read."""

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dlreview import export, sample, saved
from dlreview.data.images import Images
from dlreview.metrics.nearest_neighbours import accuracy
from dlreview.nn.vit import ViT
from tests.parity import scramble

DATA = {
    "class_path": "dlreview.data.images.Images",
    "init_args": {
        "batch_size": 100,
        "test_split": 0.05,
        "augment": [{"class_path": "kornia.augmentation.RandomErasing", "init_args": {"p": 1.0}}],
    },
}
RECIPE = {"seed_everything": 3, "data": DATA}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of ours, the same as timm's folder, and a recipe."""
    root = tmp_path_factory.mktemp("features")
    net = scramble(ViT(8, 2, 12, 2, 3, 10, image_channels=1)).float()
    usage = {"task": "classification", "class_names": list("0123456789"), "recipe": RECIPE}
    saved.save({"net": net}, root / "ours", "card", usage)
    saved.save({"net": net}, root / "mute", "card", {})
    saved.save({"net": ViT(8, 4, 6, 1, 1, 10)}, root / "colours", "card", usage)
    assert export.main([str(root / "ours"), str(root / "timm"), "--format", "timm"]) == 0
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (root / "model.yaml").write_text("seed_everything: 0")
    return root


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(name, *flags):
        status = sample.main([str(folder / name), "--features", *flags])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def columns(file):
    rows = datasets.Dataset.from_parquet(str(file))
    return rows, torch.tensor(rows["feature"][:]), torch.tensor(rows["label"][:])


def test_the_features_of_both_splits(folder, run, monkeypatch, tmp_path):
    status, out, err = run("ours")
    assert status == 0, err
    rows, train, labels = columns("features/0/train.parquet")
    assert rows.features["label"].names == list("0123456789")
    _, test, answers = columns("features/0/test.parquet")
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    data = Images("digits", test_split=0.05)
    data.setup()
    assert torch.equal(labels, data.train_columns()[1]), "the run's own split, in order"
    net = saved.load(folder / "ours")
    with torch.no_grad():
        expected = net.features(data.train_columns()[0])
    torch.testing.assert_close(train, expected)  # without augmentation
    assert len(test) == len(data.test_set) == len(answers)
    share = accuracy(train, labels, test, answers)
    assert f"nearest neighbours: {share:.4f} of the test rows are right (k = 20, T = 0.07)" in out
    with Image.open(tmp_path / "features" / "0" / "neighbours.png") as sheet:
        assert np.asarray(sheet).std() > 10
    loaded = datasets.load_dataset(str(tmp_path / "features" / "0"))
    assert {split: len(part) for split, part in loaded.items()} == {
        "train": len(train), "test": len(test)}  # fmt: skip


def test_the_weights_of_another_library(folder, run):
    assert run("ours", "--out", "ours")[0] == 0
    status, out, err = run("timm", "--data", str(folder / "recipe.yaml"), "--out", "timm")
    assert status == 0 and out.startswith(f"network: {folder}/timm"), err
    torch.testing.assert_close(columns("ours/test.parquet")[1], columns("timm/test.parquet")[1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mute",), "--data: this network does not say with which data it was trained"),
        (("ours", "--data", "{}/model.yaml"), "model.yaml has no section data"),
        (("ours", "--data", "{}/recipes.yaml"), "did you mean recipe.yaml?"),
        (("ours", "picture.png"), "too many words"),
        (("ours", "--network", "teacher"), "--network: 'teacher' is unknown"),
        (("colours",), "--data: image_channels of its images is 1, of the network 3"),
        (("nowhere",), "nowhere: there is no such folder"),
        (("ours", "--out", "."), "is not empty"),
    ],
)
def test_mistakes(words, expected, folder, run, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = run(*(word.format(folder) for word in words))
    assert status == 2 and expected in err and len(err.splitlines()) <= 3
    assert not (tmp_path / "features").exists()


def test_a_class_that_no_recipe_may_name(folder, run):
    (folder / "evil.yaml").write_text("data: {class_path: os.path.join}")
    status, _, err = run("ours", "--data", str(folder / "evil.yaml"))
    assert status == 2 and "data" in err and len(err.splitlines()) <= 3
