"""Rows 40 and 41: patch PCA against scikit-learn, and on features with a known mask."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from dlreview.nn.vit import ViT
from dlreview.plots.patch_pca import colour_patches, patch_pca, patches, principal_components
from tests.parity import scramble
from tests.plots.small_cnn import SmallCNN, images


def features_and_mask(batch=3, width=11, rows=8, columns=9):
    """Objects of different places, sizes and parts before a background, with noise."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, rows, columns, dtype=torch.bool)
    upper = mask.clone()
    for row in range(batch):
        mask[row, 2 : 5 + row, 3 : 6 + row] = True
        upper[row, 2:4, 3 : 6 + row] = True
    background, thing, part = torch.randn(3, width, generator=generator, dtype=torch.float64)
    found = background + mask[..., None] * 2 * thing + upper[..., None] * part
    noise = torch.randn(batch, rows, columns, width, generator=generator, dtype=torch.float64)
    return (found + 0.2 * noise).permute(0, 3, 1, 2), mask, upper


def iou(one, other):
    return ((one & other).sum() / (one | other).sum()).item()


@pytest.mark.parametrize("shape", [(40, 7), (5, 12)])
def test_components_are_scikit_learns_up_to_sign(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = torch.from_numpy(PCA(3).fit_transform(x.numpy()))
    ours = principal_components(x, 3)
    signs = (ours * theirs).sum(dim=0).sign()
    torch.testing.assert_close(ours, theirs * signs, atol=1e-10, rtol=1e-10)


def test_components_that_do_not_exist_are_zero():
    x = torch.outer(torch.arange(4.0), torch.tensor([1.0, -2]))
    found = principal_components(x, 3)
    assert found[:, 0].std() > 1 and not found[:, 1:].any()
    assert not principal_components(x[:1], 3).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_component_finds_the_mask(sign):
    features, mask, upper = features_and_mask()
    found = colour_patches(sign * features)
    assert iou(found.foreground, mask) > 0.95, "whatever the sign of the features"
    colours = found.colours.permute(0, 2, 3, 1)
    assert not colours[~found.foreground].any(), "the background is black"
    inside = colours[found.foreground]
    assert inside.amin() == 0 and inside.amax() == 1
    # Equal parts of different objects have equal colours.
    tops, bottoms = (colours[part & found.foreground] for part in (upper, mask & ~upper))
    assert (tops.mean(0) - bottoms.mean(0)).norm() > 4 * max(tops[:, 0].std(), bottoms[:, 0].std())


def test_the_components_are_common_to_all_images():
    features, *_ = features_and_mask()
    together = colour_patches(features)
    alone = colour_patches(features[:1])
    assert not torch.allclose(together.first[:1], alone.first)
    centred = together.first.mean()
    torch.testing.assert_close(centred, torch.zeros_like(centred), atol=1e-10, rtol=0)
    assert colour_patches(features, threshold=1e9).foreground.sum() == 0


@pytest.mark.parametrize("net", [ViT(8, 2, 12, 2, 3, image_channels=1, registers=2), SmallCNN()])
def test_a_transformer_and_a_cnn(net):
    net, x = scramble(net), images(height=8, width=6)
    found = patch_pca(net, x)
    places = (4, 3) if isinstance(net, ViT) else (8, 6)
    assert found.colours.shape == (3, 3, *places) and 0 < found.foreground.sum() < 3 * places[0] * 8
    if isinstance(net, ViT):
        own = net.tokens(x)[:, 3:].unflatten(1, places).permute(0, 3, 1, 2)
        assert torch.equal(found.first, colour_patches(own).first)
    sheet = patches(net, x)
    scale = 40 // 8
    assert sheet.shape == (3 * (scale * 8 + 2), 2 * (scale * 6 + 2), 3)


def test_refuses():
    with pytest.raises(ValueError, match="Linear has neither feature_map"):
        patch_pca(nn.Linear(9, 2).double(), images())
    with pytest.raises(ValueError, match="row 0: a pixel"):
        patch_pca(SmallCNN().double(), images() * torch.inf)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        patches(SmallCNN(2).double(), images(channels=2))
