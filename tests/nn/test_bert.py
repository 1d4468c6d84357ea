import copy
from functools import partial

import pytest
import torch
import transformers
from torch import nn

from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.nn.feed_forward import SwiGLU
from dlreview.nn.norm import LayerNorm
from dlreview.nn.pooling import Mean, Pooler
from dlreview.nn.transformer import Block, PostNormBlock
from dlreview.reference import formats, from_reference, to_reference
from dlreview.saved import build, config_of
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble

SIZES = {
    "vocab_size": 17,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 11,
    "attn_implementation": "sdpa",
}
CHANGES = [
    {},
    {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "num_hidden_layers": 3},
    {"hidden_act": "relu", "pad_token_id": None, "type_vocab_size": 1},
    {"tie_word_embeddings": False, "pad_token_id": 5, "type_vocab_size": 4},
    {"num_attention_heads": 1, "chunk_size_feed_forward": 3, "initializer_range": 0.5},
    {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "use_cache": False},
]


def theirs_of(kind="BertForMaskedLM", how=None, **change):
    config = transformers.BertConfig(**SIZES | change)
    return scramble(getattr(transformers, kind)(config, **how or {}))


def texts(length=9):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(17, (4, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([length, 5, 1, length - 1])[:, None]).long()
    return ids, mask, torch.randint(2, (4, length), generator=generator)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_matches_the_masked_language_model(change):
    theirs = theirs_of(**change)
    ours, (ids, mask, types) = assert_round_trip(theirs, "transformers"), texts()
    types = types.clamp(max=theirs.config.type_vocab_size - 1)
    assert_parity(
        ours,
        theirs,
        lambda net: net(ids, mask, types)[mask.bool()],
        lambda net: net(ids, attention_mask=mask, token_type_ids=types).logits[mask.bool()],
        steps=3 if change else 20,
    )
    hidden = theirs.bert(ids, mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(ours.hidden(ids, mask)[mask.bool()], hidden, **TOLERANCE)


@pytest.mark.parametrize("how", [{}, {"add_pooling_layer": False}], ids=str)
@pytest.mark.parametrize("change", CHANGES[:4], ids=str)
def test_matches_the_model_without_a_head(how, change):
    theirs = theirs_of("BertModel", how, **change)
    ours, (ids, mask, _) = assert_round_trip(theirs, "transformers"), texts()

    def call_ours(net):
        found = (net(ids, mask)[mask.bool()],)
        return (*found, net.features(ids, mask)) if net.pooling is not None else found

    def call_theirs(net):
        output = net(ids, mask)
        found = (output.last_hidden_state[mask.bool()],)
        return found if output.pooler_output is None else (*found, output.pooler_output)

    assert (ours.pooling is None) == bool(how)
    assert_parity(ours, theirs, call_ours, call_theirs, steps=3 if change or how else 20)


@pytest.mark.parametrize("length", [1, 7, 11])
def test_texts_of_any_length_without_padding(length):
    theirs, (ids, _, _) = theirs_of(), texts(length)
    ours = from_reference(theirs)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, **TOLERANCE)
    whole = torch.ones_like(ids)
    torch.testing.assert_close(ours(ids, whole), ours(ids), **TOLERANCE)


def test_padding_is_not_seen():
    net, (ids, mask, types) = from_reference(theirs_of()), texts()
    other = torch.where(mask.bool(), ids, (ids + 3) % 17)
    kept = mask.bool()
    assert torch.equal(net(ids, mask, types)[kept], net(other, mask, types)[kept])
    torch.testing.assert_close(net(ids[1:2, :5]), net(ids, mask)[1:2, :5], **TOLERANCE)
    for of_another_type in (mask.bool(), mask.double()):
        assert torch.equal(net(ids, of_another_type), net(ids, mask))


MISTAKES = ["eps", "activation", "norm first", "padding", "positions", "tied", "mask"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_mistake_is_caught(mistake):
    theirs, (ids, mask, _) = theirs_of(), texts()
    ours, seen = from_reference(theirs), mask
    block = ours.encoder.blocks[1]
    if mistake == "eps":
        block.attention_norm.eps = 1e-6
    elif mistake == "activation":
        ours.head.f = partial(nn.functional.gelu, approximate="tanh")
    elif mistake == "norm first":
        block.__class__ = Block
    elif mistake == "padding":
        ours.embedding.padding_idx = None
    elif mistake == "positions":
        ours.positions.weight.data = ours.positions.weight.data.roll(1, 0)
    elif mistake == "tied":
        ours.head.scores.weight = nn.Parameter(ours.head.scores.weight.data.clone())
    else:
        seen = None
    with pytest.raises(AssertionError):
        assert_parity(
            ours,
            theirs,
            lambda net: net(ids, seen)[mask.bool()],
            lambda net: net(ids, mask).logits[mask.bool()],
            steps=0,
        )


def test_keeps_rates_ties_and_modes():
    rates = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
    ours = from_reference(theirs_of(**rates).train())
    block = ours.encoder.blocks[0]
    assert (ours.dropout, block.dropout, block.attention.dropout) == (0.2, 0.2, 0.3)
    assert ours.training and ours.head.weight is ours.embedding.weight
    back = to_reference(ours, "transformers")
    assert back.bert.embeddings.dropout.p == 0.2 and back.config.pad_token_id == 0
    assert back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight
    ids = texts()[0]
    assert not torch.equal(ours(ids), ours(ids))
    untied = from_reference(theirs_of(tie_word_embeddings=False))
    assert untied.head.weight is not untied.embedding.weight
    assert not untied.tied and untied.head.unused_bias
    assert config_of(build(config_of(untied))) == config_of(untied)


def test_attention_maps_are_those_of_transformers():
    theirs, (ids, mask, types) = theirs_of(attn_implementation="eager"), texts()
    maps = from_reference(theirs).attention_maps(ids, mask, types)
    assert maps.shape == (2, 4, 3, 9, 9)
    output = theirs(ids, mask, token_type_ids=types, output_attentions=True)
    expected = torch.stack(output.attentions)
    torch.testing.assert_close(maps, expected, **TOLERANCE)
    assert not maps[..., 0, 1:][:, 2].any(), "the third text has one token"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"is_decoder": True}, "is_decoder=True"),
        ({"is_decoder": True, "add_cross_attention": True}, "is_decoder=True"),
        ({"hidden_act": "laplace"}, "hidden_act='laplace'"),
    ],
)
def test_names_what_it_does_not_support(change, field):
    with pytest.raises(ValueError, match=field):
        from_reference(theirs_of(**change))


