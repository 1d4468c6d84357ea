import copy
import subprocess
import sys

import pytest
import torch
import transformers

import dlreview
from dlreview import saved
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT, gpt_block
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block, PostNormBlock
from dlreview.reference import find_map, formats, from_reference, to_reference
from dlreview.reference.weights import to_ours
from tests.parity import TOLERANCE, assert_parity, assert_round_trip, scramble
from tests.saved.states import assert_equal_states

OURS = {"vocabulary_size": 11, "width": 12, "depth": 2, "heads": 3, "max_length": 9}
THEIRS = {"vocab_size": 11, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 9}
THEIRS |= {"bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "sdpa"}
CHANGES = [
    {},
    {"n_inner": 7, "activation_function": "relu", "n_layer": 3},
    {"activation_function": "gelu", "layer_norm_epsilon": 1e-3, "n_head": 1},
    {"resid_pdrop": 0.2, "embd_pdrop": 0.3, "attn_pdrop": 0.4, "initializer_range": 0.1},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True},
    {"tie_word_embeddings": False},
    {"add_cross_attention": True, "tie_word_embeddings": False, "n_inner": 17},
    {"add_cross_attention": True, "scale_attn_by_inverse_layer_idx": True},
]
PADDED = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
PLACES = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])


def words(count=7, rows=3):
    return torch.randint(11, (rows, count), generator=torch.Generator().manual_seed(4))


def picture():
    return torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(5)).double()


def gpt2(kind="GPT2LMHeadModel", **change):
    return scramble(getattr(transformers, kind)(transformers.GPT2Config(**THEIRS | change)))


def crossed(**change):
    return scramble(GPT(**OURS | change, block=DecoderBlock(12, 3)))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_matches_transformers(change):
    theirs, ids = gpt2(**change), words()
    ours, steps = assert_round_trip(theirs, "transformers"), 3 if change else 20
    assert_parity(ours, theirs, lambda net: net(ids), lambda net: net(ids).logits, steps=steps)
    if not change.get("add_cross_attention"):
        return
    seen = {"encoder_hidden_states": picture(), "encoder_attention_mask": PLACES}
    assert_parity(
        ours,
        theirs,
        lambda net: net(ids, None, picture(), PLACES),
        lambda net: net(ids, **seen).logits,
        steps=steps,
    )


@pytest.mark.parametrize("change", [{}, {"add_cross_attention": True}], ids=str)
def test_matches_the_body_of_transformers(change):
    theirs, ids = gpt2("GPT2Model", **change), words()
    ours = assert_round_trip(theirs, "transformers")
    assert_parity(
        ours, theirs, lambda net: net.hidden(ids), lambda net: net(ids).last_hidden_state, steps=3
    )


def test_padding_on_the_left_is_numbered_as_transformers_generates():
    theirs, ids = gpt2(), words()
    ours, kept = from_reference(theirs), PADDED.bool()
    position = (PADDED.cumsum(1) - 1).clamp(min=0)
    assert_parity(
        ours,
        theirs,
        lambda net: net(ids, PADDED)[kept],
        lambda net: net(ids, attention_mask=PADDED, position_ids=position).logits[kept],
        steps=3,
    )
    # A row with padding is the row without it.
    torch.testing.assert_close(ours(ids, PADDED)[0, 3:], ours(ids[:1, 3:])[0], **TOLERANCE)
    ours(ids, PADDED)[kept].sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


def test_writes_what_transformers_writes():
    theirs, ids = gpt2(eos_token_id=None, pad_token_id=0, n_positions=14), words()
    ours = from_reference(theirs)
    expected = theirs.generate(ids, attention_mask=PADDED, max_new_tokens=7, do_sample=False)
    cache, new, written = ours.start(14, PADDED), ids, []
    for _ in range(7):
        new = ours.read(new, cache).argmax(1, keepdim=True)
        written.append(new)
    assert torch.equal(torch.cat(written, 1), expected[:, 7:])


def test_keeps_the_rates_of_transformers():
    ours = from_reference(gpt2(**CHANGES[3]))
    block = ours.decoder.blocks[1]
    assert (ours.dropout, block.dropout, block.attention.dropout) == (0.3, 0.2, 0.4)
    config = to_reference(ours, "transformers").config
    rates = (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop, config.initializer_range)
    assert rates == (0.3, 0.2, 0.4, 0.1)
    ids = words()
    ours.train()
    assert not torch.equal(ours(ids), ours(ids))


def test_draws_its_weights_as_transformers():
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 200}
    config = transformers.GPT2Config(**THEIRS | sizes, add_cross_attention=True)
    config.initializer_range = 0.03
    theirs = transformers.GPT2LMHeadModel(config)
    block = DecoderBlock(96, 4)
    ours = GPT(300, 96, 3, 4, 200, block=block, initial_std=0.03)
    drawn = to_ours(theirs.state_dict(), find_map(theirs).table(ours))
    for name, tensor in ours.state_dict().items():
        assert tensor.std().item() == pytest.approx(drawn[name].std().item(), rel=0.05), name
        assert tensor.mean().item() == pytest.approx(drawn[name].mean().item(), abs=0.002), name
    spread = ours.decoder.blocks[2].feed_forward.W_2.weight.std().item()
    assert spread == pytest.approx(0.03 / 6**0.5, rel=0.05)


