import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
import transformers
from timm.layers import GluMlp, LayerNorm, RmsNorm, SwiGLU, SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import (
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn

from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT, drop_tokens
from dlreview.reference import formats, from_reference, to_reference
from dlreview.reference.folders import write_timm, write_transformers
from dlreview.reference.vit_transformers import has_old_names, table
from dlreview.reference.weights import to_ours, to_theirs
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

TIMM = {
    "img_size": (8, 12),
    "patch_size": 4,
    "in_chans": 2,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 1.5,
}
TIMM_CHANGES = [
    {},
    {"img_size": 9, "patch_size": (3, 4)},  # the last column is no patch
    {"patch_size": (2, 4), "num_classes": 0, "depth": 3},
    {"global_pool": "avg", "class_token": False},
    {"global_pool": "avg", "fc_norm": False, "reg_tokens": 3},
    {"global_pool": "max", "reg_tokens": 1, "class_token": False, "no_embed_class": True},
    {"global_pool": "avgmax", "pool_include_prefix": True, "num_classes": 0},
    {"global_pool": "map", "reg_tokens": 2, "no_embed_class": True, "act_layer": "relu"},
    {"global_pool": "map", "mlp_layer": partial(SwiGLU, align_to=8), "mlp_ratio": 1.4},
    {"global_pool": "prr", "class_token": False},
    {"global_pool": "prr", "fc_norm": True},
    {"global_pool": "", "final_norm": False},
    {"global_pool": "token", "fc_norm": True, "pos_embed": "none"},
    {"pre_norm": True, "qkv_bias": False, "act_layer": "quick_gelu"},
    {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "proj_bias": False},
    {"init_values": 0.1, "norm_layer": partial(LayerNorm, eps=1e-3), "act_layer": "gelu_tanh"},
    {"norm_layer": "rmsnorm", "qk_norm": True, "mlp_layer": SwiGLUPacked, "act_layer": "silu"},
    {"norm_layer": nn.RMSNorm, "qk_norm": True},  # eps is that of the dtype
    {"norm_layer": partial(RmsNorm, eps=1e-3), "mlp_layer": GluMlp, "scale_mlp_norm": True},
    {
        "norm_layer": partial(nn.LayerNorm, bias=False),
        "mlp_layer": SwiGLU,
        "embed_norm_layer": "rmsnorm",
    },
    {"norm_layer": partial(LayerNorm, affine=False), "act_layer": "hard_mish"},
    {"block_fn": ResPostBlock, "init_values": 0.1, "num_heads": 1},
    {"dynamic_img_size": True, "dynamic_img_pad": True, "drop_path_rate": 0.2},
    {"attn_drop_rate": 0.1, "proj_drop_rate": 0.2, "pos_drop_rate": 0.3, "patch_drop_rate": 0.4},
]


def images(*size: int, channels: int = 2) -> torch.Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(5)).double()


def timm_net(**change) -> VisionTransformer:
    return scramble(VisionTransformer(**TIMM | change))


@pytest.mark.parametrize("change", TIMM_CHANGES, ids=str)
def test_matches_timm(change):
    theirs = timm_net(**change)
    ours, x = assert_round_trip(theirs, "timm"), images(*theirs.patch_embed.img_size)
    assert_parity(
        ours, theirs, lambda net: net(x), lambda net: net(x), steps=20 if not change else 3
    )
    tokens = theirs.forward_features(x)
    torch.testing.assert_close(ours.tokens(x), tokens, **TOLERANCE)


@pytest.mark.parametrize("size", [(4, 8), (16, 12), (20, 24), (12, 8)])
@pytest.mark.parametrize("change", [{}, {"reg_tokens": 2, "no_embed_class": True}])
def test_reads_other_sizes_as_timm(size, change):
    theirs = timm_net(dynamic_img_size=True, **change)
    x, ours = images(*size), from_reference(theirs)
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=3)
    fixed = timm_net(**change)
    fixed.set_input_size(size)
    torch.testing.assert_close(from_reference(timm_net(**change))(x), fixed(x), **TOLERANCE)


