"""Text decoding: tokens, probabilities and draws are those of transformers, from the same past."""

import itertools
import math

import pytest
import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.rnn import RNN
from dlreview.samplers import decoding
from dlreview.samplers.decoding import Sampling, generate, left_pad
from dlreview.samplers.recurrent import RecurrentCache, recurrent_reader
from tests.parity import scramble
from tests.samplers.past import PAD, VOCABULARY, Past, gpt2, read_gpt2

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.0, 0.0, 5.0, 4.0]], dtype=torch.float64)
PROMPT, MASK = left_pad([[3, 4, 5], [6], [7, 8]], PAD)


def theirs(**options):
    config = GenerationConfig(pad_token_id=PAD, max_length=None, **options)
    return gpt2().generate(PROMPT, attention_mask=MASK.long(), generation_config=config)


def ours(**options):
    return generate(read_gpt2, PROMPT, Past(MASK), pad=PAD, **options)


@pytest.mark.parametrize("end", [None, 2, 6, 10, 19, 21])
def test_greedy_texts_are_those_of_transformers(end):
    expected = theirs(max_new_tokens=11, do_sample=False, eos_token_id=end)
    assert torch.equal(ours(length=11, temperature=0, end=end), expected)


CHOICES = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5, "top_k": 5},
    {"top_k": 1},
    {"top_k": 99, "temperature": 1.7},
    {"top_p": 0.8},
    {"top_p": 0.05, "temperature": 3.0},
    {"top_k": 6, "top_p": 0.9, "temperature": 2.0},
    {"min_p": 0.2, "temperature": 1.5},
    {"min_p": 0.1, "top_k": 9, "top_p": 0.95, "temperature": 4.0},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_same_random_numbers_draw_the_tokens_of_transformers(choice):
    kinds = set()
    for seed, end in itertools.product(range(2), (None, 6, 19)):
        torch.manual_seed(seed)
        options = {"top_k": 0} | choice
        expected = theirs(max_new_tokens=9, do_sample=True, eos_token_id=end, **options)
        torch.manual_seed(seed)
        assert torch.equal(ours(length=9, end=end, **choice), expected)
        kinds.add(tuple(expected.flatten().tolist()))
    assert len(kinds) > 1


def test_texts_end_at_different_steps_and_are_padded():
    drawn = [ours(length=12, end=10, generator=torch.Generator().manual_seed(s)) for s in range(20)]
    new = [ids[:, PROMPT.shape[1] :] for ids in drawn]
    assert {x.shape[1] for x in new} > {12}, "some batches end before the last step, some do not"
    for row in (row for x in new for row in x.tolist() if 10 in row):
        assert set(row[row.index(10) + 1 :]) <= {PAD}
    assert any(10 in row[:-3] for x in new for row in x.tolist())


def processors(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0):
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(temperature),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
            *([MinPLogitsWarper(min_p)] if min_p else []),
        ]
    )


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distribution_is_that_of_their_processors_bit_for_bit(choice, dtype):
    logits = torch.randn(40, 30, dtype=dtype, generator=torch.Generator().manual_seed(0))
    logits[20:] = logits[20:].round()  # many ties
    logits[::7, 3:9] = -torch.inf
    expected = processors(**choice)(None, logits).softmax(dim=-1)
    assert torch.equal(Sampling(**choice).probabilities(logits), expected)


def test_filters_in_another_order_would_differ():
    logits = LOGITS[:1]
    both = Sampling(top_k=2, top_p=0.7).filter(logits)
    other = Sampling(top_k=2).filter(Sampling(top_p=0.7).filter(logits))
    assert torch.isinf(both).sum() == 3 and torch.isinf(other).sum() == 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_scores(temperature):
    p = Sampling(temperature).probabilities(LOGITS)
    torch.testing.assert_close(p, (LOGITS / temperature).softmax(1))


def test_temperature_zero_takes_the_first_of_the_most_likely_tokens():
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]])
    assert Sampling(0).probabilities(logits).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Sampling(0).choose(logits)[1].tolist() == [1, 0]


def test_top_k_keeps_the_k_most_likely_and_ties_with_the_last():
    p = Sampling(top_k=2).probabilities(LOGITS)
    expected = LOGITS.softmax(1) * torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
    torch.testing.assert_close(p, expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(Sampling(top_k=99).probabilities(LOGITS), LOGITS.softmax(1))
    assert (Sampling(top_k=2).probabilities(torch.zeros(1, 5)) > 0).sum() == 5


def test_top_p_keeps_the_fewest_tokens_with_this_probability():
    given = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    for share, kept in ((0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.999, 4)):
        p = Sampling(top_p=share - 1e-9).probabilities(given.log())
        expected = given.clone()
        expected[:, kept:] = 0
        torch.testing.assert_close(p, expected / expected.sum())


def test_draws_follow_the_probabilities_and_repeat_with_their_seed():
    logits = LOGITS[:1].float().expand(40_000, -1)
    sampling = Sampling(1.5, 3)
    drawn = sampling.choose(logits, torch.Generator().manual_seed(0))[1]
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share, sampling.probabilities(logits)[0], atol=0.01, rtol=0)
    again = torch.multinomial(
        sampling.probabilities(logits), 1, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(drawn, again[:, 0])


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.9}], ids=str)
def test_forbidden_tokens_are_never_written(options):
    never = [n for n in range(VOCABULARY) if n not in (9, 11, 14)]
    ids = ours(length=10, never=never, count=4, **options)
    assert set(ids[:, PROMPT.shape[1] :].flatten().tolist()) <= {9, 11, 14}


