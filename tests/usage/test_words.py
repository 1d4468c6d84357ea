"""`sample` prints the neighbours of words; rows after the last word stand for no word."""

import pytest

from dlreview import sample, saved
from dlreview.metrics.word_similarity import nearest
from dlreview.nn.word2vec import Word2Vec
from tests.parity import scramble

WORDS = ["the", "cats", "dogs", "birds"]


def asked(net, folder, *argv, words=WORDS):
    saved.save({"net": net}, folder, "card", {"task": "words", "words": words})
    return sample.main([str(folder), *argv])


@pytest.mark.parametrize("rows", [0, 5])
def test_neighbours_are_words(rows, tmp_path, capsys):
    net = scramble(Word2Vec(len(WORDS) + rows, 6)).float()
    assert asked(net, tmp_path / "m", "cats", "--top", "9") == 0
    near = nearest(net.input.weight[: len(WORDS)], WORDS, "cats", 3)
    line = "cats  " + "  ".join(f"{word} {value:.3f}" for word, value in near)
    assert capsys.readouterr().out.splitlines()[1:] == [line]


def test_frequent_words_by_default(tmp_path, capsys):
    assert asked(Word2Vec(4, 6), tmp_path / "m") == 0
    begin = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert begin == ["cats", "dogs", "birds"]


def test_mistakes(tmp_path, capsys):
    assert asked(Word2Vec(4, 6), tmp_path / "m", "cat") == 2
    assert "did you mean cats" in capsys.readouterr().err
    for words in ([], [*WORDS, "more"]):
        assert asked(Word2Vec(4, 6), tmp_path / "m", words=words) == 1
        assert f"{len(words)} words for this Word2Vec" in capsys.readouterr().err
