import copy
import subprocess
import sys

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

import dlreview
from dlreview.nn.decoder import DecoderBlock, PostNormDecoderBlock
from dlreview.nn.encoder_decoder import EncoderDecoder
from dlreview.nn.positions import Sinusoids, SinusoidTable
from dlreview.nn.transformer import Block
from dlreview.reference import formats, from_reference, to_reference
from dlreview.reference.folders import write_transformers
from dlreview.saved import save
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

MARIAN = {
    "vocab_size": 31,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 19,
    "max_position_embeddings": 9,
    "pad_token_id": 5,
    "eos_token_id": 4,
    "forced_eos_token_id": 4,
    "decoder_start_token_id": 5,
    "attn_implementation": "sdpa",
}
OWN_TABLES = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 29}
CHANGES = [
    {},
    {"scale_embedding": True, "activation_function": "relu", "pad_token_id": None},
    OWN_TABLES,
    OWN_TABLES | {"tie_word_embeddings": False, "activation_function": "gelu_new"},
    {"d_model": 15, "decoder_attention_heads": 5, "activation_function": "swish"},  # odd width
]


def marian(**change):
    config = transformers.MarianConfig(**MARIAN | change)
    return scramble(transformers.MarianMTModel(config))


def batch():
    """Return source, target and mask, with the padding token among the others."""
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(29, (2, 7), generator=generator)
    target = torch.randint(29, (2, 6), generator=generator)
    source[0, 2] = target[0, 0] = target[1, 0] = 5
    return source, target, torch.tensor([[1] * 7, [1] * 4 + [0] * 3])


def calls():
    source, target, mask = batch()
    named = {"input_ids": source, "decoder_input_ids": target, "attention_mask": mask}
    return lambda net: net(source, target, mask), lambda net: net(**named, use_cache=False).logits


def small(**change):
    sizes = {"vocabulary_size": 11, "width": 12, "depth": 2, "heads": 3, "max_length": 8}
    return EncoderDecoder(**sizes | change)


@pytest.fixture(scope="module")
def net():
    return scramble(small(decoder_depth=3))


def text(*rows):
    return torch.tensor(rows)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_matches_marian(change):
    theirs = marian(**change)
    ours = assert_round_trip(theirs, "transformers")
    assert_parity(ours, theirs, *calls(), steps=3 if change else 20)


def mistaken_norm(net):
    net.decoder.blocks[1].cross_attention_norm.eps = 1e-6


def mistaken_activation(net):
    net.encoder.blocks[0].feed_forward.f = torch.nn.functional.silu


def mistaken_scale(net):
    net.scale_embedding = True


def mistaken_positions(net):
    net.target_positions = copy.deepcopy(net.source_positions)


@pytest.mark.parametrize(
    "mistake", [mistaken_norm, mistaken_activation, mistaken_scale, mistaken_positions]
)
def test_a_mistake_is_caught(mistake):
    theirs = marian()
    ours = from_reference(theirs)
    mistake(ours)
    with pytest.raises(AssertionError):
        assert_parity(ours, theirs, *calls(), steps=1)


def test_masks_of_the_target_match_marian():
    theirs, (source, target, mask) = marian(), batch()
    target_mask = text([1] * 6, [1] * 3 + [0] * 3)
    named = {"input_ids": source, "decoder_input_ids": target, "attention_mask": mask}
    expected = theirs(**named, decoder_attention_mask=target_mask).logits
    logits = from_reference(theirs)(source, target, mask, target_mask)
    torch.testing.assert_close(logits[target_mask == 1], expected[target_mask == 1], **TOLERANCE)


def test_looks_where_marian_looks():
    theirs, (source, target, mask) = marian(attn_implementation="eager"), batch()
    named = {"input_ids": source, "decoder_input_ids": target, "attention_mask": mask}
    expected = torch.stack(theirs(**named, output_attentions=True).cross_attentions)
    weights = from_reference(theirs).context_weights(source, target, mask)
    assert weights.shape == (3, 2, 2, 6, 7)
    torch.testing.assert_close(weights, expected, **TOLERANCE)


