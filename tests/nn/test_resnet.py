import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
import torchvision
import transformers
from timm.layers import BlurPool2d, GroupNorm, LayerNorm2d, SEModule
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dlreview.nn import residual
from dlreview.nn.conv_layer import BatchNormOptions, GroupNormOptions
from dlreview.nn.resnet import ResNet as Ours
from dlreview.nn.stem import DeepStem, SmallImageStem
from dlreview.reference import formats, from_reference, to_reference
from dlreview.reference.folders import write_timm
from dlreview.reference.resnet import REGISTERED, build_ours, fits, registered, table
from dlreview.reference.weights import to_ours
from dlreview.saved import build, config_of
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

SIZES = {"layers": (1, 2, 1, 1), "channels": (4, 6, 8, 10), "in_chans": 2, "num_classes": 5}
BASIC = SIZES | {"block": BasicBlock}
DEEP = SIZES | {"block": Bottleneck, "stem_type": "deep", "stem_width": 4}
CONFIGS = [
    BASIC,
    SIZES | {"block": Bottleneck},
    DEEP | {"cardinality": 2, "base_width": 48},
    DEEP | {"base_width": 128, "avg_down": True, "num_classes": 0},
    DEEP | {"stem_type": "deep_tiered", "replace_stem_pool": True, "drop_path_rate": 0.3},
    BASIC | {"replace_stem_pool": True, "act_layer": "silu", "global_pool": "max"},
    DEEP | {"output_stride": 16, "down_kernel_size": 3, "global_pool": "avgmax"},
    DEEP | {"output_stride": 8, "avg_down": True, "global_pool": "catavgmax"},
    BASIC | {"output_stride": 8, "norm_layer": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.3)},
    DEEP | {"norm_layer": partial(GroupNorm, num_groups=2), "act_layer": nn.LeakyReLU},
    DEEP | {"block_reduce_first": 2, "down_kernel_size": 3, "block_args": {"attn_layer": "se"}},
    BASIC | {"block_args": {"attn_layer": partial(SEModule, rd_ratio=0.25)}, "drop_rate": 0.1},
    BASIC | {"block_args": {"attn_layer": "eca"}, "aa_layer": nn.AvgPool2d},
    DEEP | {"aa_layer": BlurPool2d, "avg_down": True},
    DEEP | {"block": [BasicBlock, Bottleneck, BasicBlock, Bottleneck], "zero_init_last": False},
]


def images(height=28, width=34, channels=2, count=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, channels, height, width, generator=generator).double()


def call(net):
    return net(images())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_matches_timm(config):
    theirs = scramble(ResNet(**config))
    ours = assert_round_trip(theirs, "timm")
    # timm's average antialiasing needs sides that can be halved
    x = images(64, 96) if config.get("aa_layer") is nn.AvgPool2d else images()
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=2)
    maps = theirs.forward_intermediates(x, intermediates_only=True)[1:]
    for mine, other in zip(ours.feature_maps(x), maps, strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE)
    torch.testing.assert_close(ours.feature_map(x), theirs.forward_features(x), **TOLERANCE)


@pytest.mark.parametrize("config", [DEEP | {"cardinality": 2}, CONFIGS[8], CONFIGS[9]], ids=str)
def test_trains_as_timm(config):
    """Outputs, gradients and, after 20 steps, weights, running statistics, counted batches."""
    theirs = scramble(ResNet(**config)).train()
    ours = assert_round_trip(theirs, "timm")
    assert ours.training
    assert_parity(ours, theirs, call, call)
    call(ours)
    assert all(v != 0 for k, v in ours.state_dict().items() if k.endswith("num_batches_tracked"))
    assert_round_trip(to_reference(ours, "timm"), "timm")


def test_drops_branches_as_timm():
    theirs = scramble(ResNet(**BASIC, drop_path_rate=0.5)).train()
    ours = from_reference(theirs)
    assert [b.drop_path for stage in ours.stages for b in stage] == pytest.approx(
        [0, 0.125, 0.25, 0.375, 0.5]
    )
    with torch.random.fork_rng():
        results = []
        for net in (ours, theirs):
            torch.manual_seed(3)
            results.append(call(net))
    torch.testing.assert_close(*results, **TOLERANCE)


NAMES = [*REGISTERED.values(), "resnet50d", "resnext50_32x4d", "wide_resnet50_2", "seresnet50t"]


