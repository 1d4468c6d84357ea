import subprocess
import sys
from functools import partial

import pytest
import torch
from timm.layers import LayerNorm, RmsNorm
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from dlreview import saved
from dlreview.nn.norm import RMSNorm
from dlreview.nn.swin import Swin
from dlreview.nn.windows import RelativePositions, Windows, resize_table
from dlreview.reference import Pretrained, formats, from_reference, to_reference
from dlreview.reference.folders import write_timm
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

SIZES = {
    "img_size": (24, 20),
    "patch_size": 2,
    "in_chans": 2,
    "num_classes": 5,
    "embed_dim": 12,
    "depths": (2, 3),
    "num_heads": (2, 3),
    "window_size": (4, 3),
    "mlp_ratio": 1.5,
}
CHANGES = [
    {},
    {"img_size": (25, 20), "patch_size": (3, 2)},  # the last row is no patch
    {"window_size": 7, "img_size": 26, "num_classes": 0},  # the second stage has one window
    {"window_size": 7, "img_size": (16, 26), "always_partition": True},
    {"window_size": [[4, 3], [2, 5]], "mlp_ratio": (1.5, 2), "head_dim": (5, 3)},
    {"head_dim": 4, "qkv_bias": False, "global_pool": "max", "strict_img_size": False},
    {"depths": (1, 2, 1), "num_heads": (1, 2, 3), "window_size": [3, 4, 2]},
    {"norm_layer": partial(LayerNorm, eps=1e-3), "global_pool": "avgmax"},
    {"norm_layer": RmsNorm, "global_pool": "", "num_classes": 0},
    {"norm_layer": partial(nn.LayerNorm, bias=False), "global_pool": ""},
    {"drop_rate": 0.1, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4},
]


def images(*size: int, channels: int = 2) -> torch.Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(5)).double()


def timm_net(**change) -> SwinTransformer:
    return scramble(SwinTransformer(**SIZES | change))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_matches_timm(change):
    theirs = timm_net(**change)
    ours, x = assert_round_trip(theirs, "timm"), images(*theirs.patch_embed.img_size)
    steps = 1 if change else 20
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=steps)
    torch.testing.assert_close(ours.feature_map(x), theirs.forward_features(x), **TOLERANCE)
    with torch.no_grad():  # by the fused kernel
        torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
    expected = theirs.forward_intermediates(x, norm=True, intermediates_only=True)
    maps = [y.permute(0, 3, 1, 2) for y in ours.feature_maps(x)]
    torch.testing.assert_close(maps, expected, **TOLERANCE)


