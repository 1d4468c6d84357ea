import numpy as np
import pytest
import torch
from torch import nn

from dlreview.metrics.word_similarity import nearest
from dlreview.nn.word2vec import Word2Vec
from dlreview.reference import from_reference, to_reference, word2vec

WORDS = ["the", "café", "x_1", "bat", "ball", "猫"]


def network() -> Word2Vec:
    net = Word2Vec(len(WORDS), 4)
    nn.init.normal_(net.input.weight, generator=torch.Generator().manual_seed(0))
    return net


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_the_file_with_the_same_neighbours(tmp_path, binary):
    from gensim.models import KeyedVectors

    net = network()
    word2vec.write_file(net, WORDS, tmp_path / "v", binary)
    theirs = KeyedVectors.load_word2vec_format(tmp_path / "v", binary=binary)
    assert theirs.index_to_key == WORDS
    assert np.array_equal(theirs.vectors, net.input.weight.detach().numpy())
    for word in WORDS:
        expected = theirs.most_similar(word, topn=3)
        found = nearest(net.input.weight, WORDS, word, 3)
        assert [w for w, _ in found] == [w for w, _ in expected]
    again, words = word2vec.read_file(tmp_path / "v", binary)
    assert words == WORDS and torch.equal(again.input.weight, net.input.weight)
    theirs.save_word2vec_format(tmp_path / "theirs", binary=binary)
    again, words = word2vec.read_file(tmp_path / "theirs", binary)
    assert words == WORDS and torch.equal(again.input.weight, net.input.weight)


def test_in_memory_both_ways():
    theirs = word2vec.to_gensim(network(), WORDS)
    again, words = word2vec.from_gensim(theirs)
    assert words == WORDS and torch.equal(again.input.weight, network().input.weight)
    assert again.input.weight.data_ptr() != theirs.vectors.__array_interface__["data"][0]


def test_a_trained_model_brings_its_output_vectors():
    from gensim.models import Word2Vec as Theirs

    sentences = [["a", "b", "c"], ["b", "c", "d"]] * 5
    theirs = Theirs(sentences, vector_size=4, min_count=1, negative=2, workers=1, seed=1)
    ours, words = word2vec.from_gensim(theirs)
    assert set(words) == set("abcd")
    assert np.array_equal(ours.output.weight.detach().numpy(), theirs.syn1neg)
    hidden = ours.hidden(torch.tensor([[0]]))
    expected = theirs.wv.vectors[0] @ theirs.syn1neg[2]
    assert ours.scores(hidden, torch.tensor([[2]])).item() == pytest.approx(expected, abs=1e-6)


def test_the_written_folder_loads_by_its_own_code(tmp_path):
    code = word2vec.write_gensim(network(), {"words": WORDS}, tmp_path)
    scope: dict = {}
    exec(code.replace("{where}", str(tmp_path)), scope)
    assert scope["vectors"].index_to_key == WORDS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*WORDS, "more"], "7 words for a vocabulary_size of 6"),
        ([], "0 words for a vocabulary_size of 6"),
        ([*WORDS[:-1], "the"], "occurs twice"),
        ([*WORDS[:-1], "a b"], "'a b' is empty or has a blank"),
        ([*WORDS[:-1], ""], "'' is empty"),
    ],
)
def test_refuses_words(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        word2vec.write_file(network(), words, tmp_path / "v")


def test_refuses_what_is_no_word2vec(tmp_path):
    with pytest.raises(ValueError, match="not a Linear"):
        word2vec.to_gensim(nn.Linear(2, 2), WORDS)
    (tmp_path / "v").write_text("nonsense\n")
    with pytest.raises(ValueError, match="not in the word2vec format"):
        word2vec.read_file(tmp_path / "v")


def test_a_word_that_comes_twice_keeps_its_first_vector(tmp_path):
    (tmp_path / "v").write_text("3 2\na 1 2\nb 3 4\na 5 6\n")
    net, words = word2vec.read_file(tmp_path / "v")
    assert words == ["a", "b"] and net.vocabulary_size == 2
    assert net.input.weight.tolist() == [[1, 2], [3, 4]]
    assert net.counts is None


@pytest.mark.parametrize("word", ["a b", "a\nb", "", "\ud800"])
def test_a_word_that_cannot_be_written_leaves_no_file(tmp_path, word):
    (tmp_path / "v").write_text("as it was")
    with pytest.raises(ValueError, match="word "):
        word2vec.write_file(network(), [*WORDS[:-1], word], tmp_path / "v")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("v", "as it was")]


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(vector):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(word2vec, "_digits", full)
    with pytest.raises(OSError, match="No space left"):
        word2vec.write_file(network(), WORDS, tmp_path / "v")
    assert not list(tmp_path.iterdir())


def test_keyed_vectors_by_the_common_calls_with_counts():
    theirs = word2vec.to_gensim(network(), WORDS, [9, 7, 5, 3, 2, 1])
    ours = from_reference(theirs)
    assert type(ours) is Word2Vec and ours.words == WORDS and ours.counts == [9, 7, 5, 3, 2, 1]
    again = to_reference(ours, "gensim")
    assert type(again) is type(theirs) and again.index_to_key == WORDS
    assert np.array_equal(again.vectors, theirs.vectors)
    assert [again.get_vecattr(word, "count") for word in WORDS] == ours.counts
    bare = to_reference(from_reference(word2vec.to_gensim(network(), WORDS)), "gensim")
    assert "count" not in bare.expandos
    with pytest.raises(ValueError, match=r"does not know its words; use reference\.word2vec\.to_g"):
        to_reference(network(), "gensim")
    with pytest.raises(ValueError, match="a count for each of 6 words, got 1"):
        word2vec.to_gensim(network(), WORDS, [1])


def test_a_trained_model_by_the_common_call():
    from gensim.models import KeyedVectors
    from gensim.models import Word2Vec as Theirs

    theirs = Theirs([["a", "b", "b"]] * 4, vector_size=4, min_count=1, workers=1, seed=1)
    ours = from_reference(theirs)
    assert ours.words == ["b", "a"] and ours.counts == [8, 4]
    assert np.array_equal(ours.output.weight.detach().numpy(), theirs.syn1neg)
    assert np.array_equal(to_reference(ours, "gensim").vectors, theirs.wv.vectors)
    with pytest.raises(ValueError, match="KeyedVectors has no words"):
        from_reference(KeyedVectors(3))
