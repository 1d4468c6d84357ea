import subprocess
import sys

import pytest
import torch
import transformers

import dlreview
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT
from dlreview.reference import formats, from_reference, to_reference
from dlreview.reference.captioner import write_captioner
from dlreview.saved import save
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

IMAGE = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 2,
    "hidden_size": 15,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 17,
}
TEXT = {
    "vocab_size": 23,
    "n_positions": 7,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 19,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "add_cross_attention": True,
    "is_decoder": True,
}


def model(kind="ViT", switches=None, text=None, attention="sdpa", **image):
    names = {"ViT": "ViTConfig", "Dinov2": "Dinov2Config"}
    configs = [
        getattr(transformers, names[kind])(**IMAGE | image),
        transformers.GPT2Config(**TEXT | (text or {})),
    ]
    for config in configs:
        config._attn_implementation = attention
    encoder = getattr(transformers, f"{kind}Model")(configs[0], **switches or {})
    decoder = transformers.GPT2LMHeadModel(configs[1])
    return scramble(transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder))


def batch(size=8):
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 2, size, size, dtype=torch.float64, generator=generator)
    return images, torch.randint(23, (2, 6), generator=generator)


def call_theirs(net):
    images, ids = batch()
    return net(pixel_values=images, decoder_input_ids=ids, use_cache=False).logits


CHANGES = [
    {},
    {"hidden_size": 12, "hidden_act": "relu"},  # no projection
    {"switches": {"add_pooling_layer": False}, "text": {"tie_word_embeddings": False}},
    {"switches": {"use_mask_token": True}, "text": {"activation_function": "relu", "n_layer": 1}},
    {"text": {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3}},
    {"kind": "Dinov2", "layer_norm_eps": 1e-3},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_matches_transformers(change):
    theirs = model(**change)
    ours = assert_round_trip(theirs, "transformers")
    steps = 3 if change else 20
    assert_parity(ours, theirs, lambda net: net(*batch()), call_theirs, steps=steps)
    assert (ours.projection is None) == (change.get("hidden_size") == 12)


def mistaken_norm(net):
    net.decoder.decoder.blocks[1].cross_attention_norm.eps = 1e-6


def mistaken_scale(net):
    net.decoder.decoder.blocks[0].cross_attention.scale = 1.0


def mistaken_features(net):
    tokens = net.encoder.tokens
    net.encoder.tokens = lambda images: tokens(images)[:, 1:]  # without the class token


@pytest.mark.parametrize("mistake", [mistaken_norm, mistaken_scale, mistaken_features])
def test_a_mistake_is_caught(mistake):
    theirs = model()
    ours = from_reference(theirs)
    mistake(ours)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(*batch()), call_theirs(theirs), **TOLERANCE)


def test_looks_where_transformers_looks():
    theirs = model(attention="eager")
    images, ids = batch()
    named = {"pixel_values": images, "decoder_input_ids": ids, "output_attentions": True}
    expected = torch.stack(theirs(**named).cross_attentions)[..., 1:]
    weights = from_reference(theirs).context_weights(images, ids)
    assert weights.shape == (2, 2, 2, 6, 4)
    # Their eager softmax of the ViT is in float32.
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-6)


