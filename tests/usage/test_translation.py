"""`sample` translates sentences: the likeliest texts of the network, and where it looked."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import sample, saved
from dlreview.data.tokenizer import BOS, EOS, UNWRITTEN, Words
from dlreview.nn.encoder_decoder import EncoderDecoder
from dlreview.usage import translation
from tests.parity import scramble

ENCODER = Words().train(["one two three four", "uno dos tres cuatro"])
LONGEST = 9
USAGE = {"task": "translation", "tokenizer": ENCODER.json}


@pytest.fixture
def net(tmp_path, monkeypatch):
    """Return a saved network with more rows than its tokenizer has tokens."""
    monkeypatch.chdir(tmp_path)
    size = len(ENCODER) + 2
    net = scramble(EncoderDecoder(size, 8, 1, 2, max_length=LONGEST, tied=False), spread=1.5)
    saved.save({"net": net.float()}, Path("model"), "card", USAGE)
    return net


def printed(capsys, *argv):
    assert sample.main(["model", *map(str, argv), "--device", "cpu"]) == 0
    return capsys.readouterr().out.splitlines()[1:]


def read(sentence):
    return torch.tensor([ENCODER.encode([sentence])[0][1:]])


@torch.no_grad()
def greedy(net, sentence, length=LONGEST):
    """Take the likeliest token, reading the whole text anew for each."""
    ids = [BOS]
    while len(ids) <= length and ids[-1] != EOS:
        logits = net(read(sentence), torch.tensor([ids]))[0, -1]
        logits[[*UNWRITTEN, *range(len(ENCODER), net.vocabulary_size)]] = -torch.inf
        ids.append(int(logits.argmax()))
    return ENCODER.decode(ids)


@torch.no_grad()
def score(net, sentence, text):
    """Return the log probability of a translation and, unless it is cut, of its end."""
    ids = torch.tensor(ENCODER.encode([text])[0][: LONGEST + 1])
    log_p = net(read(sentence), ids[None, :-1])[0].log_softmax(-1)
    return float(log_p.gather(1, ids[1:, None]).sum())


def test_one_beam_takes_the_likeliest_token(net, capsys):
    sentences = ["one two", "three", "four four one"]
    lines = printed(capsys, *sentences, "--beams", 1)
    expected = [greedy(net, sentence) for sentence in sentences]
    assert [line for line in lines if not line.startswith("picture: ")] == expected
    assert len(set(expected)) == 3
    assert printed(capsys, "one two", "--beams", 1, "--length", 2)[0] == greedy(net, "one two", 2)


def test_a_search_finds_likelier_texts(net, capsys):
    flags = ("--beams", 20, "--length_penalty", 0)
    better = 0.0
    for sentence in ("one two", "three", "four four one"):
        found = score(net, sentence, printed(capsys, sentence, *flags)[0])
        better += found - score(net, sentence, greedy(net, sentence))
    assert better > 0.1


def test_a_picture_shows_where_the_decoder_looked(net, capsys):
    lines = printed(capsys, "one two", "three", "--out", "out")
    assert lines[1] == "picture: out/alignment.png" and len(lines) == 3, "of the first sentence"
    assert [file.name for file in Path("out").iterdir()] == ["alignment.png"]
    with Image.open("out/alignment.png") as picture:
        assert np.asarray(picture).std() > 1


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([" "], "SENTENCE: is empty"),
        (["one", ""], "SENTENCE: is empty"),
        (["one " * LONGEST], "has 10 tokens, this network reads at most 9: one one"),
    ],
)
def test_mistakes_are_told_in_one_line(net, capsys, argv, problem):
    assert sample.main(["model", *argv, "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert problem in err and len(err.splitlines()) == 1
    assert len(out.splitlines()) <= 1, "before anything is translated"


@pytest.mark.parametrize(
    ("usage", "problem"),
    [
        ({"task": "translation"}, "usage.json: there is no tokenizer"),
        (USAGE | {"tokenizer": {"model": 3}}, "usage.json: tokenizer: this is no tokenizer"),
        (USAGE, f"usage.json: {len(ENCODER)} tokens for this EncoderDecoder"),
    ],
    ids=["missing", "damaged", "larger than the network"],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, monkeypatch, capsys, usage, problem):
    monkeypatch.chdir(tmp_path)
    saved.save({"net": EncoderDecoder(len(ENCODER) - 1, 8, 1, 2)}, Path("model"), "card", usage)
    assert sample.main(["model", "one", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_the_example_is_a_sentence_of_the_test_split(tmp_path):
    ids = torch.tensor([[*ENCODER.encode(["one two"])[0][1:], 0, 0]])
    data = SimpleNamespace(val_dataloader=lambda: [{"source": ids}], encoder=ENCODER)
    assert translation.example(data, tmp_path) == ["one two"]
    assert translation.example(None, tmp_path) is None
    assert translation.tag({}) == "translation"