@pytest.mark.parametrize("mistake", ["eps", "activation", "scale", "order", "positions", "head"])
def test_one_mistake_is_caught(mistake):
    theirs, ids = gpt2(), words()
    ours = from_reference(theirs)
    block = ours.decoder.blocks[1]
    if mistake == "eps":
        block.attention_norm.eps = 1e-6
    elif mistake == "activation":
        block.feed_forward.f = torch.nn.functional.gelu
    elif mistake == "scale":
        block.attention.scale = 1 / 3
    elif mistake == "order":
        block.attention.W_q, block.attention.W_k = block.attention.W_k, block.attention.W_q
    elif mistake == "positions":
        ours.positions.weight.data = ours.positions.weight.data.roll(1, 0)
    else:
        ours.head.weight = torch.nn.Parameter(ours.head.weight.roll(1, 0).detach())
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, lambda net: net(ids), lambda net: net(ids).logits, steps=0)


def test_gradients_of_a_head_that_is_not_tied_are_caught():
    theirs, ids = gpt2(), words()
    ours = from_reference(theirs)
    ours.head.weight = torch.nn.Parameter(ours.head.weight.detach().clone())
    with pytest.raises(AssertionError, match=r"embedding\.weight"):
        assert_parity(ours, theirs, lambda net: net(ids), lambda net: net(ids).logits, steps=0)


@pytest.mark.parametrize("steps", [[7], [1] * 7, [3, 4], [2, 1, 1, 3], [1, 6]], ids=str)
@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("context", [False, True])
def test_cached_equals_uncached(steps, mask, context):
    net = crossed() if context else scramble(GPT(**OURS))
    ids, seen = words(), (picture(), PLACES) if context else (None, None)
    expected, cache = net(ids, mask, *seen), net.start(7, mask, *seen)
    last = 0
    for count in steps:
        logits = net.read(ids[:, last : last + count], cache)
        last += count
        assert cache.length == last
        kept = slice(None) if mask is None else mask[:, last - 1].bool()
        torch.testing.assert_close(logits[kept], expected[kept, last - 1], **TOLERANCE)


def test_a_mask_may_come_with_its_tokens_and_the_context_with_the_first():
    net, ids, seen = crossed(), words(), (picture(), PLACES)
    cache = net.start(9)
    parts = [net.hidden(ids[:, :4], PADDED[:, :4], cache, *seen)]
    parts.append(net.hidden(ids[:, 4:], None, cache))
    expected = net.hidden(ids, PADDED, None, *seen)
    kept = PADDED.bool()
    torch.testing.assert_close(torch.cat(parts, 1)[kept], expected[kept], **TOLERANCE)
    with pytest.raises(ValueError, match="mask of cache must have 2 rows, got 3"):
        net.read(ids[:2, :1], cache)
    known = net.start(9, PADDED, *seen)
    with pytest.raises(ValueError, match="mask must be None: the cache knows"):
        net.hidden(ids, PADDED, known)


def test_texts_of_a_cache_are_exchanged_and_multiplied():
    net, ids, seen = crossed(), words(), (picture(), PLACES)
    cache, rows = net.start(9, PADDED, *seen), torch.tensor([2, 0, 0, 1])
    net.read(ids[:, :5], cache)
    cache.reorder(rows)
    logits = net.read(ids[rows, 5:], cache)
    expected = net(ids, PADDED, *seen)[rows, -1]
    torch.testing.assert_close(logits, expected, **TOLERANCE)


def test_no_token_sees_a_later_one():
    net, ids = scramble(GPT(**OURS)), words()
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 11
    assert torch.equal(net(ids)[:, :4], net(other)[:, :4])
    assert (net(ids)[:, 4:] - net(other)[:, 4:]).abs().amin((0, 2)).min() > 1e-6


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_one_parameter_and_stays_so(tied, tmp_path):
    net, ids = scramble(GPT(**OURS, tied=tied, dropout=0.1)), words()
    saved.save({"net": net}, tmp_path / "model", "card")
    for other in (net, copy.deepcopy(net), dlreview.load(tmp_path / "model")):
        assert (other.head.weight is other.embedding.weight) == tied
        assert_equal_states(other, net)
        torch.testing.assert_close(other(ids), net(ids), **TOLERANCE)
        assert saved.config_of(other) == saved.config_of(net)


def test_a_configuration_holds_its_parts():
    block = DecoderBlock(12, 3, context_width=5)
    config = saved.config_of(GPT(**OURS, block=block, dropout=0.1))
    assert saved.config_of(saved.build(config)) == config


