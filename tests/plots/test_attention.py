import pytest
import torch

from dlreview.nn.patch_embedding import PatchEmbedding
from dlreview.nn.vit import ViT
from dlreview.plots.attention import attention, patch_attention, rollout


def vit(**change) -> ViT:
    torch.manual_seed(0)
    sizes = {"image_size": [12, 8], "patch_size": 4, "width": 24, "depth": 2, "heads": 3}
    return ViT(**sizes | change).eval()


def test_rollout_is_the_identity_if_tokens_attend_to_themselves():
    identity = torch.eye(5).expand(3, 2, 4, -1, -1)
    torch.testing.assert_close(rollout(identity), torch.eye(5).expand(2, -1, -1))


def test_rollout_follows_two_steps():
    """Token 0 attends to 1 in the last layer, 1 to 2 in the first: a quarter comes from 2."""
    first, last = torch.eye(3), torch.eye(3)
    first[1], last[0] = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 1, 0])
    joint = rollout(torch.stack([first, last])[:, None, None])
    torch.testing.assert_close(joint[0, 0], torch.tensor([0.5, 0.25, 0.25]))
    torch.testing.assert_close(joint.sum(-1), torch.ones(1, 3))


@pytest.mark.parametrize("class_token", [True, False])
def test_patch_attention_has_the_grid_of_the_patches(class_token):
    net = vit(class_token=class_token, registers=2)
    weights = torch.zeros(1, net.prefix + 6, net.prefix + 6)
    weights[:, :, net.prefix + 3] = 1  # row 1, column 1 of 3 x 2 patches
    expected = torch.tensor([[0.0, 0], [0, 1], [0, 0]])
    torch.testing.assert_close(patch_attention(weights, net, 3)[0], expected)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, (12, 8)),
        ({"class_token": False, "registers": 1}, (16, 20)),
        ({"image_channels": 1, "embedding": PatchEmbedding(4, 24, 1, remainder="crop")}, (13, 9)),
        ({"embedding": PatchEmbedding(4, 24, 3, remainder="pad")}, (13, 9)),
    ],
)
def test_a_row_for_each_image(change, size):
    net = vit(**change)
    x = torch.randn(2, net.image_channels, *size)
    picture = attention(net, x)
    scale = max(1, 40 // size[0])
    panel = [scale * side + 2 for side in size]
    assert picture.shape == (2 * panel[0], 5 * panel[1], 3) and picture.dtype == torch.uint8
    # The first panel is the image in grey, its largest pixel white; maps are coloured.
    first = picture[:, : panel[1]]
    assert torch.equal(first[..., 0], first[..., 2]) and first.max() == 255
    assert not torch.equal(picture[..., 0], picture[..., 2])
    assert torch.equal(attention(net, 5 * x + 3), attention(net, 5 * x + 3))


def test_refuses():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        attention(vit(image_channels=2), torch.randn(1, 2, 12, 8))
    with pytest.raises(ValueError, match=r"layer must be in -2\.\.1, got 2"):
        attention(vit(), torch.randn(1, 3, 12, 8), layer=2)
