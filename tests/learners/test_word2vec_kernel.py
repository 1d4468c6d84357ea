"""A step of the kernel follows the gradient of the formula; a pass takes these steps in order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dlreview.learners.word2vec_kernel import train_pass, train_step
from dlreview.samplers.alias import alias_table

VOCABULARY, WIDTH, RATE = 13, 20, 0.1
NEGATIVES = 7  # with the word 8 targets: more than a block, and the second block is not full
SAME = {"atol": 3e-6, "rtol": 0}  # single precision, and sigma from a table


def vectors(scale=0.5):
    rng = np.random.default_rng(0)
    return [rng.normal(0, scale, (VOCABULARY, WIDTH)).astype(np.float32) for _ in range(2)]


def written_step(input, output, words, targets, rate):
    """Descend -log sigma(u_o h) - sum_k log sigma(-u_k h) by autograd in double precision."""
    v, u = (torch.from_numpy(x).double().requires_grad_() for x in (input, output))
    scores = u[torch.tensor(targets)] @ v[torch.tensor(words)].mean(0)
    drawn = torch.tensor([target != targets[0] for target in targets[1:]])
    loss = -F.logsigmoid(scores[0]) - (F.logsigmoid(-scores[1:]) * drawn).sum()
    loss.backward()
    for x, parameter in ((input, v), (output, u)):
        x[:] = (parameter.detach() - rate * parameter.grad).numpy()
    return loss.item()


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ([3], [4, 5, 6, 7, 8, 9]),  # skip-gram, a full block
        ([3, 1, 12], [4, 5]),  # CBOW, a block not full
        ([3, 3, 4], [4, 5, 6, 7, 8, 9, 10, 11, 12]),  # a word twice, more than a block
        ([3], [4, 5, 5, 4, 3]),  # a negative drawn twice, one that is the word itself
        ([0], [1]),  # no negatives at all
    ],
)
@pytest.mark.parametrize("scale", [0.5, 3.0])  # scores up to about 5 and far beyond the table
def test_a_step_is_the_gradient_of_the_formula(words, targets, scale):
    mine, other = vectors(scale), vectors(scale)
    loss = train_step(*mine, np.array(words), np.array(targets), RATE)
    expected = written_step(*other, words, targets, RATE)
    assert loss == pytest.approx(expected, abs=1e-5 if scale < 1 else 40, rel=1e-5)
    for x, y, begin in zip(mine, other, vectors(scale), strict=True):
        np.testing.assert_allclose(x, y, **SAME)
        assert not np.array_equal(x, begin)


class Draws:
    """The kernel's random numbers (xorshift64*) in Python's integers."""

    def __init__(self, seed):
        self.state = seed + 1

    def __call__(self):
        x = self.state
        x ^= x >> 12
        x ^= (x << 25) % 2**64
        self.state = x = x ^ x >> 27
        return x * 0x2545F4914F6CDD1D % 2**64


def text():
    rng = np.random.default_rng(1)
    bounds = np.cumsum([0, 9, 0, 1, 30, 2, 12])
    tokens = rng.integers(VOCABULARY, size=bounds[-1]).astype(np.int32)
    keep = np.linspace(2**31, 2**32 - 1, VOCABULARY).astype(np.uint32)
    return tokens, bounds, keep, alias_table(np.arange(1.0, VOCABULARY + 1))


@pytest.mark.parametrize("skip_gram", [True, False])
def test_a_pass_is_the_written_algorithm_with_the_same_draws(skip_gram):
    """Drop frequent words, draw a window for each remaining word, take a step on each example."""
    tokens, bounds, keep, (threshold, other) = text()
    window, rates, seed = 3, (0.1, 0.02), 77
    mine, theirs = vectors(), vectors()
    how = {"negatives": NEGATIVES, "window": window, "skip_gram": skip_gram}
    result = train_pass(
        *mine, tokens, bounds, keep, (threshold, other), rates=rates, seeds=[seed], **how
    )
    draw, loss, examples = Draws(seed), 0.0, 0
    for begin, end in pairwise(bounds):
        rate = rates[0] + (rates[1] - rates[0]) * begin / bounds[-1]
        kept = [int(w) for w in tokens[begin:end] if draw() >> 32 <= keep[w]]
        for i, word in enumerate(kept):
            reach = 1 + ((draw() >> 32) * window >> 32)
            around = kept[max(0, i - reach) : i] + kept[i + 1 : i + 1 + reach]
            contexts = [[w] for w in around] if skip_gram else [around][: len(around)]
            drawn = []
            for _ in contexts:
                drawn.append([word])
                for _ in range(NEGATIVES):
                    bits = draw()
                    cell = (bits >> 32) * VOCABULARY >> 32
                    drawn[-1].append(cell if bits % 2**32 < threshold[cell] else int(other[cell]))
            for context, targets in zip(contexts, drawn, strict=True):
                loss += written_step(*theirs, context, targets, rate)
                examples += 1
    assert result[1] == examples > 30
    assert result[0] == pytest.approx(loss, rel=1e-5)
    for x, y in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def run(seeds):
    tokens, bounds, keep, alias = text()
    mine = vectors()
    how = {"negatives": NEGATIVES, "window": 3, "skip_gram": True, "rates": (0.1, 0.1)}
    result = train_pass(*mine, tokens, bounds, keep, alias, seeds=seeds, **how)
    return result, mine


def test_one_thread_repeats_bit_for_bit():
    (one, mine), (two, again), (_, differently) = run([7]), run([7]), run([8])
    assert one == two and all(map(np.array_equal, mine, again))
    assert not np.array_equal(mine[0], differently[0])


def test_threads_share_the_work():
    (loss, examples), mine = run([7, 8])
    assert loss > 0 and abs(examples - run([7])[0][1]) < 80
    begin = vectors()
    assert (mine[1] != begin[1]).any(axis=1).sum() > 10  # most words were drawn as negatives
    assert run([7, 8, 9, 10, 11, 12, 13, 14])[0][1] > 0  # more threads than sentences


def test_divergence_shows_and_does_not_crash():
    tokens, bounds, keep, alias = text()
    mine = vectors()
    mine[0][:] = np.nan
    how = {"negatives": NEGATIVES, "window": 3, "skip_gram": False, "rates": (0.1, 0.1)}
    train_pass(*mine, tokens, bounds, keep, alias, seeds=[1], **how)
    assert np.isnan(mine[0]).all()


def test_copies_of_frequent_rows_lose_nothing(monkeypatch):
    """Two threads in turn, with copies that are merged often, give the result without copies."""
    from dlreview.learners import word2vec_kernel

    tokens, bounds, keep, alias = text()
    how = {"negatives": NEGATIVES, "window": 3, "skip_gram": True, "rates": (0.1, 0.1)}
    shares = np.searchsorted(bounds, np.linspace(bounds[0], bounds[-1], 3))
    shares[-1] = len(bounds) - 1
    plain = vectors()
    for thread, seed in enumerate((7, 8)):
        own = bounds[shares[thread] : shares[thread + 1] + 1]
        train_pass(*plain, tokens, own, keep, alias, seeds=[seed], **how)

    class InTurn:  # a pool that runs its threads one after the other
        def __init__(self, threads): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def map(self, work, threads):
            return [work(thread) for thread in threads]

    monkeypatch.setattr(word2vec_kernel, "ThreadPoolExecutor", InTurn)
    monkeypatch.setattr(word2vec_kernel, "HOT", 5)
    copied = vectors()
    train_pass(*copied, tokens, bounds, keep, alias, seeds=[7, 8], **how)
    for x, y, begin in zip(plain, copied, vectors(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
        assert np.abs(x - begin).max() > 0.1