def test_our_networks_go_to_transformers_where_it_has_a_class():
    net, ids = scramble(GPT(**OURS)), words()
    theirs = to_reference(net, "transformers")
    assert type(theirs) is transformers.GPT2LMHeadModel
    torch.testing.assert_close(theirs(ids).logits, net(ids), **TOLERANCE)
    for block in (gpt_block(12, 3), Block(12, 3), DecoderBlock(12, 3)):
        net = scramble(GPT(**OURS, block=block))
        assert net.norm.eps == block.attention_norm.eps
        theirs, seen = to_reference(net, "transformers"), {}
        assert theirs.config.activation_function.startswith("gelu")
        if isinstance(block, DecoderBlock):
            seen = {"context": picture()}
            logits = theirs(ids, encoder_hidden_states=picture()).logits
        else:
            logits = theirs(ids).logits
        torch.testing.assert_close(logits, net(ids, **seen), **TOLERANCE)
    for block in (PostNormBlock(12, 3), DecoderBlock(12, 3, context_width=5)):
        assert formats(GPT(**OURS, block=block)) == []
    assert formats(GPT(**OURS, block=Block(12, 3), norm=LayerNorm(12, 1e-5))) == [], "of two eps"
    with pytest.raises(ValueError, match="activation_function='laplace'"):
        from_reference(gpt2(activation_function="laplace"))


def test_learns_a_text_by_heart():
    torch.manual_seed(0)
    net, ids = GPT(**OURS), words(9, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].ravel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    cache, new = net.eval().start(9), ids[:, :3]
    for i in range(3, 9):
        new = net.read(new, cache).argmax(1, keepdim=True)
        assert torch.equal(new[:, 0], ids[:, i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1, got 0"),
        ({"width": 13}, "width 13 must be divisible by heads 3"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"initial_std": -1.0}, "initial_std must be at least 0, got -1.0"),
        ({"block": Block(24, 3)}, "width of block must be width 12, got 24"),
        ({"block": Block(12, 4)}, "heads of block must be heads 3, got 4"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        GPT(**OURS | change)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net(words(10)), "ids must have at most max_length 9, got 10"),
        (lambda net: net(words(), PADDED[:, 1:]), r"mask must .* ids \(3, 7\), got \(3, 6\)"),
        (lambda net: net(words() + 4), r"ids must be in 0..10, got \d+..1[1-4]"),
        (lambda net: net(words() - 11), r"ids must be in 0..10, got -"),
        (lambda net: net(words(), None, picture().float()), "context needs a block"),
        (lambda net: net.start(10), "capacity must be at most max_length 9, got 10"),
        (lambda net: net.start(0), "capacity must be at least 1, got 0"),
        (lambda net: net.read(words(), net.start(6)), "capacity of cache is 6, got 7"),
    ],
)
def test_tells_a_wrong_call_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as told:
        call(GPT(**OURS))
    assert "\n" not in str(told.value)


def test_a_text_beyond_max_length_is_told_and_the_cache_stays_as_it_was():
    net = GPT(**OURS)
    cache = net.start(9)
    net.read(words(7), cache)
    with pytest.raises(ValueError, match="at most max_length 9, got 10"):
        net.read(words(3), cache)
    assert cache.length == 7
    net.read(words(2), cache)


def test_compiles_without_graph_breaks_and_is_exported_for_any_length():
    code = """
import torch
from torch.export import Dim, export
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
net = GPT(11, 12, 2, 3, 9).eval()
ids, mask = torch.randint(11, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
fast = torch.compile(net, fullgraph=True, backend="eager")
for call in ((ids,), (ids[:, :5],), (ids, mask)):
    torch.testing.assert_close(fast(*call), net(*call))
seeing = GPT(11, 12, 2, 3, 9, block=DecoderBlock(12, 3))
context = torch.randn(3, 5, 12)
fast = torch.compile(seeing, fullgraph=True, backend="eager")
torch.testing.assert_close(fast(ids, None, context), seeing(ids, None, context))
graphs = []  # one for the first tokens, one for all lengths of later ones
count = lambda graph, _: graphs.append(graph) or graph.forward
read = torch.compile(net.read, fullgraph=True, dynamic=True, backend=count)
cache, other = net.start(9), net.start(9)
for new in (ids[:, :3], *ids[:, 3:].split(1, dim=1)):
    torch.testing.assert_close(read(new, cache), net.read(new, other))
assert len(graphs) == 2, len(graphs)
shape = {0: Dim("batch", max=64), 1: Dim("tokens", max=9)}
for call in ((ids,), (ids, mask)):
    program = export(net, call, dynamic_shapes=(shape,) * len(call)).module()
    for rows, length in ((1, 2), (5, 9), (40, 3)):
        new = torch.randint(11, (rows, length))
        extra = [torch.ones_like(new)] if len(call) == 2 else []
        torch.testing.assert_close(program(new, *extra), net(new, *extra))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