@pytest.mark.parametrize("name", NAMES)
def test_reads_and_writes_the_names_of_timms_registry(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
        ours = build_ours(theirs)
    state, expected = ours.state_dict(), to_ours(theirs.state_dict(), table(ours))
    assert sorted(state) == sorted(expected)
    assert all(state[key].shape == expected[key].shape for key in state)
    assert fits(ours) and len(registered(ours)) == 1


def test_an_exported_folder_is_read_by_timm(tmp_path):
    theirs = scramble(ResNet(**DEEP | {"block_args": {"attn_layer": "se"}})).float()
    usage = {"image": {"channels": 2, "height": 28, "width": 34, "range": [-1.0, 1.0]}}
    write_timm(from_reference(theirs), usage, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(again(images().float()), theirs(images().float()))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"norm_layer": LayerNorm2d}, "norm_layer"),
        ({"act_layer": "prelu"}, "act_layer"),
        ({"aa_layer": BlurPool2d, "output_stride": 16}, "aa_layer"),
        ({"drop_block_rate": 0.1}, "drop_block_rate"),
        ({"down_kernel_size": 2}, "down_kernel_size"),
        ({"global_pool": ""}, "global_pool"),
        ({"block_args": {"attn_layer": "cbam"}}, "attn_layer"),
        ({"replace_stem_pool": True, "aa_layer": BlurPool2d}, "replace_stem_pool"),
        ({"block": Bottleneck, "base_width": 48.5, "channels": (64, 64, 64, 640)}, "base_width"),
    ],
    ids=str,
)
def test_names_what_it_does_not_support(change, field):
    with pytest.raises(ValueError, match=field):
        from_reference(ResNet(**BASIC | change))


CHANGES = {
    "conv1": nn.Conv2d(3, 64, 7, 2, bias=False),
    "relu": nn.SiLU(),
    "maxpool": nn.MaxPool2d(2),
    "avgpool": nn.AdaptiveMaxPool2d(1),
    "fc": nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 9)),
    "layer4": nn.Identity(),
}
TIMM_CHANGES = {"act1": nn.SiLU(), "maxpool": nn.MaxPool2d(2), "fc": nn.Linear(512, 9, bias=False)}


@pytest.mark.parametrize("name", CHANGES)
def test_names_what_a_user_changed_in_torchvisions_network(name):
    theirs = torchvision.models.resnet18(num_classes=5)
    setattr(theirs, name, CHANGES[name])
    with pytest.raises(ValueError, match="relu, silu" if name == "relu" else f"{name}=") as told:
        from_reference(theirs)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("name", TIMM_CHANGES)
def test_names_what_a_user_changed_in_timms_network(name):
    theirs = ResNet(**BASIC)
    setattr(theirs, name, TIMM_CHANGES[name])
    with pytest.raises(ValueError, match="relu, silu" if name == "act1" else f"{name}="):
        from_reference(theirs)


def test_reads_a_classifier_and_an_input_that_a_user_replaced():
    theirs = ResNet(**BASIC)
    theirs.fc, theirs.conv1 = nn.Linear(10, 7), nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    ours, x = from_reference(scramble(theirs)), images(channels=3)
    torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


def test_reads_timms_network_as_changed_for_small_images():
    theirs = ResNet(**BASIC)
    theirs.conv1, theirs.maxpool = nn.Conv2d(2, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs, x = scramble(theirs), images(12, 9)
    torch.testing.assert_close(from_reference(theirs)(x), theirs(x), **TOLERANCE)
    assert formats(from_reference(theirs)) == []


@pytest.mark.parametrize("mistake", ["eps", "activation", "stride", "stem", "dilation"])
def test_one_mistake_is_caught(mistake):
    theirs = scramble(ResNet(**DEEP | {"output_stride": 16}))
    ours = from_reference(theirs)
    block = ours.stages[3][0]
    if mistake == "eps":
        block.branch[1].norm.eps = 1e-6
    elif mistake == "activation":
        block.branch[1].f = nn.functional.relu6
        block.branch[0].f = nn.functional.silu
    elif mistake == "stride":  # where the paper has it
        first, second = ours.stages[1][0].branch[:2]
        first.conv.stride, second.conv.stride = second.conv.stride, first.conv.stride
    elif mistake == "stem":
        ours.stem_layers[-1] = nn.AvgPool2d(3, 2, 1)
    else:
        block.branch[1].conv.dilation = block.branch[1].conv.padding = (2, 2)
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, call, call, steps=0)


TORCHVISION = [
    {"block": torchvision.models.resnet.BasicBlock, "num_classes": 5},
    {
        "block": torchvision.models.resnet.Bottleneck,
        "groups": 2,
        "width_per_group": 16,
        "replace_stride_with_dilation": [False, True, True],
        "norm_layer": partial(nn.BatchNorm2d, eps=1e-3),
    },
]


@pytest.mark.parametrize("config", TORCHVISION, ids=str)
def test_matches_torchvision(config):
    theirs = scramble(torchvision.models.ResNet(layers=[1, 1, 1, 1], **config), spread=0.05)
    if config["block"] is torchvision.models.resnet.Bottleneck:
        theirs.fc = nn.Identity()
    ours, x = assert_round_trip(theirs.train(), "torchvision"), images(33, 40, 3)
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=1)


TRANSFORMERS = {"num_channels": 2, "embedding_size": 5, "depths": [1, 2, 1], "num_labels": 7}
TRANSFORMERS_CHANGES = [
    ("ResNetForImageClassification", {"layer_type": "basic", "hidden_sizes": [5, 6, 8]}),
    ("ResNetForImageClassification", {"hidden_sizes": [12, 16, 20], "num_labels": 0}),
    ("ResNetModel", {"hidden_sizes": [12, 16, 20]}),
]


