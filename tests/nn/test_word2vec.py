import pytest
import torch
import torch.nn.functional as F

from dlreview.nn.word2vec import Word2Vec
from tests.parity import scramble

VOCABULARY, WIDTH, BATCH, CONTEXT = 7, 5, 3, 4


def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.randint(VOCABULARY, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    return words, mask


def test_is_one_hot_words_times_matrices():
    """Rows 4 and 5: the mean of one-hot vectors, through two linear maps without biases."""
    net = scramble(Word2Vec(VOCABULARY, WIDTH))
    words, mask = contexts()
    one_hot = F.one_hot(words, VOCABULARY).double() * mask[..., None]
    mean = one_hot.sum(1) / mask.sum(1, keepdim=True)
    logits = mean @ net.input.weight @ net.output.weight.T
    torch.testing.assert_close(net(words, mask), logits, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(net(words), net(words, torch.ones_like(mask)), atol=1e-12, rtol=0)
    torch.testing.assert_close(net(words[:, :1]), net(words[:, :1], torch.ones(BATCH, 1).bool()))


def test_scores_are_some_of_the_logits():
    net = scramble(Word2Vec(VOCABULARY, WIDTH))
    words, mask = contexts()
    chosen = torch.tensor([[0, 6], [3, 3], [2, 1]])
    scores = net.scores(net.hidden(words, mask), chosen)
    torch.testing.assert_close(scores, net(words, mask).gather(1, chosen), atol=1e-12, rtol=0)


def test_begins_as_the_original():
    net = Word2Vec(100, 50)
    assert not net.output.weight.any()
    assert 0.009 < net.input.weight.abs().max() <= 0.01


@pytest.mark.parametrize("name", ["vocabulary_size", "width"])
def test_refuses(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Word2Vec(**{"vocabulary_size": 3, "width": 2} | {name: 0})
