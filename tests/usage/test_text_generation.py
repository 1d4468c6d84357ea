"""`sample` goes on with a text: word by word as the network says, until the sentence ends."""

import pytest
import torch

from dlreview import sample, saved
from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from tests.parity import scramble

WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "down", "twice"]
USAGE = {"task": "text_generation", "words": WORDS}


def model(folder, usage=USAGE):
    net = scramble(RecurrentLanguageModel(len(WORDS), LSTM(5, 8)), spread=1.0).float()
    saved.save({"net": net}, folder, "card", usage)
    return net


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return model(tmp_path / "model")


def written(capsys, *argv):
    assert sample.main(["model", *map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()[1:]  # the first names the network


def likeliest(net, begin, length):
    """Go on greedily, reading the whole text anew for each word."""
    ids = [1, *(WORDS.index(word) for word in begin)]
    for _ in range(length):
        logits = net(torch.tensor([ids]))[0][0, -1].clone()
        logits[0] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == 1:
            break
    return " ".join(WORDS[n] for n in ids[1:] if n != 1)


@pytest.mark.parametrize("begin", [[], ["the"], ["the", "cat"]])
def test_temperature_zero_is_the_likeliest_text(net, capsys, begin):
    lines = written(capsys, *begin, "--temperature", 0, "--count", 2, "--length", 9)
    assert lines == [likeliest(net, begin, 9)] * 2


def test_words_may_come_as_one_text_and_with_capitals(net, capsys):
    greedy = ("--temperature", 0, "--count", 1, "--length", 5)
    assert written(capsys, "The cat", *greedy) == written(capsys, "the", "cat", *greedy)


def test_the_seed_decides_and_unknown_words_are_never_written(net, capsys):
    one = written(capsys, "--seed", 3, "--count", 30, "--length", 20)
    assert one == written(capsys, "--seed", 3, "--count", 30, "--length", 20)
    assert one != written(capsys, "--seed", 4, "--count", 30, "--length", 20)
    assert len(one) == 30 and len(set(one)) > 5
    assert not any("<" in line or len(line.split()) > 20 for line in one)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["catt"], "did you mean cat"),
        (["--temperature", "-1"], "--temperature"),
        (["--top_p", "1.5"], "--top_p"),
        (["--top_k", "0"], "--top_k"),
        (["--length", "0"], "--length"),
    ],
)
def test_mistakes_are_told(net, capsys, argv, told):
    assert sample.main(["model", *argv]) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) <= 3


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_after_the_words_are_never_written(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = scramble(RecurrentLanguageModel(len(WORDS) + rows, LSTM(5, 8)), spread=1.0).float()
    saved.save({"net": net}, tmp_path / "model", "card", USAGE)
    lines = written(capsys, "--count", 40, "--length", 20)
    assert set(" ".join(lines).split()) <= set(WORDS[2:])


def test_more_words_than_rows_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ([*WORDS, "more"], []):
        model(tmp_path / "model", USAGE | {"words": words})
        assert sample.main(["model"]) == 1
        assert f"{len(words)} words for this RecurrentLanguageModel" in capsys.readouterr().err