def test_several_texts_of_a_prompt_are_drawn_as_from_its_copies():
    torch.manual_seed(3)
    several = ours(length=6, count=3)
    torch.manual_seed(3)
    rows = torch.arange(3).repeat_interleave(3)
    copies = generate(read_gpt2, PROMPT[rows], Past(MASK[rows]), length=6, pad=PAD)
    assert torch.equal(several, copies) and len(several) == 9
    assert len({tuple(row) for row in several[:3].tolist()}) > 1


class Walk:
    """Reads tokens like a network: from token n the next one is n + 1, with a NaN at will."""

    def __init__(self, vocabulary=8, poison=None):
        self.vocabulary, self.poison, self.reads = vocabulary, poison, []

    def __call__(self, ids, cache):
        self.reads.append(ids.shape[1])
        last = ids[:, -1]
        logits = 50.0 * nn.functional.one_hot((last + 1) % self.vocabulary, self.vocabulary)
        logits[last == self.poison] = math.nan
        return logits

    def reorder(self, rows):
        pass


def test_each_token_is_read_once_and_the_last_one_never():
    walk = Walk()
    ids = generate(walk, torch.tensor([[0, 1, 2], [3, 4, 5]]), walk, length=3, end=6, pad=0)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 0, 0]]
    assert walk.reads == [3, 1, 1]


@pytest.mark.parametrize("pad", [0, 6])
def test_nothing_is_read_after_all_texts_ended(pad, monkeypatch):
    prompt, walk = torch.tensor([[3], [2]]), Walk()
    kept = generate(walk, prompt, walk, length=50, end=6, pad=pad)
    assert kept.tolist() == [[3, 4, 5, 6, pad], [2, 3, 4, 5, 6]] and len(walk.reads) == 4
    # A device is asked seldom; the texts are the same.
    monkeypatch.setattr(decoding, "is_time_to_look", lambda step, device: step % 8 == 7)
    late = Walk()
    assert torch.equal(generate(late, prompt, late, length=50, end=6, pad=pad), kept)
    assert len(late.reads) == 8


@pytest.mark.parametrize("core", [LSTM(5, 8, depth=2), RNN(5, 8)], ids=["LSTM", "RNN"])
def test_a_recurrent_network_is_read_by_its_state(core):
    net = scramble(RecurrentLanguageModel(9, core), spread=1.0)
    prompt = torch.tensor([[1, 2], [3, 4], [5, 1]])
    read = recurrent_reader(net)
    ids = generate(read, prompt, RecurrentCache(), length=7, temperature=0, count=2)
    for row, text in enumerate(ids[:, :2].tolist()):
        for _ in range(7):
            text.append(int(net(torch.tensor([text]))[0][0, -1].argmax()))
        assert ids[row].tolist() == text
    assert len({tuple(row) for row in ids.tolist()}) == 3
    empty = RecurrentCache()
    empty.reorder(torch.tensor([0]))
    assert empty.state is None


def test_left_pad():
    ids, mask = left_pad([[5, 6, 7], [8]], 0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    with pytest.raises(ValueError, match="length of text 1 must be at least 1, got 0"):
        left_pad([[1], []], 0)
    with pytest.raises(ValueError, match="texts must be at least 1, got 0"):
        left_pad([], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be finite, got inf"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"min_p": -0.1}, r"min_p must be in \[0, 1\], got -0.1"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"never": range(8)}, "logits must leave a token to choose"),
        ({"never": range(8), "temperature": 0}, "logits must leave a token to choose"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message) as told:
        generate(Walk(), torch.tensor([[1]]), Walk(), **{"length": 2} | options)
    assert "\n" not in str(told.value)


def test_refuses_an_empty_prompt():
    with pytest.raises(ValueError, match="prompt_length must be at least 1, got 0"):
        generate(Walk(), torch.zeros(2, 0, dtype=torch.int64), Walk(), length=2)
    with pytest.raises(ValueError, match="prompts must be at least 1, got 0"):
        generate(Walk(), torch.zeros(0, 2, dtype=torch.int64), Walk(), length=2)


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
@pytest.mark.parametrize("poison", [1, 3])
def test_nan_logits_are_told(options, poison):
    prompt = torch.tensor([[1], [5]])
    with pytest.raises(ValueError, match="got NaN"):
        generate(Walk(poison=poison), prompt, Walk(), length=4, **options)
    generate(Walk(poison=4), prompt, Walk(), length=3, **options)  # the last token is not read