def test_pads_images_as_timm():
    theirs = timm_net(dynamic_img_size=True, dynamic_img_pad=True)
    x, ours = images(10, 15), from_reference(theirs)
    torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
    torch.testing.assert_close(to_reference(ours, "timm")(x), theirs(x), **TOLERANCE)


def test_keeps_the_rates_of_timm():
    rates = {"drop_rate": 0.1, "pos_drop_rate": 0.2, "patch_drop_rate": 0.3}
    rates |= {"proj_drop_rate": 0.4, "attn_drop_rate": 0.5, "drop_path_rate": 0.6}
    ours = from_reference(timm_net(**rates))
    block = ours.encoder.blocks[-1]
    assert (ours.head_dropout, ours.positions.dropout, ours.drop_tokens) == (0.1, 0.2, 0.3)
    assert (block.dropout, block.feed_forward.dropout, block.attention.dropout) == (0.4, 0.4, 0.5)
    assert block.drop_path == pytest.approx(0.6)
    back = to_reference(ours, "timm")
    assert back.head_drop.p == 0.1 and back.pos_drop.p == 0.2 and back.patch_drop.prob == 0.3
    assert [b.drop_path1.drop_prob for b in back.blocks[1:]] == pytest.approx([0.6])
    assert back.blocks[0].attn.attn_drop.p == 0.5 and back.blocks[0].mlp.drop1.p == 0.4


VIT = {
    "image_size": [8, 12],
    "patch_size": 4,
    "num_channels": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "attn_implementation": "sdpa",
}
DINO = VIT | {"image_size": 16, "mlp_ratio": 2}
SQUARE = {"image_size": 16, "encoder_stride": 4, "intermediate_size": 17}
TRANSFORMERS = [
    ("ViTModel", {}, {}),
    ("ViTModel", {"pooler_output_size": 7, "pooler_act": "relu"}, {"use_mask_token": True}),
    ("ViTModel", {"hidden_act": "gelu_new", "qkv_bias": False}, {"add_pooling_layer": False}),
    ("ViTModel", {"patch_size": [2, 4], "layer_norm_eps": 1e-3, "head_dim": 5}, {}),
    ("ViTForImageClassification", {"num_labels": 5, "hidden_act": "quick_gelu"}, {}),
    ("ViTForImageClassification", {"num_labels": 0, "intermediate_size": 17}, {}),
    ("Dinov2Model", {}, {}),
    ("Dinov2Model", {"use_mask_token": False, "layerscale_value": 0.1, "mlp_ratio": 3}, {}),
    ("Dinov2Model", {"use_swiglu_ffn": True, "qkv_bias": False, "drop_path_rate": 0.1}, {}),
    ("Dinov2Model", {"image_size": [8, 32], "layer_norm_eps": 1e-3}, {}),
    ("Dinov2WithRegistersModel", {"num_register_tokens": 3, "hidden_act": "relu2"}, {}),
    (
        "Dinov2WithRegistersModel",
        {"use_swiglu_ffn": True, "num_register_tokens": 1, "hidden_act": "prelu"},
        {},
    ),
    ("ViTForMaskedImageModeling", SQUARE, {}),
    ("ViTForMaskedImageModeling", SQUARE | {"encoder_stride": 3}, {}),  # smaller pictures
    ("Dinov2ForImageClassification", {"num_labels": 5}, {}),
    ("Dinov2ForImageClassification", {"num_labels": 0, "use_mask_token": False}, {}),
    ("Dinov2WithRegistersForImageClassification", {"num_labels": 5, "num_register_tokens": 3}, {}),
]


def transformers_net(kind: str, change: dict, how: dict) -> nn.Module:
    cls = getattr(transformers, kind)
    return scramble(cls(cls.config_class(**(DINO if "Dino" in kind else VIT) | change), **how))


def pooled(net: nn.Module, x: torch.Tensor, **how) -> torch.Tensor:
    output = net(x, **how)
    for name in ("logits", "reconstruction"):
        if hasattr(output, name):
            return getattr(output, name)
    if output.pooler_output is None:
        return output.last_hidden_state[:, 0]
    return output.pooler_output


