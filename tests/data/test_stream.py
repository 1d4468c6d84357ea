"""A text in lanes: each goes on where it stopped, for any number of processes."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from dlreview.data.order import Share
from dlreview.data.stream import END, Lanes, Stream
from dlreview.data.text import UNKNOWN, Text
from dlreview.data.tokenizer import BPE, Characters, Encoder, Words


def test_lanes_go_on_where_they_stopped():
    text = torch.arange(26)  # two lanes of 13 words: three windows of 4, the next word beyond
    data = Lanes(text, lanes=2, length=4)
    assert len(data) == 6
    windows = [data[[2 * k, 2 * k + 1]] for k in range(3)]
    assert [w["first"] for w in windows] == [True, False, False]
    assert windows[0]["ids"].tolist() == [[0, 1, 2, 3, 4], [13, 14, 15, 16, 17]]
    assert windows[2]["ids"].tolist() == [[8, 9, 10, 11, 12], [21, 22, 23, 24, 25]]
    for one, other in pairwise(windows):
        assert torch.equal(one["ids"][:, -1], other["ids"][:, 0])


def test_the_end_is_left_out_in_training_and_measured_in_testing():
    text = torch.arange(24)  # lanes of 12: eleven words to predict
    assert len(Lanes(text, 2, 4)) == 4
    whole = Lanes(text, 2, 4, whole=True)
    assert len(whole) == 6 and whole[[4, 5]]["ids"].shape == (2, 4)
    predicted = sum(whole[[2 * k, 2 * k + 1]]["ids"][:, 1:].numel() for k in range(3))
    assert predicted == 2 * 11
    assert len(Lanes(torch.arange(3), 2, 4)) == len(Lanes(torch.arange(0), 2, 4, whole=True)) == 0


def file(tmp_path, text="The cat sat\nthe cat ran\nthe dog"):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_sentences_end_and_rare_words_are_unknown(tmp_path):
    data = Stream(file(tmp_path), batch_size=1, length=3, min_count=2, test_split="train")
    data.setup()
    assert data.vocabulary.words == [UNKNOWN, END, "the", "cat"]
    told = " ".join(data.vocabulary.decode(data.train_text.tolist()))
    assert told == "the cat <unk> <eos> the cat <unk> <eos> the <unk> <eos>"


def test_the_end_of_a_file_is_for_testing(tmp_path):
    text = "\n".join(f"w{n % 3}" for n in range(50))
    data = Stream(file(tmp_path, text), batch_size=2, length=4, test_split=0.2)
    data.setup()
    told = data.vocabulary.decode(data.test_text.tolist())
    assert told[::2] == [f"w{n % 3}" for n in range(40, 50)]
    assert len(data.train_text) == 80


def processes(data, count, epoch=0, done=0):
    """Return the batches that each of `count` processes would see in an epoch, after `done`."""
    seen = []
    for rank in range(count):
        epochs, steps = (
            SimpleNamespace(current=SimpleNamespace(processed=n)) for n in (epoch, done)
        )
        place = SimpleNamespace(restarting=done > 0, batch_progress=steps)
        loop = SimpleNamespace(epoch_progress=epochs, epoch_loop=place)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=count, fit_loop=loop)
        seen.append([list(data.train_dataloader()), list(data.val_dataloader())])
    return seen


def test_processes_share_the_lanes_of_one():
    whole, half = Stream(batch_size=8, length=16), Stream(batch_size=4, length=16)
    whole.setup()
    half.setup()
    (one,), (first, second) = processes(whole, 1), processes(half, 2)
    for part in (0, 1):  # training, validation
        assert len(one[part]) == len(first[part]) == len(second[part]) > 20
        for batch, a, b in zip(one[part], first[part], second[part], strict=True):
            assert torch.equal(batch["ids"], torch.cat([a["ids"], b["ids"]]))
            assert batch["first"] == a["first"] == b["first"]


def test_shifted_windows_begin_at_any_token():
    data = Lanes(torch.arange(2 * 23), lanes=2, length=5, shift=True)
    assert len(data) == 2 * 3, "so many windows fit wherever they begin"
    begins = set()
    for epoch in range(40):
        rows = [Share([2 * k, 2 * k + 1], [], 2, epoch) for k in range(3)]
        windows = [data[part] for part in rows]
        assert [w["first"] for w in windows] == [True, False, False]
        read = torch.cat([windows[0]["ids"][:, :1], *[w["ids"][:, 1:] for w in windows]], dim=1)
        begin = int(read[0, 0])
        assert torch.equal(read, torch.arange(begin, begin + 16) + torch.tensor([[0], [23]]))
        begins.add(begin)
    assert begins == set(range(5))
    plain = Lanes(torch.arange(2 * 23), lanes=2, length=5)
    assert plain[Share([0, 1], [], 2, 7)]["ids"][0, 0] == 0


def test_the_shift_is_that_of_the_epoch_in_any_number_of_processes_and_after_a_break():
    whole, half = (Stream(batch_size=n, length=16, shift=True) for n in (8, 4))
    whole.setup()
    half.setup()
    ids = []
    for epoch in (0, 1, 2):
        (one,), (first, second) = processes(whole, 1, epoch), processes(half, 2, epoch)
        for batch, a, b in zip(one[0], first[0], second[0], strict=True):
            assert torch.equal(batch["ids"], torch.cat([a["ids"], b["ids"]]))
        ((rest, _),) = processes(whole, 1, epoch, done=3)
        for batch, again in zip(one[0][3:], rest, strict=True):
            assert torch.equal(batch["ids"], again["ids"])
        ids.append(one[0][0]["ids"])
        assert torch.equal(one[1][0]["ids"], whole._test_lanes()[list(range(8))]["ids"]), (
            "no shift there"
        )
    assert not torch.equal(ids[0], ids[1]) or not torch.equal(ids[0], ids[2])


CAT = "Cats sit.  A cat\n"


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "characters"),
    [
        # Words are split at blanks; each of them counts its characters and a blank or the end.
        (None, ["cats", "sit.", "a", "cat", END], 4 + 4 + 1 + 3 + 4),
        (Characters(), [*CAT[:-1], r"\n", "<eos>"], 17 + 1),
        (Words(), ["cats", "sit", ".", "a", "cat", "<eos>"], 17 + 1),
        # Each of the bytes is a token, but those of " " and "c" at the beginning of a word.
        (BPE(262), [*"Cats sit.  A", " c", *"at", r"\n", "<eos>"], 17 + 1),
    ],
    ids=["split at blanks", "characters", "words", "bpe"],
)  # fmt: skip
def test_characters_of_a_token_by_hand(tmp_path, tokenizer, tokens, characters):
    test = file(tmp_path, " c" * 30 + "\n" + CAT) if tokenizer else file(tmp_path, CAT)
    data = Stream(test, 1, 2, test_split="train", tokenizer=tokenizer)
    data.setup()
    ids = data.test_text.tolist()
    if tokenizer is None:
        assert data.vocabulary.decode(ids) == tokens
        assert data.characters_per_token == characters / len(tokens)
        return
    assert data.encoder.tokens(ids)[-len(tokens):] == tokens  # fmt: skip
    assert data.characters_per_token == (61 + characters) / len(ids)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"vocabulary_size": 2}, "vocabulary_size must be at least 3, got 2"),
        ({"num_workers": 2000}, "num_workers must be in 0..1024, got 2000"),
        ({"length": 30, "batch_size": 4}, "11 words are too few for 4 lanes|8 words are too few"),
        ({"min_count": 9, "batch_size": 1, "length": 1}, "no word occurs 9 times"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        Stream(file(tmp_path), test_split="train", **options).setup()


def test_a_text_that_is_empty_or_not_utf_8_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no text"):
        Stream(file(tmp_path, "\n")).setup()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is not UTF-8: byte 3"):
        Stream(str(tmp_path / "latin.txt")).setup()


@pytest.mark.parametrize("tokenizer", [Characters(), BPE(300)], ids=["characters", "bpe"])
def test_a_tokenizer_keeps_blanks_and_line_ends(tmp_path, tokenizer):
    text = "  The cat\n\nsat.\n" * 20
    data = Stream(file(tmp_path, text), 2, 4, test_split=0.25, tokenizer=tokenizer)
    data.setup()
    whole = [data.encoder.decode(part.tolist()) for part in (data.train_text, data.test_text)]
    assert "".join(whole) == text
    assert data.train_text[-1] == data.test_text[-1] == 3
    assert (data.train_text == 3).sum() == 1, "a file is one text"
    assert data.characters_per_token == (len(whole[1]) + 1) / len(data.test_text)
    usage = data.usage()
    assert Encoder.from_json(usage["tokenizer"]).json == data.encoder.json
    assert usage["characters_per_token"] == data.characters_per_token and "words" not in usage
    assert data.sizes == {"vocabulary_size": len(data.encoder), "max_length": 4}


def test_each_row_ends_with_eos():
    data = Stream(batch_size=2, length=8, tokenizer=BPE(500))
    data.setup()
    rows = [row for row in Text("python-reference").rows("test") if row.strip()]
    ends = (data.test_text == 3).nonzero()[:, 0]
    assert len(ends) == len(rows) and ends[-1] == len(data.test_text) - 1
    assert data.encoder.decode(data.test_text[: ends[0]].tolist()) == rows[0]
    assert 2 < data.characters_per_token < 5


def test_characters_of_words_have_single_blanks(tmp_path):
    data = Stream(file(tmp_path, "a  bcd\nef"), 1, 2, test_split="train")
    data.setup()
    assert data.characters_per_token == len("a bcd\nef\n") / 5
    assert data.usage()["words"] == data.vocabulary.words


def test_the_words_arguments_are_refused_with_a_tokenizer():
    with pytest.raises(ValueError, match="vocabulary_size is for words; set the tokenizer's"):
        Stream(vocabulary_size=50, tokenizer=Words())
