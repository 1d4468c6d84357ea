from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlreview.data import text
from dlreview.data.text import TaggedText, Text, Vocabulary, read_lines, tokenize


def write(folder: Path, **columns: list) -> str:
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")
    return str(folder)


def read_sentences(path: str, split: str, **options) -> list[list[str]]:
    return Text(path, **options).read(split)


def read_tagged(path: str, split: str) -> list[tuple[list[str], list[str]]]:
    return TaggedText(path).read(split)


def test_vocabulary_orders_by_count_then_alphabet():
    vocabulary = Vocabulary([["b", "a", "c", "c"], ["b", "d"]], specials=["<unk>"])
    assert vocabulary.words == ["<unk>", "b", "c", "a", "d"]
    assert vocabulary.counts == [0, 2, 2, 1, 1]
    assert vocabulary.encode(["d", "zebra", "b"]) == [4, 0, 1]
    assert vocabulary.decode([1, 3]) == ["b", "a"] and "c" in vocabulary and len(vocabulary) == 5


def test_vocabulary_drops_rare_words():
    sentences = [["b", "a", "c", "c"], ["b", "d"]]
    assert Vocabulary(sentences, min_count=2).words == ["b", "c"]
    assert Vocabulary(sentences, size=3, specials=["<unk>"]).words == ["<unk>", "b", "c"]
    assert Vocabulary(sentences, min_count=2).encode(["a", "c", "zebra"]) == [1]


@pytest.mark.parametrize(
    ("sentences", "change", "message"),
    [
        ([["a", "a"], ["b"]], {"min_count": 3}, "no word occurs 3 times: the most frequent of 2"),
        ([[]], {}, "the text is empty"),
        ([["a"]], {"min_count": 0}, "min_count must be at least 1, got 0"),
        ([["a"]], {"size": 1, "specials": ["<unk>"]}, "size must be at least 2, got 1"),
    ],
)
def test_vocabulary_refuses(sentences, change, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(sentences, **change)


def test_tokens():
    assert tokenize('A "built-in" isn’t x_1.') == ["A", '"', "built-in", '"', "isn’t", "x_1", "."]


def test_the_embedded_text_is_english_in_two_splits():
    train, test = (read_sentences("python-reference", split) for split in text.SPLITS)
    sizes = [sum(map(len, part)) for part in (train, test)]
    assert sizes[0] > 50_000 and sizes[1] > 5_000
    frequent = Vocabulary(train).words[:30]
    assert {"the", "a", "is", "of"} <= set(frequent)
    assert not any("***" in word or word != word.lower() for s in train for word in s)


def test_a_folder_and_the_environment(tmp_path, monkeypatch):
    path = write(tmp_path / "corpus", text=["The new_york  cat", "", "sat"], other=[1, 2, 3])
    assert read_sentences(path, "train") == [["the", "new_york", "cat"], ["sat"]]
    assert read_sentences(path, "train", lowercase=False)[0][0] == "The"
    monkeypatch.setenv("DLREVIEW_DATA", str(tmp_path))
    assert read_sentences("corpus", "train")[1] == ["sat"]


def test_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\nThree", encoding="utf-8")
    assert read_sentences(str(tmp_path / "a.txt"), "train") == [["one", "two"], ["three"]]
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"b.txt' is not UTF-8: byte 3"):
        read_sentences(str(tmp_path / "b.txt"), "train")
    (tmp_path / "c.txt").write_text(" \n")
    with pytest.raises(ValueError, match="there is no text"):
        read_sentences(str(tmp_path / "c.txt"), "train")


def test_only_line_ends_end_a_line(tmp_path):
    path = tmp_path / "a.txt"
    text = "\ufeffone\u2028two\x0bthree\u0085four\x0cfive\r\nsix\rseven\n\ufeffeight"
    path.write_bytes(text.encode())
    lines = [["one", "two", "three", "four", "five"], ["six"], ["seven"], ["\ufeffeight"]]
    assert [line.split() for line in read_lines(path)] == lines
    assert read_sentences(str(path), "train") == lines


