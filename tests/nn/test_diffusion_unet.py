import copy
import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.utils import logging

from dlreview import saved
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.hourglass import DownUp, ResidualResample, Strided
from dlreview.nn.middle import AttentionMiddle, NoMiddle, PlainMiddle
from dlreview.nn.pixels import Pixels
from dlreview.nn.pyramid import Pyramid
from dlreview.nn.resnet_block import BlockOptions
from dlreview.nn.time_embedding import (
    ClassLabel,
    FourierTime,
    LearnedTime,
    SinusoidalTime,
    TimeLabel,
    VectorLabel,
)
from dlreview.reference import formats, from_reference, to_reference
from dlreview.reference.diffusion_unet import configure
from tests.parity import assert_parity, assert_round_trip, scramble

logging.set_verbosity_error()

PLAIN = {
    "in_channels": 2,
    "out_channels": 3,
    "block_out_channels": (6, 9),
    "norm_num_groups": 3,
    "attention_head_dim": 3,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
ADM = {
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UNetResUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "block_out_channels": (6, 9, 12),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
NCSNPP = {
    "in_channels": 3,
    "block_out_channels": (32, 32),
    "norm_num_groups": None,
    "time_embedding_type": "fourier",
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "mid_block_scale_factor": 2**0.5,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deeper": {"layers_per_block": 2, "dropout": 0.1, "act_fn": "swish"},
    "ddpm": {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6},
    "classes": {"num_class_embeds": 5, "time_embedding_dim": 10},
    "vector": {"class_embed_type": "identity", "time_embedding_type": "learned"}
    | {"num_train_timesteps": 9, "act_fn": "mish"},
    "time label": {"class_embed_type": "timestep", "time_embedding_type": "fourier"},
    "center": {"center_input_sample": True, "act_fn": "gelu", "mid_block_scale_factor": 1.5},
    "a head width that does not divide": {"attention_head_dim": 4, "attn_norm_num_groups": 9},
    "adm": ADM,
    "consistency model": ADM | {"attn_norm_num_groups": 3, "downsample_padding": 1}
    | {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")}
    | {"up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")},
    "adm, other groups in the middle": ADM | {"attn_norm_num_groups": 4, "act_fn": "ReLU"},
    "attention on the way up only": {"down_block_types": ("DownBlock2D", "DownBlock2D")},
    "residual up only": {"upsample_type": "resnet", "downsample_padding": 0},
    "no middle": {"mid_block_type": None, "downsample_type": None},
    "plain middle": {"add_attention": False, "block_out_channels": (9, 6)},
    "one level": {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    | {"block_out_channels": (12,)},
    "ncsn++": NCSNPP,
    "pyramid down": NCSNPP | {"norm_num_groups": 8, "time_embedding_type": "positional"}
    | {"up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
    "pyramid up": NCSNPP | {"norm_num_groups": 8, "num_class_embeds": 4}
    | {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
}  # fmt: skip

SMALL: dict[str, Any] = {
    "image_channels": 1,
    "widths": [8, 12, 16],
    "attention": [False, False, True],
    "label": ClassLabel(5),
    "blocks_per_level": 1,
    "groups": 4,
}


def inputs(config: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Make x, t and, if the network takes one, a label."""
    side = 2 ** len(config["block_out_channels"])
    x = torch.randn(3, config["in_channels"], side, 2 * side, dtype=torch.float64)
    t = torch.tensor([8, 1, 3])
    if config.get("num_class_embeds"):
        return x, t, torch.tensor([0, 3, 2])
    if config.get("class_embed_type") == "identity":
        width = 4 * config["block_out_channels"][0]
        return x, t, torch.randn(3, width, dtype=torch.float64)
    return (x, t, torch.tensor([5, 1, 2])) if config.get("class_embed_type") else (x, t)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_diffusers(name: str):
    config = PLAIN | CONFIGS[name]
    theirs = scramble(UNet2DModel(**config))
    ours = assert_round_trip(theirs, "diffusers")
    assert formats(ours) == ["diffusers"]
    args = inputs(config)
    steps = 20 if name in ("classes", "adm", "ncsn++") else 2
    assert_parity(ours, theirs, lambda net: net(*args), lambda net: net(*args).sample, steps=steps)


def test_a_time_as_a_label_equals_diffusers():
    config = PLAIN | {"class_embed_type": "timestep"}
    theirs = scramble(UNet2DModel(**config)).float()
    x, t, label = inputs(config)
    ours = from_reference(theirs)(x.float(), t, label)
    # In float64 they do not take a label through float32 waves.
    torch.testing.assert_close(ours, theirs(x.float(), t, label).sample, atol=1e-4, rtol=1e-4)


def test_equals_diffusers_in_training_with_dropout():
    theirs = scramble(UNet2DModel(**PLAIN | CONFIGS["one level"] | {"dropout": 0.5})).train()
    ours = from_reference(theirs)
    assert ours.training
    # Masks are drawn in the order of memory, which is the same for images of one pixel.
    x, predictions = torch.randn(3, 2, 1, 1, dtype=torch.float64), []
    for net in (ours, theirs):
        torch.manual_seed(1)
        predictions.append(net(x, 3))
    torch.testing.assert_close(predictions[0], predictions[1].sample, atol=1e-10, rtol=1e-10)
    assert not torch.allclose(predictions[0], ours.eval()(x, 3))


def break_eps(net: DiffusionUNet) -> None:
    net.waist.blocks[0].norm_1.eps *= 2


def break_activation(net: DiffusionUNet) -> None:
    net.down[0].blocks[0].activation = torch.nn.functional.gelu


def break_scale(net: DiffusionUNet) -> None:
    net.up[0].attentions[0].attention.scale = 1.0


def break_time(net: DiffusionUNet) -> None:
    net.time.shift = 1


@pytest.mark.parametrize("break_it", [break_eps, break_activation, break_scale, break_time])
def test_a_mistake_is_seen(break_it):
    theirs = scramble(UNet2DModel(**PLAIN))
    ours = from_reference(theirs)
    break_it(ours)
    args = inputs(PLAIN)
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, lambda net: net(*args), lambda net: net(*args).sample)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"down_block_types": ("KDownBlock2D", "DownBlock2D")}, "down_block_types.*KDownBlock2D"),
        ({"up_block_types": ("UpBlock2D", "KUpBlock2D")}, "up_block_types.*KUpBlock2D"),
        ({"downsample_type": "pool"}, "downsample_type 'pool'"),
        ({"upsample_type": "pool"}, "upsample_type 'pool'"),
        ({"downsample_padding": 2}, "downsample_padding must be 0 or 1, got 2"),
        ({"class_embed_type": "projection"}, "class_embed_type 'projection'"),
        ({"attention_head_dim": 33}, "head_width 33 is larger than width 32"),
        ({"layers_per_block": 0}, "blocks_per_level must be at least 1, got 0"),
    ],
)
def test_from_reference_names_what_it_does_not_support(change: dict[str, Any], field: str):
    attend = {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
    }
    sizes = {"block_out_channels": (32, 32), "norm_num_groups": 4, "add_attention": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        theirs = UNet2DModel(**PLAIN | sizes | attend | change)
    with pytest.raises(ValueError, match=field):
        from_reference(theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": None}, "groups None"),
        ({"block": BlockOptions(activation="tanh")}, "activation 'tanh'"),
        ({"middle": AttentionMiddle(groups=0)}, "groups 0 goes with scale_shift only"),
        ({"pixels": Pixels(divide_by_time=True)}, "divide_by_time"),
        ({"time": FourierTime(8)}, "divide_by_time"),
        ({"time": SinusoidalTime(6)}, "time must have width 8, got 6"),
        (
            {"attention": [True] * 3, "resample": [Strided(), ResidualResample(), Strided()]},
            "attend must resample alike on the way down",
        ),
        ({"resample": [Strided(0), Strided(1), Strided(1)]}, r"one padding .* got \[0, 1\]"),
        ({"widths": [32, 32, 32], "resample": DownUp(Pyramid(), Strided())}, "3 image_channels"),
        ({"widths": [32, 32, 32], "resample": DownUp(Strided(), Pyramid())}, "3 out_channels"),
    ],
)
def test_options_that_diffusers_does_not_have(change: dict[str, Any], message: str):
    net = DiffusionUNet(**SMALL | change)
    assert formats(net) == []
    with pytest.raises(ValueError, match="'diffusers'"):
        to_reference(net, "diffusers")
    with pytest.raises(ValueError, match=message):
        configure(net)


def test_diffusers_saves_and_loads_it(tmp_path: Path):
    net = scramble(DiffusionUNet(**SMALL, time=LearnedTime(8, 9), image_size=[8, 4])).float()
    to_reference(net, "diffusers").save_pretrained(tmp_path)
    theirs = UNet2DModel.from_pretrained(tmp_path)
    assert theirs.config.sample_size == [8, 4] and not theirs.training
    x, t, label = torch.randn(2, 1, 8, 4), torch.tensor([2, 8]), torch.tensor([1, 4])
    torch.testing.assert_close(theirs(x, t, label).sample, net(x, t, label), atol=1e-4, rtol=1e-4)
    assert from_reference(theirs).image_size == [8, 4]


def test_times_and_labels_may_stand_for_the_batch():
    net = scramble(DiffusionUNet(**SMALL))
    x, label = torch.randn(2, 1, 8, 4, dtype=torch.float64), torch.tensor([1, 4])
    expected = net(x, torch.tensor([3, 3]), label)
    for t in (3, 3.0, torch.tensor(3), torch.tensor([3]), torch.tensor(3.0)):
        torch.testing.assert_close(net(x, t, label), expected)
    torch.testing.assert_close(net(x, 3, label[:1])[:1], expected[:1])
    assert not torch.allclose(net(x, torch.tensor([3, 4]), label)[1], expected[1])
    assert not torch.allclose(net(x, 3, label.flip(0)), expected)


def test_a_new_network_predicts_zero_and_learns():
    net = DiffusionUNet(**SMALL)
    x, t, label = torch.randn(4, 1, 8, 8), torch.arange(4), torch.arange(4)
    assert not net(x, t, label).any()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = (net(x, t, label) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("down", [Strided(), ResidualResample(), Pyramid()])
def test_bfloat16(down: Any):
    sizes = SMALL | {"widths": [32, 32], "attention": [False, True], "groups": 8}
    net = scramble(DiffusionUNet(**sizes, resample=DownUp(down, Strided())), spread=0.1).float()
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 4])
    exact = net(x, 500, label)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, 500, label)
    half = copy.deepcopy(net).bfloat16()(x.bfloat16(), 500, label)
    assert mixed.dtype == half.dtype == torch.bfloat16
    for rough in (mixed, half):
        assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_layouts_of_memory_do_not_matter():
    net = scramble(DiffusionUNet(**SMALL | {"label": None}))
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    prediction = net(x, 3)
    assert prediction.is_contiguous()
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in net.stem.parameters()
        if p.ndim == 4
    )
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), 3), prediction)
    torch.testing.assert_close(net(x.mT, 3), net(x.mT.contiguous(), 3))


def test_compiles_without_a_break():
    """In a process of its own: shape checks on hints are no part of what is compiled."""
    script = """
        import torch
        from dlreview.nn.diffusion_unet import DiffusionUNet
        from dlreview.nn.hourglass import ResidualResample, Strided
        from dlreview.nn.middle import PlainMiddle
        from dlreview.nn.pyramid import Pyramid
        from dlreview.nn.time_embedding import ClassLabel

        torch._dynamo.config.recompile_limit = 3  # fewer than the values of t
        parts = [Pyramid(), ResidualResample(), Strided()]
        sizes = dict(widths=[8, 8, 8], attention=[False, False, True], groups=4, blocks_per_level=1)
        net = DiffusionUNet(3, **sizes, label=ClassLabel(5), resample=parts, middle=PlainMiddle())
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1)
        fast = torch.compile(net, backend="eager", fullgraph=True)
        x, label = torch.randn(2, 3, 8, 8), torch.tensor([1, 4])
        for t in (7, 6, 5, 4, torch.tensor([3, 4])):
            torch.testing.assert_close(fast(x, t, label), net(x, t, label))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, timeout=300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_channels": 0}, "image_channels must be at least 1, got 0"),
        ({"widths": []}, "widths must have at least 1 level"),
        ({"widths": [8, 0, 16]}, r"widths\[1\] must be at least 1, got 0"),
        ({"widths": [8, 10, 16]}, "width 10 must be divisible by groups 4"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"attention": [True]}, "attention must have 3 levels as widths, got 1"),
        ({"attention": [True, [True], False]}, r"bool or \[down, up\], got \[True\]"),
        ({"resample": [Strided()]}, "resample must have 3 levels as widths, got 1"),
        ({"resample": [Strided(), Pyramid(), Strided()]}, "pyramid below .* on the way down"),
        (
            {"resample": [Strided(), DownUp(Strided(), Pyramid()), Strided()]},
            "pyramid below a level without one, on the way up",
        ),
        ({"blocks_per_level": 0}, "blocks_per_level must be at least 1, got 0"),
        ({"block": BlockOptions(head_width=32)}, "head_width 32 is larger than width 16"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"middle": AttentionMiddle(groups=3)}, "width 16 must be divisible by groups 3"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"image_size": [8, 0]}, "image_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DiffusionUNet(**SMALL | change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockOptions(activation="softsign"), "activation .*softsign"),
        (lambda: BlockOptions(eps=-1.0), "eps must be at least 0, got -1.0"),
        (lambda: BlockOptions(head_width=0), "head_width must be at least 1, got 0"),
        (lambda: BlockOptions(embedding_width=-4), "embedding_width must be at least 1, got -4"),
    ],
)
def test_wrong_options_of_blocks_are_named(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_inputs_are_named():
    net, x = DiffusionUNet(**SMALL), torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match="label is missing"):
        net(x, 3)
    with pytest.raises(ValueError, match=r"sides \(8, 6\) must be divisible by 4"):
        net(x[..., :6], 3, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="takes no label"):
        DiffusionUNet(**SMALL | {"label": None})(x, 3, torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("label", "num_classes", "null_class", "rows"),
    [
        (ClassLabel(5), 5, None, 5),
        (ClassLabel(5, null_class=True), 5, 5, 6),
        (TimeLabel(), None, None, None),
        (VectorLabel(), None, None, None),
        (None, None, None, None),
    ],
)
def test_a_network_knows_its_classes(label: Any, num_classes: Any, null_class: Any, rows: Any):
    net = DiffusionUNet(**SMALL | {"label": label})
    assert (net.num_classes, net.null_class) == (num_classes, null_class)
    table = net.state_dict().get("embedding.label.weight")
    assert (None if table is None else len(table)) == rows
    assert configure(net)["num_class_embeds"] == rows
    with pytest.raises(AttributeError):
        net.num_classes = 3


PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "ddpm": {"block": BlockOptions(eps=1e-6), "resample": Strided(0), "label": None},
    "adm": {"resample": ResidualResample(), "attention": [False, [True, False], True]}
    | {"block": BlockOptions("relu", 1e-6, True, 4, 10), "middle": AttentionMiddle(1.5, 0)},
    "levels": {"resample": [Pyramid(), ResidualResample(), DownUp(Strided(0), Strided())]}
    | {"widths": [32, 8, 8], "pixels": Pixels(2, True, True), "time": FourierTime(8)},
    "labels": {"label": TimeLabel(), "middle": PlainMiddle(2.0), "time": LearnedTime(8, 9)},
    "no middle": {"label": ClassLabel(5, True), "middle": NoMiddle(), "image_size": [8, 4]},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_configuration_builds_an_equal_network(name: str):
    net = scramble(DiffusionUNet(**SMALL | PARTS[name]))
    config = json.loads(json.dumps(saved.config_of(net)))
    again = saved.build(config).double().eval()
    assert saved.config_of(again) == config
    assert list(again.state_dict()) == list(net.state_dict())
    again.load_state_dict(net.state_dict())
    label = torch.tensor([1, 4]) if net.label is not None else None
    x, t = torch.randn(2, 1, 8, 4, dtype=torch.float64), torch.tensor([2, 8])
    assert torch.equal(again(x, t, label), net(x, t, label))
