"""Tagged sentences: padded batches, words by number and by letters, faults told."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dlreview.data.tagged import LONGEST, NO_TAG, Tagged, spell

TRAIN = [
    ("The bat flew", "at nn-tl vbd"),
    ("a bat", "at nn"),
    ("They bat the Bats", "ppss vb-hl-nc at nns"),
    ("the end", "at nn"),
]
TEST = [("The zebra bat", "at nn vb"), ("end", "nn")]


def folder(tmp_path, train=TRAIN, test=TEST):
    place = tmp_path / "tagged"
    place.mkdir()
    for split, rows in {"train": train, "test": test}.items():
        columns = {"text": [r[0] for r in rows], "tags": [r[1] for r in rows]}
        pq.write_table(pa.table(columns), place / f"{split}-00000-of-00001.parquet")
    return str(place)


@pytest.fixture
def data(tmp_path):
    made = Tagged(folder(tmp_path), batch_size=2)
    made.setup()
    return made


def test_a_batch_says_word_letters_and_tag_of_each_place(data):
    batch = data.train_set[[0, 1]]
    assert batch["lengths"].tolist() == [3, 2]
    words = [[data.words.words[n] for n in row] for row in batch["words"]]
    assert words == [["the", "bat", "<unk>"], ["<unk>", "bat", "<unk>"]]  # the last is no word
    tags = [[data.tags.words[n] for n in row if n != NO_TAG] for row in batch["tags"]]
    assert tags == [["at", "nn", "vbd"], ["at", "nn"]]
    assert batch["tags"][1, 2] == NO_TAG
    for row, sentence in enumerate([["The", "bat", "flew"], ["a", "bat"]]):
        for place, word in enumerate(sentence):
            letters = batch["spellings"][batch["form"][row, place]]
            spelled = "".join(data.letters.words[n - 1] for n in letters if n > 0)
            assert spelled == word, "letters keep their capitals"


def test_marks_come_off_the_tags(data, tmp_path):
    assert set(data.tags.words) == {"<unk>", "at", "nn", "vbd", "ppss", "vb", "nns"}
    (tmp_path / "more").mkdir()
    plain = Tagged(folder(tmp_path / "more"), batch_size=2, strip_tags=None)
    plain.setup()
    assert "vb-hl-nc" in plain.tags.words


def test_it_is_known_how_many_tags_a_word_has(data):
    known = dict(zip(data.forms.words, data.train_set.known.tolist(), strict=True))
    assert known["bat"] == 2  # a noun and a verb
    assert known["The"] == known["the"] == 1
    assert known["zebra"] == 0, "it is not in the training split"
    batch = data.test_set[[0]]
    assert batch["known"][batch["form"]].tolist() == [[1, 0, 2]]


def test_an_empty_share_of_a_batch_has_its_shapes(data):
    batch = data.test_set[[]]
    assert batch["words"].shape == batch["tags"].shape == (0, 0)


def test_long_words_keep_both_ends():
    letters = {letter: n for n, letter in enumerate("?abcdefghijklmnopqrstuvwxyz")}
    table = spell(["ab", "internationalizations", "a!"], letters)
    assert table.shape == (3, LONGEST)
    assert table[0].tolist() == [2, 3] + [0] * (LONGEST - 2)
    assert "".join("?abcdefghijklmnopqrstuvwxyz"[n - 1] for n in table[1]) == "internatioalizations"
    assert table[2, :2].tolist() == [2, 1], "an unknown letter is the first"
    assert spell(["abcdef"], letters, 5).tolist() == [[2, 3, 4, 6, 7]]
    assert spell(["abcdef"], letters, 1).tolist() == [[2]]


def test_the_vocabulary_may_be_cut(tmp_path):
    data = Tagged(folder(tmp_path), batch_size=2, vocabulary_size=2, min_count=1)
    data.setup()
    assert data.words.words == ["<unk>", "bat"]  # "the" is as frequent; the alphabet decides
    assert data.usage()["tags"] == data.tags.words


def test_loaders_meet_every_sentence(data):
    assert sum(len(b["lengths"]) for b in data.train_dataloader()) == 4
    lengths = torch.cat([b["lengths"] for b in data.val_dataloader()])
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"vocabulary_size": 1}, "vocabulary_size must be at least 2, got 1"),
        ({"num_workers": -1}, "num_workers"),
        ({"strip_tags": "(-"}, "is no expression"),
        ({"batch_size": 5}, "batch_size 5 is more than the 4 sentences"),
        ({"min_count": 9, "batch_size": 1}, "no word occurs 9 times"),
        ({"tag_column": "pos"}, "no column 'pos'; it has text, tags"),
        ({"test_split": "dev"}, "dev"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        Tagged(folder(tmp_path), **options).setup()


def test_a_tag_list_of_another_length_than_its_sentence_is_refused(tmp_path):
    uneven = [*TRAIN, ("two words", "nn")]
    with pytest.raises(ValueError, match="row 4: 1 tags for 2 tokens"):
        Tagged(folder(tmp_path, uneven), batch_size=2).setup()
