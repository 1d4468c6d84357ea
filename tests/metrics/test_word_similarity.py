import pytest
import torch
from scipy.stats import spearmanr

from dlreview.metrics import word_similarity as measure


def test_spearman_is_scipys_with_ties():
    x = torch.randint(5, (40,), generator=torch.Generator().manual_seed(0)).double()
    y = x + torch.randint(9, (40,), generator=torch.Generator().manual_seed(1)).double()
    assert measure.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert measure.spearman(x, torch.ones(40).double()) == 0
    assert measure.spearman(x, x) == pytest.approx(1) and measure.spearman(x, -x) < -0.999


@pytest.fixture(scope="module")
def vectors():
    """Random vectors for the words of the test sets, a third of them missing, and capitals."""
    items = [item for name in measure.JUDGEMENTS for item in measure.judgements(name)]
    words = sorted({w for a, b, _ in items for w in (a, b)})
    words = [w.upper() if i % 7 == 0 else w for i, w in enumerate(words) if i % 3]
    words += ["man", "woman", "king", "queen", "boy", "girl", "brother", "sister"]
    words = list(dict.fromkeys(words))
    return torch.randn(len(words), 6, generator=torch.Generator().manual_seed(0)), words


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["wordsim353", "simlex999"])
def test_matches_gensim(vectors, name):
    from gensim.models import KeyedVectors
    from gensim.test.utils import datapath

    theirs = KeyedVectors(6)
    theirs.add_vectors(vectors[1], vectors[0].numpy())
    file = datapath(measure.JUDGEMENTS[name])
    _, expected, unknown = theirs.evaluate_word_pairs(file, restrict_vocab=None)
    score = measure.word_similarity(*vectors, name)
    assert score.value == pytest.approx(expected.statistic, abs=1e-6)
    assert score.covered == pytest.approx(1 - unknown / 100)
    assert 0.1 < score.covered < 0.9


def test_nearest_matches_gensim(vectors):
    from gensim.models import KeyedVectors

    theirs = KeyedVectors(6)
    theirs.add_vectors(vectors[1], vectors[0].numpy())
    found = measure.nearest(*vectors, "king", 5)
    expected = theirs.most_similar("king", topn=5)
    assert [w for w, _ in found] == [w for w, _ in expected]
    assert [v for _, v in found] == pytest.approx([v for _, v in expected], abs=1e-6)
    assert len(measure.nearest(torch.eye(3), ["a", "b", "c"], "b")) == 2
    with pytest.raises(ValueError, match="'zebrafish' is not in the vocabulary"):
        measure.nearest(*vectors, "zebrafish")


def test_analogies_of_a_made_up_language():
    """Gender is one axis and each pair has its own axis, so that every question is answered."""
    pairs = ["man woman", "king queen", "boy girl", "brother sister"]
    words = [word for pair in pairs for word in pair.split()]
    vectors = torch.zeros(8, 5)
    for i in range(4):
        vectors[2 * i : 2 * i + 2, i] = 1
        vectors[2 * i + 1, 4] = 1
    scores = measure.analogies(vectors, words)
    assert scores["family"].value == 1 and scores["total"].value == 1
    assert 0 < scores["total"].covered < scores["family"].covered < 1
    vectors[1::2, 4] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert measure.analogies(vectors, words)["family"].value < 1


def test_refuses():
    with pytest.raises(ValueError, match="'wordsim' is unknown; did you mean 'wordsim353'"):
        measure.word_similarity(torch.eye(2), ["a", "b"], "wordsim")
    assert measure.word_similarity(torch.eye(2), ["qqq", "zzz"]) == measure.Score(0.0, 0.0)