def pooled(net):
    output = net(images())
    if hasattr(output, "logits"):
        return output.logits
    return output.last_hidden_state, output.pooler_output.flatten(1)


@pytest.mark.parametrize(("kind", "change"), TRANSFORMERS_CHANGES, ids=str)
def test_matches_transformers(kind, change):
    config = transformers.ResNetConfig(**TRANSFORMERS | change)
    theirs = scramble(getattr(transformers, kind)(config)).train(kind != "ResNetModel")
    ours = assert_round_trip(theirs, "transformers")

    def own(net):
        return (net.feature_map(images()), net(images())) if kind == "ResNetModel" else call(net)

    assert_parity(ours, theirs, own, pooled, steps=2)


def test_names_what_it_does_not_support_of_transformers():
    fields = {"downsample_in_first_stage": True, "downsample_in_bottleneck": True}
    for field, value in (fields | {"hidden_act": "silu"}).items():
        config = transformers.ResNetConfig(**TRANSFORMERS, hidden_sizes=[8, 8, 8], **{field: value})
        with pytest.raises(ValueError, match=field):
            from_reference(transformers.ResNetModel(config))


def test_our_networks_go_to_each_library_with_a_class_for_them():
    def libraries(**change):
        sizes = {"widths": [64, 128, 256, 512], "depths": [1, 1, 1, 1], "num_classes": 5}
        with torch.device("meta"):
            return formats(Ours(**sizes | change))

    assert libraries() == ["timm", "torchvision", "transformers"]
    assert libraries(widths=[8, 8], depths=[1, 1]) == ["transformers"]
    assert libraries(widths=[8, 8, 8, 8]) == ["timm", "transformers"]
    assert libraries(block=residual.Bottleneck(32, 4)) == ["timm", "torchvision"]
    assert libraries(dilated_stages=3) == ["torchvision"]
    assert libraries(activation="silu") == ["timm"]
    assert libraries(norm=GroupNormOptions(8)) == ["timm", "torchvision"]
    assert libraries(norm=BatchNormOptions(1e-3)) == ["timm", "torchvision"]
    assert libraries(stem=SmallImageStem()) == libraries(stem=DeepStem([8, 9, 10])) == []
    assert libraries(stem=DeepStem()) == ["timm"]
    mixed = [residual.BasicBlock(), residual.Bottleneck(2)] * 2
    assert libraries(block=mixed) == []  # timm's basic blocks have no groups


@pytest.mark.parametrize("block", [None, residual.Bottleneck(2, 32), [residual.Bottleneck()] * 2])
def test_the_common_call_and_the_saved_form(block):
    net = Ours([8, 12], [1, 2], num_classes=5, block=block, stem=SmallImageStem(8))
    x = torch.randn(2, 3, 8, 9)
    assert net(x).shape == (2, 5)
    again = build(config_of(net))
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(x), net.eval()(x))
    widths = [8, 12] if block is None else [32, 48]
    shapes = [tuple(one.shape[1:]) for one in net.feature_maps(x)]
    assert shapes == [(widths[0], 8, 9), (widths[1], 4, 5)]
    assert torch.equal(net.feature_map(x), net.feature_maps(x)[-1])
    torch.testing.assert_close(net.features(x), net.feature_map(x).mean((2, 3)))
    assert Ours([8], [1], block=block if block is None else residual.Bottleneck())(x).ndim == 2


def test_blocks_start_as_their_activation():
    net = Ours([8, 8], [2, 2], stem=SmallImageStem(8)).eval()
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(net.stages[0][1](x), x.relu())
    started = Ours([8], [1], block=residual.BasicBlock(zero_start=False))
    assert started.stages[0][0].branch[-1].norm.weight.min() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, "widths must be at least 1, got 0"),
        ({"depths": [1, 0]}, "depths must be at least 1, got 0"),
        ({"depths": [1]}, "depths must have 2 entries, one for each of widths, got 1"),
        ({"block": [residual.BasicBlock()]}, "block must have 2 entries"),
        ({"image_channels": 0}, "image_channels must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"dilated_stages": 2}, "dilated_stages must be below 2, got 2"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"activation": "rellu"}, "activation 'rellu' is unknown; did you mean 'relu'?"),
        ({"norm": GroupNormOptions(5)}, "width 64 must be divisible by groups 5"),
        ({"block": residual.Bottleneck(3, 64), "norm": GroupNormOptions(5)}, "groups 5"),
    ],
    ids=str,
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Ours(**{"widths": [8, 12], "depths": [1, 1]} | change)


def test_compiles_without_graph_breaks():
    code = """
import torch
from dlreview.nn.residual import Bottleneck
from dlreview.nn.resnet import ResNet
net = ResNet([8, 12], [1, 1], num_classes=5, block=Bottleneck(2), drop_path=0.1).eval()
fast = torch.compile(net, fullgraph=True, backend="eager")
x = torch.randn(2, 3, 32, 32)
torch.testing.assert_close(fast(x), net(x))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
