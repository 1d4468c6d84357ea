"""Windows and negatives by hashing: right pairs and right probabilities on any process."""

import numpy as np
import pytest
import torch

from dlreview.learners.windows import draw_negatives, examples, keep_probability
from dlreview.samplers.alias import alias_table

WINDOW = 3


def corpus(rows=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(0, 12, (rows,), generator=generator)
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)])
    # Every word occurs once, so that a pair of words is a pair of positions.
    text = torch.arange(int(bounds[-1]))
    return text, bounds, torch.arange(rows)


def everything(text):
    return torch.ones(len(text))


def pairs(found):
    """Return the set of (context word, predicted word)."""
    mask = torch.ones_like(found.context, dtype=torch.bool) if found.mask is None else found.mask
    return {
        (int(c), int(w))
        for row, w, m in zip(found.context, found.word, mask, strict=True)
        for c, counted in zip(row, m, strict=True)
        if counted
    }


@pytest.mark.parametrize("skip_gram", [True, False])
def test_words_see_their_neighbours_within_the_window_and_the_sentence(skip_gram):
    text, bounds, row = corpus()
    found = examples(text, bounds, row, everything(text), window=WINDOW, skip_gram=skip_gram, key=7)
    sentence = torch.bucketize(text, bounds, right=True)
    reach = {}
    for context, word in pairs(found):
        assert context != word and sentence[context] == sentence[word]
        distance = abs(context - word)
        assert distance <= WINDOW
        reach[word] = max(reach.get(word, 0), distance)
    # A word sees all words within its reach on both sides, and all reaches are equally frequent.
    begin, end = bounds[:-1][sentence - 1], bounds[1:][sentence - 1]
    for word, far in reach.items():
        for other in range(max(int(begin[word]), word - far), min(int(end[word]), word + far + 1)):
            assert other == word or (other, word) in pairs_of(found, skip_gram)
    inner = [w for w in reach if begin[w] <= w - WINDOW and w + WINDOW < end[w]]
    shares = np.bincount([reach[w] for w in inner], minlength=WINDOW + 1)[1:] / len(inner)
    np.testing.assert_allclose(shares, 1 / WINDOW, atol=4 * (1 / 3 * 2 / 3 / len(inner)) ** 0.5)
    alone = (bounds.diff() == 1).sum()
    assert len(found.word.unique()) == len(text) - alone, "a word alone predicts nothing"


_cache = {}


def pairs_of(found, key):
    if key not in _cache:
        _cache[key] = pairs(found)
    return _cache[key]


def test_both_methods_have_the_same_pairs():
    text, bounds, row = corpus()
    how = {"window": WINDOW, "key": 3}
    both = [
        pairs(examples(text, bounds, row, everything(text), skip_gram=s, **how))
        for s in (True, False)
    ]
    assert both[0] == both[1] and len(both[0]) > 3000


def test_draws_do_not_depend_on_the_batches_of_rows():
    text, bounds, row = corpus()
    keep = torch.linspace(0.3, 1, len(text))
    how = {"window": WINDOW, "skip_gram": False, "key": 11}
    whole = examples(text, bounds, row, keep, **how)
    cut = 150
    at = int(bounds[cut])
    first = examples(text[:at], bounds[: cut + 1], row[:cut], keep, **how)
    second = examples(text[at:], bounds[cut:] - at, row[cut:], keep, **how)
    assert torch.equal(whole.word, torch.cat([first.word, second.word]))
    assert torch.equal(whole.key, torch.cat([first.key, second.key]))
    assert pairs(whole) == pairs(first) | pairs(second)
    other = examples(text, bounds, row, keep, **how | {"key": 12})
    assert pairs(other) != pairs(whole)


def test_frequent_words_are_dropped_with_their_probability():
    rows, length = 4000, 10
    text = torch.arange(length).repeat(rows)
    bounds = torch.arange(0, rows * length + 1, length)
    keep = torch.linspace(0.1, 1.0, length)
    found = examples(text, bounds, torch.arange(rows), keep, window=9, skip_gram=False, key=5)
    kept = torch.bincount(found.word, minlength=length) / rows
    # A kept word is predicted, unless no other word is kept: of ten words that is rare.
    torch.testing.assert_close(kept, keep, atol=0.03, rtol=0)


def test_how_often_a_word_is_kept():
    counts = torch.tensor([900.0, 99.0, 1.0])
    keep = keep_probability(counts, 1e-1)
    share = counts / 1000
    expected = ((0.1 / share).sqrt() + 0.1 / share).clamp(max=1)
    torch.testing.assert_close(keep, expected)
    assert keep[0] < keep[1] == keep[2] == 1
    assert (keep_probability(counts, 0.0) == 1).all()


def test_negatives_are_drawn_in_proportion_to_their_weights():
    weights = np.array([5.0, 1.0, 0.0, 2.5, 1.5])
    threshold, other = (torch.from_numpy(t.astype("int64")) for t in alias_table(weights))
    key = torch.arange(20_000)
    drawn = draw_negatives(key, 5, (threshold, other))
    share = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    torch.testing.assert_close(
        share, torch.from_numpy(weights / weights.sum()).float(), atol=0.006, rtol=0
    )
    assert torch.equal(drawn[:7], draw_negatives(key[:7], 5, (threshold, other)))
    columns = drawn.float().T.corrcoef()
    assert (columns - torch.eye(5)).abs().max() < 0.03, "draws of one example are independent"


def test_an_empty_text_has_no_examples():
    none = torch.empty(0, dtype=torch.int64)
    for skip_gram in (True, False):
        found = examples(
            none, torch.zeros(3, dtype=torch.int64), torch.arange(2), torch.ones(4),
            window=2, skip_gram=skip_gram, key=1,
        )  # fmt: skip
        assert len(found.word) == len(found.context) == len(found.key) == 0