def test_writes_what_transformers_writes():
    theirs, (images, _) = model(), batch()
    for norm in (m for m in theirs.decoder.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.reset_parameters()
    theirs.decoder.transformer.wpe.weight.data.mul_(5)  # else the same token always wins
    ours = from_reference(theirs)
    options = {"decoder_start_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(images, max_length=7, num_beams=1, do_sample=False, **options)
    cache, ids = ours.start(images, 6), torch.full((2, 1), 1)
    for _ in range(6):
        ids = torch.cat([ids, ours.read(ids[:, -1:], cache).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids, expected)
    assert len(set(ids[:, 1:].flatten().tolist())) > 1


def test_keeps_the_tokens_of_generate():
    theirs = model()
    theirs.config.decoder_start_token_id, theirs.config.pad_token_id = 1, 5
    back = to_reference(from_reference(theirs), "transformers")
    assert (back.config.decoder_start_token_id, back.config.pad_token_id) == (1, 5)


def test_parts_without_a_counterpart_are_named():
    theirs = model(text={"cross_attention_hidden_size": 15})
    with pytest.raises(ValueError, match="cross_attention_hidden_size=15 is not supported"):
        from_reference(theirs)
    theirs = model()
    theirs.encoder = torch.nn.Identity()
    with pytest.raises(ValueError, match="encoder=Identity is not supported; supported: ViTModel"):
        from_reference(theirs)
    theirs = model()
    theirs.decoder = torch.nn.Identity()
    with pytest.raises(ValueError, match="decoder=Identity is not supported; supported: GPT2LM"):
        from_reference(theirs)


def small(features=8, context_width=None, pooled=None, **change):
    encoder = ViT(8, 4, features, 1, 2, image_channels=2, num_classes=pooled)
    sizes = {"block": DecoderBlock(12, 3, context_width=context_width), "max_length": 6}
    decoder = GPT(11, 12, 2, 3, **sizes | {"norm": LayerNorm(12)} | change)
    return VisionEncoderDecoder(encoder, decoder)


def test_what_transformers_lacks_does_not_fit():
    assert formats(small()) == ["transformers"]
    assert formats(small(context_width=8)) == []
    assert formats(small(pooled=3)) == []


def test_a_network_of_our_own_is_a_folder_that_transformers_reads(tmp_path):
    ours, (images, ids) = small().eval(), batch()
    usage = {"image": {"channels": 2, "height": 8, "width": 8, "range": [-1, 1]}}
    write_captioner(ours, usage, tmp_path)
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path).eval()
    expected = ours(images.float(), ids % 11)
    logits = theirs(pixel_values=images.float(), decoder_input_ids=ids % 11).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("context_width", [None, 8])
def test_word_by_word_equals_all_at_once(context_width):
    net, (images, ids) = scramble(small(context_width=context_width)), batch()
    ids = ids % 11
    assert (net.projection is None) == (context_width == 8)
    whole, cache = net(images, ids), net.start(images, 6)
    torch.testing.assert_close(net.read(ids[:, :2], cache), whole[:, 1], **TOLERANCE)
    torch.testing.assert_close(net.read(ids[:, 2:5], cache), whole[:, 4], **TOLERANCE)
    cache.reorder(torch.tensor([1, 0]))
    swapped = net.read(ids.flip(0)[:, 5:], cache).flip(0)
    torch.testing.assert_close(swapped, whole[:, 5], **TOLERANCE)
    hidden = net.hidden(images, ids, torch.ones_like(ids))
    torch.testing.assert_close(net.head(hidden), whole, **TOLERANCE)


def test_a_saved_network_is_the_same(tmp_path):
    ours = scramble(small(context_width=8)).float()
    save({"net": ours}, tmp_path / "model", "A card.")
    again = dlreview.load(tmp_path / "model")
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in ours.state_dict().items())


def test_compiles_without_graph_breaks():
    code = """
import torch
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.vit import ViT
decoder = GPT(11, 12, 2, 3, max_length=6, block=DecoderBlock(12, 3))
net = VisionEncoderDecoder(ViT(8, 4, 16, 1, 2), decoder).eval()
fast = torch.compile(net, fullgraph=True, backend="eager")
images, ids = torch.randn(2, 3, 8, 8), torch.tensor([[3, 4, 1], [4, 4, 2]])
for mask in (None, torch.tensor([[1, 1, 0], [1, 1, 1]])):
    torch.testing.assert_close(fast(images, ids, mask), net(images, ids, mask))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_told_in_one_line():
    images = torch.zeros(1, 2, 8, 8)
    net = small()
    with pytest.raises(ValueError, match=r"^ids must be in 0..10, got \d+..11$"):
        net(images, torch.tensor([[11]]))
    with pytest.raises(ValueError, match=r"^ids must have at most max_length 6, got 7$"):
        net(images, torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^capacity must be at most max_length 6, got 7$"):
        net.start(images, 7)
    with pytest.raises(ValueError, match=r"mask must have the shape of ids \(1, 2\), got \(1, 3\)"):
        net(images, torch.tensor([[1, 2]]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="block of decoder must be a DecoderBlock, got Block"):
        small(block=Block(12, 3))
    with pytest.raises(ValueError, match="width 8 or the decoder's 12, got 9"):
        small(context_width=9)