@pytest.mark.parametrize(("kind", "change", "how"), TRANSFORMERS, ids=str)
def test_matches_transformers(kind, change, how):
    theirs = transformers_net(kind, change, how)
    ours, size = assert_round_trip(theirs, "transformers"), theirs.config.image_size
    x = images(*([size] * 2 if isinstance(size, int) else size))
    steps = 20 if not change else 3
    assert_parity(ours, theirs, lambda net: net(x), lambda net: pooled(net, x), steps=steps)
    body = getattr(theirs, theirs.base_model_prefix, theirs)
    torch.testing.assert_close(ours.tokens(x), body(x).last_hidden_state, **TOLERANCE)
    if ours.mask_token:
        hidden = images(x.shape[-2] // 4 * x.shape[-1] // 4)[:, 0] > 0
        expected = body(x, bool_masked_pos=hidden).last_hidden_state
        torch.testing.assert_close(ours.tokens(x, hidden), expected, **TOLERANCE)


@pytest.mark.parametrize("size", [(20, 20), (8, 12), (22, 27)])
@pytest.mark.parametrize("kind", ["ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"])
def test_reads_other_sizes_as_transformers(kind, size):
    theirs = transformers_net(kind, {"image_size": 16}, {})
    x, ours = images(*size), from_reference(theirs)
    how = {"interpolate_pos_encoding": True} if kind == "ViTModel" else {}
    assert_parity(ours, theirs, lambda net: net(x), lambda net: pooled(net, x, **how), steps=3)


OLD_VIT = {  # transformers 4.x
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
OLD_DINO = {key: OLD_VIT[key] for key in OLD_VIT if "attention" in key}


OLD = TRANSFORMERS[:7] + TRANSFORMERS[8:9] + TRANSFORMERS[-4:]


@pytest.mark.parametrize(("kind", "change", "how"), OLD, ids=str)
def test_reads_the_names_of_transformers_4(kind, change, how):
    theirs = transformers_net(kind, change, how)
    ours, old = from_reference(theirs), {}
    assert not has_old_names(kind)
    for name, tensor in theirs.state_dict().items():
        for new, before in (OLD_DINO if "Dino" in kind else OLD_VIT).items():
            name = name.replace(new, before)
        old[name] = tensor
    for name in [name for name in old if "gate_proj" in name]:
        halves = old.pop(name), old.pop(name.replace("gate_proj", "up_proj"))
        old[name.replace("gate_proj", "weights_in")] = torch.cat(halves)
    old = {name.replace("mlp.down_proj", "mlp.weights_out"): old[name] for name in old}
    rules = table(ours, kind, old_names=True)
    for name, tensor in to_ours(old, rules).items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    again = to_theirs(ours.state_dict(), rules)
    assert sorted(again) == sorted(old)
    assert all(torch.equal(again[name], old[name]) for name in old)


@pytest.mark.parametrize("mistake", ["eps", "activation", "scale", "positions", "order"])
def test_one_mistake_is_caught(mistake):
    theirs = timm_net()
    ours, x = from_reference(theirs), images(8, 12)
    block = ours.encoder.blocks[1]
    if mistake == "eps":
        block.attention_norm.eps = 1e-5
    elif mistake == "activation":
        block.feed_forward.f = partial(nn.functional.gelu, approximate="tanh")
    elif mistake == "scale":
        block.attention.scale = 1 / 3
    elif mistake == "positions":
        x = images(12, 8)
        theirs.set_input_size((12, 8))
        ours.positions.antialias = False
    else:
        block.attention.W_q, block.attention.W_k = block.attention.W_k, block.attention.W_q
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=0)


def test_keeps_dtype_mode_and_frozen_weights():
    theirs = VisionTransformer(**TIMM).to(torch.bfloat16).train()
    theirs.patch_embed.requires_grad_(False)
    ours = assert_round_trip(theirs, "timm")
    assert ours.training and ours.embedding.E.weight.dtype == torch.bfloat16
    assert not ours.embedding.E.weight.requires_grad and ours.head.weight.requires_grad


def test_our_networks_go_to_each_library_with_a_class_for_them():
    net = scramble(ViT([8, 12], 4, 24, 2, 3, num_classes=5, image_channels=2))
    x = images(8, 12)
    assert formats(net) == ["timm", "transformers"]
    torch.testing.assert_close(to_reference(net, "timm")(x), net(x), **TOLERANCE)
    theirs = to_reference(net, "transformers")
    assert type(theirs) is transformers.ViTForImageClassification
    torch.testing.assert_close(theirs(x).logits, net(x), **TOLERANCE)
    backbone = scramble(ViT([8, 12], 4, 24, 2, 3, image_channels=2))
    theirs = to_reference(backbone, "transformers")
    assert type(theirs) is transformers.ViTModel and theirs.pooler is None
    assert formats(ViT(8, 4, 24, 1, 3, class_token=False)) == ["timm"]
    block = Block(24, 3, layer_scale=0.1)
    dino = ViT(8, 4, 24, 1, 3, mask_token=True, block=block)
    assert type(to_reference(dino, "transformers")) is transformers.Dinov2Model
    with pytest.raises(ValueError, match="timm"):
        to_reference(dino, "timm")


@pytest.mark.parametrize(
    ("theirs", "field"),
    [
        (lambda: VisionTransformer(**TIMM, block_fn=ParallelThingsBlock), "block_fn"),
        (lambda: VisionTransformer(**TIMM, attn_layer="diff"), "attn_layer"),
        (lambda: VisionTransformer(**TIMM, act_layer="prelu"), "act_layer"),
        (lambda: VisionTransformer(**TIMM, norm_layer="layernormfp32"), "norm_layer"),
        (lambda: transformers_net("ViTModel", {"hidden_act": "laplace"}, {}), "hidden_act"),
        (lambda: transformers_net("Dinov2Model", {"image_size": [8, 12]}, {}), "image_size"),
    ],
)
def test_names_what_it_does_not_support(theirs, field):
    with pytest.raises(ValueError, match=field):
        from_reference(theirs())


def test_attention_maps_are_those_of_transformers():
    change = {"attn_implementation": "eager"}
    theirs = transformers_net("ViTModel", change, {})
    ours, x = from_reference(theirs), images(8, 12)
    maps = ours.attention_maps(x)
    assert maps.shape == (2, 3, 3, 7, 7)
    expected = torch.stack(theirs(x, output_attentions=True).attentions)
    # Their eager softmax is in float32.
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 3, 7).double())


