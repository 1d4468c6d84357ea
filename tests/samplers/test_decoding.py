"""Text decoding: probabilities are as documented, and draws follow them."""

import pytest
import torch

from dlreview.samplers.decoding import next_word, word_probabilities

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.0, 0.0, 5.0, 4.0]], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_scores(temperature):
    p = word_probabilities(LOGITS, temperature)
    torch.testing.assert_close(p, (LOGITS / temperature).softmax(1))


def test_temperature_zero_takes_the_first_of_the_most_likely_words():
    p = word_probabilities(torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]]), 0.0)
    assert p.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_top_k_keeps_the_k_most_likely():
    p = word_probabilities(LOGITS, top_k=2)
    expected = LOGITS.softmax(1) * torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
    torch.testing.assert_close(p, expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(word_probabilities(LOGITS, top_k=99), LOGITS.softmax(1))
    tied = word_probabilities(torch.zeros(1, 5), top_k=2)
    assert (tied > 0).sum() == 2


def test_top_p_keeps_the_fewest_words_with_this_probability():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for share, kept in ((0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)):
        p = word_probabilities(logits.double(), top_p=share - 1e-9)
        expected = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double()
        expected[:, kept:] = 0
        torch.testing.assert_close(p, expected / expected.sum(), rtol=1e-6, atol=0)


def test_draws_follow_the_probabilities_and_repeat_with_their_seed():
    logits = LOGITS[:1].expand(40_000, -1)
    drawn = next_word(logits, 1.5, 3, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = word_probabilities(LOGITS[:1], 1.5, 3)[0].float()
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    again = next_word(logits, 1.5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_a_forbidden_word_is_never_drawn():
    logits = LOGITS.clone()
    logits[:, 2] = -torch.inf
    for options in ({}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.9}):
        p = word_probabilities(logits, **options)
        assert (p[:, 2] == 0).all() and torch.allclose(p.sum(1), torch.ones(2).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be finite, got inf"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        word_probabilities(LOGITS, **options)
