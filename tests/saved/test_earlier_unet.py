"""Networks that were saved before the U-Net's parts were modules are built as they were."""

import hashlib

import pytest
import torch

from dlreview import saved
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.saved.earlier_unet import EARLIER, earlier_diffusion_unet
from tests.parity import scramble

SIZES = {
    "image_channels": 3,
    "widths": [32, 64, 32],
    "attention": [False, True, False],
    "blocks_per_level": 1,
    "groups": 8,
}


def time(name, **arguments):
    return {"class_path": f"dlreview.nn.time_embedding.{name}", "init_args": arguments}


# Earlier arguments, and the number and the hash of the keys and shapes of the network's state, as
# the earlier class had them.
VARIANTS = {
    "default": ({"middle": "attention"}, 184, "6fd8a8fd2b34eef1"),
    "classes": ({"num_classes": 11}, 185, "eaf0089362dc496b"),
    "ddpm": (
        {"downsample_padding": 0, "eps": 1e-6, "dropout": 0.1, "image_size": 32}
        | {"time": time("SinusoidalTime", width=32, cosine_first=False, shift=1)},
        184,
        "6fd8a8fd2b34eef1",
    ),
    "adm": (
        {"downsample": "residual", "upsample": "residual", "scale_shift": True, "head_width": 16}
        | {"activation": "gelu", "middle_groups": 0, "num_classes": 5, "out_channels": 6},
        215,
        "2b6782b9c23f6abb",
    ),
    "ncsn++": (
        {"downsample": "pyramid", "upsample": "pyramid", "groups": None, "divide_by_time": True}
        | {"time": time("FourierTime", width=64), "middle_scale": 2**0.5, "eps": 1e-6},
        227,
        "eb5ab728331edcd2",
    ),
    "levels": (
        {"downsample": ["pyramid", "residual", "conv"], "upsample": ["pyramid", "conv", "residual"]}
        | {"up_attention": [True, True, False], "center": True},
        222,
        "7b86446636285230",
    ),
    "time label": (
        {"label_kind": "time", "time_width": 40, "middle": "plain", "image_size": [16, 8]},
        178,
        "53dfcd638ac4c4c4",
    ),
    "vector": (
        {"label_kind": "vector", "middle": "none", "upsample": "residual"}
        | {"time": time("LearnedTime", width=32, steps=9)},
        171,
        "8d00c3c5a0717c3a",
    ),
}  # fmt: skip


def build(arguments):
    path = "dlreview.nn.diffusion_unet.DiffusionUNet"
    return saved.build({"class_path": path, "init_args": earlier_diffusion_unet(arguments)})


@pytest.mark.parametrize("spelled_out", [False, True])  # `config.json` holds the defaults, too
@pytest.mark.parametrize("name", VARIANTS)
def test_an_earlier_network_has_the_same_state(name, spelled_out):
    changes, count, expected = VARIANTS[name]
    defaults = EARLIER | {"middle": "attention", "time": None, "dropout": 0.0, "image_size": None}
    earlier = (defaults if spelled_out else {}) | SIZES | changes
    before = dict(earlier)
    net = build(earlier)
    assert earlier == before
    lines = [f"{key} {list(tensor.shape)}" for key, tensor in net.state_dict().items()]
    assert len(lines) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == expected


def test_options_without_parameters_are_translated():
    net = build(SIZES | VARIANTS["ddpm"][0])
    block = net.down[0].blocks[0]
    assert block.norm_1.eps == net.waist.blocks[0].norm_1.eps == 1e-6
    assert block.dropout.p == net.dropout == 0.1
    assert net.down[0].resample.padding == 0
    assert (net.time.cosine_first, net.time.shift, net.image_size) == (False, 1, 32)
    net = build(SIZES | VARIANTS["ncsn++"][0])
    assert net.waist.blocks[0].output_scale == net.waist.attention.output_scale == 2**0.5
    assert net.pixels.divide_by_time and not net.pixels.center
    net = build(SIZES | VARIANTS["levels"][0])
    assert net.attention == [[False, True], True, False]
    assert net.pixels.center and not net.pixels.divide_by_time


def test_an_earlier_null_class_stays_a_class():
    net = build(SIZES | {"num_classes": 11})
    assert (net.num_classes, net.null_class) == (11, None)
    assert build(SIZES | {"num_classes": None}).num_classes is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_present_configuration_stays_as_it_is(name):
    config = saved.config_of(build(SIZES | VARIANTS[name][0]))
    assert earlier_diffusion_unet(config["init_args"]) is config["init_args"]


def test_sizes_alone_mean_the_same_network_in_both_forms():
    assert earlier_diffusion_unet(SIZES) is SIZES
    net, earlier = scramble(DiffusionUNet(**SIZES)), build(SIZES | {"eps": 1e-5}).double().eval()
    earlier.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 8, 4, dtype=torch.float64)
    assert torch.equal(net(x, 3), earlier(x, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample": "convv"}, "downsample 'convv' is unknown; did you mean 'conv'?"),
        ({"upsample": ["conv", "pool", "conv"]}, "upsample 'pool' is unknown"),
        ({"downsample": ["conv"], "upsample": ["conv"] * 3}, "must have as many levels"),
        ({"up_attention": [True]}, r"up_attention \[True\] must have as many levels"),
        ({"middle": "big"}, "middle 'big' is unknown"),
        ({"label_kind": "word"}, "label_kind 'word' is unknown"),
    ],
)
def test_wrong_earlier_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        earlier_diffusion_unet(SIZES | change)