@pytest.mark.parametrize("size", [(8, 6), (24, 28), (26, 22), (14, 34)])
def test_reads_other_sizes_as_timm(size):
    theirs, x = timm_net(dynamic_img_size=True), images(*size)
    ours = from_reference(theirs)
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=1)
    torch.testing.assert_close(to_reference(ours, "timm")(x), theirs(x), **TOLERANCE)


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple")  # timm's
@pytest.mark.parametrize("change", [{}, {"window_size": 7}], ids=str)
@pytest.mark.parametrize(
    ("size", "windows"),
    [((48, 20), None), ((16, 12), None), ((24, 20), (5, 6)), ((40, 28), [[3, 6], [5, 2]])],
)
def test_resizes_windows_as_timm(size, windows, change):
    theirs, x = timm_net(**change), images(*size)
    ours = from_reference(theirs)
    theirs.set_input_size(size, window_size=windows)
    resized = ours.resized(list(size), windows and [*windows])
    # Both interpolate in float32, in another order of sums.
    close = {"atol": 1e-6, "rtol": 1e-6}
    again = from_reference(theirs)  # with their tables
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(resized.state_dict()[name], tensor, **close)
    assert again.grids() == resized.grids() and list(again.places()) == list(resized.places())
    torch.testing.assert_close(resized(x), theirs(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(again(x), theirs(x), **TOLERANCE)
    assert_round_trip(theirs, "timm")


def test_keeps_the_rates_of_timm():
    rates = {"drop_rate": 0.1, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4}
    ours = from_reference(timm_net(**rates))
    block = ours.stages[1][-1]
    assert (ours.head_dropout, block.dropout, block.feed_forward.dropout) == (0.1, 0.2, 0.2)
    assert block.attention.dropout == 0.3 and block.drop_path == pytest.approx(0.4)
    back = to_reference(ours, "timm")
    rates = [getattr(b.drop_path1, "drop_prob", 0) for layer in back.layers for b in layer.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert back.layers[0].blocks[0].attn.attn_drop.p == 0.3 and back.head.drop.p == 0.1


@pytest.mark.parametrize("mistake", ["eps", "shift", "mask", "order", "merging", "table"])
def test_one_mistake_is_caught(mistake):
    theirs = timm_net()
    ours, x = from_reference(theirs), images(24, 20)
    block = ours.stages[0][1]
    if mistake == "eps":
        block.attention_norm.eps = 1e-6
    elif mistake == "shift":
        block.windows = Windows((4, 3), (1, 1))
    elif mistake == "mask":
        block.mask = torch.zeros_like(block.mask)
    elif mistake == "order":
        block.attention.W_q, block.attention.W_k = block.attention.W_k, block.attention.W_q
    elif mistake == "merging":
        weight = ours.stages[1].merging.W.weight
        weight.data = weight.data.unflatten(1, (2, 2, 12)).transpose(1, 2).flatten(1)
    else:
        block.positions.index = block.positions.index.mT
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=0)


def test_windows_are_cut_and_joined():
    x = torch.arange(2 * 5 * 7.0).view(2, 5, 7, 1)
    for windows in (Windows((2, 3)), Windows((2, 3), (1, 1)), Windows((5, 7))):
        pieces = windows.split(x)
        assert pieces.shape[1] == windows.size[0] * windows.size[1]
        assert torch.equal(windows.join(pieces, 5, 7), x)
    first = Windows((2, 3), (1, 1)).split(x)[0, :, 0]
    assert first.tolist() == [8, 9, 10, 15, 16, 17]


def test_a_shifted_window_joins_only_neighbours():
    # Positions of a row of 6 after a shift by 1: 1 2 | 3 4 | 5 0, where 5 and 0 are no neighbours.
    mask = Windows((1, 2), (0, 1)).mask(1, 6)
    assert (mask == 0).tolist() == [
        [[True] * 2] * 2,
        [[True] * 2] * 2,
        [[True, False], [False, True]],
    ]
    assert Windows((4, 4), (2, 2)).fit((3, 9)) == Windows((3, 4), (0, 2))


def test_equal_offsets_share_a_bias():
    positions = RelativePositions([2, 3], 4)
    bias = positions()
    assert bias.shape == (4, 6, 6) and positions.table.shape == (15, 4)
    torch.testing.assert_close(bias[:, 0, 1], bias[:, 4, 5])  # one to the right
    assert (bias[:, 0, 1] != bias[:, 1, 0]).all()
    table = torch.randn(15, 4)
    assert resize_table(table, (2, 3), (2, 3)) is table
    assert torch.equal(resize_table(torch.ones(15, 4), (2, 3), (7, 1)), torch.ones(13, 4))


def test_shifts_let_distant_tokens_meet():
    torch.manual_seed(0)
    for depth, reaches in ((1, False), (2, True)):
        net = Swin(8, 1, 6, [depth], [2], 4, image_channels=2)
        x = torch.randn(1, 2, 8, 8, requires_grad=True)
        net.feature_map(x)[0, 0, 3, 0].backward()
        assert bool((x.grad[0, :, :, 4:] != 0).any()) is reaches


def test_the_common_call():
    net = Swin(32, 4, 12, [2, 2], [2, 3], window_size=4, num_classes=10)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    for height, width in ((33, 30), (5, 50), (64, 16)):  # padded to whole patches and windows
        assert net(torch.randn(2, 3, height, width)).shape == (2, 10)
    assert net.features(torch.randn(2, 3, 32, 32)).shape == (2, 24)
    shapes = [tuple(x.shape) for x in net.feature_maps(torch.randn(2, 3, 20, 36))]
    assert shapes == [(2, 5, 9, 12), (2, 3, 5, 24)]
    assert formats(net) == ["timm"]
    assert formats(Swin(33, 4, 12, [1], [2], 4)) == []


def test_drops_whole_branches_of_images_in_training_only():
    torch.manual_seed(0)
    net = Swin(8, 2, 6, [2], [2], 2, drop_path=0.9)
    x = torch.randn(16, 3, 8, 8)
    alone, both = net.embedding(x), net.feature_map(x)
    last = net.output_norm(net.stages[0][0].eval()(alone.unflatten(1, (4, 4))))
    same = (both - last).abs().amax((1, 2, 3)) < 1e-6
    assert 4 <= same.sum() < 16
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 5}, "width 5 must be divisible by heads 2"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depths": [2, 0]}, "depths must be at least 1, got 0"),
        ({"depths": []}, "depths must have at least 1 stage"),
        ({"heads": [2]}, "heads must have one number for each of 2 stages"),
        ({"window_size": 0}, "window_size must be one or two positive numbers, got 0"),
        ({"window_size": [1, 2, 3]}, "window_size must be one window or one for each of 2 stages"),
        ({"hidden_ratio": [2.0]}, "hidden_ratio must have one number for each of 2 stages"),
        ({"drop_path": [0.1]}, "drop_path must have one rate for each of 4 blocks"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"activation": "gulu"}, "activation 'gulu' is unknown; did you mean 'gelu'?"),
    ],
)
def test_refuses(change, message):
    sizes = {"image_size": 16, "patch_size": 4, "width": 6, "depths": [2, 2], "heads": [2, 3]}
    with pytest.raises(ValueError, match=message):
        Swin(**sizes | change)


