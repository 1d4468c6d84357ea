import pytest

from dlreview.metrics.text import bleu, chrf, exact_match, most_frequent, word_overlap


def test_closed_forms():
    written, wanted = ["a b b", "x", ""], ["a b c", "x", ""]
    assert exact_match(written, wanted) == pytest.approx(2 / 3)
    # Of "a b b" and "a b c" two words are shared: 2 * 2 / 6.
    assert word_overlap(written, wanted) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert word_overlap(["a"], ["b"]) == 0
    assert exact_match([], []) == word_overlap([], []) == bleu([], []) == chrf([], []) == 0


def test_corpus_scores_of_equal_and_of_other_texts():
    texts = ["the cat sat on the mat .", "it was a bright cold day in april ."]
    assert bleu(texts, texts) == pytest.approx(100) and chrf(texts, texts) == pytest.approx(100)
    worse = ["the cat sat on the hat .", "it was a bright day in april ."]
    assert 20 < bleu(worse, texts) < 80 and 40 < chrf(worse, texts) < 100
    # One missing last word of four: precisions are 1, the brevity penalty exp(1 - 5 / 4).
    assert bleu(["a b c d"], ["a b c d e"]) == pytest.approx(100 * 2.718281828 ** (1 - 5 / 4))


def test_the_most_frequent_text():
    assert most_frequent(["b", "a", "b", "a", "c"]) == "a" and most_frequent([]) == ""
