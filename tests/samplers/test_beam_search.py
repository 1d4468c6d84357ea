"""Beam search finds the texts and scores of transformers, and of an exhaustive search."""

import itertools

import pytest
import torch
from transformers import GenerationConfig

from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.reference import from_reference
from dlreview.samplers import beam_search as module
from dlreview.samplers.beam_search import beam_search
from dlreview.samplers.decoding import generate, left_pad
from dlreview.samplers.recurrent import RecurrentCache, recurrent_reader
from tests.parity import scramble
from tests.samplers.past import (
    BEGIN,
    PAD,
    Past,
    gpt2,
    marian,
    read_gpt2,
    read_marian,
    start_marian,
)

PROMPT, MASK = left_pad([[3, 4, 5], [6], [7, 8]], PAD)
SOURCE, SOURCE_MASK = left_pad([[4, 5, 6, 3], [9, 3]], PAD)
BEGINS = torch.full((2, 1), BEGIN)
LENGTH = 7


def config(beams, **options):
    return GenerationConfig(
        pad_token_id=PAD, max_length=None, max_new_tokens=LENGTH, num_beams=beams, do_sample=False,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip


def assert_same(found, theirs):
    assert torch.equal(found[0], theirs.sequences)
    torch.testing.assert_close(found[1], theirs.sequences_scores, rtol=1e-6, atol=1e-6)


def compare_gpt2(beams, end, count=1, **options):
    """Search with both and compare; return how many of the texts end before the last step."""
    theirs = gpt2().generate(
        PROMPT,
        attention_mask=MASK.long(),
        generation_config=config(beams, eos_token_id=end, num_return_sequences=count, **options),
    )
    options = {"length": LENGTH, "end": end, "pad": PAD, "count": count} | options
    found = beam_search(read_gpt2, PROMPT, Past(MASK), beams=beams, **options)
    assert_same(found, theirs)
    if end is None:
        return 0
    return int((theirs.sequences[:, PROMPT.shape[1] : -1] == end).any(dim=1).sum())


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_texts_and_scores_of_gpt2_are_those_of_transformers(early_stopping, length_penalty):
    options = {"early_stopping": early_stopping, "length_penalty": length_penalty}
    ended = [
        compare_gpt2(beams, end, count=beams, **options)
        for beams, end in itertools.product((2, 3, 5), (6, 10, 19))
    ]
    if length_penalty < 2:  # else the longest texts win
        assert sum(ended) > 9, "ends in the middle of the search are compared too"


@pytest.mark.parametrize(("beams", "count"), [(2, 1), (4, 1), (4, 3)])
def test_without_an_end_all_texts_have_the_greatest_length(beams, count):
    compare_gpt2(beams, None, count)


@pytest.mark.parametrize("end", [4, 9, 12])
@pytest.mark.parametrize("beams", [2, 4])
def test_an_encoder_decoder_translates_as_transformers_does(beams, end):
    theirs = marian().generate(
        SOURCE,
        attention_mask=SOURCE_MASK.long(),
        generation_config=config(beams, eos_token_id=end, decoder_start_token_id=BEGIN),
    )
    cache = start_marian(SOURCE, SOURCE_MASK.long())
    options = {"beams": beams, "length": LENGTH, "end": end, "pad": PAD}
    assert_same(beam_search(read_marian, BEGINS, cache, **options), theirs)


@pytest.mark.parametrize("end", [6, 10, 19])
def test_our_gpt_writes_the_same_with_its_own_cache(end):
    net = from_reference(gpt2())
    capacity = PROMPT.shape[1] + LENGTH - 1  # the last token is not read
    options = {"length": LENGTH, "end": end, "pad": PAD}
    theirs = beam_search(read_gpt2, PROMPT, Past(MASK), beams=3, count=2, **options)
    ours = beam_search(net.read, PROMPT, net.start(capacity, MASK), beams=3, count=2, **options)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-6)
    for temperature in (0, 1.5):
        options |= {"temperature": temperature, "count": 2}
        torch.manual_seed(end)
        theirs = generate(read_gpt2, PROMPT, Past(MASK), **options)
        torch.manual_seed(end)
        assert torch.equal(generate(net.read, PROMPT, net.start(capacity, MASK), **options), theirs)


@pytest.mark.parametrize("end", [4, 9, 12])
def test_our_encoder_decoder_translates_the_same_with_its_own_cache(end):
    net, options = from_reference(marian()), {"beams": 4, "length": LENGTH, "end": end, "pad": PAD}
    theirs = beam_search(
        read_marian, BEGINS, start_marian(SOURCE, SOURCE_MASK.long()), count=3, **options
    )
    cache = net.start(SOURCE, SOURCE_MASK, LENGTH)
    ours = beam_search(net.read, BEGINS, cache, count=3, **options)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-6)


