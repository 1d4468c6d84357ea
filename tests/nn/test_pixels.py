"""How images enter a network and how predictions leave it."""

import pytest
import torch

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.pixels import Pixels
from tests.parity import scramble


def test_by_default_nothing_changes():
    image, t = torch.rand(2, 3, 4, 5), torch.tensor([3, 4])
    assert Pixels().enter(image) is image
    assert Pixels().leave(image, t) is image
    assert Pixels().out_channels is None


def test_centering_maps_0_to_1_to_minus_1_to_1():
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    assert Pixels(center=True).enter(image).flatten().tolist() == [-1.0, -0.5, 0.0, 1.0]


@pytest.mark.parametrize("t", [[2.0, 0.5], [4.0]])
def test_a_prediction_is_divided_by_the_noise_level_of_its_image(t):
    prediction = torch.ones(2, 3, 4, 5)
    left = Pixels(divide_by_time=True).leave(prediction, torch.tensor(t))
    assert left.shape == prediction.shape
    assert [image.unique().item() for image in left] == [1 / s for s in t] * (2 // len(t))


def test_a_network_uses_them():
    sizes = {"widths": [8, 12], "attention": [False, False], "blocks_per_level": 1, "groups": 4}
    plain = scramble(DiffusionUNet(3, **sizes, pixels=Pixels(2)))
    net = DiffusionUNet(3, **sizes, pixels=Pixels(2, center=True, divide_by_time=True))
    net.double().load_state_dict(plain.state_dict())
    x, t = torch.rand(2, 3, 4, 6, dtype=torch.float64), torch.tensor([2, 5])
    expected = plain(2 * x - 1, t) / t.view(2, 1, 1, 1)
    assert expected.shape == (2, 2, 4, 6)
    torch.testing.assert_close(net.eval()(x, t), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("channels", [0, -1])
def test_wrong_arguments_are_named(channels):
    with pytest.raises(ValueError, match=f"out_channels must be at least 1, got {channels}"):
        Pixels(out_channels=channels)
