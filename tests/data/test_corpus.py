"""Sentences of word numbers: batches hold what was written, and faults are told."""

import pytest
import torch

from dlreview.data import corpus
from dlreview.data.corpus import Corpus, Ragged, cut


def file(tmp_path, text="the cat sat\nthe dog\n\nthe the cat cat\n"):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_batch_is_its_rows_end_to_end():
    data = Ragged([[5, 6, 7], [], [8], [9, 10]])
    batch = data[[3, 0, 1]]
    assert batch["text"].tolist() == [9, 10, 5, 6, 7]
    assert batch["bounds"].tolist() == [0, 2, 5, 5]
    assert batch["row"].tolist() == [3, 0, 1]
    empty = data[[]]
    assert empty["bounds"].tolist() == [0] and len(empty["text"]) == 0


def test_rare_words_are_left_out_as_if_not_written(tmp_path):
    data = Corpus(file(tmp_path), batch_size=3, min_count=2, test_split="train")
    data.setup()
    assert data.vocabulary.words == ["the", "cat"]  # four times, three times; the others once
    (batch,) = data.val_dataloader()
    words = [data.vocabulary.words[n] for n in batch["text"]]
    assert words == ["the", "cat", "the", "the", "the", "cat", "cat"]
    assert batch["bounds"].tolist() == [0, 2, 3, 7]
    assert data.usage()["words"] == ["the", "cat"]


def test_every_sentence_comes_once_an_epoch_in_an_order_of_its_own():
    data = Corpus(batch_size=50, min_count=1)
    data.setup()
    order = data.train_dataloader().sampler
    epochs = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        rows = torch.cat([batch["row"] for batch in data.train_dataloader()]) if epoch == 0 else (
            torch.tensor([row for rows in order for row in rows])
        )  # fmt: skip
        assert len(rows) == len(rows.unique()) == len(data.train_set) // 50 * 50
        epochs.append(rows)
    assert not torch.equal(*epochs)


def test_a_text_of_one_line_becomes_many_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "LONGEST", 4)
    assert cut([list("abcdefghij"), [], ["k"]]) == [list("abcd"), list("efgh"), list("ij"), ["k"]]
    path = file(tmp_path, "a b c d e f g h i")
    data = Corpus(path, batch_size=2, min_count=1, test_split="train")
    data.setup()
    assert data.train_set.length.tolist() == [4, 4, 1]
    parts = Corpus(path, batch_size=2, min_count=1, test_split=0.4)
    parts.setup()
    assert (len(parts.train_set), len(parts.test_set)) == (2, 1)


def test_a_tenth_of_a_file_is_for_testing(tmp_path, capsys):
    lines = [f"w{n}" for n in range(40)]
    data = Corpus(file(tmp_path, "\n".join(lines)), batch_size=4, min_count=1)
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (36, 4)
    assert set(data.vocabulary.words) < set(lines), "only words of the training rows"
    assert capsys.readouterr().out.endswith(
        "has one split, 'train': 0.1 of its rows are for testing\n"
    )
    assert data.usage()["split"] == "0.1 of train"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be in 0..1024, got -1"),
        ({"batch_size": 4}, "batch_size 4 is more than the 3 sentences"),
        ({"min_count": 5, "batch_size": 1}, "no word occurs 5 times"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        Corpus(file(tmp_path), test_split="train", **options).setup()


def test_a_text_that_is_empty_or_not_utf_8_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no text"):
        Corpus(file(tmp_path, "\n \n"), batch_size=1).setup()
    with pytest.raises(ValueError, match=r"text.txt': 1 rows are too few to have 0.1 of them"):
        Corpus(file(tmp_path, "one line"), batch_size=1).setup()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n")
    with pytest.raises(ValueError, match=r"latin.txt' is not UTF-8: byte 3"):
        Corpus(str(tmp_path / "latin.txt"), batch_size=1).setup()