@pytest.mark.parametrize(
    ("field", "value"), [("position_embedding_type", "relative_key"), ("add_cross_attention", True)]
)
def test_names_fields_of_other_versions(field, value):
    theirs = theirs_of("BertModel")
    setattr(theirs.config, field, value)
    with pytest.raises(ValueError, match=f"{field}={value!r} is not supported"):
        from_reference(theirs)


def net(**change):
    made = {"vocabulary_size": 17, "width": 12, "depth": 2, "heads": 3, "max_length": 11}
    return BERT(**made | {"head": MaskedTokenHead(17, 12)} | change)


def test_our_networks_go_to_transformers_where_it_has_a_class():
    ids, mask, types = texts()
    ours = scramble(net())
    theirs = to_reference(ours, "transformers")
    assert type(theirs) is transformers.BertForMaskedLM
    expected = theirs(ids, mask, types).logits
    torch.testing.assert_close(ours(ids, mask, types), expected, **TOLERANCE)
    ours = scramble(net(head=None, tied=False))
    theirs = to_reference(ours, "transformers")
    assert type(theirs) is transformers.BertModel and theirs.pooler is None
    untied = to_reference(scramble(net(tied=False)), "transformers").cls.predictions
    assert untied.decoder.weight.shape == (17, 12)


@pytest.mark.parametrize(
    "change",
    [
        {"block": Block(12, 3)},
        {"block": PostNormBlock(12, 3)},  # another eps than the norm of the embeddings
        {"block": PostNormBlock(12, 3, feed_forward=SwiGLU(12, 20)), "norm": LayerNorm(12, 1e-6)},
        {"pooling": Pooler(12)},  # theirs has either a pooler or a head
        {"pooling": Mean(), "head": None},
        {"pooling": Pooler(12, 7), "head": None},
        {"head": MaskedTokenHead(17, 12, "relu")},
        {"head": MaskedTokenHead(17, 12, unused_bias=True)},
    ],
)
def test_other_networks_stay_ours(change):
    ours, (ids, mask, _) = net(**change), texts()
    assert formats(ours) == []
    assert config_of(build(config_of(ours))) == config_of(ours)
    assert ours(ids, mask).isfinite().all()


def test_starts_small_and_untrained_words_at_zero():
    made = net(padding=3, dropout=0.0)
    assert not made.embedding.weight[3].any() and made.embedding.weight.std() < 0.03
    assert made.head.bias is made.head.scores.bias and not made.head.bias.any()
    logits = made(texts()[0])
    assert logits.shape == (4, 9, 17) and logits.std() < 1
    twin = copy.deepcopy(made)
    assert twin.head.weight is twin.embedding.weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1, got 0"),
        ({"width": 13, "head": None}, "width 13 must be divisible by heads 3"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"types": 0}, "types must be at least 1, got 0"),
        ({"padding": 17}, r"padding must be in 0\.\.16, got 17"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"block": PostNormBlock(24, 3)}, "width of block must be width 12, got 24"),
        ({"head": MaskedTokenHead(16, 12)}, "vocabulary_size of head must be vocabulary_size 17"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        net(**change)


def test_refuses_calls_that_it_cannot_answer():
    with pytest.raises(ValueError, match="length must be at most max_length 11, got 12"):
        net()(torch.zeros(1, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="pooling must be a network for features, got None"):
        net().features(texts()[0])
    with pytest.raises(ValueError, match="did you mean 'gelu'"):
        MaskedTokenHead(17, 12, "gulu")
