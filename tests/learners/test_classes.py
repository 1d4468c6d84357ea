"""Labels outside a network's classes are told before training."""

import datasets
import pytest
import yaml
from PIL import Image

from dlreview import fit
from dlreview.data.images import Images
from dlreview.learners.classifier import Classifier
from dlreview.learners.ddpm import DDPM
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.time_embedding import ClassLabel
from dlreview.nn.vit import ViT

UNET = {"image_channels": 1, "widths": [4, 8], "attention": [False, False], "groups": 2}


@pytest.fixture(scope="module")
def digits():
    data = Images(batch_size=500)
    data.setup()
    return data


@pytest.mark.parametrize("classes", [9, 10, 12])
@pytest.mark.parametrize("kind", ["ddpm", "classifier"])
def test_more_classes_than_the_network_has(digits, kind, classes):
    if kind == "ddpm":
        learner = DDPM(DiffusionUNet(**UNET, label=ClassLabel(classes)))
    else:
        learner = Classifier(ViT(8, 4, 12, 1, 3, classes, image_channels=1))
    if classes >= 10:
        return learner.accept(digits, None)
    with pytest.raises(ValueError, match="the data has 10 classes, the network 9\nset num_classes"):
        learner.accept(digits, None)


def test_a_network_without_classes_accepts_all_data(digits):
    DDPM(DiffusionUNet(**UNET)).accept(digits, None)


def refused(tmp_path, capsys, data):
    label = {"class_path": "dlreview.nn.time_embedding.ClassLabel", "init_args": {"num_classes": 3}}
    net = {"class_path": "dlreview.nn.diffusion_unet.DiffusionUNet"}
    net["init_args"] = {k: v for k, v in UNET.items() if k != "image_channels"} | {"label": label}
    recipe = {
        "model": {"class_path": "dlreview.learners.ddpm.DDPM", "init_args": {"net": net}},
        "data": {"class_path": "dlreview.data.images.Images"},
    }
    recipe["data"]["init_args"] = {"path": str(tmp_path / "set"), "batch_size": 2} | data
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    assert fit.main([str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    return "\n".join(lines)


def test_recipes_are_refused_before_there_is_a_run(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    for split, labels in {"train": [0, 1, 2] * 2, "test": [0, 7]}.items():
        columns = {"image": [Image.new("L", (8, 8))] * len(labels), "label": labels}
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "set" / f"{split}.parquet")
    told = refused(tmp_path, capsys, {})
    assert "split 'test', column 'label', row 1: label 7 is no class of the training split" in told
    told = refused(tmp_path, capsys, {"label_column": None})
    assert "data.label_column: DDPM reads image, label from a batch, Images gives image" in told