@pytest.mark.parametrize(
    "change", [{"global_pool": "catavgmax"}, {"norm_layer": partial(nn.GroupNorm, 2)}]
)
def test_names_what_it_does_not_support(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        from_reference(SwinTransformer(**SIZES | change))


def test_leaves_for_timm_and_comes_back(tmp_path):
    net = scramble(Swin(16, 2, 12, [2, 1], [2, 3], [[4, 2], [3, 3]], num_classes=5)).float()
    write_timm(net, {"task": "classification"}, tmp_path)
    back = Pretrained(str(tmp_path)).eval()
    x = images(16, 16, channels=3).float()
    torch.testing.assert_close(back(x), net(x))
    assert back.window_size == net.window_size and back.depths == net.depths
    other = Swin(16, 2, 12, [1], [2], 4, norm=RMSNorm(12))
    with pytest.raises(ValueError, match="LayerNorm"):
        write_timm(other, {}, tmp_path)


def test_saves_and_loads(tmp_path):
    net = Swin(16, 2, 12, [2, 1], [2, 3], 4, drop_path=[0.0, 0.1, 0.1]).eval()
    saved.save({"net": net}, tmp_path / "model", "card")
    back, x = saved.load(str(tmp_path / "model")).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(back(x), net(x))  # masks and indices are not saved
    assert not [name for name in net.state_dict() if "mask" in name or "index" in name]


def test_compiles_without_graph_breaks():
    code = """
import torch
from dlreview.nn.swin import Swin
net = Swin(16, 2, 12, [2, 1], [2, 3], 4, num_classes=5)
fast = torch.compile(net, fullgraph=True, backend="eager")
x = torch.randn(2, 3, 16, 16)
torch.testing.assert_close(fast(x), net(x))
with torch.no_grad():
    torch.testing.assert_close(fast(x), net(x))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
