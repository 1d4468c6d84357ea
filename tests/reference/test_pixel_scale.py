"""A pretrained network gives the results of its source, whose pixels had another mean and scale."""

import json

import pytest
import timm
import torch
from transformers import CLIPVisionConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor

from dlreview import export, saved
from dlreview.data.images import Images
from dlreview.limits import without_memory
from dlreview.nn.patch_embedding import PatchEmbedding
from dlreview.nn.resnet import ResNet
from dlreview.nn.stem import SmallImageStem
from dlreview.nn.vit import ViT
from dlreview.reference import Pretrained
from dlreview.reference.pixel_scale import PixelScale, keep_pixel_scale, read_pixel_scale
from dlreview.usage import classification
from tests.parity import scramble

MEAN, STD = [0.48, 0.36, 0.41], [0.23, 0.31, 0.27]
SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pixels():
    """Images in [0, 1]."""
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def normalised(x, mean=MEAN, std=STD):
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))
    return (x - mean) / std


def assert_close(one, two):
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


def write_timm(folder, **change):
    theirs = scramble(timm.create_model("vit_tiny_patch16_224", num_classes=5, **SIZES))
    folder.mkdir()
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": SIZES}
    settings = {"mean": MEAN, "std": STD, "num_classes": 5, "input_size": [3, 8, 8]} | change
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": settings}))
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    return theirs.eval()


def test_timm(tmp_path):
    theirs = write_timm(tmp_path / "timm")
    net = Pretrained(str(tmp_path / "timm"))
    x = pixels()
    # timm's loader and `copy` keep float64; the numbers of ours are folded in float64.
    assert_close(net.eval()(2 * x - 1), theirs(normalised(x)))
    with pytest.raises(AssertionError):
        assert_close(net(normalised(x)), theirs(normalised(x)))
    with without_memory():
        assert saved.config_of(Pretrained(str(tmp_path / "timm"))) == saved.config_of(net)


@pytest.mark.parametrize(
    ("settings", "prepare"),
    [
        ({}, normalised),
        ({"do_normalize": False}, lambda x: x),
        ({"do_rescale": False}, lambda x: normalised(255 * x)),
        ({"rescale_factor": 1 / 100}, lambda x: normalised(255 * x / 100)),
    ],
)
def test_transformers(tmp_path, settings, prepare):
    config = ViTConfig(
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        image_size=8,
        patch_size=4,
        num_labels=5,
        attn_implementation="sdpa",
    )
    theirs = scramble(ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    options = {"image_mean": MEAN, "image_std": STD} | settings
    ViTImageProcessor(size={"height": 8, "width": 8}, **options).save_pretrained(tmp_path)
    x = pixels()
    net = Pretrained(str(tmp_path)).eval()
    assert_close(net(2 * x - 1), theirs.eval()(prepare(x)).logits)


def test_sample_and_export_of_what_began_elsewhere(tmp_path):
    theirs = write_timm(tmp_path / "timm")
    net = Pretrained(str(tmp_path / "timm"))
    image = {"channels": 3, "height": 8, "width": 8, "range": [-1.0, 1.0]}
    usage = {"task": "classification", "image": image}
    saved.save({"net": net.float()}, tmp_path / "run", "card", usage)
    picture = classification.Image.effect_mandelbrot((8, 8), (-2, -1, 1, 1), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    x = classification.read_picture(str(tmp_path / "a.png"), usage)
    wanted = theirs(normalised((x.double() + 1) / 2))
    loaded = saved.load(tmp_path / "run")
    torch.testing.assert_close(loaded(x).double(), wanted, atol=1e-3, rtol=1e-3)  # float32
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out"), "--format", "timm"]) == 0
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    cfg = again.pretrained_cfg
    seen = normalised((x.double() + 1) / 2, list(cfg["mean"]), list(cfg["std"]))
    torch.testing.assert_close(again.double()(seen), wanted, atol=1e-3, rtol=1e-3)
    torch.set_default_dtype(torch.float32)
    third = Pretrained(str(tmp_path / "out")).state_dict()
    assert all(torch.equal(tensor, third[name]) for name, tensor in loaded.state_dict().items())


def test_patches_without_a_bias_and_a_scale_for_all_channels():
    patches = PatchEmbedding(4, 12, bias=False)
    net = scramble(ViT(8, 4, 12, 1, 3, 5, embedding=patches)).eval()
    x = pixels()
    wanted = net(normalised(x, [0.4] * 3, [0.2] * 3))
    keep_pixel_scale(net, PixelScale([0.4], [0.2]))
    assert_close(net(2 * x - 1), wanted)


def test_dlreview_of_other_pixels(tmp_path):
    net = ViT(8, 4, 12, 1, 3, 5).eval()
    x = pixels()
    saved.save({"net": net}, tmp_path, "card", {"image": {"range": [0, 255]}})
    assert_close(Pretrained(str(tmp_path)).eval()(2 * x - 1), net(255 * x))
    data = Images(batch_size=500)
    data.setup()
    saved.save({"net": net}, tmp_path, "card", data.usage())
    assert torch.equal(Pretrained(str(tmp_path)).embedding.E.weight, net.embedding.E.weight)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": [0.5, 0.4]}, r"timm: pixels have mean \[0.5, 0.4\] and std"),
        ({"std": [0.2, 0.0, 0.1]}, r"timm: pixels have mean .* and std \[0.2, 0.0, 0.1\]"),
        ({"mean": ["x"] * 3}, r"timm: pixels have mean \['x'"),
        ({"mean": [0.4] * 2, "std": [0.2] * 2}, "image_channels 3 must be the 2 of the mean"),
    ],
)
def test_a_scale_that_is_none_is_refused(tmp_path, change, told):
    write_timm(tmp_path / "timm", **change)
    with pytest.raises(ValueError, match=told):
        Pretrained(str(tmp_path / "timm"))


