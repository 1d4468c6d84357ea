"""Tokenizers: what a token is, text back from numbers, and the same ids in transformers."""

import os

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dlreview.data import tokenizer
from dlreview.data.text import Text, tokenize
from dlreview.data.tokenizer import (
    BOS,
    BPE,
    EOS,
    MASK,
    PAD,
    SPECIALS,
    UNK,
    Characters,
    Encoder,
    Words,
)

KINDS = [Characters(), Characters(lowercase=True), BPE(400), BPE(300, lowercase=True), Words(),
         Words(50, lowercase=False)]  # fmt: skip
TEXT = "The 1st line,\n  indented: naïve “text” 😀"


@pytest.fixture(scope="module")
def texts():
    return Text("python-reference").rows("test")


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_specials_come_first_and_transformers_gives_the_same_ids(kind, texts):
    encoder = kind.train(texts)
    assert (PAD, UNK, BOS, EOS, MASK) == (0, 1, 2, 3, 4)
    assert encoder.encode(["".join(SPECIALS)], ends=False) == [[0, 1, 2, 3, 4]]
    ours = encoder.encode([TEXT, "two"])
    assert all(ids[0] == BOS and ids[-1] == EOS for ids in ours)
    assert encoder.encode([TEXT], ends=False)[0] == ours[0][1:-1]
    again = Encoder.from_json(encoder.json)
    assert again.encode([TEXT, "two"]) == ours and len(again) == len(encoder)
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token", "mask_token"),
                     SPECIALS, strict=True))  # fmt: skip
    theirs = PreTrainedTokenizerFast(tokenizer_object=again.tokenizer, **names)
    assert theirs([TEXT, "two"])["input_ids"] == ours
    assert theirs.pad_token_id == PAD and len(theirs) == len(encoder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_training_is_the_same_for_any_number_of_threads(kind, texts, monkeypatch):
    monkeypatch.setenv(tokenizer.THREADS, "false")
    one = kind.train(texts).json
    monkeypatch.setenv(tokenizer.THREADS, "true")
    assert kind.train(iter(texts)).json == kind.train(texts).json == one


def test_bytes_write_every_text():
    encoder = BPE(262).train(["the cat"])
    ids = encoder.encode([TEXT])[0]
    assert UNK not in ids and encoder.decode(ids) == TEXT
    assert encoder.decode(encoder.encode(["12 1,234"])[0]) == "12 1,234"


def test_each_digit_is_a_token():
    encoder = BPE(400).train(["1234 1234 1234 the the the"] * 9)
    assert len(encoder.encode(["1234"], ends=False)[0]) == 4
    assert len(encoder.encode(["the"], ends=False)[0]) == 1


def test_characters_keep_blanks_and_line_ends():
    encoder = Characters().train([TEXT])
    ids = encoder.encode([TEXT], ends=False)[0]
    assert len(ids) == len(TEXT) and encoder.decode(ids) == TEXT
    assert encoder.encode(["Q"], ends=False) == [[UNK]]
    small = Characters(vocabulary_size=6).train(["aab"])
    assert small.encode(["ab"], ends=False) == [[5, UNK]]


def test_tokens_can_be_drawn():
    encoder = Characters().train(["a\n\x07"])
    (ids,) = encoder.encode(["\x07a\n"])
    assert encoder.tokens(ids) == ["<bos>", r"\x07", "a", r"\n", "<eos>"]


def test_what_is_unknown_can_be_kept():
    encoder = Words().train(["one two"])
    (ids,) = encoder.encode(["one zebra two"])
    assert encoder.decode_all([[*ids, PAD]]) == ["one two"]
    assert encoder.decode_all([[*ids, PAD]], keep_unknown=True) == ["one <unk> two"]


def test_words_are_those_of_the_text_chapter():
    encoder = Words(lowercase=False).train([TEXT])
    pieces = [encoder.tokenizer.id_to_token(n) for n in encoder.encode([TEXT], ends=False)[0]]
    assert pieces == tokenize(TEXT)
    assert encoder.decode(encoder.encode(["The  line"])[0]) == "The line"
    assert Words().train(["b a c C"]).encode(["c a B d"], ends=False) == [[5, 6, 7, UNK]]


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ValueError, match="this is no tokenizer"):
        Encoder.from_json({"words": []})
    other = Words().train(["a"]).json
    other["model"]["vocab"]["<pad>"], other["model"]["vocab"]["a"] = 5, 0
    other["added_tokens"] = []
    with pytest.raises(ValueError, match="first tokens must be <pad>, <unk>"):
        Encoder.from_json(other)
    for kind, least in ((BPE, 262), (Words, 6), (Characters, 6)):
        with pytest.raises(ValueError, match=f"vocabulary_size must be at least {least}, got 5"):
            kind(vocabulary_size=5)


def test_worker_processes_are_forked_in_silence(capfd, texts):
    BPE(300).train(texts)
    loader = torch.utils.data.DataLoader(range(4), num_workers=1)
    assert len(list(loader)) == 4
    assert "fork" not in capfd.readouterr().err
    assert os.environ.get(tokenizer.THREADS) is None
