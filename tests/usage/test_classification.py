"""`sample RUN PICTURE --show`: what a classifier looks at, as a picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import sample, saved
from dlreview.nn.convolution import BottleneckCNN
from dlreview.nn.pooling import Mean
from dlreview.nn.vit import ViT
from dlreview.plots.attention import attention
from dlreview.plots.cam import cam
from dlreview.plots.patch_pca import patches
from tests.parity import scramble

USAGE = {
    "task": "classification",
    "image": {"channels": 3, "height": 8, "width": 8, "range": [-1.0, 1.0]},
    "class_names": ["ant", "bee", "cat"],
}
VIT = {"image_size": 8, "patch_size": 2, "width": 12, "depth": 2, "heads": 2, "num_classes": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures and three networks."""
    root = tmp_path_factory.mktemp("classification")
    nets = {"class_token": ViT(**VIT), "mean": ViT(**VIT, pooling=Mean()), "cnn": BottleneckCNN()}
    for name, net in nets.items():
        saved.save({"net": scramble(net).float()}, root / name, "card", USAGE)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for name, one in zip("ab", pixels, strict=True):
        Image.fromarray(one).save(root / f"{name}.png")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return root, images


@pytest.fixture
def call(folder, tmp_path, monkeypatch, capsys):
    root, images = folder
    monkeypatch.chdir(tmp_path)

    def call(name, *flags):
        """Return the exit status, what is printed and what is told."""
        status = sample.main([str(root / name), f"{root}/a.png", f"{root}/b.png", *flags])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call, saved.load, root, images


@pytest.mark.parametrize(
    ("name", "flags", "draw"),
    [
        ("class_token", ("attention",), attention),
        ("class_token", ("patches",), patches),
        ("class_token", ("cam", "--layer", "encoder.blocks.0"),
         lambda net, x: cam(net, x, layer="encoder.blocks.0")),
        ("mean", ("cam",), cam),
    ],
)  # fmt: skip
def test_each_picture(name, flags, draw, call, tmp_path):
    run, load, root, images = call
    status, out, err = run(name, "--show", *flags, "--out", "out")
    assert status == 0 and not err
    lines = out.splitlines()
    assert lines[1].startswith("a.png  ") and lines[-1] == f"picture: out/{flags[0]}.png"
    with Image.open(tmp_path / "out" / f"{flags[0]}.png") as picture:
        shown = torch.from_numpy(np.asarray(picture).copy())
    expected = draw(load(root / name), images)
    assert (shown.int() - expected.int()).abs().max() <= 1


def test_without_show_there_is_no_folder(call, tmp_path):
    run, *_ = call
    assert run("mean")[0] == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mean", "--show", "cams"), "valid: attention, cam, patches"),
        (("cnn", "--show", "attention"), "no attention maps\nvalid: cam, patches"),
        (("class_token", "--show", "cam"), "valid: --layer NAME, or --show attention"),
        (("mean", "--show", "cam", "--layer", "nrm"), "did you mean 'norm'?"),
        (("mean", "--layer", "norm"), "--layer: got 'norm'\nvalid: with --show cam"),
    ],
)
def test_mistakes(words, expected, call, tmp_path):
    run, *_ = call
    status, out, err = run(*words)
    assert status == 2 and expected in err and len(err.splitlines()) <= 3
    assert "a.png" not in out and not list(tmp_path.iterdir())