def write_small(folder, name, sizes):
    """Write a network of timm's registry as timm does; return it and what was written."""
    theirs = scramble(timm.create_model(name, num_classes=5, **sizes)).eval()
    folder.mkdir()
    settings = {"mean": MEAN, "std": STD, "num_classes": 5, "input_size": [3, 8, 8]}
    config = {"architecture": name, "num_classes": 5, "model_args": sizes}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": settings}))
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    return theirs


RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}
SWIN = {"img_size": 8, "patch_size": 2, "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2],
        "window_size": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("resnet18", RESNET), ("resnet50_gn", RESNET | {"channels": [32, 32, 32, 32]}),
     ("swin_tiny_patch4_window7_224", SWIN)],
)  # fmt: skip
def test_resnet_and_swin_keep_their_pixels_and_go_back(name, sizes, tmp_path):
    theirs, x = write_small(tmp_path / "timm", name, sizes), pixels()
    net = Pretrained(str(tmp_path / "timm")).eval()
    assert_close(net(2 * x - 1), theirs(normalised(x)))
    usage = {"task": "classification", "class_names": list("abcde")}
    usage["image"] = {"channels": 3, "height": 8, "width": 8, "range": [-1.0, 1.0]}
    saved.save({"net": net}, tmp_path / "ours", "card", usage)
    assert_close(saved.load(tmp_path / "ours").eval()(2 * x - 1), theirs(normalised(x)))
    assert export.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--format", "timm"]) == 0
    back = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval().double()
    z = normalised(x, back.pretrained_cfg["mean"], back.pretrained_cfg["std"])
    # timm reads the folder in float32.
    torch.testing.assert_close(back(z), theirs(normalised(x)), atol=1e-5, rtol=1e-4)


def test_a_mean_is_moved_by_the_next_one():
    net = scramble(ResNet([4, 6], [1, 1], 5, stem=SmallImageStem(4), pixel_mean=[0.1, -0.2, 0.3]))
    x = pixels()
    expected = net.eval()(normalised(x))
    keep_pixel_scale(net, PixelScale(MEAN, STD))
    assert_close(net(2 * x - 1), expected)
    with pytest.raises(ValueError, match="pixel_mean must be 3 numbers, one for each of image_ch"):
        ResNet([4, 6], [1, 1], 5, pixel_mean=[0.5])


def test_what_cannot_be_changed_is_refused():
    scale = PixelScale([0.4], [0.2])
    padded = ViT(10, 4, 12, 1, 3, 5, embedding=PatchEmbedding(4, 12, remainder="pad"))
    with pytest.raises(ValueError, match="the first layer of ViT cannot be changed"):
        keep_pixel_scale(padded, scale)
    bare = ViT(8, 4, 12, 1, 3, 5, mask_token=True, embedding=PatchEmbedding(4, 12, bias=False))
    with pytest.raises(ValueError, match="needs bias True"):
        keep_pixel_scale(bare, scale)


def test_files_that_do_not_say(tmp_path):
    assert read_pixel_scale("timm", {"architecture": "x"}, tmp_path) is None
    assert read_pixel_scale("transformers", CLIPVisionConfig().to_dict(), tmp_path) is None
    assert read_pixel_scale("diffusers", {}, tmp_path) is None