def test_a_folder_of_text_files_has_no_byte_order_mark(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfone two\nthree\n")
    assert read_sentences(str(tmp_path), "train") == [["one", "two"], ["three"]]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("one")
    assert read_sentences("~/a.txt", "train") == [["one"]]


def test_refuses_what_is_not_there(tmp_path):
    path = write(tmp_path / "corpus", text=["a"], number=[1])
    with pytest.raises(ValueError, match=r"has no column 'txt'; it has text, number"):
        read_sentences(path, "train", column="txt")
    with pytest.raises(ValueError, match=r"column 'number': not text but int"):
        read_sentences(path, "train", column="number")
    with pytest.raises(ValueError, match="no such folder"):
        read_sentences(str(tmp_path / "nowhere"), "train")
    with pytest.raises(ValueError, match="no such file"):
        read_sentences(str(tmp_path / "nowhere.txt"), "train")
    with pytest.raises(ValueError, match="no such file"):
        read_sentences("nowhere.txt", "train")
    with pytest.raises(ValueError, match="split of 'python-reference' 'dev' is unknown"):
        read_sentences("python-reference", "dev")
    (tmp_path / "a.txt").write_text("a b")
    with pytest.raises(ValueError, match=r"a.txt' 'test' is unknown; valid: train"):
        read_sentences(str(tmp_path / "a.txt"), "test")
    empty = write(tmp_path / "empty", text=["", " "])
    with pytest.raises(ValueError, match="there is no text"):
        read_sentences(empty, "train")


def test_tags_are_one_for_each_token(tmp_path):
    path = write(tmp_path / "tagged", text=["The cat", ""], tags=["at nn", ""])
    assert read_tagged(path, "train") == [(["The", "cat"], ["at", "nn"])]
    path = write(tmp_path / "uneven", text=["the cat", "it sat"], tags=["at nn", "pps"])
    with pytest.raises(ValueError, match="row 1: 1 tags for 2 tokens"):
        read_tagged(path, "train")


TOKENS = [["The", "New York", "cat"], ["it", " ", "sat"], []]


def test_lists_of_tokens(tmp_path):
    path = write(tmp_path / "lists", tokens=TOKENS)
    sentences = [["the", "new_york", "cat"], ["it", "_", "sat"]]
    assert read_sentences(path, "train", column="tokens") == sentences
    path = write(tmp_path / "floats", tokens=[[0.5]])
    with pytest.raises(ValueError, match="column 'tokens': a list of float, not of tokens"):
        read_sentences(path, "train", column="tokens")


def test_lists_of_tags_by_their_names(tmp_path):
    tags = [[0, 1, 1], [2, 0, 1], []]
    names = datasets.ClassLabel(names=["DT", "NN", "PRP"])
    features = {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(names)}
    place = tmp_path / "named"
    place.mkdir()
    rows = datasets.Dataset.from_dict(
        {"tokens": TOKENS, "tags": tags}, features=datasets.Features(features)
    )
    rows.to_parquet(place / "train.parquet")
    expected = [
        (["The", "New_York", "cat"], ["DT", "NN", "NN"]),
        (["it", "_", "sat"], ["PRP", "DT", "NN"]),
    ]
    assert TaggedText(str(place), column="tokens").read("train") == expected
    path = write(tmp_path / "numbers", tokens=TOKENS, tags=tags)
    read = TaggedText(path, column="tokens").read("train")
    assert [tags for _, tags in read] == [["0", "1", "1"], ["2", "0", "1"]]
    path = write(tmp_path / "mixed", tokens=["The cat"], tags=[["DT", "NN"]])
    assert TaggedText(path, column="tokens").read("train") == [(["The", "cat"], ["DT", "NN"])]
    path = write(tmp_path / "uneven", tokens=TOKENS, tags=[[0], [1], []])
    with pytest.raises(ValueError, match="row 0: 1 tags for 3 tokens"):
        TaggedText(path, column="tokens").read("train")


def test_a_class_outside_the_names_is_refused():
    with pytest.raises(ValueError, match=r"place: class -1\nvalid: 0..1"):
        text.text_of([0, -1], ["DT", "NN"], "place")