def test_forbidden_tokens_are_those_that_transformers_suppresses():
    never = [19, 5, 0]
    theirs = gpt2().generate(
        PROMPT,
        attention_mask=MASK.long(),
        generation_config=config(3, eos_token_id=10, suppress_tokens=never),
    )
    options = {"beams": 3, "length": LENGTH, "end": 10, "pad": PAD, "never": never}
    assert_same(beam_search(read_gpt2, PROMPT, Past(MASK), **options), theirs)


def test_a_wrong_length_in_the_penalty_is_caught(monkeypatch):
    right = module.Hypotheses.add
    wrong = lambda self, scores, choices, ended, step: right(self, scores, choices, ended, step + 1)  # noqa: E731
    monkeypatch.setattr(module.Hypotheses, "add", wrong)
    with pytest.raises((AssertionError, IndexError)):
        compare_gpt2(3, 10)


def recurrent(vocabulary):
    return scramble(RecurrentLanguageModel(vocabulary, LSTM(3, 4)), spread=1.0)


def test_with_enough_beams_the_most_probable_text_of_all_is_found():
    net, end, length = recurrent(4), 0, 4
    prompt = torch.tensor([[1], [2], [3]])
    options = {"beams": 4**length, "length": length, "end": end, "length_penalty": 0.0}
    ids, scores = beam_search(
        recurrent_reader(net), prompt, RecurrentCache(), early_stopping="never", **options
    )
    every = torch.tensor(list(itertools.product(range(4), repeat=length)))
    after = ((every == end).cumsum(1) - (every == end).long()) > 0
    every = every[((every == 0) | ~after).all(dim=1)]  # after the end there is padding only
    after = ((every == end).cumsum(1) - (every == end).long()) > 0
    for row, begin in enumerate(prompt):
        texts = torch.cat([begin.expand(len(every), 1), every], dim=1)
        with torch.no_grad():
            log_p = net(texts[:, :-1])[0].log_softmax(-1).gather(2, every[..., None])[..., 0]
        total = log_p.masked_fill(after, 0).sum(dim=1)
        best = texts[total.argmax()].tolist()
        assert ids[row].tolist() == best[: ids.shape[1]] and not any(best[ids.shape[1] :])
        torch.testing.assert_close(scores[row], total.max().float())


def test_scores_are_the_mean_log_probability_and_fall():
    net, prompt = recurrent(9), torch.tensor([[1, 2], [3, 4]])
    ids, scores = beam_search(
        recurrent_reader(net), prompt, RecurrentCache(), beams=5, count=5, length=6
    )
    assert ids.shape == (10, 8) and (scores.view(2, 5).diff(dim=1) <= 0).all()
    with torch.no_grad():
        log_p = net(ids[:, :-1])[0].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(scores, log_p[:, 1:].mean(dim=1).float())


def test_a_device_that_is_asked_seldom_finds_the_same_texts(monkeypatch):
    net, prompt = recurrent(9), torch.tensor([[1, 2], [3, 4]])
    options = {"beams": 3, "count": 3, "length": 30, "end": 4, "early_stopping": True}
    seen = []

    def read(ids, cache):
        seen.append(len(ids))
        return recurrent_reader(net)(ids, cache)

    ids, scores = beam_search(read, prompt, RecurrentCache(), **options)
    asked = len(seen)
    monkeypatch.setattr(module, "is_time_to_look", lambda step, device: step % 8 == 7)
    late = beam_search(read, prompt, RecurrentCache(), **options)
    assert torch.equal(ids, late[0]) and torch.equal(scores, late[1])
    assert asked < len(seen) - asked <= 30, "the search goes on, in vain"
    assert seen[:2] == [2, 6], "the prompt is read once, not by each beam"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 3}, "count must be at most beams 2, got 3"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"early_stopping": "nev"}, "early_stopping must be True, False or 'never', got 'nev'"),
        ({"never": range(9)}, "logits must leave a token to choose"),
    ],
)
def test_refuses(options, message):
    options = {"beams": 2, "length": 3} | options
    with pytest.raises(ValueError, match=message):
        prompt = torch.tensor([[1]])
        beam_search(recurrent_reader(recurrent(9)), prompt, RecurrentCache(), **options)


def test_refuses_an_empty_prompt_and_nan_logits():
    read, cache = recurrent_reader(recurrent(9)), RecurrentCache()
    with pytest.raises(ValueError, match="prompt_length must be at least 1, got 0"):
        beam_search(read, torch.zeros(1, 0, dtype=torch.int64), cache, beams=2, length=3)
    broken = recurrent(9)
    torch.nn.init.constant_(broken.M.bias[3:4], torch.nan)
    for end in (None, 5):
        with pytest.raises(ValueError, match="got NaN"):
            prompt, options = torch.tensor([[1]]), {"beams": 2, "length": 3, "end": end}
            beam_search(recurrent_reader(broken), prompt, RecurrentCache(), **options)