def test_writes_the_tokens_that_marian_writes():
    theirs, (source, _, mask) = marian(forced_eos_token_id=None, eos_token_id=None), batch()
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.reset_parameters()
    theirs.model.decoder.embed_positions.weight.mul_(5)  # else the same token always wins
    ours = from_reference(theirs)
    expected = theirs.generate(source, attention_mask=mask, max_length=9, num_beams=1)
    cache, ids = ours.start(source, mask, 8), torch.full((2, 1), 5)
    for _ in range(8):
        ids = torch.cat([ids, ours.read(ids[:, -1:], cache).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids, expected)
    assert len(set(ids[:, 1:].flatten().tolist())) > 1


@pytest.mark.parametrize("width", [6, 7, 128, 513])
def test_the_table_is_that_of_marian_bit_for_bit(width):
    config = transformers.MarianConfig(
        **MARIAN | {"d_model": width, "max_position_embeddings": 300, "encoder_layers": 0}
        | {"decoder_layers": 0}
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).model.encoder.embed_positions.weight
    assert torch.equal(SinusoidTable(300, width).table, theirs)


def test_the_table_holds_the_sinusoids_of_row_21():
    x = torch.zeros(1, 5, 6, dtype=torch.float64)
    table = SinusoidTable(9, 6).double()(x, first=2)
    torch.testing.assert_close(table[..., [0, 3, 1, 4, 2, 5]], Sinusoids(6)(x, first=2))
    assert torch.equal(Sinusoids(6)(x, first=2)[:, :3], Sinusoids(6)(x)[:, 2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop=0.1 is not supported"),
        ({"decoder_layerdrop": 0.2}, "decoder_layerdrop=0.2 is not supported"),
        ({"activation_function": "prelu"}, "activation_function='prelu' is not supported"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False is not supported"),
    ],
)
def test_fields_without_a_counterpart_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_reference(marian(**change))


def test_keeps_rates_and_special_tokens():
    rates = {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3}
    theirs = marian(**rates)
    ours = from_reference(theirs)
    for block in (ours.encoder.blocks[1], ours.decoder.blocks[2]):
        found = (block.dropout, block.attention.dropout, block.feed_forward.dropout)
        assert found == (0.1, 0.2, 0.3)
    assert ours.dropout == 0.1
    back = to_reference(ours, "transformers").config
    for field in (*MARIAN, *rates):
        if field != "attn_implementation":
            assert getattr(back, field) == getattr(theirs.config, field), field


@pytest.mark.parametrize(
    "change",
    [
        {"logit_bias": False},
        {"max_length": None},
        {"tied": False},
        {"encoder_block": Block(12, 3)},
        {"decoder_block": DecoderBlock(12, 3)},
        {"decoder_block": PostNormDecoderBlock(12, 3)},  # of another eps
    ],
    ids=str,
)
def test_what_marian_lacks_does_not_fit(change):
    assert formats(small()) == ["transformers"]
    assert formats(small(**change)) == []


def test_a_network_of_our_own_is_a_folder_that_transformers_reads(tmp_path):
    ours = small(padding_id=0, dropout=0.1).eval()
    write_transformers(ours, {}, tmp_path)
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    source, target = text([3, 4, 1]), text([2, 9])
    torch.testing.assert_close(
        theirs(input_ids=source, decoder_input_ids=target).logits, ours(source, target)
    )


def test_token_by_token_equals_all_at_once(net):
    source, target = text([3, 4, 1, 0], [5, 6, 7, 8]), text([2, 9, 1, 4, 6], [2, 3, 3, 0, 5])
    mask = text([1, 1, 1, 0], [1, 1, 1, 1])
    whole, cache = net(source, target, mask), net.start(source, mask, 5)
    torch.testing.assert_close(net.read(target[:, :2], cache), whole[:, 1], **TOLERANCE)
    torch.testing.assert_close(net.read(target[:, 2:3], cache), whole[:, 2], **TOLERANCE)
    cache.reorder(torch.tensor([1, 0]))
    swapped = net.read(target.flip(0)[:, 3:], cache).flip(0)
    torch.testing.assert_close(swapped, whole[:, 4], **TOLERANCE)
    hidden = net.hidden(source, target, mask)
    torch.testing.assert_close(net.head(hidden), whole, atol=0, rtol=0)


def test_hidden_tokens_change_nothing(net):
    source, target = text([3, 4, 1]), text([2, 9, 5])
    padded, longer = text([3, 4, 1, 7, 7]), text([2, 9, 5, 7])
    logits = net(padded, longer, text([1, 1, 1, 0, 0]), text([True, True, True, False]))
    torch.testing.assert_close(logits[:, :3], net(source, target), **TOLERANCE)
    of_floats = net(padded, longer, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(of_floats, net(padded, longer, text([1, 1, 1, 0, 0])))


def test_any_length_without_a_table():
    ours = scramble(small(max_length=None))
    assert ours.max_length is None
    source, target = torch.zeros(1, 30, dtype=torch.long), torch.ones(1, 20, dtype=torch.long)
    assert ours(source, target).shape == (1, 20, 11)
    whole, cache = ours(source, target), ours.start(source, None, 20)
    ours.read(target[:, :19], cache)
    torch.testing.assert_close(ours.read(target[:, 19:], cache), whole[:, -1], **TOLERANCE)


@pytest.mark.parametrize("change", [{}, {"tied": False, "source_vocabulary_size": 13}])
def test_a_saved_network_is_the_same(tmp_path, change):
    ours = scramble(small(**change)).float()
    save({"net": ours}, tmp_path / "model", "A card.")
    again = dlreview.load(tmp_path / "model")
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in ours.state_dict().items())
    assert (again.head.weight is again.embedding.weight) == ("tied" not in change)


def test_compiles_without_graph_breaks():
    code = """
import torch
from dlreview.nn.encoder_decoder import EncoderDecoder
net = EncoderDecoder(11, 12, 2, 3, decoder_depth=1, max_length=8).eval()
fast = torch.compile(net, fullgraph=True, backend="eager")
source, target = torch.tensor([[3, 4, 1], [4, 4, 2]]), torch.tensor([[2, 9], [2, 1]])
for masks in ((), (torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[1, 0], [1, 1]]))):
    torch.testing.assert_close(fast(source, target, *masks), net(source, target, *masks))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trial_without_memory_reads_masks():
    """The trial before a run uses fake tensors, whose numbers nobody can look at."""
    net, ids, mask = small(), torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3).long()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        logits = net(*(fake.from_tensor(x) for x in (ids, ids, mask)))
    assert logits.shape == (2, 3, 11)


@pytest.mark.parametrize(
    ("source", "target", "mask", "message"),
    [
        ([3, 11], [1], None, "ids must be in 0..10, got 3..11"),
        ([3, 1], [-1], None, "ids must be in 0..10, got -1..-1"),
        ([], [1], None, "source must have at least 1 token, got 0"),
        ([3, 1], [1], [0, 0], "source_mask must keep a token of every row, got none in row 0"),
        ([3, 1], [1], [1], r"source_mask must have shape \(1, 2\), got \(1, 1\)"),
        ([3, 1], [1] * 9, None, "length of positions is 8, got 9 tokens"),
        ([3] * 10, [1], None, "length of positions is 8, got 10 tokens"),
    ],
)
def test_a_wrong_batch_is_told_in_one_line(net, source, target, mask, message):
    ids = [torch.tensor([row], dtype=torch.long) for row in (source, target)]
    with pytest.raises(ValueError, match=f"^{message}$"):
        net(*ids, None if mask is None else torch.tensor([mask]))


def test_a_text_that_grows_too_long_is_told(net):
    with pytest.raises(ValueError, match=r"^capacity must be at most max_length 8, got 9$"):
        net.start(text([1, 2]), None, 9)
    cache = net.start(text([1, 2]), None, 2)
    net.read(text([1, 2]), cache)
    with pytest.raises(ValueError, match="capacity of cache is 2, got 3 tokens"):
        net.read(text([3]), cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"heads": 5}, "width 12 must be divisible by heads 5"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"padding_id": 11}, "padding_id must be a token from 0 to 10, got 11"),
        ({"encoder_block": Block(9, 3)}, "width of encoder_block must be width 12, got 9"),
        ({"encoder_block": Block(12, 4)}, "heads of encoder_block must be heads 3, got 4"),
        ({"decoder_block": DecoderBlock(8, 2)}, "width of decoder_block must be width 12, got 8"),
    ],
    ids=str,
)
def test_wrong_sizes_are_told(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)