def test_drops_patches_in_training_only():
    x = torch.arange(10.0).expand(3, 10)[..., None] * torch.ones(4)
    kept = drop_tokens(x, 0.5, prefix=2)
    assert kept.shape == (3, 6, 4)
    assert torch.equal(kept[:, :2], x[:, :2])
    assert all(len(set(row.tolist())) == 4 and min(row) >= 2 for row in kept[:, 2:, 0])
    net = ViT(16, 4, 24, 1, 3, num_classes=5, drop_tokens=0.5, head_dropout=0.5)
    image = torch.randn(2, 3, 16, 16)
    assert not torch.equal(net(image), net(image))
    assert net.tokens(image).shape == (2, 9, 24)
    assert torch.equal(net.eval()(image), net(image))


def test_the_common_call():
    net = ViT(image_size=28, patch_size=4, width=192, depth=6, heads=3, num_classes=10)
    assert net(torch.randn(2, 3, 28, 28)).shape == (2, 10)
    assert net(torch.randn(2, 3, 36, 20)).shape == (2, 10)
    assert net.tokens(torch.randn(2, 3, 28, 28)).shape == (2, 50, 192)
    assert net.features(torch.randn(2, 3, 28, 28)).shape == (2, 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 10}, "image_size 10 x 10 must be divisible by patch_size 4 x 4"),
        ({"image_size": [8, 8, 8]}, "image_size must be one or two positive numbers"),
        ({"patch_size": 0}, "patch_size must be one or two positive numbers, got 0"),
        ({"width": 25}, "width 25 must be divisible by heads 3"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"registers": -1}, "registers must be at least 0, got -1"),
        ({"image_channels": 0}, "image_channels must be at least 1, got 0"),
        ({"drop_tokens": 1.0}, r"drop_tokens must be in \[0, 1\), got 1.0"),
        ({"block": Block(24, 4)}, "heads of block must be heads 3, got 4"),
        ({"block": Block(12, 3)}, "width of block must be width 24, got 12"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ViT(**{"image_size": 8, "patch_size": 4, "width": 24, "depth": 1, "heads": 3} | change)
    net = ViT(8, 4, 24, 1, 3)
    with pytest.raises(ValueError, match="image_size 9 x 8 must be divisible"):
        net(torch.randn(1, 3, 9, 8))
    with pytest.raises(ValueError, match="mask_token"):
        net.tokens(torch.randn(1, 3, 8, 8), torch.ones(1, 4).bool())


def test_compiles_without_graph_breaks():
    code = """
import torch
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.vit import ViT
net = MultiHeadAttention(12, 3)
fast = torch.compile(net, fullgraph=True, backend="eager")
x, mask = torch.randn(2, 9, 12), torch.ones(2, 9, dtype=torch.int64)
for call in ({}, {"causal": True}, {"mask": mask, "causal": True}):
    torch.testing.assert_close(fast(x, **call), net(x, **call))
net = ViT(8, 4, 24, 2, 3, num_classes=5, registers=2).eval()
fast = torch.compile(net, fullgraph=True, backend="eager")
for size in (8, 12):
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(fast(x), net(x))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_image_is_predicted_where_it_is_hidden():
    theirs = transformers_net("ViTForMaskedImageModeling", SQUARE, {})
    ours, x, hidden = from_reference(theirs), images(16, 16), images(4, 4)[:, 0].flatten(1) > 0
    expected = theirs(x, bool_masked_pos=hidden).reconstruction
    torch.testing.assert_close(ours(x, hidden), expected, **TOLERANCE)
    assert ours(x, hidden).shape == x.shape
    with pytest.raises(ValueError, match="the patches must be a square number, got 6"):
        ours(images(8, 12))


DISTILLED = [
    {},
    {"num_classes": 0, "qkv_bias": False},
    {"init_values": 0.1, "drop_rate": 0.2, "act_layer": "relu"},
]


@pytest.mark.parametrize("change", DISTILLED, ids=str)
def test_matches_the_distilled_vit_of_timm(change):
    theirs = scramble(VisionTransformerDistilled(**TIMM | change))
    ours, x = assert_round_trip(theirs, "timm"), images(8, 12)
    assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=5)
    torch.testing.assert_close(ours.tokens(x), theirs.forward_features(x), **TOLERANCE)
    if ours.num_classes:
        ours.head.heads = ours.head.heads[::-1]  # the wrong classifier for each token
        with pytest.raises(AssertionError, match="not close"):
            assert_parity(ours, theirs, lambda net: net(x), lambda net: net(x), steps=0)


@pytest.mark.parametrize(
    "change", [{"reg_tokens": 2}, {"no_embed_class": True}, {"fc_norm": True}], ids=str
)
def test_refuses_what_the_distilled_vit_ignores(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is not supported in VisionT"):
        from_reference(VisionTransformerDistilled(**TIMM | change))


def test_a_distilled_vit_leaves_as_a_folder(tmp_path):
    theirs = scramble(VisionTransformerDistilled(**TIMM, dynamic_img_size=True)).float()
    ours = from_reference(theirs)
    write_timm(ours, {}, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(again) is VisionTransformerDistilled
    x = images(8, 12).float()
    torch.testing.assert_close(again(x), theirs(x))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("ViTForMaskedImageModeling", SQUARE),
        ("Dinov2ForImageClassification", {"num_labels": 5}),
        ("Dinov2WithRegistersForImageClassification", {"num_labels": 5}),
    ],
)
def test_leaves_as_a_folder_of_transformers(kind, change, tmp_path):
    theirs = transformers_net(kind, change, {}).float()
    write_transformers(from_reference(theirs), {}, tmp_path)
    again = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    x = images(16, 16).float()
    torch.testing.assert_close(pooled(again, x), pooled(theirs, x))
