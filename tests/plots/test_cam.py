"""Row 43: the identity of class activation maps, and Grad-CAM where there are none."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlreview.data.digits import digits
from dlreview.nn.pooling import ClassToken, EveryToken, Mean
from dlreview.nn.resnet import ResNet
from dlreview.nn.stem import SmallImageStem
from dlreview.nn.swin import Swin
from dlreview.nn.vit import ViT
from dlreview.plots.cam import NoMeanBeforeHead, cam, class_activation, explain, grad_cam
from tests.parity import scramble
from tests.plots.small_cnn import Hidden, SmallCNN, images

CLASSES = torch.tensor([3, 0, 2])


@pytest.fixture(scope="module")
def net():
    return scramble(SmallCNN())


def every_place():
    sizes = {"image_size": [7, 9], "patch_size": 1, "width": 4, "depths": [1], "heads": [2]}
    return scramble(Swin(**sizes, num_classes=4, image_channels=1, pooling=EveryToken()))


def vit(pooling, **change):
    sizes = {"image_size": 8, "patch_size": 2, "width": 12, "depth": 3, "heads": 2}
    kept = {"num_classes": 5, "image_channels": 1, "registers": 1, "pooling": pooling}
    return scramble(ViT(**sizes | kept | change))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_mean_of_the_map_is_the_logit_without_its_bias(stride):
    net, x = scramble(SmallCNN(stride=stride)), images()
    maps = class_activation(net, x, CLASSES)
    assert maps.shape[1:] == net.feature_map(x).shape[2:]
    wanted = net(x).gather(1, CLASSES[:, None])[:, 0] - net.head.bias[CLASSES]
    torch.testing.assert_close(maps.mean(dim=(1, 2)), wanted)
    likeliest = class_activation(net, x, net(x).argmax(dim=1))
    assert torch.equal(class_activation(net, x), likeliest)


def test_a_transformer_that_averages_its_patches_has_such_maps():
    net, x = vit(Mean()), images(height=6, width=8)
    maps = class_activation(net, x, CLASSES)
    assert maps.shape == (3, 3, 4)
    wanted = net(x).gather(1, CLASSES[:, None])[:, 0] - net.head.bias[CLASSES]
    torch.testing.assert_close(maps.mean(dim=(1, 2)), wanted)


@pytest.mark.parametrize("layer", [None, "second"])
def test_grad_cam_is_the_positive_part_of_cam_over_the_places(net, layer):
    if layer == "second":  # before the last rectifier
        net = scramble(SmallCNN())
        net.feature_map = lambda x: net.second(net.norm(net.first(x)).relu())
    x = images()
    found = grad_cam(net, x, CLASSES, layer)
    torch.testing.assert_close(found, class_activation(net, x, CLASSES).relu() / (7 * 9))
    assert found.max() > 0


def test_grad_cam_for_another_end():
    net, x = scramble(SmallCNN(pooling="max")), images()
    with pytest.raises(NoMeanBeforeHead, match="no mean before its linear head; use Grad-CAM"):
        class_activation(net, x)
    assert torch.equal(explain(net, x, CLASSES), grad_cam(net, x, CLASSES))
    # Only the largest value of a feature has a gradient, 1, so a_k is its weight over the places.
    features = net.feature_map(x)
    wanted = torch.einsum("bkyx,bk->byx", features, net.head.weight[CLASSES]).relu() / 63
    torch.testing.assert_close(grad_cam(net, x, CLASSES), wanted.detach())


def test_grad_cam_of_a_class_token_needs_an_earlier_layer():
    net, x = vit(ClassToken()), images(height=8, width=8)
    assert explain(net, x, layer="encoder.blocks.1").shape == (3, 4, 4)
    with pytest.raises(ValueError, match=r"no feature_map\(images\); name a layer"):
        explain(net, x)
    with pytest.raises(ValueError, match="no effect on the logits; name an earlier layer"):
        late = vit(ClassToken(), registers=0)
        late.pooling.reads = None  # the last block then computes all tokens
        explain(late, x, layer="encoder.blocks.2")


def test_looking_changes_nothing_and_works_in_every_mode(net):
    x = images()
    expected = grad_cam(net, x)
    net.train()
    before = net.norm.running_mean.clone()
    assert torch.equal(grad_cam(net, x), expected)
    class_activation(net, x)
    assert net.training and net.norm.training and torch.equal(net.norm.running_mean, before)
    assert all(p.grad is None for p in net.parameters()) and "feature_map" not in vars(net)
    net.eval().requires_grad_(False)
    with torch.inference_mode():
        assert torch.equal(grad_cam(net, images()), expected), "as Lightning validates"
    net.requires_grad_(True)


@pytest.mark.parametrize("layer", ["stages.1.0.branch", "stages.1.0.branch.0.norm"])
def test_a_layer_whose_output_is_changed_in_place(layer):
    net, x = scramble(ResNet([4, 6], [1, 1], 5, 1, stem=SmallImageStem(4))), images()
    kept = []

    def keep(module, inputs, output):
        kept.append(output)
        return output.clone()

    hook = dict(net.named_modules())[layer].register_forward_hook(keep)
    logits = net(x).gather(1, CLASSES[:, None]).sum()
    hook.remove()
    (slopes,) = torch.autograd.grad(logits, kept[0])
    wanted = (slopes.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()
    torch.testing.assert_close(grad_cam(net, x, CLASSES, layer), wanted)


def test_a_head_of_zeros_gives_maps_of_zeros():
    net = scramble(SmallCNN(pooling="max"))
    nn.init.zeros_(net.head.weight)
    assert not grad_cam(net, images()).any()


def test_the_sheet_has_a_row_for_each_image(net):
    x = images(height=10, width=9)
    sheet = cam(net, x, torch.tensor([[0, 1], [2, 3], [1, 0]]))
    assert sheet.shape == (3 * (4 * 10 + 2), 3 * (4 * 9 + 2), 3) and sheet.dtype == torch.uint8
    assert not torch.equal(sheet[..., 0], sheet[..., 2]), "maps are coloured"
    assert cam(net, x).shape[1] == 2 * (4 * 9 + 2)


def test_refuses(net):
    x = images()
    faulty = x.clone()
    faulty[1, 0, 2, 3] = torch.nan
    for call, message in {
        lambda: class_activation(net, faulty): "row 1: a pixel is infinite or not a number",
        lambda: grad_cam(net, faulty): "row 1: a pixel",
        lambda: explain(net, x, CLASSES + 1): r"class must be in 0\.\.3, got 4",
        lambda: explain(net, x, CLASSES[:2]): "classes must be 3 numbers, got 2",
        lambda: grad_cam(net, x, layer="secund"): "'secund' is unknown; did you mean 'second'",
        lambda: grad_cam(net, x, layer="head"): "SmallCNN: head gives no map but shape",
        lambda: grad_cam(vit(ClassToken()), images(height=8, width=8), layer="encoder"): (
            "ViT: encoder gives no map: tokens must be 18 for each image, got 1"
        ),
        lambda: grad_cam(every_place(), x): "feature_map needs one vector of logits per image",
        lambda: grad_cam(Hidden().double(), x): "feature_map is not called for the logits",
        lambda: class_activation(nn.Linear(9, 2).double(), x): "Linear has no linear head",
        lambda: explain(nn.Linear(9, 2).double(), x): "Linear has no feature_map",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def on_a_canvas(split, generator):
    """Return digits at random places of 24 x 24 pixels with noise, their labels and squares."""
    pictures, labels = digits(split)
    images = 0.1 * torch.rand(len(pictures), 1, 24, 24, generator=generator) - 1
    squares = torch.zeros(len(pictures), 24, 24, dtype=torch.bool)
    places = torch.randint(1, 16, (len(pictures), 2), generator=generator).tolist()
    for number, (picture, (row, column)) in enumerate(zip(pictures, places, strict=True)):
        pixels = torch.tensor(list(picture.tobytes())).view(8, 8) / 127.5 - 1
        images[number, 0, row : row + 8, column : column + 8] = pixels
        squares[number, row : row + 8, column : column + 8] = True
    return images, torch.tensor(labels), squares


class DeepCNN(SmallCNN):
    def __init__(self, width=32):
        super().__init__(width=width, classes=10)
        widths = [(1, 1), (width, 2), (width, 1), (width, 1)]
        self.layers = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(old, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU())
            for old, stride in widths
        ))  # fmt: skip

    def feature_map(self, images):
        return self.layers(images)


@pytest.mark.slow
def test_the_peak_lies_on_the_object():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = DeepCNN()
    optimizer = torch.optim.AdamW(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=6 * 22)
    for _ in range(6):
        images, labels, _ = on_a_canvas("train", generator)
        for rows in torch.randperm(len(images), generator=generator)[: 22 * 64].split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            rate.step()
    images, labels, squares = on_a_canvas("test", generator)
    net.eval()
    assert (net(images).argmax(dim=1) == labels).float().mean() > 0.9
    for look in (class_activation, grad_cam):
        maps = F.interpolate(look(net, images)[:, None], size=(24, 24), mode="bilinear")
        peaks = maps.flatten(1).argmax(dim=1, keepdim=True)
        assert squares.flatten(1).gather(1, peaks).float().mean() >= 0.95


def test_maps_of_a_network_whose_features_come_last():
    net = Swin(8, 1, 8, [1, 1], [2, 4], 2, num_classes=3, image_channels=1).eval()
    images = torch.randn(2, 1, 8, 8)
    maps = class_activation(net, images)
    assert maps.shape == (2, 4, 4)
    logits = net(images)
    expected = logits.amax(1) - net.head.bias[logits.argmax(1)]
    torch.testing.assert_close(maps.mean((1, 2)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grad_cam(net, images), maps.relu() / 16, atol=1e-4, rtol=1e-4)
